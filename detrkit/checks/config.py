"""The check of a configuration: what it would build, part by part, and what that takes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from detrkit.checks import Outcome
from detrkit.config import DetectorConfig, TrainConfig, difference
from detrkit.errors import DetrkitError
from detrkit.evaluators import aligned
from detrkit.fields import items
from detrkit.model import Detector, build
from detrkit.presets import presets, training_recipe, unchecked
from detrkit.training.parameters import freeze

FLOAT = 4  # bytes
MOMENTS = 2  # of AdamW, a trained parameter


@dataclass(frozen=True)
class Memory:
    """Bytes that a training step takes; what it keeps for the way back is None where it cannot be told.

    Attributes:
        weights: parameters and buffers.
        gradients: one a trained parameter.
        optimizer: AdamW's moments.
        activations: what the forward pass of a batch of the largest images keeps for the backward pass.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int | None


@dataclass(frozen=True)
class ConfigCheck:
    """What a configuration would build.

    Attributes:
        preset: the preset nearest to it.
        changes: fields in which it differs from that: name -> (preset's value, its own).
        parts: parameters and trained parameters by part.
        channels: of each level of the trunk.
        strides: of each level.
        cells: (rows, columns) of the coarsest level for the largest image.
        image: (height, width) of that image.
        batch_size: images of a forward pass.
        memory: of a training step.
    """

    preset: str
    changes: dict[str, tuple[Any, Any]]
    parts: dict[str, tuple[int, int]]
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    cells: tuple[int, int]
    image: tuple[int, int]
    batch_size: int
    memory: Memory

    @property
    def total(self) -> tuple[int, int]:
        """All parameters, and those that are trained."""
        return sum(count for count, _ in self.parts.values()), sum(trained for _, trained in self.parts.values())

    def outcome(self) -> Outcome:
        """For the command line."""
        total, trained = self.total
        return Outcome({**asdict(self), "parameters": total, "trained": trained}, as_text(self))


def check_config(detector: DetectorConfig, train: TrainConfig) -> ConfigCheck:
    """Build what a configuration says, without data, and count.

    Raises:
        ConfigError: all that is wrong with it.
    """
    model = build(detector)
    if train.freeze is not None:
        freeze(model, items(train.freeze))
    image = detector.short_side, detector.long_side
    stride = model.backbone.strides[-1]
    preset, changes = nearest_preset(detector, train)
    return ConfigCheck(
        preset=preset,
        changes=changes,
        parts=dict(parts(model)),
        channels=tuple(model.backbone.channels),
        strides=tuple(model.backbone.strides),
        cells=(-(-image[0] // stride), -(-image[1] // stride)),
        image=image,
        batch_size=train.batch_size,
        memory=memory(model, (train.batch_size, 3, *image)),
    )


def nearest_preset(detector: DetectorConfig, train: TrainConfig) -> tuple[str, dict[str, tuple[Any, Any]]]:
    """The preset with the fewest fields that differ, and these: name -> (preset's value, the configuration's)."""

    def changes(preset: str) -> dict[str, tuple[Any, Any]]:
        return {**difference(unchecked(preset), detector), **difference(training_recipe(preset), train)}

    return min(((preset, changes(preset)) for preset in presets()), key=lambda pair: len(pair[1]))


def parts(model: Detector) -> Iterator[tuple[str, tuple[int, int]]]:
    """Parameters and trained parameters of each part that has any."""
    for name, part in model.named_children():
        sizes = [(p.numel(), p.numel() * p.requires_grad) for p in part.parameters()]
        if sizes:
            count, trained = map(sum, zip(*sizes, strict=True))
            yield name, (count, trained)


def memory(model: Detector, batch: tuple[int, ...]) -> Memory:
    """What a training step over images [B, 3, H, W] takes in float32; the model's weights are gone afterwards."""
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad) * FLOAT
    weights = sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers()))
    return Memory(weights, trained, MOMENTS * trained, activations(model.to("meta").train(), batch))


def activations(model: nn.Module, batch: tuple[int, ...]) -> int | None:
    """Bytes that autograd keeps of a forward pass over a batch of this shape, beside the model's own tensors.

    Nothing is computed but shapes: the model is on the device ``meta``. None where a part needs numbers.
    """
    kept: dict[int, tuple[Tensor, int]] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = tensor, storage.nbytes()
        return tensor

    own = {t.untyped_storage()._cdata for t in (*model.parameters(), *model.buffers())}
    try:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            model(torch.empty(batch, device="meta"))
    except DetrkitError:
        raise
    except (RuntimeError, NotImplementedError, TypeError, ValueError):
        return None
    return sum(size for key, (_, size) in kept.items() if key not in own)


def as_text(check: ConfigCheck) -> str:
    """The check for people."""
    lines = [f"preset {check.preset}" + (", changed:" if check.changes else "")]
    width = max(map(len, check.changes), default=0)
    lines += [f"  {name:<{width}}  {a} -> {b}" for name, (a, b) in check.changes.items()]
    rows = [[name, f"{count:,}", f"{trained:,}"] for name, (count, trained) in check.parts.items()]
    total, trained = check.total
    rows.append(["all", f"{total:,}", f"{trained:,}"])
    lines += ["", aligned([["part", "parameters", "trained"], *rows]), f"{100 * trained / total:.1f} % is trained", ""]
    height, side = check.image
    lines += [
        f"levels: strides {', '.join(map(str, check.strides))}; channels {', '.join(map(str, check.channels))}",
        f"an image of {height} x {side} gives {check.cells[0]} x {check.cells[1]} cells at stride {check.strides[-1]}",
        _of_memory(check),
    ]
    return "\n".join([*lines, ""])


def _of_memory(check: ConfigCheck) -> str:
    used = {name: size for name, size in asdict(check.memory).items() if size is not None}
    listed = ", ".join(f"{name} {_bytes(size)}" for name, size in used.items())
    images = "1 image" if check.batch_size == 1 else f"{check.batch_size} images"
    return f"memory of a step over {images} of that size, in float32: about {_bytes(sum(used.values()))} ({listed})"


def _bytes(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
