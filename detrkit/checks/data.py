"""The check of a data set: what is wrong or suspicious in it, its numbers, and whether training would refuse it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from detrkit.checks import Outcome
from detrkit.checks.survey import Survey, Viewer, survey
from detrkit.checks.suspicions import Suspicion, suspicions
from detrkit.config import DetectorConfig, TrainConfig
from detrkit.datasets import Dataset, Finding
from detrkit.errors import ConfigError, DataError
from detrkit.evaluators import aligned
from detrkit.registry import REGISTRY
from detrkit.specs import Spec

SPLITS = (TrainConfig.train_split, TrainConfig.val_split)
QUANTILES = (0, 0.05, 0.25, 0.5, 0.75, 0.95, 1)
LISTED = 3  # findings of a kind that the text names
CLASSES = 20  # whose objects the text counts


@dataclass(frozen=True)
class DataCheck:
    """What a check of a data set found.

    Attributes:
        spec: the data set.
        viewer: the detector for which it was judged.
        surveys: the splits that could be read, the one for training first.
        findings: what its reader found and did, images that cannot be decoded, and all that is suspicious.
        refusals: why training would refuse it, a sentence each; none where it would not.
    """

    spec: str
    viewer: Viewer
    surveys: tuple[Survey, ...]
    findings: tuple[Finding, ...]
    refusals: tuple[str, ...]

    @property
    def kinds(self) -> dict[tuple[str, str], list[Finding]]:
        """Findings by what they say and what was done: facts first, then suspicions."""
        by_kind: dict[tuple[str, str], list[Finding]] = {}
        for finding in sorted(self.findings, key=lambda one: isinstance(one, Suspicion)):
            what = finding.what.split(";")[0]
            by_kind.setdefault((what, finding.action), []).append(finding)
        return by_kind

    def outcome(self, written: Path) -> Outcome:
        """For the command line.

        Args:
            written: the page.
        """
        content = {
            "data": self.spec,
            "splits": {one.split: numbers(one, self.viewer) for one in self.surveys},
            "findings": [plain(finding) for finding in self.findings],
            "refusals": list(self.refusals),
            "page": str(written),
        }
        return Outcome(content, f"{as_text(self)}page: {written}\n", exit_code=2 if self.refusals else 0)


def check_data(
    spec: str, splits: Sequence[str] = SPLITS, *, detector: DetectorConfig, quick: bool = False
) -> DataCheck:
    """Look at all images of the splits of a data set.

    Args:
        spec: the data set.
        splits: its parts; the first one is that for training.
        detector: for whose image size and queries it is judged.
        quick: decode no images where that can be avoided.

    Raises:
        DetrkitError: no split at all can be read.
    """
    made: dict[str, Dataset] = {}
    refusals: list[str] = []
    errors: list[DataError] = []
    for split in splits:
        try:
            made[split] = REGISTRY.make("datasets", spec, split=split)
        except DataError as error:
            errors.append(error)
            refusals.append(f"split {split!r}: {error}")
    if not made:
        raise errors[0] if errors else ConfigError(["name a split to check"])
    refusals += [f"the split {split!r} is empty" for split, data in made.items() if len(data) == 0]
    refusals += _different_classes(made)
    surveys = tuple(survey(data, split, quick=quick) for split, data in made.items())
    unreadable = [finding for one in surveys for finding in one.unreadable]
    if unreadable:
        others = f", and {len(unreadable) - 1} more" if len(unreadable) > 1 else ""
        refusals.append(f"{unreadable[0].path}: {unreadable[0].what}{others}; on_bad_image=skip would leave them out")
    viewer = Viewer.of(detector)
    told = [finding for one in surveys for finding in one.data.findings]
    once = {str(finding): finding for finding in [*unreadable, *told]}
    return DataCheck(spec, viewer, surveys, (*once.values(), *suspicions(surveys, viewer)), tuple(refusals))


def _different_classes(made: dict[str, Dataset]) -> Iterator[str]:
    (first, reference), *others = made.items()
    for split, data in others:
        if data.label_space != reference.label_space:
            ours, theirs = (", ".join(space.names) for space in (reference.label_space, data.label_space))
            yield f"the splits {first!r} and {split!r} have different classes: {ours}; and {theirs}"


def numbers(one: Survey, viewer: Viewer) -> dict[str, Any]:
    """Counts and sizes of a split, in plain JSON."""
    names = one.data.label_space.names
    return {
        "images": len(one.data),
        "unreadable": len(one.unreadable),
        "decoded": len(one.pixels),
        "objects": int(one.per_class.sum()),
        "crowds": int(one.crowd.sum()),
        "without_objects": int((one.per_image == 0).sum()),
        "classes": dict(zip(names, one.per_class.tolist(), strict=True)),
        "quantiles": {"at": list(QUANTILES), **quantiles(one, viewer)},
    }


def quantiles(one: Survey, viewer: Viewer) -> dict[str, list[float]]:
    """The values at `QUANTILES` of what is measured of images and boxes; empty where there are none."""
    objects = ~one.crowd
    width, height = one.boxes[objects, 2:].T
    measured = {
        "image width": one.sizes[:, 1],
        "image height": one.sizes[:, 0],
        "objects in an image": one.per_image,
        "box width": width,
        "box height": height,
        "box area": width * height,
        "box width / height, in pixels": one.sides[objects, 0] / one.sides[objects, 1],
        "longer side as the detector sees it, in pixels": one.sides_seen(viewer)[objects].max(axis=1, initial=0),
    }
    return {name: np.quantile(v, QUANTILES).round(5).tolist() if len(v) else [] for name, v in measured.items()}


def plain(finding: Finding) -> dict[str, Any]:
    """A finding in plain JSON."""
    return {"kind": "suspicion" if isinstance(finding, Suspicion) else "fact", **asdict(finding)}


def as_text(check: DataCheck) -> str:
    """The check for people, without the page's pictures."""
    lines = [check.spec, "", *_table_of_splits(check), ""]
    for (what, action), found in check.kinds.items():
        lines.append(f"{action}: {what}" + (f" ({len(found)} times)" if len(found) > 1 else ""))
        lines += [f"    {place(finding)}" for finding in found[:LISTED]]
        lines += [f"    and {len(found) - LISTED} more"] * (len(found) > LISTED)
    if not check.findings:
        lines.append("nothing wrong and nothing suspicious")
    if any(len(one.pixels) < len(one.index) for one in check.surveys):
        lines.append("not looked for, since images were not decoded: damaged and doubled images")
    lines += [f"training would refuse: {sentence}" for sentence in check.refusals]
    return "\n".join([*lines, ""])


def _table_of_splits(check: DataCheck) -> list[str]:
    head = ["", *(one.split for one in check.surveys)]
    rows = {
        "images": [len(one.data) for one in check.surveys],
        "without objects": [int((one.per_image == 0).sum()) for one in check.surveys],
        "objects": [int(one.per_class.sum()) for one in check.surveys],
    }
    classes = per_class(check.surveys)
    rows |= {f"  {name}": counts for name, counts in list(classes.items())[:CLASSES]}
    table = aligned([head, *([name, *(f"{value:,}" for value in values)] for name, values in rows.items())])
    rest = [f"  and {len(classes) - CLASSES} more classes, see the page"] * (len(classes) > CLASSES)
    return [*table.split("\n"), *rest]


def per_class(surveys: Sequence[Survey]) -> dict[str, list[int]]:
    """Objects of each class in each split, the most frequent class of the first split first."""
    counts = [dict(zip(one.data.label_space.names, one.per_class.tolist(), strict=True)) for one in surveys]
    return {name: [of.get(name, 0) for of in counts] for name in sorted(counts[0], key=lambda name: -counts[0][name])}


def place(finding: Finding) -> str:
    """A finding without what it has in common with its kind."""
    whole = str(finding).removesuffix(f"; {finding.action}")
    return whole.replace(f": {finding.what.split(';')[0]}", "", 1).replace("; got ", ": ", 1)


def short_name(spec: str) -> str:
    """What to call a data set in the name of a folder: its own folder's, or the component's."""
    parsed = Spec.parse(spec)
    root = parsed.settings.get("root")
    return (Path(root).resolve().name if isinstance(root, str) else "") or parsed.name
