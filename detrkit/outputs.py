"""What comes out of a detector."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from detrkit.denoising import Noised
from detrkit.transformer import Proposals


class LayerOutput(NamedTuple):
    """What one decoder layer says: class logits [B, Q, C] and boxes [B, Q, 4], cxcywh in [0, 1]."""

    pred_logits: Float[Tensor, "B Q C"]
    pred_boxes: Float[Tensor, "B Q 4"]


class Restored(NamedTuple):
    """What the denoising queries say: logits [L, B, G n, C], boxes [L, B, G n, 4], and what they were made of."""

    logits: Float[Tensor, "L B _ C"]
    boxes: Float[Tensor, "L B _ 4"]
    noised: Noised


class DetectorOutput(NamedTuple):
    """What a detector says, all decoder layers stacked, the last one being the answer.

    Attributes:
        logits: [L, B, Q, C]; for softmax classification C = K + 1 and the last is no-object.
        boxes: [L, B, Q, 4], cxcywh in [0, 1] of the unpadded image.
        proposals: what a two-stage source proposed; None elsewhere.
        restored: what became of noised objects in training; None elsewhere.
        groups: into how many groups of one size the Q queries fall, each of which is to find every object.
    """

    logits: Float[Tensor, "L B Q C"]
    boxes: Float[Tensor, "L B Q 4"]
    proposals: Proposals | None = None
    restored: Restored | None = None
    groups: int = 1

    @property
    def pair(self) -> tuple[Float[Tensor, "L B Q C"], Float[Tensor, "L B Q 4"]]:
        """Logits and boxes, without what exists in training only."""
        return self.logits, self.boxes

    def mapped(self, change: Callable[[Tensor], Tensor]) -> DetectorOutput:
        """Logits and boxes changed alike, all else left out."""
        return DetectorOutput(change(self.logits), change(self.boxes))

    @property
    def pred_logits(self) -> Float[Tensor, "B Q C"]:
        """Class logits of the last layer."""
        return self.logits[-1]

    @property
    def pred_boxes(self) -> Float[Tensor, "B Q 4"]:
        """Boxes of the last layer."""
        return self.boxes[-1]

    @property
    def aux_outputs(self) -> list[LayerOutput]:
        """What the earlier layers say, first to last but one."""
        return [LayerOutput(*pair) for pair in zip(self.logits[:-1], self.boxes[:-1], strict=True)]
