"""The role `necks`: feature maps of the backbone -> maps of the transformer's width, one a level."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn


class Neck(nn.Module, ABC):
    """Contract of the role. Keep it by defining `forward` and setting the attributes.

    Attributes:
        strides: input pixels per cell of each level, ascending.
        level_embed: [L, D], added to the positions of each level's cells, so that levels differ; None where nothing is.
    """

    strides: tuple[int, ...]
    level_embed: nn.Parameter | None

    @abstractmethod
    def forward(self, maps: Sequence[Float[Tensor, "B _ _ _"]]) -> list[Float[Tensor, "B D _ _"]]:
        """One map [B, D, ceil(H / s), ceil(W / s)] a level, finest first."""
