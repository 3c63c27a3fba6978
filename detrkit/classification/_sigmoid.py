"""What classifications share that know no no-object: every class on its own."""

from __future__ import annotations

from typing import ClassVar

from jaxtyping import Bool, Float, Int64
from torch import Tensor

from detrkit.classification import Classification, Matched, of_objects
from detrkit.fitting import NO_BACKGROUND

PRIOR = 0.01
ALPHA, GAMMA = 0.25, 2.0  # of the cost, in all official codes
TINY = 1e-8  # as in the official codes


class SigmoidClassification(Classification):
    """Template: a sigmoid a class; the cost is a difference of focal losses (Deformable DETR, A.4).

    Args:
        num_classes: K, background not counted.
        alpha: weight, in the cost, of a class that is there against one that is not.
        gamma: how little sure and right answers count in the cost.
    """

    gives: ClassVar[frozenset[str]] = frozenset({NO_BACKGROUND})
    prior: ClassVar[float | None] = PRIOR

    def __init__(self, num_classes: int, alpha: float = ALPHA, gamma: float = GAMMA) -> None:
        self.num_classes = self.num_logits = num_classes
        self.cost_alpha, self.cost_gamma = alpha, gamma

    def cost(
        self, logits: Float[Tensor, "L B Q C"], labels: Int64[Tensor, N], image: Int64[Tensor, N]
    ) -> Float[Tensor, "L N Q"]:
        """What saying the object's class would cost less what denying it would."""
        p = of_objects(logits, labels, image).sigmoid()
        yes = -self.cost_alpha * (1 - p) ** self.cost_gamma * (p + TINY).log()
        no = -(1 - self.cost_alpha) * p**self.cost_gamma * (1 - p + TINY).log()
        return yes - no

    def normalizer(self, num_objects: int, num_matched: int, num_slots: int) -> float:
        """The number of objects."""
        return num_objects

    def scores(self, logits: Float[Tensor, "*B Q C"]) -> Float[Tensor, "*B Q K"]:
        """A sigmoid a class."""
        return logits.sigmoid()

    def says_object(self, logits: Float[Tensor, "*B Q C"]) -> Bool[Tensor, "*B Q"]:
        """Whether some class is likelier than not."""
        return logits.amax(-1) > 0


def at_classes(
    logits: Float[Tensor, "L B Q C"], matched: Matched, value: Float[Tensor, M] | float
) -> Float[Tensor, "L B Q C"]:
    """A value at the class of each matched query, zero elsewhere."""
    wanted = logits.new_zeros(logits.shape)
    wanted[(*matched.slots, matched.labels)] = value
    return wanted


def summed(losses: Float[Tensor, "L B Q C"], normalizer: float) -> Float[Tensor, L]:
    """Sums over queries and classes, a layer each, divided by the normalizer, by 1 at least."""
    return losses.flatten(1).sum(1) / max(normalizer, 1.0)
