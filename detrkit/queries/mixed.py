"""Learned content at proposed places."""

from __future__ import annotations

from typing import ClassVar, final

from jaxtyping import Float, Int64
from torch import Tensor, nn

from detrkit.fields import Positive
from detrkit.fitting import BOXES, LABELS, REFERENCES
from detrkit.queries._proposals import TwoStageQueries, pick
from detrkit.transformer import Memory, Proposals, Queries


@final
class MixedQueries(TwoStageQueries):
    """The best proposals' boxes as references, and a learned content each (DINO, section 3.4).

    Args:
        d_model: width D of a query.
        num_queries: number Q of queries.
        num_classes: number of classes.
    """

    gives: ClassVar[frozenset[str]] = frozenset({REFERENCES, BOXES, LABELS})
    class_agnostic: ClassVar[bool] = False

    def __init__(self, d_model: Positive, num_queries: Positive, num_classes: Positive) -> None:
        super().__init__(d_model, num_queries, num_classes)
        self.content = nn.Embedding(num_queries, d_model)
        nn.init.xavier_uniform_(self.content.weight)  # as every matrix of the official transformer
        self.labels = nn.Embedding(num_classes + 1, d_model)  # of denoising queries; the last row is never used

    def embed(self, labels: Int64[Tensor, "*B"]) -> Float[Tensor, "*B D"]:
        """Embeddings of labels."""
        return self.labels(labels)

    def forward(self, memory: Memory) -> Queries:
        """Content and references [B, Q, 4] of each image, and the chosen proposals."""
        proposals, offsets, _ = self.propose(memory)
        chosen = self.best(proposals.logits.amax(-1))
        boxes = pick(offsets, chosen).sigmoid()
        content = self.content.weight[: chosen.shape[1]].expand(chosen.shape[0], -1, -1)
        return Queries(content, references=boxes.detach(), proposals=Proposals(pick(proposals.logits, chosen), boxes))
