"""The role `evaluators`: how well what was found fits what is there. Imports no torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import isnan
from typing import TYPE_CHECKING, Any

import numpy as np

from detrkit.errors import DataError, NonFiniteError
from detrkit.evaluators._evidence import Evidence, Floats, Found, Truth, join

if TYPE_CHECKING:
    from detrkit.datasets import Target
    from detrkit.detections import Detections
    from detrkit.labels import LabelSpace

Numbers = dict[str, float]


class Evaluator(ABC):
    """Contract of the role. Keep it by defining `score`; collecting, merging and telling are done here.

    An evaluator keeps boxes and no pixels. It can be pickled, so that each process of a run evaluates its share of the
    images and one of them merges all shares. Nothing depends on the order of images, of shares, or of the detections
    of an image: images are ranked by id; detections by score, then image, then query, then box.
    """

    def __init__(self) -> None:
        self._label_space: LabelSpace | None = None
        self._seen: dict[int | str, tuple[Truth, Found]] = {}

    def __len__(self) -> int:
        """Number of images added."""
        return len(self._seen)

    def add(self, target: Target, found: Detections) -> None:
        """Add an image.

        Args:
            target: what is there; crowds (and what Pascal VOC calls difficult) do not count.
            found: what was found, in the label space of the target; in any order.

        Raises:
            NonFiniteError: a score or box that is not finite, or a score outside [0, 1].
            DataError: the image was added before, a label that the label space does not have, or another label space.
        """
        image_id = target["image_id"]
        if not (np.isfinite(found.scores).all() and np.isfinite(found.boxes).all()):
            raise NonFiniteError("detections are not finite", image_id=image_id, field="scores, boxes")
        if len(wrong := found.scores[(found.scores < 0) | (found.scores > 1)]):
            raise NonFiniteError("score outside [0, 1]", image_id=image_id, field="scores", value=float(wrong[0]))
        truth, rows = Truth.of(target), Found.of(found)
        labels = np.concatenate([truth.label, rows.label])
        if len(strange := labels[(labels < 0) | (labels >= len(found.label_space))]):
            raise DataError("no class has this label", image_id=image_id, field="labels", value=int(strange[0]))
        self._keep(found.label_space, {image_id: (truth, rows)})

    def merge(self, other: Evaluator) -> None:
        """Add all images of another evaluator, for example of another process.

        Raises:
            DataError: an image that both have, or another label space.
        """
        if other._label_space is not None:
            self._keep(other._label_space, other._seen)

    def _keep(self, label_space: LabelSpace, seen: dict[int | str, tuple[Truth, Found]]) -> None:
        if self._label_space not in (None, label_space):
            raise DataError("images of two label spaces", field="label_space", value=label_space.names)
        if twice := self._seen.keys() & seen.keys():
            raise DataError("the image was added twice", image_id=min(twice, key=_rank), hint="each image counts once")
        self._label_space = label_space
        self._seen.update(seen)

    def evidence(self) -> Evidence:
        """All that was added, as columns.

        Raises:
            DataError: no image was added.
        """
        if self._label_space is None:
            raise DataError("nothing to evaluate: no image was added", field="images")
        ids = tuple(sorted(self._seen, key=_rank))
        truth, found = zip(*(self._seen[i] for i in ids), strict=True)
        return Evidence(self._label_space, ids, join(truth), join(found))

    def result(self) -> Numbers:
        """Numbers in [0, 1] by name, NaN where there is no truth: ``AP``, ..., then ``AP/<class>`` for each class, ...

        Raises:
            DataError: no image was added.
        """
        return self.score(self.evidence())

    @abstractmethod
    def score(self, evidence: Evidence) -> Numbers:
        """The numbers of `result`; names start with AP or AR, the first is ``AP``; NaN where there is no truth."""

    def table(self, numbers: Numbers | None = None) -> str:
        """The numbers for people: those over all classes in a line or two, then a line a class with its objects.

        Args:
            numbers: of `result`, where they are at hand.
        """
        evidence = self.evidence()
        numbers = self.score(evidence) if numbers is None else numbers
        overall = {name: value for name, value in numbers.items() if "/" not in name}
        columns = list(dict.fromkeys(name.split("/")[0] for name in numbers if "/" in name))
        rows = [
            [name, *(shown(numbers[f"{column}/{name}"]) for column in columns), str(count)]
            for name, count in zip(evidence.label_space.names, evidence.objects, strict=True)
        ]
        total = ["all", *(shown(overall.get(column, float("nan"))) for column in columns), str(evidence.objects.sum())]
        head = "\n".join(
            "  ".join(f"{name:<5} {shown(value)}" for name, value in list(overall.items())[start : start + 6])
            for start in range(0, len(overall), 6)
        )
        return f"{head}\n\n{aligned([['class', *columns, 'objects'], *rows, total])}"


def shown(value: float) -> str:
    """A number in [0, 1] for people; ``-`` where there is none."""
    return "-" if isnan(value) else f"{value:.4f}"


def aligned(rows: list[list[str]]) -> str:
    """Rows of words as a table: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def _rank(image_id: int | str) -> tuple[bool, Any]:
    """Numbers before texts."""
    return isinstance(image_id, str), image_id


IOUS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
AREAS = ((0, 1e10), (0, 32**2), (32**2, 96**2), (96**2, 1e10))  # closed intervals: all, small, medium, large
LIMITS = (1, 10, 100)  # detections of a class that count in an image

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
"""The twelve COCO numbers over all classes, as ``result`` names them."""
PER_CLASS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100")


@dataclass(frozen=True)
class Curves:
    """What COCO's numbers are means of; -1 where a class has no object.

    Attributes:
        precision: float64 [T, R, K, A] at the thresholds `IOUS`, recalls `RECALLS`, classes and `AREAS`, with the
            100 best detections of each class and image.
        recall: float64 [T, K, A, L] at the `LIMITS`.
    """

    precision: Floats
    recall: Floats


class CocoEvaluator(Evaluator):
    """Base of evaluators that give COCO's numbers (Lin et al. 2014): they define `curves`.

    Intersections over union from 0.50 to 0.95, sizes by the truth's area (small up to 32^2, large from 96^2), crowds
    as regions in which nothing counts, precision interpolated at 101 recalls.
    """

    def score(self, evidence: Evidence) -> Numbers:
        """The twelve numbers `METRICS`; then, for each of `PER_CLASS`, ``<metric>/<class>``."""
        curves = self.curves(evidence)
        precision, recall = curves.precision, curves.recall
        views = {"AP": precision[..., 0], "AP50": precision[0, ..., 0], "AP75": precision[5, ..., 0]}  # [..., K]
        views |= {f"AP{size}": precision[..., area] for area, size in enumerate("sml", 1)}
        views |= {f"AR{limit}": recall[..., 0, row] for row, limit in enumerate(LIMITS)}
        views |= {f"AR{size}": recall[..., area, -1] for area, size in enumerate("sml", 1)}
        numbers = {name: mean_where_known(views[name]) for name in METRICS}
        for name in PER_CLASS:
            by_class = np.moveaxis(views[name], -1, 0)
            names = evidence.label_space.names
            numbers |= {f"{name}/{c}": mean_where_known(v) for c, v in zip(names, by_class, strict=True)}
        return numbers

    @abstractmethod
    def curves(self, evidence: Evidence) -> Curves:
        """Precision and recall under COCO's matching."""


def mean_where_known(values: Floats) -> float:
    """Mean of the values that are not -1; NaN where all are."""
    known = values[values > -1]
    return float(known.mean()) if known.size else float("nan")
