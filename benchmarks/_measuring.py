"""What the speed tables share: the machine's description, and rivals timed in turn."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any


def machine(*packages: str, **more: Any) -> dict[str, Any]:
    """What the numbers were measured on, with the versions of these packages."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "date": date.today().isoformat(),
        "cpu": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
        **more,
    }


def interleaved(rivals: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Wall seconds of each rival, each round running all of them in turn, after one round that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in rivals}
    for counted in range(rounds + 1):
        for name, run in rivals.items():
            start = time.perf_counter()
            run()
            if counted:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Median of the rounds' own ratios, so that a slow spell of the machine counts for both."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def write_results(path: Path | None, **content: Any) -> None:
    """Keep the table as JSON, where a path is given."""
    if path:
        path.write_text(json.dumps(content, indent=2) + "\n")
