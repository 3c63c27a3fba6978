"""Queries that are the decoder's input."""

from __future__ import annotations

from typing import final

from torch import nn

from detrkit.fields import Positive
from detrkit.queries import ObjectQueries
from detrkit.transformer import Memory, Queries


@final
class ContentQueries(ObjectQueries):
    """A learned content each, given to the decoder once; no position (DETR, table 3 "at input", and appendix A.6).

    Args:
        d_model: width D of a query.
        num_queries: number Q of queries.
    """

    def __init__(self, d_model: Positive, num_queries: Positive) -> None:
        super().__init__()
        self.content = nn.Embedding(num_queries, d_model)
        nn.init.uniform_(self.content.weight)

    def forward(self, memory: Memory) -> Queries:
        """The same for every image: content [B, Q, D], no positions."""
        return Queries(self.content.weight.expand(memory.tokens.shape[0], -1, -1), None)
