"""Who overlaps whom, who takes whom, and the precision that comes of it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from detrkit.evaluators._evidence import Bools, Floats, Found, Ints, Truth

_BLOCK = 1 << 16  # detections whose overlaps are computed at a time


class Overlaps(NamedTuple):
    """Pairs of a detection and an object of its image, by detection, then by overlap, then by object.

    Attributes:
        found: int64 [P], row of the detection.
        truth: int64 [P], row of the object.
        iou: float64 [P].
    """

    found: Ints
    truth: Ints
    iou: Floats


def overlaps(
    found: Found, truth: Truth, least: float, *, across_classes: bool = False, over_found: bool = True
) -> Overlaps:
    """Pairs whose intersection over union is at least ``least``, above 0.

    Args:
        found: detections.
        truth: objects.
        least: of the overlap, above 0.
        across_classes: pairs of two classes, too.
        over_found: the overlap with a crowd is the share of the detection that lies in it (COCO); else as any other.
    """
    ours, theirs = found.image, truth.image
    if not across_classes:
        classes = 1 + max((int(label.max()) for label in (found.label, truth.label) if len(label)), default=0)
        ours, theirs = ours * classes + found.label, theirs * classes + truth.label
    order = np.argsort(theirs, kind="stable")
    first, stop = (np.searchsorted(theirs[order], ours, side) for side in ("left", "right"))
    blocks = []
    for start in range(0, max(len(ours), 1), _BLOCK):
        count = (stop - first)[start : start + _BLOCK]
        f = np.repeat(np.arange(start, start + len(count)), count)
        t = order[np.arange(len(f)) + np.repeat(first[start : start + _BLOCK] - (np.cumsum(count) - count), count)]
        iou = _iou(found.box[f], truth.box[t], truth.crowd[t] & over_found)
        close = iou >= least
        blocks.append((f[close], t[close], iou[close]))
    f, t, iou = map(np.concatenate, zip(*blocks, strict=True))
    ranked = np.lexsort((t, iou, f))
    return Overlaps(f[ranked], t[ranked], iou[ranked])


def _iou(found: Floats, truth: Floats, crowd: Bools) -> Floats:
    """Intersection over union of boxes (x, y, width, height) [P, 4]; over the detection's area alone for crowds."""
    low = np.maximum(found[:, :2], truth[:, :2])
    high = np.minimum(found[:, 2:] + found[:, :2], truth[:, 2:] + truth[:, :2])
    sides = np.maximum(high - low, 0)
    common, own = sides[:, 0] * sides[:, 1], found[:, 2] * found[:, 3]
    union = np.where(crowd, own, own + truth[:, 2] * truth[:, 3] - common)
    return np.divide(common, union, out=np.zeros_like(common), where=common > 0)


def places(key: Ints) -> Ints:
    """Place of each row among those of the same key, counted from 0: int64 [N]."""
    order = np.argsort(key, kind="stable")
    ordered = key[order]
    place = np.empty_like(key)
    place[order] = np.arange(len(key)) - np.searchsorted(ordered, ordered)
    return place


def match(pairs: Overlaps, turns: Ints, ious: Floats, ignored: Bools, crowd: Bools) -> NDArray[np.int32]:
    """Greedy matching as COCO does it (Lin et al. 2014), at T thresholds and under A readings of what is ignored.

    Detections choose in turn: each takes the free object that it overlaps most, by at least the threshold, one that is
    not ignored before all that are, and the later one of equals. A crowd is always free.

    Args:
        pairs: who overlaps whom.
        turns: int64 [N], when a detection chooses; those of the same turn have no object in common.
        ious: [T], thresholds.
        ignored: bool [A, M], objects that do not count.
        crowd: bool [M], objects that can be taken many times.

    Returns:
        int32 [A, T, N], the row of the object that each detection takes, or -1.
    """
    taken = np.full((len(ignored), len(ious), len(turns)), -1, dtype=np.int32)
    free = np.ones((len(ignored), len(ious), len(crowd)), dtype=bool)
    limits = np.minimum(ious, 1 - 1e-10)[:, None]
    turn = turns[pairs.found]
    by_turn = np.argsort(turn, kind="stable")
    for part in np.split(by_turn, 1 + np.flatnonzero(np.diff(turn[by_turn]))):
        f, t, iou = (column[part] for column in pairs)
        fits = (iou >= limits) & (free[..., t] | crowd[t])
        worth = fits * (1 + np.arange(len(t)) + len(t) * ~ignored[:, None, t])
        if not worth.any():
            continue
        first = np.flatnonzero(np.diff(f, prepend=-1))
        best = np.maximum.reduceat(worth, first, axis=-1)
        chosen = t[(best - 1) % len(t)]
        taken[..., f[first]] = np.where(best > 0, chosen, -1)
        reading, threshold, _ = np.nonzero(best)
        free[reading, threshold, chosen[best > 0]] = False
    return taken


def rows_by_class(label: Ints, score: Floats, classes: int) -> list[Ints]:
    """Rows of each class 0..K-1, best first; equal ones as they stand."""
    order = np.lexsort((-score, label))
    return np.split(order, np.searchsorted(label[order], np.arange(1, classes)))


def precision_at(recalls: Floats, right: Bools, wrong: Bools, positives: int) -> Floats:
    """The best precision at each recall or beyond it, 0 where it is not reached (Lin et al. 2014).

    Args:
        recalls: [R], rising.
        right: bool [..., N], whether each detection counts as right, best first.
        wrong: bool [..., N]; a detection that is neither does not count.
        positives: number of objects, at least 1.

    Returns:
        float64 [..., R].
    """
    hits, misses = right.cumsum(axis=-1), wrong.cumsum(axis=-1)
    recall, precision = hits / positives, hits / (hits + misses + np.spacing(1))
    best = np.maximum.accumulate(precision[..., ::-1], axis=-1)[..., ::-1]
    best = np.concatenate([best, np.zeros((*best.shape[:-1], 1))], axis=-1)
    reached = np.apply_along_axis(np.searchsorted, -1, recall, recalls)
    return np.take_along_axis(best, reached, axis=-1)
