"""Training: plain PyTorch, in one process or in several as one, resumable to the bit."""

from __future__ import annotations

from detrkit.training.loop import train

__all__ = ["train"]
