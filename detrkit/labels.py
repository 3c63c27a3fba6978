"""Label spaces: class names, the contiguous ids that models use, and the ids that the data use."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from detrkit.errors import DataError


@dataclass(frozen=True)
class LabelSpace:
    """The classes of a data set; the background is none of them.

    Attributes:
        names: class names; a model's label k is ``names[k]``.
        ids: the ids that the data use for them, for example COCO's 1..90 with gaps; 0..K-1 when not given.
    """

    names: tuple[str, ...]
    ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(str(name) for name in self.names))
        object.__setattr__(self, "ids", tuple(int(i) for i in self.ids) or tuple(range(len(self.names))))
        if len(set(self.names)) < len(self.names) or len(set(self.ids)) < len(self.ids):
            raise DataError("names and ids of a label space are unique", field="label_space", value=self.names)
        if len(self.names) != len(self.ids):
            raise DataError("a label space has one id a name", field="label_space", value=(self.names, self.ids))

    def __len__(self) -> int:
        return len(self.names)

    def rows_of(self, other: LabelSpace) -> list[int | None]:
        """For each of these classes the label of the same class in another label space, None where it has none.

        The same name is the same class. So are names that differ in case, in spaces, underscores and hyphens, or as
        Pascal VOC's differ from COCO's (aeroplane, airplane), unless either label space tells such names apart.
        """
        exact = {name: row for row, name in enumerate(other.names)}
        ours, theirs = Counter(map(_alike, self.names)), Counter(map(_alike, other.names))
        loose = {_alike(name): row for name, row in exact.items() if ours[_alike(name)] == theirs[_alike(name)] == 1}
        return [exact.get(name, loose.get(_alike(name))) for name in self.names]

    def to_json(self) -> dict[str, list[Any]]:
        """Plain lists, as saved in checkpoints."""
        return {"names": list(self.names), "ids": list(self.ids)}

    @classmethod
    def from_json(cls, saved: dict[str, Sequence[Any]]) -> LabelSpace:
        """The inverse of `to_json`."""
        return cls(tuple(saved["names"]), tuple(saved["ids"]))

    @classmethod
    def numbered(cls, count: int) -> LabelSpace:
        """Nameless classes ``class 0`` ... where nothing is known but their number."""
        return cls(tuple(f"class {k}" for k in range(count)))


# Pascal VOC's names of classes that COCO calls otherwise
_SYNONYMS = {
    "aeroplane": "airplane",
    "diningtable": "dining table",
    "motorbike": "motorcycle",
    "pottedplant": "potted plant",
    "sofa": "couch",
    "tvmonitor": "tv",
}


def _alike(name: str) -> str:
    """The form in which names of the same class agree."""
    plain = re.sub(r"[\s_-]+", " ", name.strip().casefold())
    return _SYNONYMS.get(plain, plain)


# Lin et al. 2014, Microsoft COCO: 80 categories under the ids 1..90, ten of which were never used
_COCO_UNUSED = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
_COCO_NAMES = (
    "person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop sign, "
    "parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella, "
    "handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard, "
    "surfboard, tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange, "
    "broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv, laptop, "
    "mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, book, clock, vase, scissors, "
    "teddy bear, hair drier, toothbrush"
)

COCO = LabelSpace(tuple(_COCO_NAMES.split(", ")), tuple(i for i in range(1, 91) if i not in _COCO_UNUSED))
"""COCO's 80 categories with their own ids."""

COCO_RAW = LabelSpace(
    tuple(dict(zip(COCO.ids, COCO.names, strict=True)).get(i, f"unused {i}") for i in range(91)), tuple(range(91))
)
"""The ids 0..90 as they are, unused ones included: the 91 classes of the official DETR."""

VOC = LabelSpace(
    (
        *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
        *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
    )
)
"""Pascal VOC's 20 classes (Everingham et al. 2010) in alphabetical order, 0..19: its files have names and no ids.

Numbers from 1 to 20, as some readers give, would make tvmonitor the no-object class of a softmax over 20 classes.
"""
