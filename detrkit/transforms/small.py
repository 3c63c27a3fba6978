"""A recipe for few images and small networks."""

from __future__ import annotations

from typing import Annotated, final

from torchvision.transforms import v2

from detrkit.fields import Positive, Probability, Range
from detrkit.transforms import Transforms
from detrkit.transforms._steps import Resize, Zoom

SCALES = 11


def sides(least_scale: float, short_side: int) -> list[int]:
    """Short sides of the scales, evenly spaced from the smallest to the largest."""
    shares = (least_scale + (1 - least_scale) * index / (SCALES - 1) for index in range(SCALES))
    return [max(1, round(share * short_side)) for share in shares]


@final
class SmallTransforms(Transforms):
    """Flip, zoom in on a part, one of eleven scales, and other colours: for a few hundred images and small networks.

    Other than in `detr`, an object of which a crop leaves too little to be recognised is dropped, a crop shows at least
    one object, and the window is taken from the image in its own resolution.

    Args:
        short_side: of the largest scale, in pixels.
        long_side: limit of every scale in pixels.
        square: whether images become squares.
        flip: probability of the flip.
        zoom: probability of the crop.
        smallest: least side of the crop, as a share of the image's.
        visible: share of its box that an object must show in the crop to be kept.
        least_scale: the smallest of the scales, as a share of the largest.
        jitter: most by which brightness, contrast and saturation change, as a share; the hue turns by a tenth of it.
    """

    def __init__(
        self,
        short_side: Positive,
        long_side: Positive,
        square: bool = False,
        *,
        flip: Probability = 0.5,
        zoom: Probability = 0.5,
        smallest: Annotated[float, Range(above=0, max=1)] = 0.5,
        visible: Probability = 0.3,
        least_scale: Annotated[float, Range(above=0, max=1)] = 0.6,
        jitter: Probability = 0.2,
    ) -> None:
        super().__init__(
            v2.RandomHorizontalFlip(flip),
            v2.RandomApply([Zoom(smallest, visible)], p=zoom),
            Resize(sides(least_scale, short_side), long_side, square),
            v2.ColorJitter(brightness=jitter, contrast=jitter, saturation=jitter, hue=jitter / 10),
        )
