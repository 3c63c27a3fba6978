"""The laws of box geometry (`detrkit.boxes`); there is one implementation, so the maker is not asked."""

from __future__ import annotations

import torch
from torch import Tensor

from detrkit import boxes as geometry
from detrkit.testing.law import Draw, Make, law
from detrkit.testing.tensors import check_close, check_finite, draw_generator, draw_order

TINY = 1e-12


@law("boxes")
def formats_convert_back(make: Make, draw: Draw) -> None:
    """cxcywh to xyxy and back gives the same boxes, and corners are centre plus and minus half the size."""
    boxes = draw_boxes(draw)
    check_close(geometry.xyxy_to_cxcywh(geometry.cxcywh_to_xyxy(boxes)), boxes, "after xyxy and back")
    check_close(geometry.cxcywh_to_xyxy(geometry.xyxy_to_cxcywh(boxes)), boxes, "after cxcywh and back")
    left, top, right, bottom = geometry.cxcywh_to_xyxy(geometry.xyxy_to_cxcywh(boxes)).unbind(-1)
    size = geometry.xyxy_to_cxcywh(boxes)[:, 2:]
    check_close(size, torch.stack([right - left, bottom - top], -1), "as a size")
    check_close(geometry.area(boxes), size.prod(-1), "as an area")


@law("boxes")
def overlaps_have_their_ranges(make: Make, draw: Draw) -> None:
    """-1 <= GIoU <= IoU <= 1 and 0 <= IoU."""
    first, second = draw_boxes(draw), draw_boxes(draw)
    iou, giou = geometry.pairwise_iou(first, second), geometry.pairwise_giou(first, second)
    assert (iou >= 0).all(), f"an IoU is {iou.min()}"
    assert (iou <= 1 + TINY).all(), f"an IoU is {iou.max()}"
    assert (giou >= -1 - TINY).all(), f"a GIoU is {giou.min()}"
    assert (giou <= iou + TINY).all(), "a GIoU is above its IoU"


@law("boxes")
def overlap_is_symmetric(make: Make, draw: Draw) -> None:
    """Swapping the two sides transposes IoU and GIoU, to the bit."""
    first, second = draw_boxes(draw), draw_boxes(draw)
    for overlap in (geometry.pairwise_iou, geometry.pairwise_giou):
        check_close(overlap(second, first).T, overlap(first, second), "with the sides swapped", rtol=0)


@law("boxes")
def box_covers_itself(make: Make, draw: Draw) -> None:
    """A box with an area has IoU and GIoU 1 with itself."""
    boxes = draw_boxes(draw)
    for overlap in (geometry.elementwise_iou, geometry.elementwise_giou):
        check_close(overlap(boxes, boxes), torch.ones(len(boxes), dtype=boxes.dtype), "with itself")


@law("boxes")
def place_and_scale_do_not_matter(make: Make, draw: Draw) -> None:
    """Moving and scaling both sides alike leaves IoU and GIoU unchanged (float64)."""
    first, second = draw_boxes(draw), draw_boxes(draw)
    move = torch.tensor([draw(-10, 10), draw(-10, 10)] * 2, dtype=first.dtype)
    scale = 10.0 ** draw(-2, 3)
    for overlap in (geometry.pairwise_iou, geometry.pairwise_giou):
        found = overlap(scale * first + move, scale * second + move)
        check_close(found, overlap(first, second), f"when scaled by {scale} and moved", rtol=1e-9)


@law("boxes")
def nested_boxes_have_equal_overlaps(make: Make, draw: Draw) -> None:
    """For a box inside another, GIoU equals IoU, and both are the ratio of the areas."""
    outer = draw_boxes(draw)
    shrink = torch.rand(len(outer), 4, generator=draw_generator(draw), dtype=outer.dtype)
    size = (outer[:, 2:] - outer[:, :2]).repeat(1, 2)
    inner = outer + size * shrink * torch.tensor([0.5, 0.5, -0.49, -0.49], dtype=outer.dtype)
    ratio = geometry.area(inner) / geometry.area(outer)
    check_close(geometry.elementwise_iou(inner, outer), ratio, "as a ratio of areas")
    check_close(geometry.elementwise_giou(inner, outer), ratio, "from the IoU of nested boxes")


@law("boxes")
def disjoint_boxes_get_worse_with_distance(make: Make, draw: Draw) -> None:
    """Boxes apart have IoU 0 and a negative GIoU that falls with the distance."""
    boxes = draw_boxes(draw)
    axis = torch.tensor([1.0, 0.0, 1.0, 0.0] if draw(0, 1) else [0.0, 1.0, 0.0, 1.0], dtype=boxes.dtype)
    close, distant = boxes + axis * (1 + draw(1, 50) / 10), boxes + axis * (1 + draw(51, 200) / 10)
    near, far = geometry.elementwise_giou(boxes, close), geometry.elementwise_giou(boxes, distant)
    assert (geometry.elementwise_iou(boxes, close) == 0).all(), "disjoint boxes overlap"
    assert (near < 0).all(), "a GIoU of disjoint boxes is not negative"
    assert (far < near).all(), "GIoU does not fall with the distance"


@law("boxes")
def pairwise_agrees_with_elementwise(make: Make, draw: Draw) -> None:
    """The diagonal of the pairwise matrix is the elementwise result, also under leading axes."""
    first, second = draw_boxes(draw, count=5), draw_boxes(draw, count=5)
    pairs = ((geometry.pairwise_iou, geometry.elementwise_iou), (geometry.pairwise_giou, geometry.elementwise_giou))
    for pairwise, elementwise in pairs:
        matrix = pairwise(first, second)
        check_close(matrix.diagonal(), elementwise(first, second), "on the diagonal", rtol=0)
        stacked = pairwise(torch.stack([first, second]), torch.stack([second, first]))
        check_close(stacked, torch.stack([matrix, matrix.T]), "under a leading axis", rtol=0)


@law("boxes")
def every_box_has_finite_gradients(make: Make, draw: Draw) -> None:
    """IoU, GIoU and their gradients are finite for every pair: points, lines, equal, huge, tiny and swapped corners."""
    x, y, size = draw(0, 4) / 4, draw(0, 4) / 4, 10.0 ** draw(-6, 4)
    boxes = [
        [x, y, x, y],
        [x, y, x + size, y],
        [x, y, x, y + size],
        [x, y, x + size, y + size],
        [x + size, y + size, x, y],
        [0, 0, 1, 1],
        [0, 0, 0, 0],
        [1, 1, 1, 1],
    ]
    for dtype in (torch.float64, torch.float32):
        first, second = (torch.tensor(boxes, dtype=dtype, requires_grad=True) for _ in range(2))
        for overlap in (geometry.pairwise_iou, geometry.pairwise_giou):
            values = overlap(first, second)
            gradients = torch.autograd.grad(values.sum(), (first, second))
            check_finite(
                {"a value": values, **dict(zip(("one gradient", "another"), gradients, strict=True))},
                f"for boxes {boxes[:5]} in {dtype}",
            )


@law("boxes")
def gradients_are_those_of_the_function(make: Make, draw: Draw) -> None:
    """The gradient of GIoU equals numerical differences (float64)."""
    first, second = (boxes.clone().requires_grad_() for boxes in draw_boxes(draw, count=6).chunk(2))
    right = torch.autograd.gradcheck(geometry.pairwise_giou, (first, second), fast_mode=True, raise_exception=False)
    assert right, "torch.autograd.gradcheck: the gradient is not that of GIoU"


@law("boxes")
def order_does_not_matter(make: Make, draw: Draw) -> None:
    """Permuting boxes permutes rows and columns."""
    first, second = draw_boxes(draw), draw_boxes(draw)
    rows, columns = draw_order(draw, len(first)), draw_order(draw, len(second))
    for overlap in (geometry.pairwise_iou, geometry.pairwise_giou):
        expected = overlap(first, second)[rows][:, columns]
        check_close(overlap(first[rows], second[columns]), expected, "in another order", rtol=0)


@law("boxes")
def clipping_twice_is_clipping_once(make: Make, draw: Draw) -> None:
    """Clipped boxes lie inside the image, clipping them again changes nothing, and boxes inside stay as they are."""
    boxes = 4 * draw_boxes(draw) - 1
    height, width = draw(1, 40) / 10, draw(1, 40) / 10
    clipped = geometry.clip_xyxy(boxes, height, width)
    limit = torch.tensor([width, height] * 2, dtype=boxes.dtype)
    assert ((clipped >= 0) & (clipped <= limit)).all(), "a clipped box leaves the image"
    assert torch.equal(geometry.clip_xyxy(clipped, height, width), clipped), "clipping again changes a box"
    inside = ((boxes >= 0) & (boxes <= limit)).all(1)
    assert torch.equal(clipped[inside], boxes[inside]), "a box inside the image is changed"


def draw_boxes(draw: Draw, count: int | None = None) -> Tensor:
    """Corner boxes [N, 4] in the unit square, float64, with an area."""
    corners = torch.rand(count or draw(1, 6), 2, 2, generator=draw_generator(draw), dtype=torch.float64)
    low, high = corners.amin(1), corners.amax(1)
    return torch.cat([low, high + 1e-3], dim=1)
