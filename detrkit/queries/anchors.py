"""Queries that are boxes."""

from __future__ import annotations

from typing import ClassVar, final

import torch
from torch import nn

from detrkit.fields import Positive
from detrkit.fitting import BOXES, REFERENCES
from detrkit.queries import ObjectQueries
from detrkit.transformer import Memory, Queries


@final
class AnchorQueries(ObjectQueries):
    """A learned box each (cx, cy, w, h), and nothing held yet (DAB-DETR, section 4.1).

    Args:
        d_model: width D of a query.
        num_queries: number Q of queries.
    """

    gives: ClassVar[frozenset[str]] = frozenset({REFERENCES, BOXES})
    box_bias: ClassVar[float | None] = 0.0

    def __init__(self, d_model: Positive, num_queries: Positive) -> None:
        super().__init__()
        self.d_model = d_model
        self.anchors = nn.Embedding(num_queries, 4)

    def forward(self, memory: Memory) -> Queries:
        """The same for every image: content zero, references [B, Q, 4]."""
        boxes = self.anchors.weight.sigmoid().expand(memory.tokens.shape[0], -1, -1)
        content = torch.zeros((*boxes.shape[:2], self.d_model), dtype=boxes.dtype, device=boxes.device)
        return Queries(content, references=boxes)
