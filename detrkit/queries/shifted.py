"""Learned content at proposed places, shifted."""

from __future__ import annotations

from typing import ClassVar, final

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from detrkit.box_coders import BoxCoder
from detrkit.fields import Positive
from detrkit.queries._proposals import SIGMOID, SelectedProposals


@final
class ShiftedQueries(SelectedProposals):
    """A learned content each, and the best proposals' boxes with a learned offset each (LW-DETR, 3.2 and its code).

    Args:
        d_model: width D of a query.
        num_queries: number Q of queries.
        num_classes: number of classes.
        box_coder: how proposals are told from the squares around tokens, and references from proposals.
    """

    usable_only: ClassVar[bool] = True

    def __init__(
        self, d_model: Positive, num_queries: Positive, num_classes: Positive, box_coder: BoxCoder = SIGMOID
    ) -> None:
        super().__init__(d_model, num_queries, num_classes, box_coder)
        self.content = nn.Embedding(num_queries, d_model)
        self.offset = nn.Parameter(torch.zeros(num_queries, 4))

    def start_from(self, tokens: Float[Tensor, "B N D"], chosen: Int64[Tensor, "B Q 1"]) -> Float[Tensor, "B Q D"]:
        """The same for every image."""
        return self.content.weight[: chosen.shape[1]].expand(chosen.shape[0], -1, -1)

    def place(self, boxes: Float[Tensor, "B Q 4"]) -> Float[Tensor, "B Q 4"]:
        """The boxes, moved by what is learned."""
        return self.box_coder.decode(self.offset[: boxes.shape[1]].expand_as(boxes), boxes)
