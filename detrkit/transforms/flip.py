"""Horizontal flip alone."""

from __future__ import annotations

from typing import final

from torchvision.transforms import v2

from detrkit.fields import Positive, Probability
from detrkit.transforms import Transforms
from detrkit.transforms._steps import Resize


@final
class FlipTransforms(Transforms):
    """Horizontal flip, and the size of evaluation.

    Args:
        short_side: of the image that the network sees, in pixels.
        long_side: its limit in pixels.
        square: whether images become squares.
        p: probability of the flip.
    """

    def __init__(
        self, short_side: Positive, long_side: Positive, square: bool = False, *, p: Probability = 0.5
    ) -> None:
        super().__init__(v2.RandomHorizontalFlip(p), Resize([short_side], long_side, square))
