"""Preprocessing: sizes, pixels and padding worked out by hand."""

import numpy as np
import pytest
import torch
from PIL import Image

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
