"""Steps that `torchvision.transforms.v2` does not have, or not in the way of the official DETR."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F
from torchvision.tv_tensors import BoundingBoxes

from detrkit.boxes import area
from detrkit.preprocessing import resized_size

OFFICIAL_SHORT_SIDE = 800  # pixels; the numbers of the official recipe belong to it


def scaled(sides: Sequence[int], short_side: int) -> list[int]:
    """Lengths of the official recipe for networks that see another short side than `OFFICIAL_SHORT_SIDE`."""
    return [max(1, round(side * short_side / OFFICIAL_SHORT_SIDE)) for side in sides]


def multi_scale(short_side: int, long_side: int, square: bool) -> Resize:
    """Resize to one of eleven short sides, 480 to 800 in steps of 32 where 800 is the largest (DETR, appendix A.4)."""
    return Resize(scaled(range(480, 801, 32), short_side), long_side, square)


class Resize(v2.Transform):
    """Resize as `detrkit.preprocessing.resize`, to a short side drawn from some (v2 rounds in another way).

    Args:
        short_sides: lengths in pixels, equally likely.
        long_side: limit of the other side in pixels.
        square: whether both sides are the short one.
    """

    def __init__(self, short_sides: Sequence[int], long_side: int, square: bool = False) -> None:
        super().__init__()
        self.short_sides, self.long_side, self.square = tuple(short_sides), long_side, square

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the short side; the size (height, width) follows from it."""
        height, width = v2.query_size(flat_inputs)
        short_side = self.short_sides[_integer(0, len(self.short_sides) - 1)]
        return {"size": resized_size(height, width, short_side, self.long_side, self.square)}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """The image, or its boxes, in that size."""
        return F.resize(inpt, list(params["size"]))


class Shrink(Resize):
    """Resize an image with too long a side.

    Args:
        long_side: greatest length in pixels.
    """

    def __init__(self, long_side: int) -> None:
        super().__init__((), long_side)

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """The size (height, width) in which it fits."""
        height, width = v2.query_size(flat_inputs)
        return {"size": resized_size(height, width, min(height, width), self.long_side)}


class Crop(v2.Transform):
    """A crop whose sides are drawn one by one from a range, at any place in the image.

    Args:
        smallest: least side in pixels; a shorter side of the image stays whole.
        largest: greatest side in pixels.
    """

    def __init__(self, smallest: int, largest: int) -> None:
        super().__init__()
        self.smallest, self.largest = smallest, largest

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the window."""
        return _window(v2.query_size(flat_inputs), [(self.smallest, self.largest)] * 2)

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """The image in the window, or its boxes cut to it."""
        return F.crop(inpt, **params)


class Zoom(v2.Transform):
    """A crop that shows at least one object, if there is any; objects of which it shows too little are dropped.

    Args:
        smallest: least side of the crop, as a share of the image's.
        visible: share of its box that an object must show to be kept.
    """

    tries = 10  # crops that are drawn until one shows an object; after that the image stays whole

    def __init__(self, smallest: float, visible: float) -> None:
        super().__init__()
        self.smallest, self.visible = smallest, visible

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw windows until one shows an object."""
        boxes, (height, width) = v2.get_bounding_boxes(flat_inputs), v2.query_size(flat_inputs)
        ranges = [(max(1, round(self.smallest * side)), side) for side in (height, width)]
        for _ in range(self.tries):
            window = _window((height, width), ranges)
            shown = _areas(F.crop(boxes, **window))
            kept = (shown > 0) & (shown >= self.visible * _areas(boxes))
            if kept.any() or not len(boxes):
                return {"window": window, "kept": kept}
        whole = {"top": 0, "left": 0, "height": height, "width": width}
        return {"window": whole, "kept": torch.ones(len(boxes), dtype=torch.bool)}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """The image in the window, or its boxes cut to it, without extent where too little is left."""
        output = F.crop(inpt, **params["window"])
        if isinstance(output, BoundingBoxes):
            output[~params["kept"]] = 0
        return output


class IoUCrop(v2.RandomIoUCrop):
    """The crop of SSD (section 2.2), which leaves images without objects, or too small to be cut, as they are."""

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw a window that overlaps an object as much as was drawn; v2 would divide by a side of 0 pixels."""
        least = self.min_scale * min(v2.query_size(flat_inputs))
        return super().make_params(flat_inputs) if least >= 1 and len(v2.get_bounding_boxes(flat_inputs)) else {}


class DropSmall(v2.Transform):
    """Drop objects with a side below a length (v2's `SanitizeBoundingBoxes` changes the number of boxes).

    Args:
        smallest: that length in pixels.
    """

    def __init__(self, smallest: float) -> None:
        super().__init__()
        self.smallest = smallest

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """The image as it is; boxes without extent where an object is too small."""
        if not isinstance(inpt, BoundingBoxes):
            return inpt
        output = inpt.clone()
        output[((output[:, 2:] - output[:, :2]) < self.smallest).any(dim=1)] = 0
        return output


def _window(size: tuple[int, int], ranges: Sequence[tuple[int, int]]) -> dict[str, int]:
    """A window in an image of a size (height, width); its height and width are drawn from a range each."""
    height, width = (_integer(*(min(end, side) for end in ends)) for side, ends in zip(size, ranges, strict=True))
    top, left = _integer(0, size[0] - height), _integer(0, size[1] - width)
    return {"top": top, "left": left, "height": height, "width": width}


def _areas(boxes: BoundingBoxes) -> Tensor:
    return area(boxes.as_subclass(Tensor))


def _integer(low: int, high: int) -> int:
    """One of low..high, from torch's global generator as all of v2."""
    return int(torch.randint(low, high + 1, ()))
