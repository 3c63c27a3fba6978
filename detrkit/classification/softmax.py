"""One class or none."""

from __future__ import annotations

from typing import final

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

from detrkit.classification import Classification, Matched, of_objects
from detrkit.fields import Positive, Weight


@final
class SoftmaxClassification(Classification):
    """Softmax over K classes and no-object, the last (DETR, sections 3.1 and A.2).

    Args:
        num_classes: K, background not counted.
        eos_coef: weight of no-object in the cross-entropy, relative to a class.
    """

    def __init__(self, num_classes: Positive, eos_coef: Weight = 0.1) -> None:
        self.num_classes, self.eos_coef = num_classes, eos_coef
        self.num_logits = num_classes + 1

    def cost(
        self, logits: Float[Tensor, "L B Q C"], labels: Int64[Tensor, N], image: Int64[Tensor, N]
    ) -> Float[Tensor, "L N Q"]:
        """Minus the probability of the object's class."""
        return -of_objects(logits.softmax(-1), labels, image)

    def loss(self, logits: Float[Tensor, "L B Q C"], matched: Matched, normalizer: float) -> Float[Tensor, L]:
        """Weighted cross-entropy of each layer, divided by the sum of the weights; other queries say no-object."""
        wanted = logits.new_full(logits.shape[:3], self.num_classes, dtype=torch.int64)
        wanted[matched.slots] = matched.labels
        weight = logits.new_ones(self.num_logits)
        weight[-1] = self.eos_coef
        losses = F.cross_entropy(logits.flatten(0, 2), wanted.flatten(), weight, reduction="none")
        return losses.view(logits.shape[0], -1).sum(1) / (normalizer if normalizer > 0 else 1.0)

    def normalizer(self, num_objects: int, num_matched: int, num_slots: int) -> float:
        """Sum of the weights: 1 a matched query, else eos_coef."""
        return num_matched + self.eos_coef * (num_slots - num_matched)

    def scores(self, logits: Float[Tensor, "*B Q C"]) -> Float[Tensor, "*B Q K"]:
        """Probability of each class, no-object left out."""
        return logits.softmax(-1)[..., :-1]

    def says_object(self, logits: Float[Tensor, "*B Q C"]) -> Tensor:
        """bool [*B, Q]: whether a query prefers some class to no-object."""
        return logits.argmax(-1) != self.num_classes
