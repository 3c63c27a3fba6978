"""Every class on its own."""

from __future__ import annotations

from typing import final

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from detrkit.classification import Matched
from detrkit.classification._sigmoid import TINY, SigmoidClassification, at_classes, summed
from detrkit.fields import Positive, Probability, Weight


@final
class FocalClassification(SigmoidClassification):
    """A sigmoid a class, no no-object; focal loss (Lin et al. 2017, equation 5; Deformable DETR, A.4).

    Args:
        num_classes: K, background not counted.
        alpha: weight of a class that is there against one that is not.
        gamma: how little sure and right answers count.
    """

    def __init__(self, num_classes: Positive, *, alpha: Probability = 0.25, gamma: Weight = 2.0) -> None:
        super().__init__(num_classes, alpha, gamma)
        self.alpha, self.gamma = alpha, gamma

    def loss(self, logits: Float[Tensor, "L B Q C"], matched: Matched, normalizer: float) -> Float[Tensor, L]:
        """As the contract, summed over queries and classes."""
        wanted = at_classes(logits, matched, 1.0)
        p, bits = logits.sigmoid(), F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
        missed = p + wanted - 2 * p * wanted  # 1 - probability of the truth
        weight = self.alpha * wanted + (1 - self.alpha) * (1 - wanted)
        return summed(weight * missed.clamp(min=TINY) ** self.gamma * bits, normalizer)
