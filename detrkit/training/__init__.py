"""Training: one process, plain PyTorch, resumable to the bit."""

from __future__ import annotations

from detrkit.training.loop import train

__all__ = ["train"]
