"""Proposals as queries, content and all."""

from __future__ import annotations

from typing import final

from jaxtyping import Float, Int64
from torch import Tensor

from detrkit.queries._proposals import LabelledProposalQueries, pick


@final
class SelectedQueries(LabelledProposalQueries):
    """The best proposals: their boxes as references, their tokens as content, without a gradient (RT-DETR, 4.3).

    Args:
        d_model: width D of a query.
        num_queries: number Q of queries.
        num_classes: number of classes.
        box_coder: how proposals are told from the squares around tokens.
    """

    def start_from(self, tokens: Float[Tensor, "B N D"], chosen: Int64[Tensor, "B Q 1"]) -> Float[Tensor, "B Q D"]:
        """The chosen tokens."""
        return pick(tokens, chosen).detach()
