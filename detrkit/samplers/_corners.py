"""What samplers share that read cells by their number: which four cells lie around a point, and what each counts."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from jaxtyping import Float, Int64
from torch import Tensor


def corners(
    value: Float[Tensor, "B N H d"],
    shapes: Sequence[tuple[int, int]],
    points: Float[Tensor, "B Q H L P 2"],
    weights: Float[Tensor, "B Q H L P"],
) -> tuple[Int64[Tensor, "B Q H K"], Float[Tensor, "B Q H K"]]:
    """The K = 4 L P cells that each query and head reads, as rows of ``value`` seen as [B N H, d], and their shares.

    Arguments as of `Sampler.sample`. Cells outside the map have a share of zero, and the row of the nearest inside.
    """
    each = points.shape[-2]
    heights, widths = (
        torch.tensor(sizes, device=points.device).repeat_interleave(each) for sizes in zip(*shapes, strict=True)
    )
    starts = list(accumulate((height * width for height, width in shapes), initial=0))[:-1]
    start = torch.tensor(starts, device=points.device).repeat_interleave(each)
    x, y = points.flatten(3, 4).unbind(-1)
    rows = [(start + row * widths, share * weights.flatten(3)) for row, share in _neighbours(y, heights)]
    columns = _neighbours(x, widths)
    token = torch.cat([row + column for row, _ in rows for column, _ in columns], dim=-1)
    share = torch.cat([one * other for _, one in rows for _, other in columns], dim=-1)
    batch, tokens, heads = value.shape[:3]
    image, head = (torch.arange(count, device=points.device) for count in (batch, heads))
    return token * heads + (image[:, None, None, None] * tokens * heads + head[:, None]), share.to(value.dtype)


def _neighbours(place: Float[Tensor, "*B K"], size: Int64[Tensor, K]) -> list[tuple[Tensor, Tensor]]:
    """Along one axis: the cells whose centres lie before and after a place in [0, 1], and the share of each."""
    cells = place * size - 0.5
    before = cells.detach().floor()
    beyond = cells - before
    found = []
    for wanted, share in ((before, 1 - beyond), (before + 1, beyond)):
        cell = wanted.clamp(min=0).minimum(size - 1)
        found.append((cell.long(), share * (cell == wanted)))
    return found
