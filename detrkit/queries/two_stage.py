"""Queries proposed by the encoder."""

from __future__ import annotations

from typing import ClassVar, final

import torch
from torch import nn

from detrkit.box_coders import BoxCoder
from detrkit.fields import Positive
from detrkit.fitting import BOXES, POSITIONS, REFERENCES
from detrkit.placement import sine_codes
from detrkit.queries._proposals import SIGMOID, TwoStageQueries, pick
from detrkit.transformer import Memory, Queries


@final
class ProposedQueries(TwoStageQueries):
    """The best proposals of the encoder, position and content read from their boxes (Deformable DETR, A.4).

    Ranked by the first class alone, as the official code, which trains proposals with all labels set to it.

    Args:
        d_model: width D of a query.
        num_queries: number Q of queries.
        num_classes: number of classes.
        box_coder: how proposals are told from the squares around tokens.
    """

    gives: ClassVar[frozenset[str]] = frozenset({POSITIONS, REFERENCES, BOXES})
    class_agnostic: ClassVar[bool] = True

    def __init__(
        self, d_model: Positive, num_queries: Positive, num_classes: Positive, box_coder: BoxCoder = SIGMOID
    ) -> None:
        super().__init__(d_model, num_queries, num_classes, box_coder)
        self.d_model = d_model
        self.position, self.position_norm = nn.Linear(2 * d_model, 2 * d_model), nn.LayerNorm(2 * d_model)
        nn.init.xavier_uniform_(self.position.weight)

    def forward(self, memory: Memory) -> Queries:
        """Content, positions and references [B, Q, 4] of each image, and the proposals of all tokens."""
        proposals, _, usable = self.propose(memory)
        boxes = pick(proposals.boxes, self.best(proposals.logits[..., 0], usable)).detach()
        y, x, w, h = sine_codes(boxes, self.d_model).chunk(4, dim=-1)
        both = self.position_norm(self.position(torch.cat([x, y, w, h], dim=-1)))
        positions, content = both.chunk(2, dim=-1)
        return Queries(content, positions, boxes, proposals=proposals)
