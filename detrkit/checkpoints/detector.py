"""Detectors to and from files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from detrkit.checkpoints.foreign import CONFIG, WEIGHTS, is_torch_file, is_transformers_folder, read_folder, read_torch
from detrkit.checkpoints.layouts import load_foreign, with_dilation
from detrkit.checkpoints.report import Entry, LoadReport
from detrkit.checkpoints.storage import read, write
from detrkit.config import DetectorConfig
from detrkit.errors import CheckpointError
from detrkit.labels import LabelSpace

if TYPE_CHECKING:
    from detrkit.model import Detector

CANDIDATES = ("best.safetensors", "last.safetensors")


def note_of(model: Detector) -> dict[str, Any]:
    """What a checkpoint says about its model, in plain JSON."""
    return {"kind": "detector", "detector": model.config.to_dict(), "label_space": model.label_space.to_json()}


def save_detector(model: Detector, path: str | Path) -> None:
    """Write a detector: weights, configuration and label space in one file."""
    write(path, {f"model.{name}": tensor for name, tensor in model.state_dict().items()}, note_of(model))


def find(path: str | Path) -> Path:
    """The checkpoint meant by a path: a file, the best (else the last) of a run's folder, a folder of transformers.

    Raises:
        CheckpointError: nothing is there, or the folder holds no checkpoint.
    """
    path = Path(path)
    if not path.exists():
        raise CheckpointError("no such run or checkpoint", path=path)
    if path.is_file():
        return path.parent if path.name in WEIGHTS and (path.parent / CONFIG).is_file() else path
    for name in CANDIDATES:
        if (path / name).exists():
            return path / name
    if is_transformers_folder(path):
        return path
    raise CheckpointError(
        "the folder holds no checkpoint", path=path, expected=f"{' or '.join(CANDIDATES)}, or a model of transformers"
    )


def load(path: str | Path, *, dilation: bool | None = None, **changes: Any) -> Detector:
    """A detector in evaluation mode, its origin told by the file itself.

    - a run's folder (its best checkpoint, else its last) or one checkpoint of detrkit, which holds all weights: the
      trunk's own ``weights=`` file is not needed;
    - a folder that `Detector.save_pretrained` wrote;
    - an official DETR checkpoint (``.pth``), or one of the paper's demo;
    - a folder of transformers with ``config.json`` and ``model.safetensors``. See `detrkit.checkpoints.layouts`.

    What became of each tensor is in the detector's attribute ``loaded``.

    Args:
        path: folder or file.
        dilation: for ``.pth`` files, whether the trunk is a DC5 one; None: as the file's own arguments say.
        changes: fields of the configuration to change, on which no tensor depends: ``padding_exact=True``,
            ``encoder_attention="per_head"``, ``selection="topk"``.

    Raises:
        CheckpointError: missing, damaged, foreign, or not fitting its own configuration, or not with these changes.
        ConfigError: changes that are wrong.
    """
    model = _load(path, dilation)
    return _changed(model, changes) if changes else model


def _load(path: str | Path, dilation: bool | None) -> Detector:
    file = find(path)
    if is_torch_file(file):
        return load_foreign(with_dilation(read_torch(file), dilation))
    if dilation is not None:
        raise CheckpointError(
            "says itself whether its trunk is dilated", path=file, field="dilation", value=dilation, hint="leave it out"
        )
    if file.is_file():
        return _load_own(file)
    from detrkit.checkpoints.pretrained import is_pretrained, load_pretrained

    return load_pretrained(file) if is_pretrained(file) else load_foreign(read_folder(file))


def _changed(model: Detector, changes: dict[str, Any]) -> Detector:
    """The same weights under another configuration."""
    from detrkit.model import build

    config = model.config.replace(**changes)
    start = config.replace(backbone=without_weights(config.backbone))
    changed = build(start, label_space=model.label_space, init_from=model)
    if changed.loaded and (partial := changed.loaded.partial):
        raise CheckpointError(
            "its weights do not fit with these changes",
            path=model.loaded.source if model.loaded else None,
            value=f"({', '.join(f'{name}={value}' for name, value in changes.items())})",
            hint=f"{partial[0].name or partial[0].source} would be {partial[0].action}; use build(..., init_from=...)",
        )
    changed.config, changed.loaded = config, model.loaded
    return changed.eval()


def _load_own(file: Path) -> Detector:
    tensors, note = read(file)
    if note.get("kind") not in ("detector", "training"):
        raise CheckpointError("holds no detector", path=file, field="kind", value=note.get("kind"))
    weights = {name.removeprefix("model."): t for name, t in tensors.items() if name.startswith("model.")}
    return rebuild(note, weights, file)


def rebuild(note: dict[str, Any], weights: dict[str, Tensor], path: Path) -> Detector:
    """Build the detector that a note describes and fill it."""
    from detrkit.model import build

    try:
        config, label_space = DetectorConfig(**note["detector"]), LabelSpace.from_json(note["label_space"])
    except (KeyError, TypeError) as error:
        raise CheckpointError("describes no detector of this version", path=path, value=f"({error})") from None
    model = build(config.replace(backbone=without_weights(config.backbone)), label_space=label_space)
    fill(model, weights, path)
    model.config = config
    model.loaded = LoadReport(str(path), "detrkit", tuple(Entry("loaded", name, name) for name in weights))
    return model.eval()


def fill(model: Detector, weights: dict[str, Tensor], path: Path) -> None:
    """Load weights strictly, with one line for what does not fit."""
    try:
        model.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        lines = " ".join(str(error).split())
        raise CheckpointError("weights do not fit the model", path=path, value=f"({lines[:400]})") from None


def without_weights(spec: str) -> str:
    """A backbone's spec that starts from random weights, since a checkpoint brings them all."""
    from detrkit.specs import Spec

    parsed = Spec.parse(spec)
    settings = {name: value for name, value in parsed.settings.items() if name != "weights"}
    return str(Spec(parsed.name, settings))
