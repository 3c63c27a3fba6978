"""Pascal VOC's average precision."""

from __future__ import annotations

from typing import Annotated, Literal, final

import numpy as np

from detrkit.evaluators import Evaluator, Numbers
from detrkit.evaluators._evidence import Bools, Evidence
from detrkit.evaluators._matching import overlaps
from detrkit.fields import Range


@final
class VocEvaluator(Evaluator):
    """Pascal VOC AP at one overlap: area under the curve, or its 11 points (Everingham et al. 2010, section 4.2).

    ``AP`` is the mean over classes, ``AR`` that of the recall of all detections. A detection answers for the object
    of its class that it overlaps most and for no other; the best scored of several is right, the rest are wrong. What
    overlaps a difficult object does not count. Boxes cover what they cover: VOC's pixels, whose last one belongs to
    the box, are to be read as corners (x, y) to (x + 1, y + 1), as `detrkit.datasets.voc` does.
    """

    def __init__(
        self, *, points: Literal["all", 11] = "all", iou: Annotated[float, Range(above=0, max=1)] = 0.5
    ) -> None:
        super().__init__()
        self.points = points
        self.iou = iou

    def score(self, evidence: Evidence) -> Numbers:
        """``AP`` and ``AR``, then both for each class."""
        truth, found = evidence.truth, evidence.found
        pairs = overlaps(found, truth, self.iou, over_found=False)
        last = np.lexsort((-pairs.truth, pairs.iou, pairs.found))  # the first one of equals, as in the development kit
        answers = np.full(len(found.image), -1)
        answers[pairs.found[last]] = pairs.truth[last]  # of several values the last stays
        best = np.argsort(-found.score, kind="stable")
        claimed, first = np.unique(answers[best], return_index=True)
        right = np.zeros(len(best), dtype=bool)
        right[best[first[claimed >= 0]]] = True
        counts = np.append(~truth.crowd, True)[answers]  # the last one is what no object answers to
        by_class = {}
        for label, positives in enumerate(evidence.objects):
            rows = best[(counts & (found.label == label))[best]]
            by_class[evidence.label_space.names[label]] = self._of_class(right[rows], int(positives))
        numbers: Numbers = {}
        for row, name in enumerate(("AP", "AR")):
            known = [both[row] for both in by_class.values() if both[row] == both[row]]
            numbers[name] = float(np.mean(known)) if known else float("nan")
        return numbers | {f"{n}/{c}": both[i] for i, n in enumerate(("AP", "AR")) for c, both in by_class.items()}

    def _of_class(self, right: Bools, positives: int) -> tuple[float, float]:
        """AP and recall from the detections of a class, best first."""
        if not positives:
            return float("nan"), float("nan")
        hits = right.cumsum()
        recall, precision = hits / positives, hits / np.arange(1, len(hits) + 1)
        best = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
        if self.points == 11:
            ap = best[np.searchsorted(recall, np.arange(11) / 10)].mean()
        else:
            ap = (np.diff(recall, prepend=0) * best[:-1]).sum()
        return float(ap), float(recall[-1]) if len(recall) else 0.0
