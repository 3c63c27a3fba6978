"""Checkpoints: one safetensors file each, written atomically, proved whole by a hash, never executed."""

from __future__ import annotations

from detrkit.checkpoints.detector import load, save_detector
from detrkit.checkpoints.fine_tuning import initialize_from
from detrkit.checkpoints.interchange import save_official, save_transformers
from detrkit.checkpoints.pretrained import load_pretrained, save_pretrained
from detrkit.checkpoints.report import LoadReport
from detrkit.checkpoints.storage import read, write

__all__ = [
    "LoadReport",
    "initialize_from",
    "load",
    "load_pretrained",
    "read",
    "save_detector",
    "save_official",
    "save_pretrained",
    "save_transformers",
    "write",
]
