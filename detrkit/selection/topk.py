"""The best pairs of query and class."""

from __future__ import annotations

from typing import final

from jaxtyping import Float
from torch import Tensor

from detrkit.fields import Positive
from detrkit.selection import Selected, Selection


@final
class TopkSelection(Selection):
    """The best pairs of query and class, a query perhaps several times (Deformable DETR, as its official code).

    Args:
        k: number of detections an image, if there are as many pairs.
    """

    def __init__(self, *, k: Positive = 100) -> None:
        self.k = k

    def select(self, scores: Float[Tensor, "B Q K"]) -> Selected:
        """min(k, Q K) detections an image."""
        classes = scores.shape[-1]
        best, pairs = scores.flatten(1).sort(dim=-1, descending=True, stable=True)
        best, pairs = best[:, : self.k], pairs[:, : self.k]
        return Selected(best, pairs % classes, pairs // classes)
