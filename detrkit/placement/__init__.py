"""The role `placement`: how a query's reference becomes its position in each decoder layer."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from detrkit.transformer import Memory, Queries


class Placement(nn.Module, ABC):
    """Contract of the role. Keep it by defining `forward`, and `start` where something is to be done once.

    Laws: neither the content nor the references change; images and queries do not influence each other.

    Attributes:
        needs: names of `detrkit.fitting`: what it must be given by other parts.
        gives: names of what it gives to other parts.
        sees_padding: whether an image's positions depend on its padding, so that ``padding_exact`` refuses it.
        box_bias: as of `ObjectQueries`, where the placement gives the references.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    gives: ClassVar[frozenset[str]] = frozenset()
    sees_padding: ClassVar[bool] = False
    box_bias: ClassVar[float | None] = None

    def start(self, queries: Queries) -> Queries:
        """Queries before the first layer."""
        return queries

    @abstractmethod
    def forward(self, layer: int, queries: Queries, memory: Memory) -> Queries:
        """Queries as a layer (counted from 0) sees them: with positions, and a sine code where readings need one."""


def sine_codes(references: Float[Tensor, "*B P"], d_model: int, temperature: float = 10000.0) -> Float[Tensor, "*B E"]:
    """Sine and cosine by turns of each coordinate, D/2 channels each, in the order y, x and, of boxes, w, h.

    Args:
        references: [..., 2] or [..., 4] in [0, 1].
        d_model: width D; a point gives D channels, a box 2 D.
        temperature: ratio of the longest to the shortest wavelength (10000 in all official codes).
    """
    half = d_model // 2
    exponent = torch.arange(0, half, 2, dtype=references.dtype, device=references.device) / half
    angle = references[..., None] * (2 * math.pi) / temperature**exponent
    waves = torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(-2)
    x, y, *size = waves.unbind(-2)
    return torch.cat([y, x, *size], dim=-1)
