"""Detectors written for other libraries."""

from __future__ import annotations

import io
import json
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from detrkit.checkpoints.foreign import SAFETENSORS, TORCH
from detrkit.checkpoints.layouts import Chosen, express, layouts
from detrkit.checkpoints.layouts.transformers import LAYOUT as TRANSFORMERS
from detrkit.checkpoints.layouts.transformers import files, spelling
from detrkit.checkpoints.storage import replace_bytes, replace_text, serialized

if TYPE_CHECKING:
    from detrkit.model import Detector


def save_official(model: Detector, path: str | Path) -> None:
    """Write a detector as an official DETR checkpoint (``.pth``), or in the layout of the paper's demo if it is one.

    The file holds ``model``, the state dict in the official names and order, and ``args``, plain values by the names of
    the official script's arguments, of what tensors do not show (heads, dilation, losses). Class names have no place
    in it.

    Raises:
        CheckpointError: no such layout can express the model; names the first field that keeps it from doing so.
        WriteError: the disk is full or the folder cannot be written.
    """
    path = Path(path)
    candidates = [
        Chosen(layout, spelling)
        for layout in layouts()
        if TORCH in layout.kinds and layout.writes
        for spelling in layout.spellings
    ]
    chosen, state = express(model, candidates, path)
    buffer = io.BytesIO()
    plain = OrderedDict((name, tensor.detach().cpu().contiguous()) for name, tensor in state.items())
    torch.save({"model": plain, "args": chosen.layout.told(model.config)}, buffer)
    replace_bytes(path, buffer.getvalue())


def save_transformers(
    model: Detector, folder: str | Path, *, names: Literal["v4", "v5"] = "v4", trunk: Literal["timm", "resnet"] = "timm"
) -> None:
    """Write a detector as a folder that ``DetrForObjectDetection.from_pretrained`` of transformers reads.

    A pre-norm detector becomes a ``TableTransformerForObjectDetection``. ``auxiliary_loss`` is false whatever
    `aux_loss` is: with true, transformers computes another network. Its logits and boxes are those of our last layer.

    Args:
        model: a DETR with a plain ResNet.
        folder: made where it does not exist.
        names: of entries: those of transformers 4, which version 5 writes too and reads; or those that version 5 has
            in memory. Of a pre-norm detector both are the same.
        trunk: whether its backbone comes from timm or is the ResNet of transformers itself, which cannot be dilated.

    Raises:
        CheckpointError: transformers cannot express the model; names the field.
        WriteError: the disk is full or the folder cannot be written.
    """
    folder = Path(folder)
    chosen, state = express(model, [Chosen(TRANSFORMERS, spelling(model.config, names, trunk))], folder)
    replace_bytes(folder / SAFETENSORS, serialized(state, {"format": "pt"}))
    for name, content in files(model, chosen.layout.told(model.config), trunk).items():
        replace_text(folder / name, json.dumps(content, indent=2) + "\n")
