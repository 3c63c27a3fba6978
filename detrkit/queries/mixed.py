"""Learned content at proposed places."""

from __future__ import annotations

from typing import final

from jaxtyping import Float, Int64
from torch import Tensor, nn

from detrkit.box_coders import BoxCoder
from detrkit.fields import Positive
from detrkit.queries._proposals import SIGMOID, LabelledProposalQueries


@final
class MixedQueries(LabelledProposalQueries):
    """The best proposals' boxes as references, and a learned content each (DINO, section 3.4).

    Args:
        d_model: width D of a query.
        num_queries: number Q of queries.
        num_classes: number of classes.
        box_coder: how proposals are told from the squares around tokens.
    """

    def __init__(
        self, d_model: Positive, num_queries: Positive, num_classes: Positive, box_coder: BoxCoder = SIGMOID
    ) -> None:
        super().__init__(d_model, num_queries, num_classes, box_coder)
        self.content = nn.Embedding(num_queries, d_model)
        nn.init.xavier_uniform_(self.content.weight)  # as every matrix of the official transformer

    def start_from(self, tokens: Float[Tensor, "B N D"], chosen: Int64[Tensor, "B Q 1"]) -> Float[Tensor, "B Q D"]:
        """The same for every image."""
        return self.content.weight[: chosen.shape[1]].expand(chosen.shape[0], -1, -1)
