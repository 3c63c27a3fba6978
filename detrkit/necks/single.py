"""One level."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from jaxtyping import Float
from torch import Tensor, nn

from detrkit.fields import Positive
from detrkit.necks import Neck


@final
class SingleNeck(Neck):
    """The coarsest map, projected (DETR, section 3.2).

    Args:
        d_model: width D.
        in_channels: channels of each backbone level.
        strides: stride of each backbone level.
    """

    def __init__(self, d_model: Positive, in_channels: tuple, strides: tuple) -> None:
        super().__init__()
        self.strides = (strides[-1],)
        self.level_embed = None
        self.projection = nn.Conv2d(in_channels[-1], d_model, kernel_size=1)

    def forward(self, maps: Sequence[Float[Tensor, "B _ _ _"]]) -> list[Float[Tensor, "B D _ _"]]:
        """As the contract."""
        return [self.projection(maps[-1])]
