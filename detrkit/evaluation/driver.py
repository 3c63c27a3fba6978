"""Evaluation of a detector on a data set: detections stream into an evaluator, classes meet by name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from detrkit.datasets import Dataset
from detrkit.detections import Detections
from detrkit.errors import DataError
from detrkit.evaluators import Evaluator, Numbers
from detrkit.evaluators._evidence import Evidence
from detrkit.labels import LabelSpace
from detrkit.prediction import detect
from detrkit.progress import say, watched
from detrkit.registry import REGISTRY

if TYPE_CHECKING:
    from detrkit.model import Detector


def evaluate(
    model: Detector,
    data: Dataset,
    *,
    evaluator: str | Evaluator = "hotcoco",
    batch_size: int = 8,
    progress: bool | None = None,
) -> tuple[Numbers, list[Detections]]:
    """Score a detector on a data set.

    The model's classes and those of the data are the same where their names are (`LabelSpace.rows_of`), whatever their
    numbers. Where they differ, or hardly anything found can count, a line on stderr says so.

    Args:
        model: the detector; knows at least one class of the data. A class that it does not know has AP 0.
        data: images and truth; crowds are ignored regions.
        evaluator: spec of the role `evaluators`; or an evaluator, which keeps all it was shown: its table, the errors
            of `detrkit.evaluation.errors`, or the share of a process, to be merged.
        batch_size: images at a time.
        progress: show a progress bar on stderr; None: where that is no terminal, a line every half minute instead.

    Returns:
        The numbers of `Evaluator.result`, and the detections of every image in the label space of the data, without
        those of classes that the data do not have.

    Raises:
        DataError: the data set is empty, or has no class in common with the model.
        ConfigError, RegistryError: the evaluator cannot be made.
    """
    if len(data) == 0:
        raise DataError("nothing to evaluate: the data set is empty", field="data")
    judge = evaluator if isinstance(evaluator, Evaluator) else REGISTRY.make("evaluators", evaluator)
    detections = collect(model, data, judge, batch_size=batch_size, progress=progress)
    if said := remark(judge.evidence()):
        say(said)
    return judge.result(), detections


def collect(
    model: Detector, data: Dataset, evaluator: Evaluator, *, batch_size: int = 8, progress: bool | None = None
) -> list[Detections]:
    """Show an evaluator what a detector finds in each image; see `evaluate`.

    Raises:
        DataError: no class in common with the model.
    """
    _check_classes(data.label_space, model.label_space)
    targets, detections, seen = [], [], 0

    def images() -> Iterator[Image.Image]:
        for index in range(len(data)):
            image, target = data[index]
            targets.append(target)
            yield image

    stream = detect(model, images(), batch_size=batch_size)
    for index, found in enumerate(watched(stream, "evaluate", len(data), show=progress)):
        known = found.in_space(data.label_space)
        seen += len(found)
        evaluator.add(targets[index], known)
        detections.append(known)
    if left_out := seen - sum(map(len, detections)):
        say(f"{left_out} of {seen} detections left out: the data do not have their classes")
    return detections


def remark(evidence: Evidence) -> str | None:
    """A sentence when most of what was found, by score, is of classes that never occur in the truth."""
    found, there = evidence.found, np.unique(evidence.truth.label)
    strange = ~np.isin(found.label, there)
    if not len(there) or found.score[strange].sum() <= found.score.sum() / 2:
        return None
    wrong, true = (
        _listed(evidence.label_space.names[k] for k in labels) for labels in (np.unique(found.label[strange]), there)
    )
    return f"most of what was found is of classes that never occur in the truth: found {wrong}; true are {true}"


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
        say(f"the model does not know {_listed(unknown)}: their AP is 0")


def _listed(names: Iterable[str], most: int = 10) -> str:
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
