"""COCO average precision (Lin et al. 2014), computed by hotcoco, which equals pycocotools to the bit."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from detrkit.datasets import Dataset, Target
from detrkit.detections import Detections
from detrkit.errors import DataError, NonFiniteError
from detrkit.labels import LabelSpace
from detrkit.prediction import detect, watched

if TYPE_CHECKING:
    from detrkit.model import Detector

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


@dataclass
class CocoEvaluation:
    """Collects truth and detections image by image, then scores them.

    Equal scores are ranked by class and then by box, so that the order in which detections arrive does not matter.
    """

    label_space: LabelSpace
    _images: list[dict[str, Any]] = field(default_factory=list)
    _truth: list[dict[str, Any]] = field(default_factory=list)
    _found: list[np.ndarray] = field(default_factory=list)

    def add(self, target: Target, found: Detections) -> None:
        """Add an image: what is in it, and what was found.

        Raises:
            NonFiniteError: a score or box that is not finite, or a score outside [0, 1].
        """
        if not (np.isfinite(found.scores).all() and np.isfinite(found.boxes).all()):
            raise NonFiniteError("detections are not finite", image_id=target["image_id"], field="scores, boxes")
        if len(found) and not 0 <= found.scores.min() <= found.scores.max() <= 1:
            raise NonFiniteError(
                "score outside [0, 1]", image_id=target["image_id"], field="scores", value=float(found.scores.max())
            )
        number = len(self._images) + 1
        height, width = (int(side) for side in target["orig_size"])
        self._images.append({"id": number, "height": height, "width": width})
        self._truth += self._annotations(target, number, height, width)
        self._found.append(_rows(found, number))

    def _annotations(self, target: Target, number: int, height: int, width: int) -> Iterator[dict[str, Any]]:
        boxes = target["boxes"].double().numpy() * [width, height, width, height]
        boxes[:, :2] -= boxes[:, 2:] / 2
        first = len(self._truth) + 1  # ids start at 1: COCO's evaluator reads 0 as "not matched"
        for offset, (box, label, crowd) in enumerate(
            zip(boxes.tolist(), target["labels"].tolist(), target["iscrowd"].tolist(), strict=True)
        ):
            yield {
                "id": first + offset,
                "image_id": number,
                "category_id": label + 1,
                "bbox": box,
                "area": box[2] * box[3],
                "iscrowd": int(crowd),
            }

    def remark(self) -> str | None:
        """A sentence when most of what was found, by score, is of classes that never occur in the truth."""
        rows = np.concatenate([np.empty((0, 7)), *self._found])
        scores, labels = rows[:, 5], rows[:, 6].astype(int)
        true = {annotation["category_id"] for annotation in self._truth}
        strange = ~np.isin(labels, list(true))
        if not true or scores[strange].sum() <= scores.sum() / 2:
            return None
        found, there = (_listed(self.label_space.names[k - 1] for k in sorted(s)) for s in ({*labels[strange]}, true))
        return f"most of what was found is of classes that never occur in the truth: found {found}; true are {there}"

    def result(self) -> dict[str, float]:
        """The twelve COCO numbers in [0, 1] by name, and ``AP/<class>`` for each class; NaN where there is no truth.

        Raises:
            DataError: no image was added.
        """
        if not self._images:
            raise DataError("nothing to evaluate: no image was added", field="images")
        from hotcoco import COCO, COCOeval

        categories = [{"id": k + 1, "name": name} for k, name in enumerate(self.label_space.names)]
        truth = COCO({"images": self._images, "annotations": self._truth, "categories": categories})
        rows = np.concatenate(self._found)
        evaluation = COCOeval(truth, truth.load_res(rows), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summary_lines()  # computes the numbers; summarize() would print them
        scored = evaluation.results(per_class=True)
        numbers = {name: scored["metrics"][name] for name in METRICS}
        numbers |= {f"AP/{name}": scored["per_class"].get(name, -1.0) for name in self.label_space.names}
        return {name: float(value) if value >= 0 else float("nan") for name, value in numbers.items()}


def _rows(found: Detections, number: int) -> np.ndarray:
    """[N, 7]: image, x, y, width, height, score, category; ties ranked by class and box, not by arrival."""
    corners = found.boxes.astype(np.float64)
    boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
    rows = np.column_stack([np.full(len(found), number), boxes, found.scores, found.labels + 1])
    return rows[np.lexsort((*boxes.T[::-1], found.labels, -found.scores.astype(np.float64)))]


def evaluate(
    model: Detector, data: Dataset, *, batch_size: int = 8, progress: bool | None = None
) -> tuple[dict[str, float], list[Detections]]:
    """Score a detector on a data set.

    The model's classes and those of the data are the same where their names are (`LabelSpace.rows_of`), whatever their
    numbers. Where they differ, or hardly anything found can count, a line on stderr says so.

    Args:
        model: the detector; knows at least one class of the data. A class that it does not know has AP 0.
        data: images and truth; crowds are ignored regions.
        batch_size: images at a time.
        progress: show a progress bar on stderr; None: only when that is a terminal.

    Returns:
        The numbers of `CocoEvaluation.result`, and the detections of every image in the label space of the data,
        without those of classes that the data do not have.

    Raises:
        DataError: the data set is empty, or has no class in common with the model.
    """
    if len(data) == 0:
        raise DataError("nothing to evaluate: the data set is empty", field="data")
    _check_classes(data.label_space, model.label_space)
    evaluation, all_found, targets, seen = CocoEvaluation(data.label_space), [], [], 0

    def images() -> Iterator[Image.Image]:
        for index in range(len(data)):
            image, target = data[index]
            targets.append(target)
            yield image

    stream = detect(model, images(), batch_size=batch_size)
    for index, found in enumerate(watched(stream, "evaluate", len(data), progress)):
        known = found.in_space(data.label_space)
        seen += len(found)
        evaluation.add(targets[index], known)
        all_found.append(known)
    if left_out := seen - sum(map(len, all_found)):
        say_beside_bar(f"{left_out} of {seen} detections left out: the data do not have their classes")
    if remark := evaluation.remark():
        say_beside_bar(remark)
    return evaluation.result(), all_found


def _check_classes(data: LabelSpace, model: LabelSpace) -> None:
    """Refuse a model that knows no class of the data, and name those that it does not know."""
    unknown = [name for name, row in zip(data.names, data.rows_of(model), strict=True) if row is None]
    if len(unknown) == len(data):
        raise DataError(
            "the data's classes are not the model's",
            field="label_space",
            value=f"({_listed(data.names)})",
            expected=f"some of ({_listed(model.names)})",
        )
    if unknown:
        say_beside_bar(f"the model does not know {_listed(unknown)}: their AP is 0")


def _listed(names: Iterable[str], most: int = 10) -> str:
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def say_beside_bar(text: str) -> None:
    """A line on stderr that leaves a progress bar whole."""
    tqdm.write(text, file=sys.stderr)
