"""By weighted sums of rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from detrkit.samplers import Sampler
from detrkit.samplers._corners import corners

PIECE = {"cpu": 256}  # queries times heads whose rows lie in memory at once in the backward, small enough for the cache
LARGE_PIECE = 1 << 15  # on other devices


@final
class BagSampler(Sampler):
    """The four cells around each point summed where they lie, by ``embedding_bag``: fast on a CPU, little memory.

    Its gradients are sums by sorted rows, free of atomics. It can be differentiated once.
    """

    def sample(
        self,
        value: Float[Tensor, "B N H d"],
        shapes: Sequence[tuple[int, int]],
        points: Float[Tensor, "B Q H L P 2"],
        weights: Float[Tensor, "B Q H L P"],
    ) -> Float[Tensor, "B Q D"]:
        """As the contract."""
        rows, shares = corners(value, shapes, points, weights)
        read = _SumOfRows.apply(value.flatten(0, 2), rows.flatten(0, 2), shares.flatten(0, 2))
        return read.unflatten(0, rows.shape[:3]).flatten(2)


class _SumOfRows(torch.autograd.Function):
    """table [T, d], rows [R, K], shares [R, K] -> [R, d]; torch's own backward of this takes ten times as long."""

    @staticmethod
    def forward(
        ctx: Any, table: Float[Tensor, "T d"], rows: Int64[Tensor, "R K"], shares: Float[Tensor, "R K"]
    ) -> Float[Tensor, "R d"]:
        ctx.save_for_backward(table, rows, shares)
        return F.embedding_bag(rows, table, per_sample_weights=shares, mode="sum")

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Float[Tensor, "R d"]) -> tuple[Tensor | None, None, Tensor | None]:
        table, rows, shares = ctx.saved_tensors
        return (
            _of_table(len(table), rows, shares, gradient.contiguous()) if ctx.needs_input_grad[0] else None,
            None,
            _of_shares(table, rows, gradient) if ctx.needs_input_grad[2] else None,
        )


def _of_table(
    length: int, rows: Int64[Tensor, "R K"], shares: Float[Tensor, "R K"], gradient: Float[Tensor, "R d"]
) -> Float[Tensor, "T d"]:
    """The same sum the other way: every row of the table gathers the gradients of those that have read it."""
    keys = rows.flatten().to(torch.int32 if length < 1 << 31 else torch.int64)  # half the bytes, sorted sooner
    found, order = keys.sort(stable=True)
    first = torch.searchsorted(found, torch.arange(length, dtype=keys.dtype, device=keys.device))
    readers, counted = order // rows.shape[1], shares.flatten().index_select(0, order)
    return F.embedding_bag(readers, gradient, first, per_sample_weights=counted, mode="sum")


def _of_shares(
    table: Float[Tensor, "T d"], rows: Int64[Tensor, "R K"], gradient: Float[Tensor, "R d"]
) -> Float[Tensor, "R K"]:
    """Products of what was read with the gradient, a piece at a time."""
    found = gradient.new_empty(rows.shape)
    piece = PIECE.get(rows.device.type, LARGE_PIECE)
    for own, upstream, out in zip(rows.split(piece), gradient.split(piece), found.split(piece), strict=True):
        read = table.index_select(0, own.flatten()).unflatten(0, own.shape)
        torch.sum(read * upstream[:, None], dim=-1, out=out)
    return found
