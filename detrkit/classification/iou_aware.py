"""Every class on its own, as sure as it is and its box fits."""

from __future__ import annotations

from typing import final

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from detrkit.classification import Matched
from detrkit.classification._sigmoid import TINY, SigmoidClassification, at_classes, summed
from detrkit.fields import Positive, Probability, Weight

LEAST = 0.01  # that a matched query is to say


@final
class IouAwareClassification(SigmoidClassification):
    """A sigmoid a class, that is to say a mean of itself and the IoU (Cai et al. 2023, Align-DETR; LW-DETR, 3.2).

    What a matched query is to say of its class is ``p ** alpha * IoU ** (1 - alpha)``, at least 0.01; what is to say
    nothing counts by how sure it is of something. The matching cost is the focal one.

    Args:
        num_classes: K, background not counted.
        alpha: share of the query's own probability in what it is to say.
        gamma: how little sure and right denials count.
    """

    def __init__(self, num_classes: Positive, *, alpha: Probability = 0.25, gamma: Weight = 2.0) -> None:
        super().__init__(num_classes)
        self.alpha, self.gamma = alpha, gamma

    def loss(self, logits: Float[Tensor, "L B Q C"], matched: Matched, normalizer: float) -> Float[Tensor, L]:
        """As the contract, summed over queries and classes."""
        p, there = logits.sigmoid(), at_classes(logits, matched, 1.0)
        own = p.detach()[(*matched.slots, matched.labels)]
        fit = at_classes(logits, matched, (own**self.alpha * matched.overlap ** (1 - self.alpha)).clamp(min=LEAST))
        bits = F.binary_cross_entropy_with_logits(logits, fit, reduction="none")
        return summed((there + (1 - there) * p.clamp(min=TINY) ** self.gamma) * bits, normalizer)
