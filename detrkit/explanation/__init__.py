"""Explanations: what a detector looked at, layer by layer, as arrays, figures, and a page to explore."""

from __future__ import annotations

from detrkit.explanation.explanation import Explanation, explain
from detrkit.explanation.overlay import attention_sheet, overlay
from detrkit.explanation.sight import Sight

__all__ = ["Explanation", "Sight", "attention_sheet", "explain", "overlay"]
