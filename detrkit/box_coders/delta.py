"""Offsets in sides of the reference."""

from __future__ import annotations

from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from detrkit.box_coders import BoxCoder
from detrkit.fitting import BOXES
from detrkit.transformer import needed


@final
class DeltaBoxCoder(BoxCoder):
    """Centres shifted by shares of the sides, sides scaled by powers of e (Ren et al. 2015, equation 2; LW-DETR, 3.2).

    Boxes may leave the image.
    """

    needs: ClassVar[frozenset[str]] = frozenset({BOXES})

    def decode(self, offsets: Float[Tensor, "*B 4"], references: Float[Tensor, "*B P"] | None) -> Float[Tensor, "*B 4"]:
        """As the contract; needs references that are boxes."""
        centre, sides = needed(references, BOXES, self)[..., :2], needed(references, BOXES, self)[..., 2:]
        return torch.cat([centre + offsets[..., :2] * sides, sides * offsets[..., 2:].exp()], dim=-1)
