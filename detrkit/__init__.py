"""detrkit: a zoo of interchangeable DETR parts. Pick parts by name, build a detector, prove that equal parts are equal.

Importing this imports no torch; `build`, `load` and `Detector` do when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from detrkit.config import DetectorConfig, TrainConfig
from detrkit.errors import DetrkitError
from detrkit.labels import LabelSpace
from detrkit.presets import config, presets, training_recipe
from detrkit.registry import REGISTRY
from detrkit.specs import Spec

if TYPE_CHECKING:
    from detrkit.checkpoints import load
    from detrkit.criterion import SetCriterion
    from detrkit.detections import Detections
    from detrkit.explanation import Explanation, explain
    from detrkit.model import Detector, build

__version__ = "0.1.0"

roles = REGISTRY.roles
names = REGISTRY.names
make = REGISTRY.make
register = REGISTRY.register
temporarily = REGISTRY.temporarily

__all__ = [
    "REGISTRY",
    "Detections",
    "Detector",
    "DetectorConfig",
    "DetrkitError",
    "Explanation",
    "LabelSpace",
    "SetCriterion",
    "Spec",
    "TrainConfig",
    "build",
    "config",
    "explain",
    "load",
    "make",
    "names",
    "presets",
    "register",
    "roles",
    "temporarily",
    "training_recipe",
]

_LAZY = {
    "Detections": "detrkit.detections",
    "Detector": "detrkit.model",
    "Explanation": "detrkit.explanation",
    "SetCriterion": "detrkit.criterion",
    "build": "detrkit.model",
    "explain": "detrkit.explanation",
    "load": "detrkit.checkpoints",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'detrkit' has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
