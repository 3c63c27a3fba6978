"""What a run's numbers depend on, so that a run is taken for another only if it would have given the same ones."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch

import detrkit
from detrkit.config import DetectorConfig, TrainConfig
from detrkit.datasets import Dataset

Identity = dict[str, Any]

# Source that only asks for runs, reads their numbers or shows them: a better page must not cost the runs behind it.
OUTSIDE = (
    "ablation/",
    "checks/",
    "cli.py",
    "commands.py",
    "listing.py",
    "html.py",
    "html.css",
    "charts.py",
    "drawing.py",
)
INSIDE = ("ablation/runner.py", "ablation/recording.py", "ablation/instruments.py")


def identity(
    detector: DetectorConfig,
    train: TrainConfig,
    data: Dataset,
    val: Dataset | None,
    *,
    seconds: float | None,
    threads: int,
) -> Identity:
    """Everything that a run depends on, in plain JSON.

    Args:
        detector, train: resolved configurations.
        data, val: what they are trained and scored on.
        seconds: limit of the training time.
        threads: of PyTorch.
    """
    return {
        "detector": detector.to_dict(),
        "train": train.to_dict(),
        "seconds": seconds,
        "data": {"train": listing(data), "val": None if val is None else listing(val)},
        "detrkit": detrkit.__version__,
        "code": code(),
        "torch": torch.__version__,
        "threads": threads,
    }


def listing(data: Dataset) -> dict[str, Any]:
    """Classes, number and ids of the images of a split."""
    ids = [str(data.image_id(index)) for index in range(len(data))]
    return {"images": len(data), "ids": digest(ids), "classes": list(data.label_space.names)}


@cache
def code() -> str:
    """Digest of the source that runs depend on, whatever the version says."""
    package = Path(detrkit.__file__).parent
    texts = {path.relative_to(package).as_posix(): path.read_text() for path in sorted(package.rglob("*.py"))}
    return digest({name: text for name, text in texts.items() if name in INSIDE or not name.startswith(OUTSIDE)})


def digest(content: Any) -> str:
    """Short digest of plain content."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[str]:
    """What differs, as ``train.lr (0.1, now 0.2)``."""
    a, b = dict(_flat(one)), dict(_flat(other))
    for name in [*a, *(name for name in b if name not in a)]:
        if a.get(name) != b.get(name):
            yield f"{name} ({a.get(name)}, now {b.get(name)})"


def _flat(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in content.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
