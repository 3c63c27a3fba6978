"""Positions from boxes as they are."""

from __future__ import annotations

from typing import ClassVar, final

from detrkit.fields import Positive
from detrkit.fitting import BOXES, POSITIONS
from detrkit.placement import Placement
from detrkit.transformer import MLP, Memory, Queries, needed


@final
class MlpPlacement(Placement):
    """Positions read from the four numbers of the boxes, without codes (RT-DETR, as its official code).

    Args:
        d_model: width D.
    """

    needs: ClassVar[frozenset[str]] = frozenset({BOXES})
    gives: ClassVar[frozenset[str]] = frozenset({POSITIONS})

    def __init__(self, d_model: Positive) -> None:
        super().__init__()
        self.position_head = MLP(4, 2 * d_model, d_model)

    def forward(self, layer: int, queries: Queries, memory: Memory) -> Queries:
        """With positions."""
        return queries._replace(positions=self.position_head(needed(queries.references, BOXES, self)))
