"""Sizes that change from step to step, and epochs without strong augmentation."""

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from detrkit.config import TrainConfig
from detrkit.preprocessing import pad
from detrkit.presets import from_pairs
from detrkit.registry import REGISTRY
from detrkit.training.data import WindowStream, mild_form
from detrkit.training.multi_scale import rescaled, scale_of

pytestmark = pytest.mark.fast

FIELDS = {"data": "toy(size=48, length=6)", "short_side": "24", "long_side": "40", "multi_scale": "0.5", "epochs": "3"}


def stream(start=0, **changes):
    """A stream of windows of four toy images, of which an epoch has two."""
    detector, train = from_pairs("detr_tiny", {**FIELDS, "transforms": "detr", "batch_size": "4", **changes})
    return WindowStream(REGISTRY.make("datasets", train.data, split="train"), detector, train, start)


def images(window):
    """The images of a window without their padding, by id."""
    found = {}
    for batch in window:
        for place, target in enumerate(batch.targets):
            image, mask = batch.inputs.images[place], batch.inputs.mask
            hidden = torch.zeros(image.shape[1:], dtype=torch.bool) if mask is None else mask[place]
            found[target["image_id"]] = image[:, ~hidden[:, 0]][..., ~hidden[0]]
    return found


def windows(stream, count):
    return [images(window) for window, _ in zip(stream, range(count), strict=False)]


def assert_equal(one, other):
    for expected, got in zip(one, other, strict=True):
        assert expected.keys() == got.keys()
        assert all(torch.equal(image, got[name]) for name, image in expected.items())


def test_sizes_are_those_of_the_official_code():
    """Thirteen entries: 480 to 800 in steps of 32, and 640 three times."""
    train = TrainConfig(multi_scale=0.25)
    drawn = Counter(round(640 * scale_of(step, train)) for step in range(6500))
    assert sorted(drawn) == list(range(480, 801, 32))
    assert drawn.pop(640) / 6500 == pytest.approx(3 / 13, abs=0.03)
    assert all(count / 6500 == pytest.approx(1 / 13, abs=0.02) for count in drawn.values())


@pytest.mark.parametrize("split", [{"batch_size": "2", "accumulate": "2"}, {"batch_size": "1", "accumulate": "4"}])
def test_images_do_not_depend_on_how_windows_are_shared_out(split):
    assert_equal(windows(stream(), 5), windows(stream(**split), 5))


def test_a_stream_that_begins_late_has_the_same_sizes():
    assert_equal(windows(stream(), 5)[3:], windows(stream(start=3), 2))


def test_another_seed_draws_other_sizes():
    one, other = ([scale_of(step, TrainConfig(multi_scale=0.2, seed=seed)) for step in range(20)] for seed in (0, 1))
    assert one != other
    assert one != one[:1] * 20


@given(st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), min_size=1, max_size=3), st.floats(0.1, 2))
def test_each_image_is_rescaled_as_if_alone(sizes, scale):
    batch = [torch.rand(3, *size) + 1 for size in sizes]
    expected = pad([rescaled(pad([image]), scale).images[0] for image in batch])
    found = rescaled(pad(batch), scale)
    assert torch.equal(found.images, expected.images)
    assert (found.mask is None) == (expected.mask is None)
    assert found.mask is None or torch.equal(found.mask, expected.mask)


def test_last_epochs_are_plain():
    """Three epochs of two steps: the last one only flips and has the size of evaluation, however its length is told."""
    usual, flips = windows(stream(), 6), windows(stream(transforms="flip", multi_scale="0"), 6)
    for length in ({"epochs": "3"}, {"epochs": "none", "steps": "5"}):
        found = windows(stream(plain_epochs="1", **length), 6)
        assert_equal(found[:4], usual[:4])
        assert_equal(found[4:], flips[4:])


@pytest.mark.parametrize("spec", ["detr(flip=0.0)", "flip(p=0.0)"])
def test_plain_epochs_flip_no_image_that_is_not_to_be_flipped(spec):
    assert mild_form(spec) == "flip(p=0.0)"


def test_without_transforms_plain_epochs_keep_the_size_alone():
    found = windows(stream(transforms="none", plain_epochs="1"), 6)
    plain = windows(stream(transforms="none", multi_scale="0"), 6)
    assert_equal(found[4:], plain[4:])
    assert any(found[0][name].shape != image.shape for name, image in plain[0].items()) or found[1] != plain[1]
