"""The role `samplers`: values read at points of feature maps, the heart of deformable attention."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor


class Sampler(ABC):
    """Contract of the role. Keep it by defining `sample`. All samplers are one function (Deformable DETR, equation 3).

    Laws: equal to each other in output and gradient; a point at the centre of a cell reads that cell; points outside
    read zeros, cell by cell of the four around them; linear in values and weights.
    """

    @abstractmethod
    def sample(
        self,
        value: Float[Tensor, "B N H d"],
        shapes: Sequence[tuple[int, int]],
        points: Float[Tensor, "B Q H L P 2"],
        weights: Float[Tensor, "B Q H L P"],
    ) -> Float[Tensor, "B Q D"]:
        """Weighted sums of what lies at the points, bilinearly between cell centres.

        Args:
            value: [B, N, H, d] of every cell, level after level, for each head.
            shapes: (height, width) of each level.
            points: [B, Q, H, L, P, 2], (x, y) as fractions of each level's map.
            weights: [B, Q, H, L, P].

        Returns:
            [B, Q, H d], heads side by side.
        """
