"""The recipe of the official RT-DETR."""

from __future__ import annotations

from typing import final

from torchvision.transforms import v2

from detrkit.fields import Positive, Probability
from detrkit.transforms import Transforms
from detrkit.transforms._steps import DropSmall, IoUCrop, Resize, Shrink

# A larger image is made smaller first: zooming out makes both of its sides up to four times as long.
_LONGEST_BEFORE_ZOOM = 2  # times the long side that the network sees


@final
class RtDetrTransforms(Transforms):
    """Other colours, a larger canvas, a crop around an object, a flip, and the size of evaluation (the official code).

    These are the steps of SSD (section 2.2): brightness, contrast, saturation, hue and the order of the channels change
    each on their own; the black canvas is up to four times as wide and high; a crop keeps the objects whose centre it
    shows. Objects with a side below one pixel are dropped. The official recipe also changes the size from step to step:
    `TrainConfig.multi_scale`.

    Args:
        short_side: of the image that the network sees, in pixels.
        long_side: its limit in pixels.
        square: whether images become squares.
        distort: probability of each change of the colours.
        zoom_out: probability of the larger canvas.
        crop: probability that a crop is tried, which one time in seven and more leaves the image whole.
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
            Shrink(_LONGEST_BEFORE_ZOOM * long_side),
            v2.RandomPhotometricDistort(p=distort),
            v2.RandomZoomOut(fill=0, p=zoom_out),
            v2.RandomApply([IoUCrop()], p=crop),
            DropSmall(1),
            v2.RandomHorizontalFlip(flip),
            Resize([short_side], long_side, square),
            DropSmall(1),
        )
