"""What looks wrong in data that can be read: one generator a kind; `suspicions` runs them all.

A suspicion may be right in some data set; it is told, and nothing is changed by it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import combinations

import numpy as np
import torch

from detrkit.boxes import cxcywh_to_xyxy, pairwise_iou
from detrkit.checks.survey import Survey, Viewer
from detrkit.datasets import Finding

FEW_OBJECTS = 10  # of a class
MANY_EMPTY = 0.1  # share of images without objects
LONGEST_ASPECT = 10.0  # of a box's sides in pixels
SAME_BOX = 0.95  # intersection over union
WHOLE_IMAGE = 0.95  # of its area
ALIKE = 0.86  # similarity of two names


@dataclass(frozen=True)
class Suspicion(Finding):
    """A finding that may also be right, and where it can be seen.

    Attributes:
        split: the part of the data.
        row: the image, as a row of the survey of that split; None where it is not about an image.
        boxes: the boxes concerned, by place in their image.
    """

    action: str = "suspicious"
    split: str = ""
    row: int | None = None
    boxes: tuple[int, ...] = ()


def suspicions(surveys: Sequence[Survey], viewer: Viewer) -> list[Suspicion]:
    """Everything suspicious in the splits of a data set; those that concern the most first.

    Args:
        surveys: the split for training first.
        viewer: the detector for which they are judged.
    """
    found = [suspicion for check in OF_ALL for suspicion in check(surveys)]
    return found + [suspicion for survey in surveys for check in OF_ONE for suspicion in check(survey, viewer)]


def same_image_in_two_splits(surveys: Sequence[Survey]) -> Iterator[Suspicion]:
    """Leakage: what is measured was trained on."""
    for one, other in combinations(surveys, 2):
        first = {pixels: row for row, pixels in reversed(list(enumerate(one.pixels)))}
        for row, pixels in enumerate(other.pixels):
            if pixels in first:
                what = f"image is in split {one.split!r} too"
                yield _of_image(other, row, what, value=repr(one.ids[first[pixels]]))


def class_names_alike(surveys: Sequence[Survey]) -> Iterator[Suspicion]:
    """Two spellings of one class."""
    for one, other in combinations(surveys[0].data.label_space.names, 2):
        if names_alike(one, other):
            yield Suspicion("names of two classes are alike", "label_space", value=f"{one!r} and {other!r}")


def names_alike(one: str, other: str) -> bool:
    """Whether two names differ in case, signs, an ending or a letter; numbers tell classes apart."""
    a, b = (re.sub(r"[\W_]+", "", name.casefold()) for name in (one, other))
    if re.findall(r"\d+", a) != re.findall(r"\d+", b):
        return False
    if a.removesuffix("s") == b.removesuffix("s"):
        return True
    return min(len(a), len(b)) > 3 and SequenceMatcher(None, a, b).ratio() >= ALIKE


def classes_of_few_objects(surveys: Sequence[Survey]) -> Iterator[Suspicion]:
    """Classes that cannot be learned, or cannot be measured."""
    for label, name in enumerate(surveys[0].data.label_space.names):
        counts = {survey.split: int(survey.per_class[label]) for survey in surveys}
        trained, *others = counts
        if not any(counts.values()):
            yield Suspicion("class has no object in any split", "label_space", value=name)
            continue
        for split in [trained] * (counts[trained] == 0) + [split for split in others if counts[split] == 0]:
            yield Suspicion("class has objects in other splits only", split, value=name, split=split)
        if 0 < counts[trained] < FEW_OBJECTS:
            value = f"({name}: {counts[trained]})"
            yield Suspicion(f"class has fewer than {FEW_OBJECTS} objects", trained, value=value, split=trained)


def same_image_twice(survey: Survey, viewer: Viewer) -> Iterator[Suspicion]:
    """Images with the same pixels under two ids."""
    first: dict[str, int] = {}
    for row, pixels in enumerate(survey.pixels):
        if pixels in first:
            yield _of_image(survey, row, "same pixels as another image", value=repr(survey.ids[first[pixels]]))
        first.setdefault(pixels, row)


def many_images_without_objects(survey: Survey, viewer: Viewer) -> Iterator[Suspicion]:
    """Annotations that were lost, perhaps."""
    empty = int((survey.per_image == 0).sum())
    if empty > MANY_EMPTY * len(survey.index):
        value = f"({empty} of {len(survey.index)} images)"
        yield Suspicion("many images without objects", survey.split, value=value, split=survey.split)


def more_objects_than_queries(survey: Survey, viewer: Viewer) -> Iterator[Suspicion]:
    """Objects that cannot be found, since each query finds one."""
    for row in np.flatnonzero(survey.per_image > viewer.num_queries).tolist():
        yield _of_image(
            survey, row, f"more objects than {viewer.num_queries} queries", value=f"({survey.per_image[row]})"
        )


def small_boxes(survey: Survey, viewer: Viewer) -> Iterator[Suspicion]:
    """Boxes that cover less than a cell of the coarsest feature map, each way."""
    seen = survey.sides_seen(viewer).max(axis=1, initial=0)
    what = f"box is smaller than a cell of {viewer.stride} pixels where the detector sees it"
    yield from _of_boxes(survey, seen < viewer.stride, what, [f"({side:.1f} pixels)" for side in seen])


def long_boxes(survey: Survey, viewer: Viewer) -> Iterator[Suspicion]:
    """Boxes much longer than wide."""
    ratio = survey.sides.max(axis=1, initial=0) / np.maximum(survey.sides.min(axis=1, initial=np.inf), 1e-9)
    what = f"box is more than {LONGEST_ASPECT:g} times as long as wide"
    yield from _of_boxes(survey, ratio > LONGEST_ASPECT, what, [f"({value:.1f})" for value in ratio])


def boxes_over_the_whole_image(survey: Survey, viewer: Viewer) -> Iterator[Suspicion]:
    """Boxes that say no more than that the class is somewhere."""
    share = survey.boxes[:, 2:].prod(axis=1)
    texts = [f"({100 * value:.0f} % of it)" for value in share]
    yield from _of_boxes(survey, share > WHOLE_IMAGE, "box covers nearly the whole image", texts)


def same_box_twice(survey: Survey, viewer: Viewer) -> Iterator[Suspicion]:
    """An object that was annotated twice."""
    ends = np.searchsorted(survey.image, np.arange(len(survey.index) + 1)).tolist()
    for row, part in enumerate(map(slice, ends[:-1], ends[1:])):
        corners = cxcywh_to_xyxy(torch.from_numpy(survey.boxes[part]))
        labels, crowd = survey.labels[part], survey.crowd[part]
        same = (pairwise_iou(corners, corners).numpy() > SAME_BOX) & (labels[:, None] == labels)
        for i, j in np.argwhere(np.triu(same & ~(crowd[:, None] | crowd), 1)):
            yield _of_image(survey, row, "two boxes of a class are nearly the same", boxes=(int(i), int(j)))


OF_ALL: tuple[Callable[[Sequence[Survey]], Iterator[Suspicion]], ...] = (
    same_image_in_two_splits,
    class_names_alike,
    classes_of_few_objects,
)
OF_ONE: tuple[Callable[[Survey, Viewer], Iterator[Suspicion]], ...] = (
    same_image_twice,
    same_box_twice,
    boxes_over_the_whole_image,
    long_boxes,
    small_boxes,
    more_objects_than_queries,
    many_images_without_objects,
)


def _of_boxes(survey: Survey, chosen: np.ndarray, what: str, values: Sequence[str]) -> Iterator[Suspicion]:
    """One a chosen box, crowds left out."""
    for box in np.flatnonzero(chosen & ~survey.crowd).tolist():
        row = int(survey.image[box])
        place = int(box - np.searchsorted(survey.image, row))
        yield _of_image(survey, row, what, value=values[box], boxes=(place,))


def _of_image(
    survey: Survey, row: int, what: str, *, value: str | None = None, boxes: tuple[int, ...] = ()
) -> Suspicion:
    field = f"boxes{list(boxes)}" if boxes else None
    return Suspicion(what, survey.file_of(row), survey.ids[row], field, value, split=survey.split, row=row, boxes=boxes)
