"""Batches in other sizes: one size for all images of an optimizer step (RT-DETR, as its official code)."""

from __future__ import annotations

import numpy as np
from torch.nn import functional as F

from detrkit.config import TrainConfig
from detrkit.preprocessing import PaddedImages, pad

SCALE = 3  # a random stream of its own, beside those of the data
STEPS = 5  # sizes on either side of the own one
OWN = 3  # times as likely as another size


def scale_of(step: int, train: TrainConfig) -> float:
    """Factor of the sides of all images of a step; a function of (seed, step), whoever sees which of them."""
    factors = [1.0] * (OWN - 1) + [1 + train.multi_scale * n / STEPS for n in range(-STEPS, STEPS + 1)]
    return factors[np.random.default_rng((SCALE, train.seed, step)).integers(len(factors))]


def rescaled(inputs: PaddedImages, scale: float) -> PaddedImages:
    """Each image with sides so many times as long, the nearest pixel in each place; boxes stay, as fractions."""
    images, mask = inputs
    if scale == 1 or not len(images):
        return inputs
    heights, widths = (
        [images.shape[2 + axis]] * len(images) if mask is None else (~mask).any(dim=2 - axis).sum(dim=1).tolist()
        for axis in (0, 1)
    )
    changed = []
    for image, height, width in zip(images, heights, widths, strict=True):
        size = [max(1, round(scale * side)) for side in (height, width)]
        changed.append(F.interpolate(image[None, :, :height, :width], size)[0])
    return pad(changed)
