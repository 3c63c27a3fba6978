"""The role `classification`: how a state becomes a class. Head, matching cost, loss and score agree here."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

from jaxtyping import Bool, Float, Int64
from torch import Tensor


class Matched(NamedTuple):
    """All pairs of a query and an object, in all layers.

    Attributes:
        slots: layer, image and query of each pair, int64 [M] each; every other query is to say that there is nothing.
        labels: class of the object, int64 [M].
        overlap: IoU of the query's box with that of the object, [M] in [0, 1], without a gradient.
    """

    slots: tuple[Int64[Tensor, M], Int64[Tensor, M], Int64[Tensor, M]]
    labels: Int64[Tensor, M]
    overlap: Float[Tensor, M]


class Classification(ABC):
    """Contract of the role. Keep it by defining the abstract methods.

    Laws: a cost falls as its class becomes likelier; losses are not negative, and near zero where every query is sure,
    right and where its object is; the normalizer of a batch is the sum of those of its parts.

    Attributes:
        gives: names of `detrkit.fitting`: what it gives to other parts.
        num_logits: width of the class head.
        prior: probability of an object that a fresh head should say, as a bias; None: no bias of its own.
    """

    num_logits: int
    gives: ClassVar[frozenset[str]] = frozenset()
    prior: ClassVar[float | None] = None

    @abstractmethod
    def cost(
        self, logits: Float[Tensor, "L B Q C"], labels: Int64[Tensor, N], image: Int64[Tensor, N]
    ) -> Float[Tensor, "L N Q"]:
        """Matching cost of each object of a batch with each query of its own image.

        Args:
            logits: [L, B, Q, C].
            labels: class of each object.
            image: place of its image in the batch.
        """

    @abstractmethod
    def loss(self, logits: Float[Tensor, "L B Q C"], matched: Matched, normalizer: float) -> Float[Tensor, L]:
        """Loss of each layer.

        Args:
            logits: [L, B, Q, C].
            matched: what the queries are to say, and how well their boxes fit.
            normalizer: what the sum is divided by, see `normalizer`.
        """

    @abstractmethod
    def normalizer(self, num_objects: int, num_matched: int, num_slots: int) -> float:
        """What the loss of a batch is divided by, known before matching.

        Args:
            num_objects: objects of all images.
            num_matched: queries that will be matched.
            num_slots: queries of all images.
        """

    @abstractmethod
    def scores(self, logits: Float[Tensor, "*B Q C"]) -> Float[Tensor, "*B Q K"]:
        """Probability of each class in [0, 1], background left out."""

    @abstractmethod
    def says_object(self, logits: Float[Tensor, "*B Q C"]) -> Bool[Tensor, "*B Q"]:
        """Whether a query says that there is an object rather than nothing."""


def of_objects(
    x: Float[Tensor, "L B Q C"], labels: Int64[Tensor, N], image: Int64[Tensor, N]
) -> Float[Tensor, "L N Q"]:
    """What each query of an object's image has at the object's class."""
    return x[:, image, :, labels].movedim(0, 1)
