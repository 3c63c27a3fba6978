"""Box geometry: formats, areas, IoU and generalized IoU, finite for every input.

Pairwise functions take [..., N, 4] and [..., M, 4] and give [..., N, M]; ``elementwise_`` ones take [..., 4] and give
[...]. Boxes without area have an IoU of 0 with everything, and a gradient that is finite.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor


def cxcywh_to_xyxy(boxes: Float[Tensor, "*B 4"]) -> Float[Tensor, "*B 4"]:
    """Centre and size -> top left and bottom right corner."""
    center, size = boxes[..., :2], boxes[..., 2:]
    return torch.cat([center - 0.5 * size, center + 0.5 * size], dim=-1)


def xyxy_to_cxcywh(boxes: Float[Tensor, "*B 4"]) -> Float[Tensor, "*B 4"]:
    """Top left and bottom right corner -> centre and size."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat([(low + high) / 2, high - low], dim=-1)


def clip_xyxy(boxes: Float[Tensor, "*B 4"], height: float, width: float) -> Float[Tensor, "*B 4"]:
    """Boxes cut to the image [0, width] x [0, height]."""
    limit = boxes.new_tensor([width, height, width, height])
    return boxes.clamp(min=0).minimum(limit)


def area(boxes: Float[Tensor, "*B 4"]) -> Float[Tensor, "*B"]:
    """Areas of corner boxes; a box whose corners are swapped has none."""
    return _area_between(boxes[..., :2], boxes[..., 2:])


def _area_between(low: Float[Tensor, "*B 2"], high: Float[Tensor, "*B 2"]) -> Float[Tensor, "*B"]:
    width, height = (high - low).clamp(min=0).unbind(-1)
    return width * height


def elementwise_giou(
    first: Float[Tensor, "*#B 4"], second: Float[Tensor, "*#B 4"], *, eps: float = 0.0
) -> Float[Tensor, "*B"]:
    """Generalized IoU of corner boxes one by one, in [-1, 1] (Rezatofighi et al. 2019, algorithm 1).

    With eps, both areas that are divided by are larger by it, as in the official code of DINO (1e-6).
    """
    overlap, union = _overlap_and_union(first, second)
    low = torch.minimum(first[..., :2], second[..., :2])
    high = torch.maximum(first[..., 2:], second[..., 2:])
    hull = _area_between(low, high)
    return _ratio(overlap, union + eps) - _ratio(hull - union, hull + eps)


def elementwise_iou(first: Float[Tensor, "*B 4"], second: Float[Tensor, "*B 4"]) -> Float[Tensor, "*B"]:
    """Intersection over union of corner boxes one by one, in [0, 1]."""
    return _ratio(*_overlap_and_union(first, second))


def pairwise_giou(
    first: Float[Tensor, "*B N 4"], second: Float[Tensor, "*B M 4"], *, eps: float = 0.0
) -> Float[Tensor, "*B N M"]:
    """Generalized IoU of each corner box with each; eps as for `elementwise_giou`."""
    return elementwise_giou(*_pairs(first, second), eps=eps)


def pairwise_iou(first: Float[Tensor, "*B N 4"], second: Float[Tensor, "*B M 4"]) -> Float[Tensor, "*B N M"]:
    """Intersection over union of each corner box with each."""
    return elementwise_iou(*_pairs(first, second))


def _pairs(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    first, second = first[..., :, None, :], second[..., None, :, :]
    first, second = torch.broadcast_tensors(first, second)
    return first, second


def _overlap_and_union(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    low = torch.maximum(first[..., :2], second[..., :2])
    high = torch.minimum(first[..., 2:], second[..., 2:])
    overlap = _area_between(low, high)
    return overlap, area(first) + area(second) - overlap


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    """part / whole, and 0 with a zero gradient where the whole is smaller than rounding can tell from nothing."""
    nothing = whole <= torch.finfo(whole.dtype).eps ** 2
    return part / whole.masked_fill(nothing, math.inf)


def inverse_sigmoid(x: Float[Tensor, "*B"], eps: float = 1e-5) -> Float[Tensor, "*B"]:
    """Logit of numbers in [0, 1], those nearer to 0 or 1 than eps taken as that near (as all official codes)."""
    return (x.clamp(eps, 1.0) / (1 - x).clamp(eps, 1.0)).log()
