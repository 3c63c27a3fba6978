"""Everything that a resumed run needs to go on as if it had never stopped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW

from detrkit.checkpoints.detector import fill, note_of
from detrkit.checkpoints.storage import read, write
from detrkit.errors import CheckpointError
from detrkit.model import Detector
from detrkit.training.ema import Average

RandomState = dict[str, Tensor]


def random_state() -> RandomState:
    """State of this process's random numbers, by kind of device."""
    cuda = {"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {}
    return {"cpu": torch.get_rng_state(), **cuda}


def save_state(
    path: Path,
    model: Detector,
    optimizer: AdamW,
    progress: Mapping[str, Any],
    random: Sequence[RandomState],
    average: Average | None = None,
) -> None:
    """Write weights, averaged weights, optimizer, random states and progress in one file.

    Args:
        path: the file.
        model: its own weights are written, not the averaged ones.
        optimizer: of the model.
        progress: plain values: step, best AP, length of the log, ...
        random: of each process, by rank.
        average: of the weights, where there is one.
    """
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    if average is not None:
        tensors |= {f"average.{name}": tensor for name, tensor in average.state.items()}
    for index, values in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{key}": torch.as_tensor(value) for key, value in values.items()}
    for rank, state in enumerate(random):
        tensors |= {f"random.{rank}.{kind}": value for kind, value in state.items()}
    note = {**note_of(model), "kind": "training", "environment": environment(len(random)), "progress": dict(progress)}
    write(path, tensors, note)


def environment(processes: int) -> dict[str, Any]:
    """What bit-exactness depends on beside the configuration."""
    return {"torch": torch.__version__, "threads": torch.get_num_threads(), "processes": processes}


def restore_state(
    path: Path, model: Detector, optimizer: AdamW, average: Average | None = None, rank: int = 0
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The inverse of `save_state` in a process; returns the progress and the environment in which it was made.

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
    if average is not None:
        average.restore(_under("average.", tensors))
    saved: dict[int, dict[str, Tensor]] = {}
    for name, tensor in _under("optimizer.", tensors).items():
        index, key = name.split(".", 1)
        saved.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": saved, "param_groups": optimizer.state_dict()["param_groups"]})
    random = _under(f"random.{rank}.", tensors)
    if "cpu" in random:
        torch.set_rng_state(random["cpu"])
    if "cuda" in random and torch.cuda.is_available():
        torch.cuda.set_rng_state(random["cuda"])
    return note["progress"], note["environment"]


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
