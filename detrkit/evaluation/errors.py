"""What kinds of errors a detector makes, what each kind costs, and which classes are taken for which."""

from __future__ import annotations

from dataclasses import dataclass
from math import isnan
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detrkit.evaluators import LIMITS, RECALLS, aligned, shown
from detrkit.evaluators._evidence import Bools, Evidence, Floats, Ints, Truth, take
from detrkit.evaluators._matching import Overlaps, match, overlaps, places, precision_at, rows_by_class
from detrkit.labels import LabelSpace

KINDS = {
    "localisation": "right class, but the box overlaps the object too little",
    "class": "an object, but of another class",
    "duplicate": "an object that a better scored detection has taken",
    "both": "overlaps an object of another class too little",
    "background": "nothing is there",
    "missed": "an object that no detection takes, nor any of the first two kinds means",
}
"""The kinds of errors of Bolya et al. 2020 (TIDE, section 2.2)."""


@dataclass(frozen=True)
class Errors:
    """Errors by kind.

    Attributes:
        label_space: the classes.
        iou: the overlap from which an object is found.
        ap: AP at that overlap, as COCO computes it; NaN where there is no object.
        counts: kind -> int64 [K], wrong detections by their class; of ``missed``, objects by theirs. All scores count,
            so that a detector which answers with every query has many of ``background``.
        costs: kind -> how much higher AP would be if the errors of this kind alone were put right. Costs do not add up.
    """

    label_space: LabelSpace
    iou: float
    ap: float
    counts: dict[str, Ints]
    costs: dict[str, float]

    def table(self) -> str:
        """A line a kind: cost in AP, number, and what it means."""
        rows = [[f"error at IoU {self.iou:g}", "AP lost", "number"]]
        rows += [[kind, shown(self.costs[kind]), str(self.counts[kind].sum())] for kind in KINDS]
        lines = aligned(rows).splitlines()
        return "\n".join([lines[0], *(f"{line}  {text}" for line, text in zip(lines[1:], KINDS.values(), strict=True))])

    def to_json(self) -> dict[str, Any]:
        """Plain values: ``iou``, ``ap``, and by kind ``cost``, ``number`` and that of each class; None for NaN."""
        named = {k: dict(zip(self.label_space.names, v.tolist(), strict=True)) for k, v in self.counts.items()}
        kinds = {
            kind: {
                "cost": _or_none(self.costs[kind]),
                "number": sum(named[kind].values()),
                "by_class": named[kind],
            }
            for kind in KINDS
        }
        return {"iou": self.iou, "ap": _or_none(self.ap), **kinds}


def _or_none(value: float) -> float | None:
    return None if isnan(value) else value


class _Judged(NamedTuple):
    """Detections that count, and what was made of them.

    Attributes:
        score: float64 [N].
        label: int64 [N].
        right: bool [N], whether it takes an object.
        kind: str [N], of its error, empty where it is right.
        meant: int64 [N], row of the object that it takes, or means where its kind is localisation or class; else -1.
    """

    score: Floats
    label: Ints
    right: Bools
    kind: NDArray[np.str_]
    meant: Ints


def errors(evidence: Evidence, *, iou: float = 0.5, background: float = 0.1) -> Errors:
    """Sort what is wrong by kind, and put each kind right in turn (Bolya et al. 2020, sections 2.2 and 2.3).

    Putting right: a detection of kind localisation or class takes the object that it means, where none that is right,
    or of these kinds and better scored, does; any other wrong detection is taken away; missed objects are not asked
    for.

    Args:
        evidence: what an evaluator was shown; of each class and image the 100 best detections count, as in COCO.
        iou: overlap from which an object is found, above 0.
        background: overlap from which a detection means an object, above 0, below ``iou``.
    """
    truth, objects = evidence.truth, evidence.objects
    judged = _judged(evidence, iou, background)
    unseen = ~truth.crowd
    unseen[judged.meant[judged.meant >= 0]] = False
    missed = np.bincount(truth.label[unseen], minlength=len(objects))
    ap = _ap(judged, objects, objects)
    counts, costs = {}, {}
    for kind in KINDS:
        counts[kind] = np.bincount(judged.label[judged.kind == kind], minlength=len(objects))
        costs[kind] = _ap(_put_right(judged, kind, truth.label), objects, objects) - ap
    counts["missed"], costs["missed"] = missed, _ap(judged, objects - missed, objects) - ap
    return Errors(evidence.label_space, iou, ap, counts, costs)


def _judged(evidence: Evidence, iou: float, background: float) -> _Judged:
    """Every detection that COCO's matching counts, with its kind."""
    truth, found = evidence.truth, evidence.found
    place = places(found.image * len(evidence.label_space) + found.label)
    found, place = take(found, place < LIMITS[-1]), place[place < LIMITS[-1]]
    taken = _taken(overlaps(found, truth, iou), place, truth, iou)
    near = overlaps(found, truth, background, across_classes=True)
    near = take(near, ~truth.crowd[near.truth])
    same = found.label[near.found] == truth.label[near.truth]
    own, own_iou = _nearest(take(near, same), len(place))
    other, other_iou = _nearest(take(near, ~same), len(place))
    kind = np.select(
        [taken >= 0, (own >= 0) & (own_iou < iou), other_iou >= iou, own >= 0, other >= 0],
        ["", "localisation", "class", "duplicate", "both"],
        "background",
    )
    meant = np.select([kind == "", kind == "localisation", kind == "class"], [taken, own, other], -1)
    return take(_Judged(found.score, found.label, taken >= 0, kind, meant), _counted(taken, truth))


def _taken(pairs: Overlaps, turns: Ints, truth: Truth, iou: float) -> Ints:
    """Row of the object that each detection takes at one overlap, or -1."""
    return match(pairs, turns, np.array([iou]), truth.crowd[None], truth.crowd)[0, 0].astype(np.int64)


def _counted(taken: Ints, truth: Truth) -> Bools:
    """Whether a detection counts: it takes an object that is no crowd, or none."""
    return np.append(~truth.crowd, True)[taken]


def _nearest(near: Overlaps, count: int) -> tuple[Ints, Floats]:
    """For each detection the object that it overlaps most, or -1, and the overlap, or 0."""
    nearest, iou = np.full(count, -1), np.zeros(count)
    nearest[near.found], iou[near.found] = near.truth, near.iou  # of several pairs the last one stays
    return nearest, iou


def _put_right(judged: _Judged, kind: str, label: Ints) -> _Judged:
    """Without the errors of a kind, except those that take the free object that they mean before any other does."""
    heirs = np.flatnonzero((judged.meant >= 0) & ~np.isin(judged.meant, judged.meant[judged.right]))
    heirs = heirs[np.argsort(-judged.score[heirs], kind="stable")]
    heirs = heirs[np.unique(judged.meant[heirs], return_index=True)[1]]
    healed = heirs[judged.kind[heirs] == kind]
    right, labels = judged.right.copy(), judged.label.copy()
    right[healed], labels[healed] = True, label[judged.meant[healed]]
    return take(judged._replace(right=right, label=labels), (judged.kind != kind) | right)


def _ap(judged: _Judged, asked: Ints, objects: Ints) -> float:
    """Mean over the classes with objects; 0 for those of which none is asked for; NaN where there is no object."""
    rows = rows_by_class(judged.label, judged.score, len(objects))
    found = [
        precision_at(RECALLS, judged.right[part], ~judged.right[part], int(count)).mean() if count else 0.0
        for part, count, there in zip(rows, asked, objects, strict=True)
        if there
    ]
    return float(np.mean(found)) if found else float("nan")


@dataclass(frozen=True)
class Confusion:
    """Which classes are taken for which.

    Attributes:
        label_space: the classes.
        matrix: int64 [K + 1, K + 1]; the row tells what is there, the column what was found; the last row is for
            detections where nothing is, the last column for objects that nothing finds.
        threshold: least score of the detections.
        iou: least overlap.
    """

    label_space: LabelSpace
    matrix: Ints
    threshold: float
    iou: float

    def table(self, most: int = 10) -> str:
        """A line a class: objects, found as such, as another class, not at all, and found where nothing is.

        Args:
            most: how many of the classes that are taken for others are named below.
        """
        names, inner = self.label_space.names, self.matrix[:-1, :-1]
        rows = [[f"class, score from {self.threshold:g}", "objects", "right", "confused", "missed", "invented"]]
        for label, name in enumerate(names):
            right, objects, missed = inner[label, label], self.matrix[label].sum(), self.matrix[label, -1]
            numbers = (objects, right, objects - right - missed, missed, self.matrix[-1, label])
            rows.append([name, *map(str, numbers)])
        lines = [aligned(rows)]
        for there, found, count in self.swaps()[:most]:
            lines.append(f"{there} taken for {found}: {count}")
        return "\n".join(lines)

    def swaps(self) -> list[tuple[str, str, int]]:
        """What is there, what was found in its place, and how often; the most frequent first."""
        wrong = self.matrix[:-1, :-1] * ~np.eye(len(self.label_space), dtype=bool)
        order = np.argsort(-wrong, axis=None, kind="stable")[: np.count_nonzero(wrong)]
        names = self.label_space.names
        return [
            (names[i], names[k], int(wrong[i, k])) for i, k in (divmod(cell, len(names)) for cell in order.tolist())
        ]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"threshold": self.threshold, "iou": self.iou, "matrix": self.matrix.tolist()}


def confusion(evidence: Evidence, *, threshold: float = 0.5, iou: float = 0.5) -> Confusion:
    """Match detections and objects whatever their classes, best scored first, and count the pairs of classes.

    Args:
        evidence: what an evaluator was shown; what lies in a crowd of its class does not count.
        threshold: least score of the detections that count.
        iou: least overlap, above 0.
    """
    evidence = evidence.above(threshold)
    truth, found, classes = evidence.truth, evidence.found, len(evidence.label_space)
    pairs = overlaps(found, truth, iou, across_classes=True)
    pairs = take(pairs, ~truth.crowd[pairs.truth] | (found.label[pairs.found] == truth.label[pairs.truth]))
    taken = _taken(pairs, places(found.image), truth, iou)
    alone = ~truth.crowd
    alone[taken[taken >= 0]] = False
    there = np.concatenate([np.append(truth.label, classes)[taken], truth.label[alone]])
    seen = np.concatenate([found.label, np.full(alone.sum(), classes)])
    counted = np.concatenate([_counted(taken, truth), np.ones(alone.sum(), bool)])
    cells = np.bincount((there * (classes + 1) + seen)[counted], minlength=(classes + 1) ** 2)
    return Confusion(evidence.label_space, cells.reshape(classes + 1, classes + 1), threshold, iou)
