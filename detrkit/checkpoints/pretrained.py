"""A detector as a folder to publish: a readable ``config.json`` and ``model.safetensors``, bound by a hash."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detrkit.checkpoints.detector import note_of, rebuild
from detrkit.checkpoints.storage import FORMAT, read, replace_text, stated_hash, write
from detrkit.errors import CheckpointError

if TYPE_CHECKING:
    from detrkit.model import Detector

CONFIG, WEIGHTS = "config.json", "model.safetensors"


def save_pretrained(model: Detector, folder: str | Path) -> None:
    """Write ``config.json`` (configuration, label space, hash of the weights) and ``model.safetensors``.

    Raises:
        WriteError: the folder cannot be written.
    """
    digest = write(Path(folder) / WEIGHTS, model.state_dict(), {"kind": "pretrained"})
    content = {"format": FORMAT, "sha256": digest, **note_of(model)}
    replace_text(Path(folder) / CONFIG, json.dumps(content, indent=2) + "\n")


def is_pretrained(folder: Path) -> bool:
    """Whether a folder holds what `save_pretrained` writes."""
    return _config(folder).get("format") == FORMAT


def load_pretrained(folder: str | Path) -> Detector:
    """The detector of a folder that `save_pretrained` wrote, in evaluation mode.

    Raises:
        CheckpointError: something is missing, damaged, or of another save.
    """
    folder = Path(folder)
    content, (tensors, _) = _config(folder), read(folder / WEIGHTS)
    stated = stated_hash(folder / WEIGHTS)
    if content.get("format") != FORMAT:
        raise CheckpointError(
            "no detector of detrkit", path=folder / CONFIG, field="format", value=content.get("format"), expected=FORMAT
        )
    if content.get("sha256") != stated:
        raise CheckpointError(
            f"{WEIGHTS} beside it is of another save",
            path=folder / CONFIG,
            field="sha256",
            value=content.get("sha256"),
            expected=stated,
        )
    return rebuild(content, tensors, folder / WEIGHTS)


def _config(folder: Path) -> dict[str, Any]:
    try:
        content = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
