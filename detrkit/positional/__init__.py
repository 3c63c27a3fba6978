"""The role `positional`: where a cell of the feature map is (DETR, appendix A.4)."""

from __future__ import annotations

from abc import ABC, abstractmethod

from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch import bool as torch_bool

from detrkit.errors import ShapeError


class Positional(nn.Module, ABC):
    """Contract of the role. Keep it by defining `forward`.

    Laws: depends on the mask alone; finite everywhere, also for a fully padded image; padding to the right and below
    changes no code of the cells that were there; distinct cells have distinct codes.
    """

    max_size: int | None = None
    """Largest height or width in cells that can be encoded; None = any."""

    @abstractmethod
    def forward(self, mask: Bool[Tensor, "B H W"]) -> Float[Tensor, "B D H W"]:
        """Code of every cell.

        Args:
            mask: [B, H, W] bool, True = padding.

        Returns:
            [B, D, H, W] in the dtype of the module.

        Raises:
            ShapeError: a mask that is not bool [B, H, W], or a map larger than `max_size`.
        """


def check_map(mask: Tensor) -> None:
    """Refuse what is not a bool mask [B, H, W].

    Raises:
        ShapeError: another dtype or number of axes.
    """
    if mask.dtype != torch_bool or mask.ndim != 3:
        raise ShapeError(
            "positional mask must be bool [B, H, W], True = padding",
            field="mask",
            value=f"({mask.dtype}, shape {tuple(mask.shape)})",
        )
