"""From images to what a detector takes, the same way in training, evaluation and prediction (DETR, appendix A.4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor

if TYPE_CHECKING:
    from detrkit.config import DetectorConfig

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class PaddedImages(NamedTuple):
    """A batch of images of different sizes.

    Attributes:
        images: [B, 3, H, W] normalised; zero where padded, right and below.
        mask: [B, H, W] bool, True = padding; None when every image fills its place.
    """

    images: Float[Tensor, "B 3 H W"]
    mask: Bool[Tensor, "B H W"] | None

    def to(self, device: torch.device) -> PaddedImages:
        """The same on a device."""
        mask = None if self.mask is None else self.mask.to(device, non_blocking=True)
        return PaddedImages(self.images.to(device, non_blocking=True), mask)


def resized_size(height: int, width: int, short_side: int, long_side: int, square: bool = False) -> tuple[int, int]:
    """Size (height, width) after resizing: the short side as wished unless the long one would exceed its limit.

    Where images become squares, both sides are as wished, whatever the image's shape.

    Rounds as the official code: the short side to nearest when the limit binds, the other side down. The long side may
    therefore end above the limit, by half the aspect ratio at most. An image so thin that its short side would vanish
    gets one of 1 pixel, and the long side its limit.
    """
    if square:
        return short_side, short_side
    low, high = min(height, width), max(height, width)
    if high / low * short_side > long_side:
        short_side = round(long_side * low / high)
    if short_side == 0:
        return (long_side, 1) if width < height else (1, long_side)
    if low == short_side:
        return height, width
    if width < height:
        return int(short_side * height / width), short_side
    return short_side, int(short_side * width / height)


def resize(image: Image.Image, short_side: int, long_side: int, square: bool = False) -> Image.Image:
    """Bilinear resize with antialiasing, in Pillow as the official code."""
    height, width = resized_size(image.height, image.width, short_side, long_side, square)
    if (width, height) == image.size:
        return image
    return image.resize((width, height), Image.Resampling.BILINEAR)


def normalize(image: Image.Image, imagenet: bool = True) -> Float[Tensor, "3 H W"]:
    """RGB image -> float32 [3, H, W] in [0, 1], or with ImageNet's mean taken off and divided by its deviation."""
    pixels = torch.from_numpy(np.array(image, dtype=np.uint8)).permute(2, 0, 1).float().div(255)
    mean, std = (torch.tensor(values)[:, None, None] for values in statistics(imagenet))
    return pixels.sub_(mean).div_(std).contiguous()


def statistics(imagenet: bool) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation by which pixels in [0, 1] are normalised: ImageNet's, or those that change nothing."""
    return (IMAGENET_MEAN, IMAGENET_STD) if imagenet else ((0.0,) * 3, (1.0,) * 3)


def prepared(image: Image.Image, config: DetectorConfig) -> Float[Tensor, "3 H W"]:
    """An image as a detector sees it, but for transforms in training."""
    return normalize(resize(image, config.short_side, config.long_side, config.square), config.normalize)


def pad(images: Sequence[Float[Tensor, "3 _ _"]]) -> PaddedImages:
    """Join images of different sizes: zeros to the right and below, after normalisation."""
    height, width = (max(image.shape[axis] for image in images) for axis in (1, 2))
    if all(image.shape[1:] == (height, width) for image in images):
        return PaddedImages(torch.stack(list(images)), None)
    batch = images[0].new_zeros((len(images), 3, height, width))
    mask = torch.ones((len(images), height, width), dtype=torch.bool)
    for place, hidden, image in zip(batch, mask, images, strict=True):
        place[:, : image.shape[1], : image.shape[2]] = image
        hidden[: image.shape[1], : image.shape[2]] = False
    return PaddedImages(batch, mask)
