"""Positions from boxes."""

from __future__ import annotations

from typing import ClassVar, final

from detrkit.fields import Positive
from detrkit.fitting import BOXES, POSITIONS
from detrkit.placement import Placement, sine_codes
from detrkit.transformer import MLP, Memory, Queries, needed


@final
class SinePlacement(Placement):
    """Positions read from the codes of the boxes, padding counted in (DINO, as its official code).

    Args:
        d_model: width D.
    """

    needs: ClassVar[frozenset[str]] = frozenset({BOXES})
    gives: ClassVar[frozenset[str]] = frozenset({POSITIONS})
    sees_padding: ClassVar[bool] = True

    def __init__(self, d_model: Positive) -> None:
        super().__init__()
        self.d_model = d_model
        self.position_head = MLP(2 * d_model, d_model, d_model)

    def forward(self, layer: int, queries: Queries, memory: Memory) -> Queries:
        """With positions; boxes are seen as fractions of the first level's map."""
        boxes = needed(queries.references, BOXES, self)
        if memory.valid is not None:
            boxes = boxes * memory.valid[:, None, 0].repeat(1, 1, 2)
        return queries._replace(positions=self.position_head(sine_codes(boxes, self.d_model)))
