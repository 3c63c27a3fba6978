"""An accumulation window: what losses are divided by, and what its shares in all processes add up to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch

from detrkit.criterion import Losses, Normalizer, SetCriterion
from detrkit.errors import DataError
from detrkit.training.data import Batch, left_out

NOTHING = Normalizer(0, 0.0)


class Share(NamedTuple):
    """What one process's part of a window adds to the whole.

    Attributes:
        normalizer: what losses are divided by.
        images: number of images.
        surplus: objects that cannot be matched because their image holds more of them than there are queries.
        unreadable: what was wrong with the images that were left out.
    """

    normalizer: Normalizer = NOTHING
    images: int = 0
    surplus: int = 0
    unreadable: tuple[str, ...] = ()

    @classmethod
    def of(cls, window: Sequence[Batch], criterion: SetCriterion, num_queries: int, *, skip: bool) -> Share:
        """The share of these micro-batches.

        Args:
            window: the micro-batches.
            criterion: says what losses are divided by.
            num_queries: Q.
            skip: leave images out that cannot be read.

        Raises:
            DetrkitError: the first that cannot be read, without ``skip``; targets that cannot be right.
        """
        unreadable = []
        for error in (error for batch in window for error in batch.failures):
            if not (skip and isinstance(error, DataError)):
                raise error
            unreadable.append(left_out(error))
        targets = [target for batch in window for target in batch.targets]
        objects = [int((~target["iscrowd"]).sum()) for target in targets]
        surplus = sum(max(0, count - num_queries) for count in objects)
        parts = [criterion.normalizer(batch.targets, num_queries) for batch in window]
        return cls(sum(parts, NOTHING), len(targets), surplus, tuple(map(str, unreadable)))

    @classmethod
    def whole(cls, shares: Iterable[Share]) -> Share:
        """All shares together."""
        normalizers, images, surplus, unreadable = zip(*shares, strict=True)
        return cls(sum(normalizers, NOTHING), sum(images), sum(surplus), sum(unreadable, ()))


def add_to_log(logged: dict[str, float], losses: Losses, share: float) -> None:
    """Add a micro-batch: losses add up (they share a normalizer), metrics are averaged over images."""
    values = {"loss": losses.total, **losses.terms, **{name: share * value for name, value in losses.metrics.items()}}
    numbers = torch.stack([value.detach().double() for value in values.values()]).tolist()
    for name, number in zip(values, numbers, strict=True):
        logged[name] = logged.get(name, 0.0) + number


def total_log(logs: Iterable[dict[str, float]]) -> dict[str, float]:
    """What all processes logged of a window, added up."""
    total: dict[str, float] = {}
    for log in logs:
        for name, number in log.items():
            total[name] = total.get(name, 0.0) + number
    return total
