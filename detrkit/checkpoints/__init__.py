"""Checkpoints: one safetensors file each, written atomically, proved whole by a hash, never executed."""

from __future__ import annotations

from detrkit.checkpoints.detector import load, save_detector
from detrkit.checkpoints.storage import read, write

__all__ = ["load", "read", "save_detector", "write"]
