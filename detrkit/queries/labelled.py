"""Boxes with a label."""

from __future__ import annotations

from typing import ClassVar, Self, final

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from detrkit.fields import Positive
from detrkit.fitting import BOXES, LABELS, REFERENCES
from detrkit.queries import ObjectQueries
from detrkit.transformer import Memory, Queries


@final
class LabelledQueries(ObjectQueries):
    """A learned box each, holding the embedding of "unknown" beside an indicator (DN-DETR, section 3.4).

    The table has a row a class, for the denoising queries of training, and one for unknown, the last; the last channel
    says whether a query is a denoising one.

    Args:
        d_model: width D of a query.
        num_queries: number Q of queries.
        num_classes: number of classes.
    """

    gives: ClassVar[frozenset[str]] = frozenset({REFERENCES, BOXES, LABELS})
    box_bias: ClassVar[float | None] = 0.0

    def __init__(self, d_model: Positive, num_queries: Positive, num_classes: Positive) -> None:
        super().__init__()
        self.anchors = nn.Embedding(num_queries, 4)
        self.labels = nn.Embedding(num_classes + 1, d_model - 1)

    def embed(self, labels: Int64[Tensor, "*B"]) -> Float[Tensor, "*B D"]:
        """Embeddings of labels, with the indicator set."""
        known = self.labels(labels)
        return torch.cat([known, torch.ones_like(known[..., :1])], dim=-1)

    def folded(self) -> Self:
        """The same with the row for unknown alone; the others serve denoising."""
        self.labels = nn.Embedding.from_pretrained(self.labels.weight[-1:])
        return self

    def forward(self, memory: Memory) -> Queries:
        """The same for every image: one content for all, references [B, Q, 4]."""
        boxes = self.anchors.weight.sigmoid().expand(memory.tokens.shape[0], -1, -1)
        content = torch.cat([self.labels.weight[-1], self.labels.weight.new_zeros(1)])
        return Queries(content.expand(*boxes.shape[:2], -1), references=boxes)
