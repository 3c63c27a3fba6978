"""One detection a query."""

from __future__ import annotations

from typing import final

from jaxtyping import Float
from torch import Tensor

from detrkit.selection import Selected, Selection


@final
class ArgmaxSelection(Selection):
    """The best class of each query (DETR, section 4, as its official code)."""

    def select(self, scores: Float[Tensor, "B Q K"]) -> Selected:
        """Q detections an image."""
        best, labels = scores.max(-1)
        best, queries = best.sort(dim=-1, descending=True, stable=True)
        return Selected(best, labels.gather(-1, queries), queries)
