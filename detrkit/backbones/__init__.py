"""The role `backbones`: images -> feature maps."""

from __future__ import annotations

from abc import ABC, abstractmethod

from jaxtyping import Float
from torch import Tensor, nn


class Backbone(nn.Module, ABC):
    """Contract of the role. Keep it by defining `forward` and setting the two attributes.

    Attributes:
        channels: number of channels of each level, finest level first.
        strides: input pixels per cell of each level, ascending.

    A level has ``ceil(size / stride)`` cells along each side.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]

    @abstractmethod
    def forward(self, images: Float[Tensor, "B 3 H W"]) -> list[Float[Tensor, "B _ _ _"]]:
        """Feature maps of normalised images [B, 3, H, W]: one [B, C_l, ceil(H / s_l), ceil(W / s_l)] a level."""
