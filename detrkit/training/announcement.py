"""What a run says before it begins: what is trained on what, and what was wrong with the data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torchvision.ops import FrozenBatchNorm2d

from detrkit.model import Detector
from detrkit.registry import REGISTRY
from detrkit.specs import Spec
from detrkit.training.run import FINDINGS

if TYPE_CHECKING:
    from detrkit.training.loop import Trainer

MOST_FINDINGS = 10


def announcement(trainer: Trainer) -> Iterator[str]:
    """The lines, for a person."""
    run, model = trainer.run, trainer.model
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    count = sum(p.numel() for p in model.parameters())
    shared_by = f", {trainer.processes.count} processes" if trainer.processes.count > 1 else ""
    yield f"{len(trainer.data)} training images, classes: {', '.join(trainer.data.label_space.names)}"
    yield (
        f"{count:,} parameters, {trained:,} trained; {trainer.total} steps of {run.progress.window} images on "
        f"{trainer.device}{shared_by}, {torch.get_num_threads()} threads"
    )
    if model.loaded:
        yield f"init_from {model.loaded}"
    if run.train.freeze:
        yield f"frozen: {run.train.freeze}"
    if frozen_at_random(model):
        yield "backbone: a part is frozen at random; give it weights='FILE', or norm=batch, trainable_levels=none"
    findings = trainer.findings()
    yield from (f"data: {finding}" for finding in findings[:MOST_FINDINGS])
    if len(findings) > MOST_FINDINGS:
        yield f"data: ... and {len(findings) - MOST_FINDINGS} more, see {FINDINGS} in the run folder"
    yield f"run folder: {run.folder}"


def frozen_at_random(model: Detector) -> bool:
    """Whether the trunk keeps parameters or norms that were never trained; trunks without the choice keep none."""
    spec = Spec.parse(model.config.backbone)
    if "trainable_levels" not in REGISTRY.signature("backbones", spec.name).settings:
        return False
    carried_over = model.loaded.only("loaded") if model.loaded else ()
    if spec.settings.get("weights") is not None or any(entry.name.startswith("backbone.") for entry in carried_over):
        return False
    trained = all(p.requires_grad for p in model.backbone.parameters())
    return not trained or any(isinstance(m, FrozenBatchNorm2d) for m in model.backbone.modules())
