"""Foreign checkpoints as they lie on the disk: torch files and folders of transformers, nothing in them executed.

What the tensors mean is the matter of `detrkit.checkpoints.layouts`.
"""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from detrkit.errors import CheckpointError

ZIP, PICKLE = b"PK\x03\x04", b"\x80"
WRAPPERS = ("ema", "model", "state_dict", "module")  # averaged weights, where both are there, are those published
PREFIXES = ("module.", "_orig_mod.", "detr.")
BESIDE_PREFIX = ("mask_head.", "bbox_attention.")  # a panoptic DETR holds a whole DETR and these
TORCH = "torch"
CONFIG, PREPROCESSING, SAFETENSORS = "config.json", "preprocessor_config.json", "model.safetensors"
WEIGHTS = (SAFETENSORS, f"{SAFETENSORS}.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")


@dataclass(frozen=True)
class Foreign:
    """What a foreign file or folder holds.

    Attributes:
        path: the file or folder.
        kind: ``torch`` for a torch file; for a folder of transformers its ``model_type``.
        tensors: by name, freed of wrappers and prefixes.
        sources: the full name in the file of each of them.
        told: what it says beside tensors: the official script's arguments, or ``config.json``.
        preprocessing: ``preprocessor_config.json``, where there is one.
        others: names of entries of the state dict that are no tensors.
    """

    path: Path
    kind: str
    tensors: Mapping[str, Tensor]
    sources: Mapping[str, str]
    told: Mapping[str, Any] = field(default_factory=dict)
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    others: tuple[str, ...] = ()


def is_torch_file(path: Path) -> bool:
    """Whether a file begins as those that ``torch.save`` writes, now or in old versions, and claims no other kind."""
    if path.suffix == ".safetensors" or not path.is_file():
        return False
    with path.open("rb") as file:
        start = file.read(4)
    return start == ZIP or start[:1] == PICKLE


def is_transformers_folder(path: Path) -> bool:
    """Whether a folder holds weights under one of the names that transformers gives them."""
    return any((path / name).is_file() for name in WEIGHTS)


def read_torch(path: Path) -> Foreign:
    """A torch file, freed of wrappers such as ``{"model": ...}`` and prefixes such as ``module.``.

    Nothing but tensors and an argument list (`argparse.Namespace`) is unpickled.

    Raises:
        CheckpointError: damaged, or holding more than that, or no tensors.
    """
    content = _unpickled(path)
    arguments = content.get("args", {})
    told = vars(arguments) if isinstance(arguments, Namespace) else arguments
    for _ in WRAPPERS:
        inner = next((content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)), None)
        content = content if inner is None else inner
    tensors = _tensors(content)
    if not tensors:
        raise CheckpointError("holds no tensors", path=path, expected="{'model': {name: tensor}}")
    bare = bare_names(tensors)
    return Foreign(
        path,
        TORCH,
        {short: tensors[name] for short, name in bare.items()},
        bare,
        told if isinstance(told, Mapping) else {},
        others=tuple(str(name) for name in content if name not in tensors),
    )


def read_folder(path: Path) -> Foreign:
    """A folder as ``save_pretrained`` of transformers writes it.

    Raises:
        CheckpointError: a file is missing or damaged.
    """
    told = read_json(path / CONFIG)
    kind = told.get("model_type")
    if not isinstance(kind, str):
        raise CheckpointError("says no model type", path=path / CONFIG, field="model_type", value=kind, expected="text")
    preprocessing = read_json(path / PREPROCESSING) if (path / PREPROCESSING).exists() else {}
    tensors = _weights(path)
    bare = bare_names(tensors)
    return Foreign(path, kind, {short: tensors[name] for short, name in bare.items()}, bare, told, preprocessing)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        CheckpointError: missing, not JSON, or JSON of another kind.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError("is missing", path=path) from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError("is no JSON", path=path, value=f"({error})") from None
    if not isinstance(content, dict):
        raise CheckpointError("is no table of fields", path=path, value=type(content).__name__, expected="{...}")
    return content


def bare_names(names: Mapping[str, Any]) -> dict[str, str]:
    """Names without a prefix that all of them share -> the full names."""
    bare = {name: name for name in names}
    for prefix in PREFIXES:
        held = [name for name in bare if not name.startswith(BESIDE_PREFIX)]
        if held and all(name.startswith(prefix) for name in held):
            bare = {name.removeprefix(prefix): full for name, full in bare.items()}
    return bare


def _tensors(content: Mapping[Any, Any]) -> dict[str, Tensor]:
    return {name: item for name, item in content.items() if isinstance(name, str) and isinstance(item, Tensor)}


def _unpickled(path: Path) -> Mapping[Any, Any]:
    try:
        with torch.serialization.safe_globals([Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files make the reader raise almost anything
        reason = " ".join(str(error).split())[:160]
        raise CheckpointError("cannot be read, or holds more than tensors", path=path, value=f"({reason})") from None
    if not isinstance(content, Mapping):
        raise CheckpointError("holds no state dict", path=path, value=type(content).__name__, expected="{'model': ...}")
    return content


def _weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder; of one file, or of the shards that an index names."""
    name = next((name for name in WEIGHTS if (folder / name).is_file()), None)
    if name is None:
        raise CheckpointError("holds no weights", path=folder, expected=" or ".join(WEIGHTS))
    if not name.endswith(".index.json"):
        return _read_shard(folder / name)
    index = folder / name
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(shard, str) for shard in places.values()):
        raise CheckpointError("says not where the tensors are", path=index, field="weight_map", expected="{name: file}")
    tensors: dict[str, Tensor] = {}
    for shard in _shards(index, places):
        found = _read_shard(shard)
        if absent := [name for name, place in places.items() if place == shard.name and name not in found]:
            raise CheckpointError("lacks a tensor that the index names", path=shard, field=absent[0])
        tensors |= found
    return tensors


def _shards(index: Path, places: Mapping[str, str]) -> Iterator[Path]:
    """The files beside an index that it names, none elsewhere."""
    for shard in sorted(set(places.values())):
        if Path(shard).name != shard or "\\" in shard or shard in (".", ".."):
            raise CheckpointError("names a file elsewhere", path=index, field="weight_map", value=shard)
        if not (index.parent / shard).is_file():
            raise CheckpointError("names a file that is missing", path=index, field="weight_map", value=shard)
        yield index.parent / shard


def _read_shard(path: Path) -> dict[str, Tensor]:
    if path.suffix != ".safetensors":
        return _tensors(_unpickled(path))
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except Exception as error:  # a truncated or foreign file
        reason = " ".join(str(error).split())[:160]
        raise CheckpointError("not safetensors, or truncated", path=path, value=f"({reason})") from None
