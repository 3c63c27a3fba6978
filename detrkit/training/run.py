"""A run: its folder, its configurations, and how far it has come."""

from __future__ import annotations

import json
import platform
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

import detrkit
from detrkit.checkpoints.report import LoadReport
from detrkit.checkpoints.storage import replace_text
from detrkit.config import DetectorConfig, TrainConfig
from detrkit.datasets import Finding
from detrkit.errors import DetrkitError

FINDINGS = "findings.txt"
LOADED = "init_from.txt"


@dataclass
class Progress:
    """How far a run has come; saved with every checkpoint."""

    step: int = 0
    seconds: float = 0.0
    best_ap: float = -1.0
    log_length: int = 0
    surplus: int = 0


@dataclass
class Run:
    """A run: its folder, its two configurations, and where it stands."""

    folder: Path
    detector: DetectorConfig
    train: TrainConfig
    progress: Progress = field(default_factory=Progress)

    @property
    def last(self) -> Path:
        """The checkpoint to resume from."""
        return self.folder / "last.safetensors"

    @property
    def best(self) -> Path:
        """The detector with the highest AP on the validation split."""
        return self.folder / "best.safetensors"

    def save_config(self, findings: Sequence[Finding], loaded: LoadReport | None) -> None:
        """Write the resolved configuration, what ran it, what was wrong in the data, and what the run started from."""
        content = {
            "detector": self.detector.to_dict(),
            "train": self.train.to_dict(),
            "environment": {
                "detrkit": detrkit.__version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
                "threads": torch.get_num_threads(),
            },
        }
        replace_text(self.folder / "config.json", json.dumps(content, indent=2) + "\n")
        if findings:
            replace_text(self.folder / FINDINGS, "".join(f"{finding}\n" for finding in findings))
        if loaded is not None:
            replace_text(self.folder / LOADED, f"{loaded}\n\n{loaded.table()}\n")


class Stopped(DetrkitError):
    """A signal ended the run after a finished step and a saved checkpoint; ``exit_code`` is 128 plus its number."""

    def __init__(self, signum: int, run: Run) -> None:
        super().__init__(
            f"stopped by {signal.Signals(signum).name} after step {run.progress.step}",
            path=run.folder,
            hint=f"go on with: detrkit train --resume {run.folder}",
        )
        self.exit_code = 128 + signum  # type: ignore[misc]


def refuse_other_run(run: Run, resume: bool) -> None:
    """A folder holds one run: it is resumed, or left alone."""
    if resume and not run.last.exists():
        hint = "the run's last checkpoint is gone: choose another --out, or remove the folder"
        raise DetrkitError("nothing to resume", path=run.last, hint=hint if run.folder.exists() else "no run there")
    if run.folder.is_file():
        raise DetrkitError("is a file, not a folder", path=run.folder, hint="choose another --out")
    if not resume and (run.folder / "config.json").exists():
        raise DetrkitError(
            "the folder holds a run already",
            path=run.folder,
            hint=(f"go on with it: detrkit train --resume {run.folder}; or choose another --out"),
        )
