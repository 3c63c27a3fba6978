"""How exactly, and how repeatably, a step is computed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch


def autocast(device: torch.device, amp: str) -> AbstractContextManager[Any]:
    """For the forward pass alone: with ``bf16``, products are taken in bfloat16; weights and losses stay float32."""
    return torch.autocast(device.type, torch.bfloat16) if amp == "bf16" else nullcontext()


@contextmanager
def determinism(wanted: bool) -> Iterator[None]:
    """While this lasts, PyTorch uses only operations that repeat to the bit, and refuses others by name."""
    if not wanted:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read by cuBLAS when it starts
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]
