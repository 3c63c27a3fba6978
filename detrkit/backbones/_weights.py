"""Weight files of backbones: reading them safely, and loading them without leaving anything out."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from detrkit.errors import CheckpointError

WRAPPERS = ("state_dict", "model")
PREFIXES = ("module.", "_orig_mod.")


def load_weights(body: nn.Module, path: Path, names: Mapping[str, str], known: Collection[str]) -> None:
    """Load a file into ``body``; everything must be there and fit, and nothing foreign may be in the file.

    Args:
        body: the module to fill.
        path: .safetensors, or what ``torch.save`` writes.
        names: the name in the file of each entry of ``body`` that is to be filled.
        known: names that the file may hold besides, those of parts that ``body`` does not have.

    Raises:
        CheckpointError: not readable, or entries missing, foreign or of another shape; the first ones are named.
    """
    state = read_state(path)
    own = {key: tensor for key, tensor in body.state_dict().items() if key in names and not _is_counter(key)}
    wanted = {names[key] for key in own}
    faults = {
        "missing": [names[key] for key in own if names[key] not in state],
        "unexpected": [key for key in state if key not in wanted and key not in known and not _is_counter(key)],
        "misshapen": [
            f"{names[key]} {_shape(state[names[key]])} instead of {_shape(tensor)}"
            for key, tensor in own.items()
            if names[key] in state and state[names[key]].shape != tensor.shape
        ],
    }
    if any(faults.values()):
        raise CheckpointError(
            "the weights do not fit the model",
            path=path,
            hint="; ".join(
                f"{len(keys)} {fault}: {', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''}"
                for fault, keys in faults.items()
                if keys
            ),
        )
    body.load_state_dict({key: state[names[key]] for key in own}, strict=False)


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a weight file by name, without wrappers such as ``{"model": ...}`` and ``module.``.

    Raises:
        CheckpointError: missing, a directory, empty, damaged, not a weight file, or one that could run code.
    """
    _check_file(path)
    state = _unwrapped(_read(path))
    if (
        not isinstance(state, dict)
        or not state
        or not all(isinstance(key, str) and isinstance(tensor, Tensor) for key, tensor in state.items())
    ):
        raise CheckpointError("holds no weights", path=path, expected="names with their tensors")
    for prefix in PREFIXES:
        if all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): tensor for key, tensor in state.items()}
    return state


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise CheckpointError("is a directory", path=path, expected="a .pth, .pt or .safetensors file")
    if not path.is_file():
        raise CheckpointError("no such file", path=path)
    with path.open("rb") as file:
        start = file.read(256).lstrip()
    if not start:
        raise CheckpointError("the file is empty", path=path, hint="fetch it again")
    if start.startswith(b"<"):
        raise CheckpointError("is a web page and no weight file", path=path, hint="fetch the file itself")


def _read(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files make the readers raise almost anything
        if isinstance(error, UnpicklingError) and ("Unsupported" in str(error) or "GLOBAL" in str(error)):
            raise CheckpointError(
                "holds Python objects besides weights; refused, because reading them could run code",
                path=path,
                hint="save the state dict alone",
            ) from None
        raise CheckpointError("is no weight file, or a damaged one", path=path, hint="fetch it again") from error


def _unwrapped(state: Any) -> Any:
    for wrapper in WRAPPERS:
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            return _unwrapped(state[wrapper])
    return state


def _is_counter(key: str) -> bool:
    return key.endswith("num_batches_tracked")


def _shape(tensor: Tensor) -> str:
    return str(list(tensor.shape))
