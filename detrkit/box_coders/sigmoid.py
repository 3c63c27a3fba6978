"""Offsets before the sigmoid."""

from __future__ import annotations

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from detrkit.box_coders import BoxCoder
from detrkit.boxes import inverse_sigmoid
from detrkit.fields import Rate


@final
class SigmoidBoxCoder(BoxCoder):
    """Offsets added to the logits of the reference, if there is any: boxes stay in [0, 1] (Deformable DETR, A.3).

    Args:
        reference_eps: references nearer to 0 or 1 are taken as that near.
    """

    def __init__(self, reference_eps: Rate = 1e-5) -> None:
        self.eps = reference_eps

    def decode(self, offsets: Float[Tensor, "*B 4"], references: Float[Tensor, "*B P"] | None) -> Float[Tensor, "*B 4"]:
        """As the contract; from a point, width and height are the offsets' alone."""
        if references is None:
            return offsets.sigmoid()
        size = references.shape[-1]
        moved = offsets[..., :size] + inverse_sigmoid(references, self.eps)
        return torch.cat([moved, offsets[..., size:]], dim=-1).sigmoid()
