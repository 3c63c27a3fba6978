"""Everything that a resumed run needs to go on as if it had never stopped."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW

from detrkit.checkpoints.detector import fill, note_of
from detrkit.checkpoints.storage import read, write
from detrkit.errors import CheckpointError
from detrkit.model import Detector


def save_state(path: Path, model: Detector, optimizer: AdamW, progress: Mapping[str, Any]) -> None:
    """Write weights, optimizer, random state and progress in one file.

    Args:
        progress: plain values: step, best AP, length of the log, ...
    """
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for index, values in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{key}": torch.as_tensor(value) for key, value in values.items()}
    tensors["rng.cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["rng.cuda"] = torch.cuda.get_rng_state()
    note = {**note_of(model), "kind": "training", "environment": environment(), "progress": dict(progress)}
    write(path, tensors, note)


def environment() -> dict[str, Any]:
    """What bit-exactness depends on beside the configuration."""
    return {"torch": torch.__version__, "threads": torch.get_num_threads()}


def restore_state(path: Path, model: Detector, optimizer: AdamW) -> tuple[dict[str, Any], dict[str, Any]]:
    """The inverse of `save_state`; returns the progress and the environment in which it was made.

    Raises:
        CheckpointError: damaged, or not a state of training.
    """
    tensors, note = read(path)
    if note.get("kind") != "training":
        raise CheckpointError(
            "holds a detector but no state of training", path=path, field="kind", value=note.get("kind")
        )
    if note["label_space"] != model.label_space.to_json():
        raise CheckpointError(
            "the data's classes are not those of the run",
            path=path,
            field="label_space",
            value=str(list(model.label_space.names)),
            expected=str(note["label_space"]["names"]),
        )
    fill(model, _under("model.", tensors), path)
    saved: dict[int, dict[str, Tensor]] = {}
    for name, tensor in _under("optimizer.", tensors).items():
        index, key = name.split(".", 1)
        saved.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": saved, "param_groups": optimizer.state_dict()["param_groups"]})
    torch.set_rng_state(tensors["rng.cpu"])
    if "rng.cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["rng.cuda"])
    return note["progress"], note["environment"]


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
