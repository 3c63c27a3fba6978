"""Detectors written for other libraries."""

from __future__ import annotations

import io
import json
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import torch

from detrkit.checkpoints.foreign import SAFETENSORS, TORCH
from detrkit.checkpoints.layouts import express, layouts, layouts_of
from detrkit.checkpoints.layouts._hub import Hub
from detrkit.checkpoints.storage import replace_bytes, replace_text, serialized
from detrkit.errors import CheckpointError, nearest

if TYPE_CHECKING:
    from detrkit.model import Detector

HubNames = Literal["v4", "v5"]
HubTrunk = Literal["timm", "resnet"]


def save_official(model: Detector, path: str | Path) -> None:
    """Write a detector as a checkpoint of its paper's official code (``.pth``), or of DETR's demo if it is one.

    The file holds ``model``, the state dict in the official names, and ``args``, plain values by the names of
    the official script's arguments, of what tensors do not show (heads, dilation, losses). Class names have no place
    in it.

    Raises:
        CheckpointError: no such layout can express the model; names the first field that keeps it from doing so.
        WriteError: the disk is full or the folder cannot be written.
    """
    path = Path(path)
    _, state, told = express(model, {layout: layout.spellings for layout in layouts_of(TORCH)}, path)
    buffer = io.BytesIO()
    plain = OrderedDict((name, tensor.detach().cpu().contiguous()) for name, tensor in state.items())
    torch.save({"model": plain, "args": told}, buffer)
    replace_bytes(path, buffer.getvalue())


def save_transformers(model: Detector, folder: str | Path, *, names: HubNames = "v4", trunk: HubTrunk = "timm") -> None:
    """Write a detector as a folder that ``AutoModelForObjectDetection.from_pretrained`` of transformers reads.

    It becomes a ``DetrForObjectDetection``, or the class of that descendant of DETR which it is; a pre-norm DETR, a
    ``TableTransformerForObjectDetection``. Where transformers computes another network with ``auxiliary_loss``, that is
    false whatever `aux_loss` is. Its logits and boxes are those of our last layer.

    Args:
        model: a DETR, Conditional DETR, DAB-DETR or Deformable DETR with a plain ResNet.
        folder: made where it does not exist.
        names: of entries: those of transformers 4, which version 5 writes too and reads; or those that version 5 has
            in memory. Of some models both are the same.
        trunk: whether its backbone comes from timm or is the ResNet of transformers itself, which cannot be dilated.

    Raises:
        CheckpointError: transformers cannot express the model; names the field.
        WriteError: the disk is full or the folder cannot be written.
    """
    folder = Path(folder)
    for field, value, known in (("names", names, get_args(HubNames)), ("trunk", trunk, get_args(HubTrunk))):
        if value not in known:
            raise CheckpointError("unknown spelling", field=field, value=value, hint=nearest(value, known))
    hubs = [layout for layout in layouts() if isinstance(layout, Hub)]
    chosen, state, told = express(model, {hub: hub.written(names, trunk) for hub in hubs}, folder)
    replace_bytes(folder / SAFETENSORS, serialized(state, {"format": "pt"}))
    for name, content in chosen.layout.files(model, told, chosen.spelling).items():
        replace_text(folder / name, json.dumps(content, indent=2) + "\n")
