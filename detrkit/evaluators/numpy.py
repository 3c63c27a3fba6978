"""COCO's numbers in plain NumPy: the reference."""

from __future__ import annotations

from typing import final

import numpy as np

from detrkit.evaluators import AREAS, IOUS, LIMITS, RECALLS, CocoEvaluator, Curves
from detrkit.evaluators._evidence import Bools, Evidence, Floats, Ints, take
from detrkit.evaluators._matching import match, overlaps, places, precision_at, rows_by_class


@final
class NumpyEvaluator(CocoEvaluator):
    """COCO AP and AR (Lin et al. 2014) in NumPy alone, equal to pycocotools up to the rounding of sums."""

    def curves(self, evidence: Evidence) -> Curves:
        """As the contract."""
        truth, found, classes = evidence.truth, evidence.found, len(evidence.label_space)
        place = places(found.image * classes + found.label)
        found, place = take(found, place < LIMITS[-1]), place[place < LIMITS[-1]]
        ignored = truth.crowd | _outside(truth.area)
        taken = match(overlaps(found, truth, IOUS[0]), place, IOUS, ignored, truth.crowd)
        beyond = _outside(found.box[:, 2] * found.box[:, 3])
        precision = np.full((len(IOUS), len(RECALLS), classes, len(AREAS)), -1.0)
        recall = np.full((len(IOUS), classes, len(AREAS), len(LIMITS)), -1.0)
        by_class = rows_by_class(found.label, found.score, classes)
        for label, count in enumerate(_counts(truth.label, ~ignored, classes)):
            rows = by_class[label]
            for area in np.flatnonzero(count):
                theirs = taken[area][:, rows]
                passed = np.where(theirs >= 0, ignored[area, theirs] if len(truth.image) else False, beyond[area, rows])
                right, wrong = ~passed & (theirs >= 0), ~passed & (theirs < 0)
                precision[:, :, label, area] = precision_at(RECALLS, right, wrong, count[area])
                for row, limit in enumerate(LIMITS):
                    recall[:, label, area, row] = right[:, place[rows] < limit].sum(axis=1) / count[area]
        return Curves(precision, recall)


def _outside(area: Floats) -> Bools:
    """Whether an area lies outside each of `AREAS`: bool [A, N]."""
    low, high = np.array(AREAS).T[:, :, None]
    return (area < low) | (area > high)


def _counts(label: Ints, counted: Bools, classes: int) -> Ints:
    """How many of the rows of each class count under each of A readings, bool [A, M]: int64 [K, A]."""
    return np.stack([np.bincount(label[rows], minlength=classes) for rows in counted], axis=1)
