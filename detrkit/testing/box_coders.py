"""The laws of the role `box_coders`."""

from __future__ import annotations

import torch
from torch import Tensor

from detrkit.box_coders import BoxCoder
from detrkit.fitting import BOXES
from detrkit.testing.law import Draw, Make, concern, law
from detrkit.testing.tensors import check_close, check_finite, draw_generator, draw_normal, draw_order


@law("box_coders")
def zeros_leave_a_box_where_it_is(make: Make, draw: Draw) -> None:
    """Offsets of zero give the reference itself, in its dtype."""
    coder, _, boxes = draw_case(make, draw)
    check_close(coder.decode(torch.zeros_like(boxes), boxes), boxes, "from offsets of zero")
    single = coder.decode(torch.zeros_like(boxes).float(), boxes.float())
    assert single.dtype == torch.float32, f"float32 gives {single.dtype}"


@law("box_coders")
def boxes_follow_their_offsets(make: Make, draw: Draw) -> None:
    """Boxes have sides; raising an offset raises its number of the box, and no other number of any box."""
    coder, offsets, boxes = draw_case(make, draw)
    found, axis = coder.decode(offsets, boxes), draw(0, 3)
    assert found.shape == boxes.shape, f"boxes have shape {tuple(found.shape)}, not {tuple(boxes.shape)}"
    assert (found[..., 2:] > 0).all(), "a box has no sides"
    change = coder.decode(offsets + torch.eye(4).double()[axis], boxes) - found
    assert (change[..., axis] > 0).all(), f"number {axis} of a box does not rise with its offset"
    assert (change[..., [i for i in range(4) if i != axis]] == 0).all(), f"offset {axis} moves other numbers"


@law("box_coders")
def boxes_do_not_influence_each_other(make: Make, draw: Draw) -> None:
    """Boxes in another order are decoded in that order."""
    coder, offsets, boxes = draw_case(make, draw)
    order = draw_order(draw, boxes.shape[1])
    check_close(coder.decode(offsets[:, order], boxes[:, order]), coder.decode(offsets, boxes)[:, order], "in order")


@law("box_coders")
def gradients_are_finite(make: Make, draw: Draw) -> None:
    """Every offset gets a finite gradient, also from references at the ends of [0, 1]."""
    coder, offsets, boxes = draw_case(make, draw)
    leaf = offsets.requires_grad_()
    for references in (boxes, boxes.round()):
        (gradient,) = torch.autograd.grad(coder.decode(leaf, references).sum(), leaf)
        check_finite({"offsets": gradient}, "among the gradients")


@law("box_coders")
def points_and_nothing_will_do(make: Make, draw: Draw) -> None:
    """Where it does not need boxes, it decodes from points, whose centre zeros keep, and from nothing."""
    coder, offsets, boxes = draw_case(make, draw)
    concern(BOXES not in coder.needs, "it needs boxes")
    kept = torch.cat([torch.zeros_like(offsets[..., :2]), offsets[..., 2:]], dim=-1)
    check_close(coder.decode(kept, boxes[..., :2])[..., :2], boxes[..., :2], "from points")
    check_finite({"boxes": coder.decode(offsets, None)}, "from nothing")


def draw_case(make: Make, draw: Draw) -> tuple[BoxCoder, Tensor, Tensor]:
    """A coder, offsets and boxes [B, Q, 4] in float64."""
    shape = (draw(1, 3), draw(1, 6), 4)
    boxes = torch.rand(shape, generator=draw_generator(draw), dtype=torch.float64)
    return make(), draw_normal(draw, *shape), boxes * 0.8 + 0.1
