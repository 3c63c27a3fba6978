"""What two-stage sources share: every token proposes a box, the best become queries."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Self

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from detrkit.box_coders import BoxCoder
from detrkit.box_coders.sigmoid import SigmoidBoxCoder
from detrkit.classification._sigmoid import PRIOR
from detrkit.fields import Positive
from detrkit.fitting import BOXES, LABELS, LEVELS, NO_BACKGROUND, REFERENCES
from detrkit.heads import start
from detrkit.queries import ObjectQueries
from detrkit.transformer import MLP, Memory, Proposals, Queries, cell_centres, needed

SIGMOID = SigmoidBoxCoder()
NEAREST = 0.01  # to the border, in fractions of the image, of a token that may propose
SIDE = 0.05  # of a proposal on the first level; doubled from level to level


class TwoStageQueries(ObjectQueries):
    """Template of the two-stage sources (Deformable DETR, section 4.2 and A.4).

    Args:
        d_model: width D of a query.
        num_queries: number Q of queries.
        num_classes: number of classes.
        box_coder: how proposals are told from the squares around tokens.

    Attributes:
        class_agnostic: whether proposals are trained to know objects only.
        usable_only: whether tokens that may not propose are chosen last; else they stand among the others, as what they
            say without content, with the whole image as their box.
    """

    needs: ClassVar[frozenset[str]] = frozenset({LEVELS, NO_BACKGROUND})
    class_agnostic: ClassVar[bool]
    usable_only: ClassVar[bool] = False
    box_bias: ClassVar[float | None] = 0.0

    def __init__(self, d_model: int, num_queries: int, num_classes: int, box_coder: BoxCoder = SIGMOID) -> None:
        super().__init__()
        self.num_queries, self.box_coder = num_queries, box_coder
        self.output, self.output_norm = nn.Linear(d_model, d_model), nn.LayerNorm(d_model)
        nn.init.xavier_uniform_(self.output.weight)
        self.class_embed = nn.Linear(d_model, num_classes)
        self.bbox_embed = MLP(d_model, d_model, d_model, 4)
        start(self.class_embed, self.bbox_embed, prior=PRIOR, box_bias=0.0)

    def propose(self, memory: Memory) -> tuple[Proposals, Float[Tensor, "B N D"], Bool[Tensor, "B N 1"]]:
        """What every token proposes, the tokens that do, and which of them may."""
        anchors, usable = self.anchors(memory)
        tokens = self.output_norm(self.output(memory.tokens.where(usable, 0)))
        boxes = self.box_coder.decode(self.bbox_embed(tokens), anchors.where(usable, 0.5)).where(usable, 1.0)
        return Proposals(self.class_embed(tokens), boxes, self.class_agnostic), tokens, usable

    def anchors(self, memory: Memory) -> tuple[Float[Tensor, "B N 4"], Bool[Tensor, "B N 1"]]:
        """A square around every token's cell, and whether the token may propose: neither padding nor at the border."""
        centres = needed(cell_centres(memory), LEVELS, self)
        sides = [
            centres.new_full((height * width,), SIDE * 2.0**level)
            for level, (height, width) in enumerate(memory.shapes)
        ]
        side = torch.cat(sides)[None, :, None].expand(centres.shape[0], -1, 2)
        boxes = torch.cat([centres, side], dim=-1)
        usable = ((boxes > NEAREST) & (boxes < 1 - NEAREST)).all(-1, keepdim=True)
        return boxes, usable if memory.padding is None else usable & ~memory.padding[..., None]

    def best(self, ranks: Float[Tensor, "B N"], usable: Bool[Tensor, "B N 1"]) -> Int64[Tensor, "B Q 1"]:
        """The tokens of highest rank."""
        if self.usable_only:
            ranks = ranks.masked_fill(~usable[..., 0], float("-inf"))
        return ranks.topk(min(self.num_queries, ranks.shape[1]), dim=1).indices[..., None]


class SelectedProposals(TwoStageQueries):
    """Template of those whose references are the boxes of the best proposals, by their likeliest class.

    Args:
        d_model: width D of a query.
        num_queries: number Q of queries.
        num_classes: number of classes.
        box_coder: how proposals are told from the squares around tokens.
    """

    gives: ClassVar[frozenset[str]] = frozenset({REFERENCES, BOXES})
    class_agnostic: ClassVar[bool] = False

    @abstractmethod
    def start_from(self, tokens: Float[Tensor, "B N D"], chosen: Int64[Tensor, "B Q 1"]) -> Float[Tensor, "B Q D"]:
        """What the queries hold, of the tokens that proposed and the numbers of those chosen."""

    def place(self, boxes: Float[Tensor, "B Q 4"]) -> Float[Tensor, "B Q 4"]:
        """Where the queries start, of the boxes proposed."""
        return boxes

    def forward(self, memory: Memory) -> Queries:
        """Content and references [B, Q, 4] of each image, and the chosen proposals."""
        proposals, tokens, usable = self.propose(memory)
        chosen = self.best(proposals.logits.amax(-1), usable)
        said = Proposals(pick(proposals.logits, chosen), pick(proposals.boxes, chosen))
        return Queries(self.start_from(tokens, chosen), references=self.place(said.boxes.detach()), proposals=said)


class LabelledProposalQueries(SelectedProposals):
    """Template of those that embed labels for denoising too.

    Args:
        d_model: width D of a query.
        num_queries: number Q of queries.
        num_classes: number of classes.
        box_coder: how proposals are told from the squares around tokens.
    """

    gives: ClassVar[frozenset[str]] = frozenset({REFERENCES, BOXES, LABELS})

    def __init__(
        self, d_model: Positive, num_queries: Positive, num_classes: Positive, box_coder: BoxCoder = SIGMOID
    ) -> None:
        super().__init__(d_model, num_queries, num_classes, box_coder)
        self.labels = nn.Embedding(num_classes + 1, d_model)  # of denoising queries; the last row is never used

    def embed(self, labels: Int64[Tensor, "*B"]) -> Float[Tensor, "*B D"]:
        """Embeddings of labels."""
        return self.labels(labels)

    def folded(self) -> Self:
        """The same without what embeds labels, which only denoising asks for."""
        del self.labels
        return self


def pick(x: Float[Tensor, "B N D"], chosen: Int64[Tensor, "B Q 1"]) -> Float[Tensor, "B Q D"]:
    """Rows of the chosen tokens."""
    return x.gather(1, chosen.expand(-1, -1, x.shape[-1]))
