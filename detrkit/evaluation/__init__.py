"""Evaluation: COCO average precision of a detector on a data set."""

from __future__ import annotations

from detrkit.evaluation.coco import METRICS, CocoEvaluation, evaluate

__all__ = ["METRICS", "CocoEvaluation", "evaluate"]
