"""The official DETR checkpoints (``.pth``): read without executing anything, renamed, and built.

Nothing but tensors and the argument list of the official script (`argparse.Namespace`) is unpickled.
"""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from detrkit.config import DetectorConfig
from detrkit.errors import CheckpointError
from detrkit.labels import COCO_RAW, LabelSpace

if TYPE_CHECKING:
    from detrkit.model import Detector

ZIP, PICKLE = b"PK\x03\x04", b"\x80"
WRAPPERS = ("model", "state_dict", "module", "ema")
PREFIXES = ("module.", "_orig_mod.", "detr.")
RESNETS = {6: "resnet50", 23: "resnet101"}  # blocks of layer3
RENAMED = (
    (r"^backbone\.0\.body\.", "backbone.body."),
    (r"^transformer\.", ""),
    (r"^query_embed\.weight$", "queries.positions.weight"),
    (r"\.multihead_attn\.", ".cross_attn."),
    (r"\.(linear[12])\.", r".ffn.\1."),
    (r"^(encoder\.layers\.\d+|decoder\.layers\.\d+)\.norm1\.", r"\1.self_attn_residual.norm."),
    (r"^(encoder\.layers\.\d+)\.norm2\.", r"\1.ffn_residual.norm."),
    (r"^(decoder\.layers\.\d+)\.norm2\.", r"\1.cross_attn_residual.norm."),
    (r"^(decoder\.layers\.\d+)\.norm3\.", r"\1.ffn_residual.norm."),
)


def is_torch_file(path: Path) -> bool:
    """Whether a file begins as those that ``torch.save`` writes, now or in old versions, and claims no other kind."""
    if path.suffix == ".safetensors":
        return False
    with path.open("rb") as file:
        start = file.read(4)
    return start == ZIP or start[:1] == PICKLE


def our_name(name: str) -> str:
    """An entry's name in the official state dict -> in ours."""
    for pattern, replacement in RENAMED:
        name = re.sub(pattern, replacement, name)
    return name


def load_official(path: Path, *, dilation: bool | None = None) -> Detector:
    """A detector from an official DETR checkpoint; its classes are COCO's raw ids where there are 91.

    Args:
        path: the file.
        dilation: whether the trunk is a DC5 one, which the weights do not tell; None: as the file's own arguments say,
            else not.

    Raises:
        CheckpointError: damaged, holding more than tensors, or not a DETR with a ResNet-50 or ResNet-101.
    """
    from detrkit.checkpoints.detector import fill
    from detrkit.model import build

    content = _read(path)
    weights = {our_name(name): tensor for name, tensor in _state(content, path).items()}
    if dilation is None:
        dilation = bool(getattr(content.get("args"), "dilation", False))
    config = _config(weights, path, dilation)
    known = COCO_RAW if config.num_classes == len(COCO_RAW) else LabelSpace.numbered(config.num_classes)
    model = build(config, label_space=known)
    fill(model, weights, path)
    return model.eval()


def _read(path: Path) -> Mapping[str, Any]:
    try:
        with torch.serialization.safe_globals([Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise CheckpointError("cannot be read, or holds more than tensors", path=path, value=f"({reason})") from None
    if not isinstance(content, Mapping):
        raise CheckpointError("holds no state dict", path=path, value=type(content).__name__, expected="{'model': ...}")
    return content


def _state(content: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint, freed of wrappers and prefixes."""
    while isinstance(inner := next((content[key] for key in WRAPPERS if key in content), None), Mapping):
        content = inner
    state = {name: tensor for name, tensor in content.items() if isinstance(tensor, Tensor)}
    for prefix in PREFIXES:
        if state and all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    if not state:
        raise CheckpointError("holds no tensors", path=path, expected="{'model': {name: tensor}}")
    return state


def _config(weights: Mapping[str, Tensor], path: Path, dilation: bool) -> DetectorConfig:
    """The configuration whose sizes the tensors show; the rest is as published."""
    needed = ("queries.positions.weight", "class_embed.weight", "decoder.layers.0.ffn.linear1.weight")
    blocks = _count(weights, r"backbone\.body\.layer3\.(\d+)\.")
    if missing := [name for name in needed if name not in weights]:
        raise CheckpointError("not an official DETR", path=path, value=f"(no entry {missing[0]!r})")
    if blocks not in RESNETS:
        raise CheckpointError(
            "not a DETR with a ResNet-50 or ResNet-101", path=path, value=f"({blocks} blocks in layer3)"
        )
    settings = f"model='{RESNETS[blocks]}', trainable_levels=3" + (", dilation=True" if dilation else "")
    queries, width = weights[needed[0]].shape
    return DetectorConfig(
        backbone=f"torchvision({settings})",
        d_model=width,
        num_queries=queries,
        num_classes=len(weights["class_embed.weight"]) - 1,
        enc_layers=_count(weights, r"encoder\.layers\.(\d+)\."),
        dec_layers=_count(weights, r"decoder\.layers\.(\d+)\."),
        dim_feedforward=len(weights[needed[2]]),
        pre_norm="encoder.norm.weight" in weights,
    )


def _count(weights: Mapping[str, Tensor], pattern: str) -> int:
    """One more than the highest number that the pattern finds in the names."""
    return 1 + max((int(found[1]) for name in weights if (found := re.match(pattern, name))), default=-1)
