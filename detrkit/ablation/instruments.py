"""How training behaves, beside how it ends: observers of matchings and of detections, and the time to a given AP.

An instrument is fed with `update` as training or evaluation goes, can `merge` what another process saw, and gives a
curve by step: ``result() -> {step: {name: number}}``. It changes nothing that it sees. A share of nothing is NaN.
Runs of a study are watched at their evaluations, see `detrkit.ablation.recording`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from jaxtyping import Float, Int64
from numpy.typing import NDArray
from torch import Tensor

from detrkit import boxes as geometry
from detrkit.matchers import Assignment
from detrkit.targets import Truth

Curve = dict[int, dict[str, Any]]
Ints = NDArray[np.int64]

NOBODY = -1


class Matched(NamedTuple):
    """What a batch's matching was.

    Attributes:
        step: when; matchings of one step belong together.
        image_ids: of each image.
        owners: query that answers for each object, [L, T] for each image; -1 where there were too few queries.
        num_queries: Q.
    """

    step: int
    image_ids: tuple[int | str, ...]
    owners: tuple[Ints, ...]
    num_queries: int

    @classmethod
    def of(
        cls, step: int, matching: Sequence[Sequence[Assignment]], truth: Sequence[Truth], num_queries: int
    ) -> Matched:
        """From the assignments [layer][image] that `SetMatching` gives for this truth."""
        owners = []
        for image, target in enumerate(truth):
            owner = np.full((len(matching), len(target.labels)), NOBODY, dtype=np.int64)
            for layer, images in enumerate(matching):
                owner[layer, images[image].cols] = images[image].rows
            owners.append(owner)
        return cls(step, tuple(target.image_id for target in truth), tuple(owners), num_queries)


class Seen(NamedTuple):
    """What was found in an image, beside what is there; boxes are corners, in any one unit.

    Attributes:
        step: when; matchings of one step belong together.
        boxes, labels, scores: of the detections.
        true_boxes, true_labels: of the objects.
    """

    step: int
    boxes: Float[Tensor, "N 4"]
    labels: Int64[Tensor, N]
    scores: Float[Tensor, N]
    true_boxes: Float[Tensor, "T 4"]
    true_labels: Int64[Tensor, T]


class Instrument(ABC):
    """What all instruments share."""

    @abstractmethod
    def merge(self, other: Self) -> None:
        """Take in what an instrument of the same kind saw elsewhere, of other images or steps."""

    @abstractmethod
    def result(self) -> Curve:
        """Numbers by step, in their order."""


class Sums(Instrument):
    """An instrument whose numbers follow from sums by step."""

    def __init__(self) -> None:
        self.sums: dict[int, Ints] = {}

    def add(self, step: int, amounts: Iterable[int] | Ints) -> None:
        """Add to the sums of a step."""
        self.sums[step] = self.sums.get(step, 0) + np.asarray(amounts, dtype=np.int64)

    def merge(self, other: Self) -> None:
        """As for every instrument."""
        for step, amounts in other.sums.items():
            self.add(step, amounts)

    def result(self) -> Curve:
        """As for every instrument."""
        return {step: self.numbers(self.sums[step]) for step in sorted(self.sums)}

    @abstractmethod
    def numbers(self, sums: Ints) -> dict[str, Any]:
        """What the sums of a step say."""


class LayerAgreement(Sums):
    """How far the decoder's layers have decided as the last one does.

    ``agreement``: for each layer the share of objects that the same query answers for as in the last layer.
    """

    def update(self, matched: Matched) -> None:
        """Look at a batch."""
        for owners in matched.owners:
            answered = owners[:, owners[-1] != NOBODY]
            self.add(matched.step, [*(answered == answered[-1]).sum(axis=1), answered.shape[1]])

    def numbers(self, sums: Ints) -> dict[str, Any]:
        """As above."""
        return {"agreement": [share(same, sums[-1]) for same in sums[:-1]], "objects": int(sums[-1])}


class QueryUse(Sums):
    """Which queries answer for objects, in the last layer.

    - ``used``: share of the queries that answered at least once.
    - ``entropy``: of the distribution of objects over queries, in nats; log Q if all are used alike.
    - ``effective``: its exponential, the number of queries that used alike would have this entropy.
    - ``unmatched``: share of the objects for which no query was left.
    """

    def update(self, matched: Matched) -> None:
        """Look at a batch."""
        for owners in matched.owners:
            # the row NOBODY = -1 is the last
            self.add(
                matched.step, np.bincount(owners[-1] % (matched.num_queries + 1), minlength=matched.num_queries + 1)
            )

    def numbers(self, sums: Ints) -> dict[str, Any]:
        """As above."""
        uses, unmatched = sums[:-1], sums[-1]
        objects = uses.sum()
        p = uses[uses > 0] / max(objects, 1)
        entropy = float(-(p * np.log(p)).sum()) if objects else math.nan
        return {
            "used": share(int(np.count_nonzero(uses)), len(uses)),
            "entropy": entropy,
            "effective": math.exp(entropy),
            "unmatched": share(unmatched, sums.sum()),
            "objects": int(sums.sum()),
        }


class MatchingInstability(Instrument):
    """How the matching of the last layer changes over time (DN-DETR, Li et al. 2022, section 3.1: between epochs).

    - ``changed``: share of the objects that another query answers for than at the step before.
    - ``instability``: DN-DETR's IS, the number of queries of an image whose object changed, averaged over images. An
      object that goes from one idle query to another counts twice, as both queries change.
    - ``queries_per_object``: how many different queries have answered for an object up to this step, on average.
    - ``incomparable``: images whose number of objects changed, which are left out.

    Objects are known by their place in the image's annotations: feed it with images that stay the same, those of a
    held-out split or a training split without crops.
    """

    def __init__(self) -> None:
        self.owners: dict[int, dict[int | str, Ints]] = {}

    def update(self, matched: Matched) -> None:
        """Look at a batch."""
        seen = self.owners.setdefault(matched.step, {})
        seen.update({image: owners[-1] for image, owners in zip(matched.image_ids, matched.owners, strict=True)})

    def merge(self, other: Self) -> None:
        """As for every instrument."""
        for step, images in other.owners.items():
            self.owners.setdefault(step, {}).update(images)

    def result(self) -> Curve:
        """As for every instrument; from the second step on, each image against when it was last seen."""
        curve: Curve = {}
        last: dict[int | str, Ints] = {}
        ever: dict[tuple[int | str, int], set[int]] = {}
        for step in sorted(self.owners):
            images = self.owners[step]
            for image, owners in images.items():
                for place, query in enumerate(owners.tolist()):
                    ever.setdefault((image, place), set()).update({query} - {NOBODY})
            before = {image: last[image] for image in images if image in last}
            if before:
                queries = [len(ever[image, place]) for image in images for place in range(len(images[image]))]
                curve[step] = {**_changes(before, images), "queries_per_object": share(sum(queries), len(queries))}
            last |= images
        return curve


def _changes(before: Mapping[int | str, Ints], after: Mapping[int | str, Ints]) -> dict[str, Any]:
    """How the matching of the images of ``before`` has changed."""
    both = [(old, after[image]) for image, old in before.items() if len(old) == len(after[image])]
    changed = sum(int((old != new).sum()) for old, new in both)
    return {
        "changed": share(changed, sum(len(old) for old, _ in both)),
        "instability": share(sum(_changed_queries(old, new) for old, new in both), len(both)),
        "objects": sum(len(old) for old, _ in both),
        "incomparable": len(before) - len(both),
    }


def _changed_queries(old: Ints, new: Ints) -> int:
    """Queries that answer for another object, or for one where they answered for none, or the other way round."""
    a, b = ({query: place for place, query in enumerate(x.tolist()) if query != NOBODY} for x in (old, new))
    return sum(a.get(query) != b.get(query) for query in a.keys() | b.keys())


class Claims(Sums):
    """Who claims which object, among the detections above a score.

    - ``duplicates``: share of the detections that overlap a better one of their class by more than ``duplicate_iou``.
    - ``queries_per_object``: detections of an object's class that overlap it by at least ``claim_iou``, on average.
    - ``claims``: share of the objects with 0, 1, 2, and 3 or more of these.
    - ``unmatched``: share with none, the first of these.

    Args:
        score: least score of a detection that counts.
        duplicate_iou: overlap above which two detections are taken for one object.
        claim_iou: overlap from which a detection claims an object.
    """

    def __init__(self, *, score: float = 0.5, duplicate_iou: float = 0.7, claim_iou: float = 0.5) -> None:
        super().__init__()
        self.score, self.duplicate_iou, self.claim_iou = score, duplicate_iou, claim_iou

    def update(self, seen: Seen) -> None:
        """Look at an image."""
        ranked = seen.scores.argsort(descending=True, stable=True)
        chosen = ranked[seen.scores[ranked] >= self.score]
        boxes, labels = seen.boxes[chosen], seen.labels[chosen]
        close = (geometry.pairwise_iou(boxes, boxes) > self.duplicate_iou) & (labels[:, None] == labels)
        duplicates = int(torch.tril(close, diagonal=-1).any(dim=1).sum())
        overlaps = geometry.pairwise_iou(seen.true_boxes, boxes) >= self.claim_iou
        claims = (overlaps & (seen.true_labels[:, None] == labels)).sum(dim=1)
        number = torch.bincount(claims.clamp(max=3), minlength=4).tolist()
        self.add(seen.step, [len(chosen), duplicates, int(claims.sum()), *number])

    def numbers(self, sums: Ints) -> dict[str, Any]:
        """As above."""
        detections, duplicates, claims, *number = sums.tolist()
        objects = sum(number)
        return {
            "duplicates": share(duplicates, detections),
            "queries_per_object": share(claims, objects),
            "claims": [share(count, objects) for count in number],
            "unmatched": share(number[0], objects),
            "detections": detections,
            "objects": objects,
        }


class Reached(NamedTuple):
    """When a run first came to a score: optimizer steps, and seconds of training."""

    step: int
    seconds: float


def reached(evaluations: Iterable[Mapping[str, Any]], least: float, metric: str = "AP") -> Reached | None:
    """First evaluation with at least this score; None if there was none, which says "not within this run", not "never".

    Known no better than the distance of evaluations.

    Args:
        evaluations: entries ``eval`` of a run's log, see `detrkit.training.log.read_log`.
        least: the score.
        metric: its name.
    """
    for entry in sorted(evaluations, key=lambda entry: entry["step"]):
        score = entry.get(metric)
        if score is not None and score >= least:
            return Reached(entry["step"], entry["seconds"])
    return None


def share(part: float, whole: float) -> float:
    """part / whole; NaN of nothing."""
    return float(part / whole) if whole else math.nan
