"""Evaluation: a detector scored on a data set, and what kinds of errors it makes."""

from __future__ import annotations

from detrkit.evaluation.driver import collect, evaluate

__all__ = ["collect", "evaluate"]
