"""The role `queries`: where the decoder starts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from jaxtyping import Float, Int64
from torch import Tensor, nn

from detrkit.errors import ConfigError
from detrkit.transformer import Memory, Queries


class ObjectQueries(nn.Module, ABC):
    """Contract of the role. Keep it by defining `forward`.

    Laws: as many queries as asked for, no two alike; images of a batch do not influence each other; padding has no
    influence, not even when it is NaN; every parameter gets a gradient.

    Attributes:
        needs: names of `detrkit.fitting`: what it must be given by other parts.
        gives: names of what it gives to other parts.
        box_bias: what width and height of a box start from, before the sigmoid, when it is told from the references
            that this source gives; None: it gives none.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    gives: ClassVar[frozenset[str]] = frozenset()
    box_bias: ClassVar[float | None] = None

    def embed(self, labels: Int64[Tensor, "*B"]) -> Float[Tensor, "*B D"]:
        """What a denoising query of each label holds; refused by sources that know no labels."""
        raise ConfigError([f"denoising: {type(self).__name__} embeds no labels; use queries=labelled or queries=mixed"])

    @abstractmethod
    def forward(self, memory: Memory) -> Queries:
        """The queries of each image.

        Args:
            memory: what the encoder says of a batch of B images, N tokens each.

        Returns:
            `Queries` with content [B, Q, D] and positions [B, Q, D] or None.
        """

    def __call__(self, *args: Any, **kwargs: Any) -> Queries:
        """As `forward`."""
        return super().__call__(*args, **kwargs)
