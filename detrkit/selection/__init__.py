"""The role `selection`: which pairs of query and class become detections."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

from jaxtyping import Float, Int64
from torch import Tensor


class Selected(NamedTuple):
    """Detections of a batch, best first: score, label 0..K-1 and query of each, [B, N]."""

    scores: Float[Tensor, "B N"]
    labels: Int64[Tensor, "B N"]
    queries: Int64[Tensor, "B N"]


class Selection(ABC):
    """Contract of the role. Keep it by defining `select`.

    Laws: scores fall, and are those of their query and label; no pair of query and label occurs twice; equal scores
    are ranked by query, then by label; images of a batch do not influence each other.
    """

    @abstractmethod
    def select(self, scores: Float[Tensor, "B Q K"]) -> Selected:
        """Choose.

        Args:
            scores: [B, Q, K] in [0, 1], of each query and class, background left out.
        """
