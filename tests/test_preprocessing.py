"""Preprocessing: sizes, pixels and padding worked out by hand, and as the official code does it."""

import json
from fractions import Fraction
from math import floor

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from detrkit.boxes import xyxy_to_cxcywh
from detrkit.images import read_image
from detrkit.preprocessing import normalize, pad, resize, resized_size

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (480, 640, (800, 1066)),
        (640, 480, (1066, 800)),
        (2000, 500, (1332, 333)),
        (500, 2000, (333, 1332)),
        (800, 900, (800, 900)),
        (1, 5000, (1, 1333)),
        (5000, 1, (1333, 1)),
    ],
)
def test_sizes_by_hand(height, width, expected):
    """The short side becomes 800, unless the long one would exceed 1333; the other follows, rounded down; none is 0."""
    assert resized_size(height, width, 800, 1333) == expected


@pytest.mark.parametrize(("width", "height"), [(60, 30), (30, 60)])
def test_resizing_by_hand(width, height):
    """Twice the size, and the white quarter stays where it is."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2] = 255
    found = np.asarray(resize(Image.fromarray(pixels), 60, 1000))
    assert found.shape == (2 * height, 2 * width, 3)
    assert found[2, 2, 0] == found[height - 3, width - 3, 0] == 255
    assert found[height + 3, 2, 0] == found[2, width + 3, 0] == 0


def test_normalizing_by_hand():
    image = Image.new("RGB", (2, 1), (0, 128, 255))
    expected = [(0 - 0.485) / 0.229, (128 / 255 - 0.456) / 0.224, (1 - 0.406) / 0.225]
    assert normalize(image)[:, 0, 1].tolist() == pytest.approx(expected)
    noise = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    mean, std = (torch.tensor(numbers)[:, None, None] for numbers in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    back = ((normalize(Image.fromarray(noise)) * std + mean) * 255).round().byte().permute(1, 2, 0)
    assert np.array_equal(back.numpy(), noise)


def test_padding_by_hand():
    """Zeros to the right and below, where the mask is True; no mask where nothing is padded."""
    wide, tall = torch.full((3, 1, 3), 5.0), torch.full((3, 2, 1), 7.0)
    batch = pad([wide, tall])
    assert batch.images[:, 0].tolist() == [[[5, 5, 5], [0, 0, 0]], [[7, 0, 0], [7, 0, 0]]]
    assert batch.mask.int().tolist() == [[[0, 0, 0], [1, 1, 1]], [[0, 1, 1], [0, 1, 1]]]
    assert pad([wide, wide]).mask is None


@given(st.integers(1, 6000), st.integers(1, 6000), st.integers(1, 1500), st.integers(1, 3000))
def test_sizes_are_the_official_rule_in_exact_arithmetic(height, width, wished, long_side):
    """The short side as wished, else what the limit leaves, to nearest; both sides scaled by it, rounded down."""
    low, high = sorted((height, width))
    short = wished if Fraction(high, low) * wished <= long_side else round(Fraction(long_side * low, high))
    found = resized_size(height, width, wished, long_side)
    if short:
        assert found == (floor(Fraction(short * height, low)), floor(Fraction(short * width, low)))
    else:
        assert found == ((1, long_side) if height <= width else (long_side, 1))


def official(fill, seed, number, height, width):
    """Image of the golden file, and its boxes [3, 4] (x1, y1, x2, y2) as fractions of the sides."""
    image = Image.fromarray(fill.make_uint8(seed, f"pre{number}", height, width))
    corner = 0.5 * fill.uniform(seed, f"pre{number}.box", (3, 2))
    size = 0.1 + 0.4 * fill.uniform(seed, f"pre{number}.wh", (3, 2))
    return image, torch.from_numpy(np.concatenate([corner, corner + size], axis=1))


@pytest.fixture
def published(shared):
    """What the official code made of images that a formula gives."""
    return json.loads((shared / "golden" / "preprocess.json").read_text())


@pytest.mark.parametrize("number", range(9))
def test_an_image_becomes_what_the_official_code_makes_of_it(published, fill, number):
    expected = published["images"][number]
    image, boxes = official(fill, published["seed"], number, *expected["original"])
    assert int(np.asarray(image, np.int64).sum()) == expected["uint8_sum"]
    pixels = normalize(resize(image, 800, 1333))
    assert list(pixels.shape) == expected["shape"]
    found = pixels.flatten()[expected["index"]].tolist()
    assert found == pytest.approx(expected["value"], abs=published["tolerance"]["pil_resize"])
    moments = [float(pixels.double().mean()), float(pixels.double().std(unbiased=False)), float(pixels.abs().max())]
    assert moments == pytest.approx([expected["mean"], expected["std"], expected["absmax"]], abs=1e-6)
    centred = xyxy_to_cxcywh(boxes)
    assert torch.allclose(centred, torch.tensor(expected["boxes"], dtype=torch.float64), atol=1e-6)
    area = centred[:, 2] * centred[:, 3] * pixels.shape[1] * pixels.shape[2]
    assert area.tolist() == pytest.approx(expected["area"], rel=1e-5)


@pytest.mark.parametrize("number", range(2))
def test_a_batch_becomes_what_the_official_code_makes_of_it(published, fill, number):
    expected = published["batches"][number]
    sizes = [published["images"][i]["original"] for i in expected["images"]]
    images = [official(fill, published["seed"], i, *size)[0] for i, size in zip(expected["images"], sizes, strict=True)]
    batch = pad([normalize(resize(image, 800, 1333)) for image in images])
    assert list(batch.images.shape) == expected["shape"]
    assert (batch.mask.sum((1, 2)).tolist(), str(batch.mask.dtype)) == (expected["mask_true_count"], "torch.bool")
    assert batch.images.flatten()[expected["index"]].tolist() == pytest.approx(expected["value"], abs=1e-6)
    hidden = batch.mask[:, None].expand_as(batch.images).flatten()[expected["index"]]
    assert hidden.tolist() == expected["mask_at_index"]


def test_the_photograph_of_two_cats_becomes_what_others_report(shared):
    """The picture that the tests of transformers use: pixels, a box and areas as they state them."""
    expected = json.loads((shared / "fixtures/hf_39769/expected.json").read_text())
    stated = expected["detr_eval_transform"]
    image = read_image(shared / "fixtures/hf_39769/000000039769.png")
    pixels = pad([normalize(resize(image, stated["shortest_edge"], stated["longest_edge"]))]).images
    assert list(pixels.shape) == stated["pixel_values_shape"]
    assert pixels[0, 0, 0, :3].tolist() == pytest.approx(stated["pixel_values[0,0,0,:3]"], abs=stated["atol"])
    x, y, width, height = expected["annotations"][0]["bbox"]
    corners = torch.tensor([x, y, x + width, y + height]) / torch.tensor([*image.size, *image.size])
    assert xyxy_to_cxcywh(corners).tolist() == pytest.approx(stated["boxes[0]_cxcywh_norm"], abs=stated["atol"])
    growth = pixels.shape[2] * pixels.shape[3] / (image.width * image.height)
    areas = [annotation["area"] * growth for annotation in expected["annotations"]]
    assert areas == pytest.approx(stated["area_after_resize"], rel=1e-6)
