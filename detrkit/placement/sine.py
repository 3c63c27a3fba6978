"""Positions from boxes."""

from __future__ import annotations

from typing import final

from detrkit.fields import Positive
from detrkit.placement import Placement, sine_codes
from detrkit.transformer import MLP, Memory, Queries


@final
class SinePlacement(Placement):
    """Positions read from the codes of the boxes, padding counted in (DINO, as its official code).

    Args:
        d_model: width D.
    """

    def __init__(self, d_model: Positive) -> None:
        super().__init__()
        self.d_model = d_model
        self.position_head = MLP(2 * d_model, d_model, d_model)

    def forward(self, layer: int, queries: Queries, memory: Memory) -> Queries:
        """With positions; boxes are seen as fractions of the first level's map."""
        boxes = queries.references
        if memory.valid is not None:
            boxes = boxes * memory.valid[:, None, 0].repeat(1, 1, 2)
        return queries._replace(positions=self.position_head(sine_codes(boxes, self.d_model)))
