"""Explanations: what each query looked at."""

from __future__ import annotations

from detrkit.explain.attention import cross_attention, record_weights
from detrkit.explain.overlay import attention_sheet, overlay

__all__ = ["attention_sheet", "cross_attention", "overlay", "record_weights"]
