"""Every class on its own."""

from __future__ import annotations

from typing import ClassVar, final

from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional as F

from detrkit.classification import Classification
from detrkit.fields import Positive, Probability, Weight
from detrkit.fitting import NO_BACKGROUND

TINY = 1e-8  # as in the official codes


@final
class FocalClassification(Classification):
    """A sigmoid a class, no no-object; focal loss (Lin et al. 2017, equation 5; Deformable DETR, A.4).

    Args:
        num_classes: K, background not counted.
        alpha: weight of a class that is there against one that is not.
        gamma: how little sure and right answers count.
    """

    gives: ClassVar[frozenset[str]] = frozenset({NO_BACKGROUND})
    prior: ClassVar[float | None] = 0.01

    def __init__(self, num_classes: Positive, *, alpha: Probability = 0.25, gamma: Weight = 2.0) -> None:
        self.num_classes = self.num_logits = num_classes
        self.alpha, self.gamma = alpha, gamma

    def cost(self, logits: Float[Tensor, "*L Q C"], labels: Int64[Tensor, T]) -> Float[Tensor, "*L Q T"]:
        """What saying the target's class would cost less what denying it would."""
        p = logits.sigmoid()[..., labels]
        yes = -self.alpha * (1 - p) ** self.gamma * (p + TINY).log()
        no = -(1 - self.alpha) * p**self.gamma * (1 - p + TINY).log()
        return yes - no

    def loss(
        self,
        logits: Float[Tensor, "L B Q C"],
        matched: tuple[Tensor, Tensor, Tensor],
        labels: Int64[Tensor, M],
        normalizer: float,
    ) -> Float[Tensor, L]:
        """As the contract, summed over queries and classes."""
        wanted = logits.new_zeros(logits.shape)
        wanted[(*matched, labels)] = 1
        p, bits = logits.sigmoid(), F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
        missed = p + wanted - 2 * p * wanted  # 1 - probability of the truth
        weight = self.alpha * wanted + (1 - self.alpha) * (1 - wanted)
        return (weight * missed.clamp(min=TINY) ** self.gamma * bits).flatten(1).sum(1) / max(normalizer, 1.0)

    def normalizer(self, num_objects: int, num_matched: int, num_slots: int) -> float:
        """The number of objects."""
        return num_objects

    def scores(self, logits: Float[Tensor, "*B Q C"]) -> Float[Tensor, "*B Q K"]:
        """A sigmoid a class."""
        return logits.sigmoid()

    def says_object(self, logits: Float[Tensor, "*B Q C"]) -> Bool[Tensor, "*B Q"]:
        """Whether some class is likelier than not."""
        return logits.amax(-1) > 0
