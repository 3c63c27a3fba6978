"""Starting from another detector: what fits is carried over, and the report names what was cut or starts afresh."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from detrkit.checkpoints.detector import load
from detrkit.checkpoints.report import Entry, LoadReport
from detrkit.config import difference
from detrkit.errors import CheckpointError
from detrkit.specs import Spec

if TYPE_CHECKING:
    from detrkit.model import Detector

TRUNK, QUERIES, CLASSES = "backbone.", "queries.", "class_embed."
READS_TRUNK = "neck."
COUNTER = "num_batches_tracked"  # a norm's count of batches: frozen norms have none, and nothing depends on it
# fields that change what the same tensors compute
MEANING = (
    "positional", "queries", "encoder_attention", "decoder_self_attention", "decoder_cross_attention", "activation",
    "pre_norm", "position_at", "feature_scale",
)  # fmt: skip


def initialize_from(model: Detector, source: str | Path | Detector) -> LoadReport:
    """Carry over from another detector what fits.

    - The rows of the class head by class name (COCO's "tv" is VOC's "tvmonitor"), and no-object; other classes start
      afresh.
    - Learned queries: the first ones where the model has fewer; repeated in turn where it has more.
    - The trunk as a whole or not at all; without it, the projection that reads it starts afresh too.
    - All else where name and shape are the same.

    Args:
        model: changed in place; its attribute ``loaded`` becomes the report.
        source: anything `detrkit.load` takes, or a detector.

    Raises:
        CheckpointError: the source cannot be loaded, or nothing of it fits.
    """
    donor = load(source) if isinstance(source, str | Path) else source
    own, transfer = {name: t.clone() for name, t in model.state_dict().items()}, _Transfer(model, donor)
    entries = [transfer.fit(name, tensor) for name, tensor in own.items()]
    used = {entry.source for entry in entries}
    entries += [
        Entry("unused", source=name, note=transfer.why_unused(name)) for name in transfer.given if name not in used
    ]
    origin = donor.loaded.origin if donor.loaded else "detrkit"
    named = "a detector" if donor is source else str(source)
    report = LoadReport(named, origin, tuple(entries), _remarks(transfer))
    if not any(own[entry.name].ndim > 1 for entry in report.only("loaded", "sliced")):
        raise CheckpointError(
            "no matrix of it fits the model", path=report.source, hint=f"{len(own)} tensors were tried"
        )
    model.load_state_dict(own)
    model.loaded = report
    return report


class _Transfer:
    """One detector giving to another."""

    def __init__(self, model: Detector, donor: Detector) -> None:
        self.model, self.donor = model, donor
        self.given = donor.state_dict()
        self.same_trunk = self._has_same_trunk()
        self.rows = model.label_space.rows_of(donor.label_space)

    def _has_same_trunk(self) -> bool:
        def shapes(detector: Detector) -> dict[str, torch.Size]:
            entries = detector.backbone.state_dict().items()
            return {name: tensor.shape for name, tensor in entries if not name.endswith(COUNTER)}

        return shapes(self.model) == shapes(self.donor)

    def fit(self, name: str, own: Tensor) -> Entry:
        """Fill one tensor of the model, and say how."""
        given = self.given.get(name)
        if name.startswith((TRUNK, READS_TRUNK)) and not self.same_trunk:
            return Entry("re-initialised", name, note=f"other backbone: {self.donor.config.backbone}")
        if given is None:
            return Entry("re-initialised", name, note="not in the source")
        if name.startswith(CLASSES) and self.model.label_space.names != self.donor.label_space.names:
            return self._fit_classes(name, own, given)
        if own.shape == given.shape:
            own.copy_(given)
            return Entry("loaded", name, name)
        if name.startswith(QUERIES) and own.shape[1:] == given.shape[1:]:
            own.copy_(given[torch.arange(len(own)) % len(given)])
            fewer = len(own) < len(given)
            note = f"first {len(own)} of {len(given)} queries" if fewer else f"{len(given)} queries, repeated in turn"
            return Entry("sliced", name, name, note)
        return Entry("re-initialised", name, note=f"{tuple(given.shape)} in the source, here {tuple(own.shape)}")

    def _fit_classes(self, name: str, own: Tensor, given: Tensor) -> Entry:
        """Rows by class name, then those beyond the classes (no-object), which both have alike."""
        names, known = self.model.label_space.names, len(self.donor.label_space)
        found = [(row, old) for row, old in enumerate(self.rows) if old is not None]
        beyond = [(len(names) + k, known + k) for k in range(len(own) - len(names))]
        if own.shape[1:] != given.shape[1:] or len(own) - len(names) != len(given) - known or not found + beyond:
            return Entry("re-initialised", name, note=f"{tuple(given.shape)} in the source, here {tuple(own.shape)}")
        rows, old_rows = map(list, zip(*found, *beyond, strict=True))
        own[rows] = given[old_rows].to(own)
        fresh = [names[row] for row, old in enumerate(self.rows) if old is None]
        note = f"{len(found)} of {len(names)} classes by name" + (f"; afresh: {', '.join(fresh)}" if fresh else "")
        return Entry("sliced", name, name, note)

    def why_unused(self, name: str) -> str:
        """Why a tensor of the donor finds no place."""
        if name.startswith((TRUNK, READS_TRUNK)) and not self.same_trunk:
            return "other backbone"
        return "does not fit" if name in self.model.state_dict() else "not in the model"


def _remarks(transfer: _Transfer) -> tuple[str, ...]:
    """Fields under which the same tensors now compute something else."""

    def lines() -> Iterator[str]:
        if transfer.same_trunk and Spec.parse(transfer.model.config.backbone).settings.get("weights"):
            yield "the source's trunk replaces the backbone's weights="
        for name, (before, now) in difference(transfer.donor.config, transfer.model.config).items():
            if name in MEANING:
                yield f"{name} was {before} in the source, here {now}"

    return tuple(lines())
