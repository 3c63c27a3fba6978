"""Every class on its own, as sure as its box fits."""

from __future__ import annotations

from typing import final

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from detrkit.classification import Matched
from detrkit.classification._sigmoid import SigmoidClassification, at_classes, summed
from detrkit.fields import Positive, Probability, Weight


@final
class VarifocalClassification(SigmoidClassification):
    """A sigmoid a class that is to tell the overlap of box and object (Zhang et al. 2021, VarifocalNet, equation 2).

    What is to say nothing counts by how sure it is of something, as a focal loss has it; what is to say a class counts
    fully, by how far its probability is from the IoU (RT-DETR, 4.1). The matching cost is the focal one.

    Args:
        num_classes: K, background not counted.
        alpha: weight of a class that is not there.
        gamma: how little sure and right denials count.
    """

    def __init__(self, num_classes: Positive, *, alpha: Probability = 0.75, gamma: Weight = 2.0) -> None:
        super().__init__(num_classes)
        self.alpha, self.gamma = alpha, gamma

    def loss(self, logits: Float[Tensor, "L B Q C"], matched: Matched, normalizer: float) -> Float[Tensor, L]:
        """As the contract, summed over queries and classes."""
        there, fit = at_classes(logits, matched, 1.0), at_classes(logits, matched, matched.overlap)
        weight = self.alpha * logits.detach().sigmoid() ** self.gamma * (1 - there) + fit
        bits = F.binary_cross_entropy_with_logits(logits, fit, reduction="none")
        return summed(weight * bits, normalizer)
