"""Truth and detections of many images as columns of numbers: what evaluators score."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from detrkit.detections import Detections
from detrkit.labels import LabelSpace

if TYPE_CHECKING:
    from detrkit.datasets import Target

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


class Truth(NamedTuple):
    """Objects of the truth; those of an image stand together, as the data order them.

    Attributes:
        image: int64 [M], number of the image, 0..I-1.
        label: int64 [M], 0..K-1.
        box: float64 [M, 4], (x, y, width, height) in pixels.
        area: float64 [M], pixels by which an object is small, medium or large.
        crowd: bool [M], not to be counted: COCO's crowds, Pascal VOC's difficult objects.
    """

    image: Ints
    label: Ints
    box: Floats
    area: Floats
    crowd: Bools

    @classmethod
    def of(cls, target: Target) -> Truth:
        """The objects of image 0; the area is that of the box unless the target tells it."""
        height, width = (int(side) for side in target["orig_size"])
        box = target["boxes"].double().numpy() * [width, height, width, height]
        box[:, :2] -= box[:, 2:] / 2
        area = target["area"].double().numpy() if "area" in target else box[:, 2] * box[:, 3]
        return cls(np.zeros(len(box), np.int64), target["labels"].numpy(), box, area, target["iscrowd"].numpy())


class Found(NamedTuple):
    """Detections, best first in each image.

    Attributes:
        image: int64 [N], number of the image, 0..I-1.
        label: int64 [N], 0..K-1.
        box: float64 [N, 4], (x, y, width, height) in pixels.
        score: float64 [N], in [0, 1].
    """

    image: Ints
    label: Ints
    box: Floats
    score: Floats

    @classmethod
    def of(cls, found: Detections) -> Found:
        """The detections of image 0, equal scores by query, as everywhere, and then by box: whatever their order."""
        corners, score = found.boxes.astype(np.float64), found.scores.astype(np.float64)
        box = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
        best = np.lexsort((*box.T[::-1], found.labels, found.queries, -score))
        return cls(np.zeros(len(box), np.int64), found.labels[best], box[best], score[best])


Rows = TypeVar("Rows", bound=NamedTuple)


def take(rows: Rows, chosen: Ints | Bools) -> Rows:
    """Some of the rows of any columns."""
    return rows._make(column[chosen] for column in rows)


def join(parts: Iterable[Rows]) -> Rows:
    """The rows of images 0, 1, ...; at least one image."""
    parts = list(parts)
    image = np.repeat(np.arange(len(parts)), [len(part[0]) for part in parts])
    return parts[0]._make(map(np.concatenate, zip(*parts, strict=True)))._replace(image=image)


@dataclass(frozen=True)
class Evidence:
    """All that an evaluator was shown, in an order that does not depend on when.

    Attributes:
        label_space: the classes.
        image_ids: the data's own ids, numbers before texts, rising; ``image`` in the rows counts them.
        truth: what is there.
        found: what was found.
    """

    label_space: LabelSpace
    image_ids: tuple[int | str, ...]
    truth: Truth
    found: Found

    @property
    def objects(self) -> Ints:
        """How many objects each class has, crowds left out: int64 [K]."""
        return np.bincount(self.truth.label[~self.truth.crowd], minlength=len(self.label_space))

    def above(self, score: float) -> Evidence:
        """The same with those detections that have at least this score."""
        found = take(self.found, self.found.score >= score)
        return Evidence(self.label_space, self.image_ids, self.truth, found)
