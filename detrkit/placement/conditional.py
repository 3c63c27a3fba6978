"""A point read from the query's position."""

from __future__ import annotations

from typing import ClassVar, final

from detrkit.fields import Positive
from detrkit.fitting import POSITIONS, REFERENCES, SINE
from detrkit.placement import Placement, sine_codes
from detrkit.transformer import MLP, Memory, Queries, needed


@final
class ConditionalPlacement(Placement):
    """A reference point read from the position, its code scaled by the content (Conditional DETR, section 3.3).

    Args:
        d_model: width D.
    """

    needs: ClassVar[frozenset[str]] = frozenset({POSITIONS})
    gives: ClassVar[frozenset[str]] = frozenset({REFERENCES, SINE})
    box_bias: ClassVar[float | None] = 0.0

    def __init__(self, d_model: Positive) -> None:
        super().__init__()
        self.d_model = d_model
        self.query_scale = MLP(d_model, d_model, d_model)
        self.reference_head = MLP(d_model, d_model, 2)

    def start(self, queries: Queries) -> Queries:
        """With a reference point each."""
        return queries._replace(references=self.reference_head(needed(queries.positions, POSITIONS, self)).sigmoid())

    def forward(self, layer: int, queries: Queries, memory: Memory) -> Queries:
        """With the code of the point; the first layer, whose content says nothing yet, does not scale it."""
        sine = sine_codes(needed(queries.references, REFERENCES, self)[..., :2], self.d_model)
        return queries._replace(sine=sine if layer == 0 else sine * self.query_scale(queries.content))
