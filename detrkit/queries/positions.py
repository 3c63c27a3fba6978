"""Queries that are places."""

from __future__ import annotations

from typing import ClassVar, final

import torch
from torch import nn

from detrkit.fields import Positive
from detrkit.fitting import POSITIONS
from detrkit.queries import ObjectQueries
from detrkit.transformer import Memory, Queries


@final
class PositionQueries(ObjectQueries):
    """A learned position each, added in every attention, and nothing held yet (DETR, section 3.2).

    Args:
        d_model: width D of a query.
        num_queries: number Q of queries.
    """

    gives: ClassVar[frozenset[str]] = frozenset({POSITIONS})

    def __init__(self, d_model: Positive, num_queries: Positive) -> None:
        super().__init__()
        self.positions = nn.Embedding(num_queries, d_model)

    def forward(self, memory: Memory) -> Queries:
        """The same for every image: content zero, positions [B, Q, D]."""
        positions = self.positions.weight.expand(memory.tokens.shape[0], -1, -1)
        return Queries(torch.zeros_like(positions), positions)
