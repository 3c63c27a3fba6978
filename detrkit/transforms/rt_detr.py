"""The recipe of the official RT-DETR."""

from __future__ import annotations

from typing import final

from torchvision.transforms import v2

from detrkit.fields import Positive, Probability
from detrkit.transforms import Transforms
from detrkit.transforms._steps import Resize


@final
class RtDetrTransforms(Transforms):
    """Other colours, now and then a wide border, a crop that shows an object, a flip (RT-DETR, as its official code).

    The image comes in one size; the official code also resizes each batch to one of thirteen.

    Args:
        short_side: of the image that the network sees, in pixels.
        long_side: its limit in pixels.
        square: whether images become squares.
        distort: probability of each change of the colours.
        zoom_out: probability of the border, which makes the image up to four times as long and wide.
        crop: probability of the crop, of which some leave the image whole.
        flip: probability of the flip.
    """

    def __init__(
        self,
        short_side: Positive,
        long_side: Positive,
        square: bool = False,
        *,
        distort: Probability = 0.5,
        zoom_out: Probability = 0.5,
        crop: Probability = 0.8,
        flip: Probability = 0.5,
    ) -> None:
        super().__init__(
            v2.RandomPhotometricDistort(p=distort),
            v2.RandomZoomOut(p=zoom_out),
            v2.RandomApply([v2.RandomIoUCrop()], p=crop),
            v2.RandomHorizontalFlip(flip),
            Resize([short_side], long_side, square),
        )
