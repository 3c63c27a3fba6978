"""What two-stage sources share: every token proposes a box, the best become queries."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from detrkit.boxes import inverse_sigmoid
from detrkit.classification._sigmoid import PRIOR
from detrkit.fields import Positive
from detrkit.fitting import BOXES, LABELS, LEVELS, NO_BACKGROUND, REFERENCES
from detrkit.heads import start
from detrkit.queries import ObjectQueries
from detrkit.transformer import MLP, Memory, Proposals, Queries, cell_centres, needed

NEAREST = 0.01  # to the border, in fractions of the image, of a token that may propose
SIDE = 0.05  # of a proposal on the first level; doubled from level to level


class TwoStageQueries(ObjectQueries):
    """Template of the two-stage sources (Deformable DETR, section 4.2 and A.4).

    Args:
        d_model: width D of a query.
        num_queries: number Q of queries.
        num_classes: number of classes.

    Attributes:
        class_agnostic: whether proposals are trained to know objects only.
    """

    needs: ClassVar[frozenset[str]] = frozenset({LEVELS, NO_BACKGROUND})
    class_agnostic: ClassVar[bool]
    box_bias: ClassVar[float | None] = 0.0

    def __init__(self, d_model: int, num_queries: int, num_classes: int) -> None:
        super().__init__()
        self.num_queries = num_queries
        self.output, self.output_norm = nn.Linear(d_model, d_model), nn.LayerNorm(d_model)
        nn.init.xavier_uniform_(self.output.weight)
        self.class_embed = nn.Linear(d_model, num_classes)
        self.bbox_embed = MLP(d_model, d_model, d_model, 4)
        start(self.class_embed, self.bbox_embed, prior=PRIOR, box_bias=0.0)

    def propose(self, memory: Memory) -> tuple[Proposals, Float[Tensor, "B N 4"], Float[Tensor, "B N D"]]:
        """Logits and boxes of every token, the boxes' logits, and the tokens that say so."""
        anchors, usable = self.anchors(memory)
        tokens = self.output_norm(self.output(memory.tokens.where(usable, 0)))
        logits = self.class_embed(tokens)
        offsets = (self.bbox_embed(tokens) + inverse_sigmoid(anchors, eps=0.0)).masked_fill(~usable, float("inf"))
        return Proposals(logits, offsets.sigmoid(), self.class_agnostic), offsets, tokens

    def anchors(self, memory: Memory) -> tuple[Float[Tensor, "B N 4"], Bool[Tensor, "B N 1"]]:
        """A square around every token's cell, and whether the token may propose: neither padding nor at the border."""
        centres = needed(cell_centres(memory), LEVELS, self)
        sides = [
            SIDE * 2.0**level for level, (height, width) in enumerate(memory.shapes) for _ in range(height * width)
        ]
        side = centres.new_tensor(sides)[None, :, None].expand(centres.shape[0], -1, 2)
        boxes = torch.cat([centres, side], dim=-1)
        usable = ((boxes > NEAREST) & (boxes < 1 - NEAREST)).all(-1, keepdim=True)
        return boxes, usable if memory.padding is None else usable & ~memory.padding[..., None]

    def best(self, ranks: Float[Tensor, "B N"]) -> Int64[Tensor, "B Q 1"]:
        """The tokens of highest rank."""
        return ranks.topk(min(self.num_queries, ranks.shape[1]), dim=1).indices[..., None]


class LabelledProposalQueries(TwoStageQueries):
    """Template of those whose references are the best proposals' boxes, and which embed labels for denoising.

    Args:
        d_model: width D of a query.
        num_queries: number Q of queries.
        num_classes: number of classes.
    """

    gives: ClassVar[frozenset[str]] = frozenset({REFERENCES, BOXES, LABELS})
    class_agnostic: ClassVar[bool] = False

    def __init__(self, d_model: Positive, num_queries: Positive, num_classes: Positive) -> None:
        super().__init__(d_model, num_queries, num_classes)
        self.labels = nn.Embedding(num_classes + 1, d_model)  # of denoising queries; the last row is never used

    def embed(self, labels: Int64[Tensor, "*B"]) -> Float[Tensor, "*B D"]:
        """Embeddings of labels."""
        return self.labels(labels)

    @abstractmethod
    def start_from(self, tokens: Float[Tensor, "B N D"], chosen: Int64[Tensor, "B Q 1"]) -> Float[Tensor, "B Q D"]:
        """What the queries hold, of the tokens that proposed and the numbers of those chosen."""

    def forward(self, memory: Memory) -> Queries:
        """Content and references [B, Q, 4] of each image, and the chosen proposals."""
        proposals, offsets, tokens = self.propose(memory)
        chosen = self.best(proposals.logits.amax(-1))
        boxes = pick(offsets, chosen).sigmoid()
        said = Proposals(pick(proposals.logits, chosen), boxes)
        return Queries(self.start_from(tokens, chosen), references=boxes.detach(), proposals=said)


def pick(x: Float[Tensor, "B N D"], chosen: Int64[Tensor, "B Q 1"]) -> Float[Tensor, "B Q D"]:
    """Rows of the chosen tokens."""
    return x.gather(1, chosen.expand(-1, -1, x.shape[-1]))
