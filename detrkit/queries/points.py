"""Queries that hold something and are somewhere."""

from __future__ import annotations

from typing import ClassVar, final

from torch import nn

from detrkit.fields import Positive
from detrkit.fitting import POSITIONS, REFERENCES
from detrkit.queries import ObjectQueries
from detrkit.transformer import Memory, Queries


@final
class PointQueries(ObjectQueries):
    """A learned position and content each, and a reference point read from the position (Deformable DETR, 4.1).

    Args:
        d_model: width D of a query.
        num_queries: number Q of queries.
    """

    gives: ClassVar[frozenset[str]] = frozenset({POSITIONS, REFERENCES})
    box_bias: ClassVar[float | None] = -2.0

    def __init__(self, d_model: Positive, num_queries: Positive) -> None:
        super().__init__()
        self.both = nn.Embedding(num_queries, 2 * d_model)
        self.reference_points = nn.Linear(d_model, 2)
        nn.init.xavier_uniform_(self.reference_points.weight)
        nn.init.zeros_(self.reference_points.bias)

    def forward(self, memory: Memory) -> Queries:
        """The same for every image."""
        positions, content = self.both.weight.expand(memory.tokens.shape[0], -1, -1).chunk(2, dim=-1)
        return Queries(content, positions, self.reference_points(positions).sigmoid())
