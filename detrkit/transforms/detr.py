"""The recipe of the official DETR."""

from __future__ import annotations

from typing import final

from torchvision.transforms import v2

from detrkit.fields import Positive, Probability
from detrkit.transforms import Transforms
from detrkit.transforms._steps import Crop, Resize, multi_scale, scaled

# Pixels. The official code has no such limit, and an image one pixel high would fill the memory.
_LONGEST_BEFORE_CROP = 10_000


@final
class DetrTransforms(Transforms):
    """Flip, now and then a crop, and one of eleven scales (DETR, appendix A.4, as its official code).

    The crop, in half of the images, comes from a short side of 400, 500 or 600 pixels and has sides of 384 to 600. The
    scales have a short side of 480 to 800 in steps of 32. All of these numbers shrink with a `short_side` below 800.

    Args:
        short_side: of the largest scale, in pixels.
        long_side: limit of every scale in pixels.
        square: whether images become squares.
        flip: probability of the flip.
        crop: probability of the crop.
    """

    def __init__(
        self,
        short_side: Positive,
        long_side: Positive,
        square: bool = False,
        *,
        flip: Probability = 0.5,
        crop: Probability = 0.5,
    ) -> None:
        before_crop = Resize(scaled((400, 500, 600), short_side), _LONGEST_BEFORE_CROP)
        super().__init__(
            v2.RandomHorizontalFlip(flip),
            v2.RandomApply([before_crop, Crop(*scaled((384, 600), short_side))], p=crop),
            multi_scale(short_side, long_side, square),
        )
