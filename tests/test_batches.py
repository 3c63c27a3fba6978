"""Batches of a stream: one size each, nothing padded, order kept, little in memory, read ahead."""

import threading
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import detrkit
from detrkit.batches import PATIENCE, batched, read_ahead
from detrkit.errors import DetrkitError
from detrkit.prediction import detect

pytestmark = pytest.mark.fast

SIZES = ((40, 30), (30, 40), (80, 60), (48, 48), (64, 20))  # the first and the third come to one size
CONFIG = detrkit.config(
    "detr_tiny", backbone="tiny(width=8)", d_model=32, dim_feedforward=32, num_queries=9, short_side=32, long_side=64
)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return detrkit.build(CONFIG).eval()


def picture(number, size):
    """An image that is like no other."""
    return Image.effect_noise(size, 20 + number % 60).convert("RGB")


shapes = st.lists(st.sampled_from(SIZES), max_size=25)


@settings(max_examples=30)
@given(shapes, st.integers(1, 5))
def test_every_image_is_in_one_batch_of_its_size(sizes, batch_size):
    batches = list(batched([Image.new("RGB", size) for size in sizes], CONFIG, batch_size))
    places = [place for batch in batches for place in batch.places]
    assert sorted(places) == list(range(len(sizes)))
    for batch in batches:
        assert batch.inputs.mask is None
        assert len(batch.places) == len(batch.inputs.images) <= batch_size
        assert batch.places == sorted(batch.places)
        assert batch.sizes == [sizes[place][::-1] for place in batch.places]


@settings(max_examples=30)
@given(shapes, st.integers(1, 5))
def test_no_image_waits_for_long(sizes, batch_size):
    """When a batch is made, no image has been read that lies a window behind one which still waits."""
    read = 0

    def images():
        nonlocal read
        for size in sizes:
            read += 1
            yield Image.new("RGB", size)

    given_out = set()
    for batch in batched(images(), CONFIG, batch_size):
        oldest = min(set(range(len(sizes))) - given_out)
        assert read - oldest <= PATIENCE * batch_size
        given_out |= set(batch.places)


def test_images_of_one_size_are_seen_together():
    sizes = [SIZES[0], SIZES[3]] * 6
    batches = list(batched([Image.new("RGB", size) for size in sizes], CONFIG, 3))
    assert [batch.places for batch in batches] == [[0, 2, 4], [1, 3, 5], [6, 8, 10], [7, 9, 11]]


@settings(max_examples=5)
@given(st.lists(st.sampled_from(SIZES), min_size=1, max_size=12), st.integers(1, 5))
def test_answers_stand_in_order_and_depend_on_no_neighbour(model, sizes, batch_size):
    images = [picture(number, size) for number, size in enumerate(sizes)]
    alone = [model.predict([image], threshold=0.0)[0] for image in images]
    for found in (model.predict(images, threshold=0.0, batch_size=batch_size),
                  list(model.stream(iter(images), threshold=0.0, batch_size=batch_size))):  # fmt: skip
        assert [one.size for one in found] == [(image.height, image.width) for image in images]
        for one, expected in zip(found, alone, strict=True):
            here, there = one.queries.argsort(), expected.queries.argsort()
            torch.testing.assert_close(one.scores[here], expected.scores[there], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(one.boxes[here], expected.boxes[there], atol=1e-3, rtol=1e-4)


def test_a_stream_keeps_few_images_in_memory(model):
    """However many there are; counted whenever a result comes. Their sizes are such that nothing resizes them."""
    alive, most, size = [], [], 2

    def images():
        for number in range(40):
            image = Image.new("RGB", (32 + 4 * (number % 5), 32))
            alive.append(weakref.ref(image))
            yield image

    for _ in detect(model, images(), batch_size=size, ahead=True):
        most.append(sum(reference() is not None for reference in alive))
    assert len(most) == 40
    assert 2 <= max(most) <= (PATIENCE + 2) * size


def test_a_stream_is_lazy_and_its_options_are_checked_at_once(model):
    endless = (Image.new("RGB", (40, 30)) for _ in iter(int, 1))
    stream = model.stream(endless, threshold=0.0, batch_size=2)
    assert [len(next(stream)) for _ in range(5)] == [model.config.num_queries] * 5
    stream.close()
    with pytest.raises(DetrkitError, match="threshold out of range"):
        model.stream(endless, threshold=2)
    with pytest.raises(DetrkitError, match=r"images\[1\]: not an image"):
        list(model.stream([Image.new("RGB", (40, 30)), 3]))


# --- reading ahead ----------------------------------------------------------------------------------------------------


@settings(max_examples=20)
@given(st.lists(st.integers(), max_size=20))
def test_items_read_ahead_are_the_same(items):
    assert list(read_ahead(iter(items))) == items


def test_one_item_is_made_while_another_is_worked_on():
    made, second = [], threading.Event()

    def source():
        for number in range(5):
            made.append(number)
            if number == 1:
                second.set()
            yield number

    stream = read_ahead(source())
    assert next(stream) == 0
    assert second.wait(10)
    assert made == [0, 1]
    assert list(stream) == [1, 2, 3, 4]


def test_an_error_comes_in_its_place():
    def source():
        yield 1
        raise KeyError("broken")

    stream = read_ahead(source())
    assert next(stream) == 1
    with pytest.raises(KeyError, match="broken"):
        next(stream)


def test_who_stops_early_ends_the_thread_and_closes_the_source():
    closed, threads = threading.Event(), threading.active_count()

    def source():
        try:
            yield from range(100)
        finally:
            closed.set()

    stream = read_ahead(source())
    next(stream)
    stream.close()
    assert closed.wait(10)
    assert threading.active_count() == threads
