"""The role `box_coders`: how a box is told from a reference, and so how references move."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor


class BoxCoder(ABC):
    """Contract of the role. Keep it by defining `decode`.

    Laws: zeros leave a box where it is; boxes have sides, and follow the signs of their offsets; a box depends on its
    own offsets and reference alone; gradients are finite.

    Attributes:
        needs: names of `detrkit.fitting`: what it must be given by other parts.
    """

    needs: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def decode(self, offsets: Float[Tensor, "*B 4"], references: Float[Tensor, "*B P"] | None) -> Float[Tensor, "*B 4"]:
        """Boxes cxcywh, fractions of the image.

        Args:
            offsets: what a head says, any numbers.
            references: points (P = 2) or boxes (P = 4) in fractions of the image; None where there are none.
        """
