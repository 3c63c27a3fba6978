"""One file: named tensors and a JSON note, atomic to write, hashed, and nothing in it is ever executed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from detrkit.errors import CheckpointError, WriteError

FORMAT = "detrkit-1"


def write(path: str | Path, tensors: Mapping[str, Tensor], note: Mapping[str, Any]) -> str:
    """Write tensors and a note, so that the file at ``path`` is at every moment either the old one or the new one.

    Returns:
        The hash of the contents, see `stated_hash`.

    Raises:
        WriteError: the disk is full or the folder cannot be written; the old file is intact, nothing is left over.
    """
    path = Path(path)
    plain, text = _plain(tensors), json.dumps(note)
    digest = _digest(plain, text)
    replace_bytes(path, save(plain, {"format": FORMAT, "note": text, "sha256": digest}))
    return digest


def read(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and note of a file, checked against its hash.

    Raises:
        CheckpointError: missing, truncated, damaged, or not a checkpoint of detrkit.
    """
    path = Path(path)
    if path.is_dir() or not path.exists():
        raise CheckpointError("is a folder, not a checkpoint" if path.is_dir() else "no such checkpoint", path=path)
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            "not a checkpoint of detrkit, or a truncated one",
            path=path,
            value=f"({error})",
            expected="a .safetensors file that a run wrote",
        ) from None
    if header.get("format") != FORMAT:
        raise CheckpointError(
            "safetensors, but not of detrkit", path=path, field="format", value=header.get("format"), expected=FORMAT
        )
    if header.get("sha256") != _digest(tensors, header.get("note", "")):
        raise CheckpointError(
            "damaged: its contents do not have the hash that it states",
            path=path,
            hint="use an older checkpoint or copy the file again",
        )
    return tensors, json.loads(header["note"])


def stated_hash(path: Path) -> str | None:
    """The hash that a file states of its contents; `read` holds the contents against it."""
    with safe_open(path, framework="pt") as file:
        return (file.metadata() or {}).get("sha256")


def _digest(tensors: Mapping[str, Tensor], note: str) -> str:
    digest = hashlib.sha256(note.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def serialized(tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> bytes:
    """Content of a safetensors file."""
    return save(_plain(tensors), dict(header))


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous tensors on the CPU; those that share memory stand each by itself, as safetensors asks."""
    seen: set[int] = set()
    out = {}
    for name, given in tensors.items():
        tensor = given.detach().cpu().contiguous()
        address = tensor.untyped_storage().data_ptr()
        out[name] = tensor.clone() if address in seen else tensor
        seen.add(address)
    return out


def replace_text(path: str | Path, text: str) -> None:
    """Write a text file the same atomic way."""
    replace_bytes(Path(path), text.encode())


def replace_bytes(path: Path, data: bytes) -> None:
    """Write a file the same atomic way.

    Raises:
        WriteError: the disk is full or the folder cannot be written; the old file is intact, nothing is left over.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise WriteError(
            f"cannot write {len(data)} bytes",
            path=path,
            value=f"({error.strerror or error})",
            hint=("the old file is intact; free some space or choose another folder"),
        ) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
