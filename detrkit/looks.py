"""Where queries look and how much, as the attentions and readings of a transformer tell it of themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from jaxtyping import Bool, Float
from torch import Tensor

from detrkit.samplers._corners import corners


class DenseLook(NamedTuple):
    """A look at all cells.

    Attributes:
        weights: [B, H, Q, N], non-negative; those of a head and query sum to one over the visible cells, and are zero
            on padding.
    """

    weights: Float[Tensor, "B H Q N"]

    def over_cells(
        self, shapes: Sequence[tuple[int, int]], padding: Bool[Tensor, "B N"] | None = None
    ) -> Float[Tensor, "B H Q N"]:
        """The weights."""
        return self.weights


class PointLook(NamedTuple):
    """A look at some points of each level.

    Attributes:
        points: [B, Q, H, L, P, 2], (x, y) as fractions of each level's map, its padding included.
        weights: [B, Q, H, L, P], non-negative; those of a head and query sum to one.
    """

    points: Float[Tensor, "B Q H L P 2"]
    weights: Float[Tensor, "B Q H L P"]

    def over_cells(
        self, shapes: Sequence[tuple[int, int]], padding: Bool[Tensor, "B N"] | None = None
    ) -> Float[Tensor, "B H Q N"]:
        """The weights, each shared out to the four cells around its point as a sampler would read them.

        Shares of cells outside the map, where zeros are read, and of padding are lost.

        Args:
            shapes: (height, width) of each level.
            padding: cells that are padding, True; None: none is.
        """
        batch, count, heads = self.weights.shape[:3]
        cells = sum(height * width for height, width in shapes)
        points, weights = (part.flatten(0, 1)[:, None] for part in self)
        rows, shares = corners(weights.new_empty(batch * count, cells, heads, 0), shapes, points, weights)
        maps = weights.new_zeros(batch * count * cells * heads).index_add_(0, rows.flatten(), shares.flatten())
        maps = maps.view(batch, count, cells, heads).permute(0, 3, 1, 2)
        return maps if padding is None else maps.masked_fill(padding[:, None, None], 0)


Look = DenseLook | PointLook
