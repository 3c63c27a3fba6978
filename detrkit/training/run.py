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
from detrkit.errors import DetrkitError

FINDINGS = "findings.txt"
LOADED = "init_from.txt"
REASONS = "reasons.txt"


@dataclass
class Progress:
    """How far a run has come; saved with every checkpoint.

    Attributes:
        step: optimizer steps done.
        window: images a step; with it, the step tells the place in the data.
        seconds: time spent on steps.
        best_ap: highest AP so far.
        stale: evaluations since then.
        log_length: bytes of the log.
        surplus: objects without a query in this epoch.
        unreadable: images left out in this epoch.
        left_out: what was wrong with the images that were left out, each once.
    """

    step: int = 0
    window: int = 0
    seconds: float = 0.0
    best_ap: float = -1.0
    stale: int = 0
    log_length: int = 0
    surplus: int = 0
    unreadable: int = 0
    left_out: list[str] = field(default_factory=list)

    def add(self, surplus: int, left_out: Sequence[str]) -> None:
        """Take in what a window had too much, and what was wrong with the images that it lacks."""
        self.surplus += surplus
        self.unreadable += len(left_out)
        self.left_out += [line for line in dict.fromkeys(left_out) if line not in self.left_out]


@dataclass
class Run:
    """A run: its folder, its two configurations, where it stands, and why it is configured so."""

    folder: Path
    detector: DetectorConfig
    train: TrainConfig
    progress: Progress = field(default_factory=Progress)
    reasons: tuple[str, ...] = ()

    @property
    def last(self) -> Path:
        """The checkpoint to resume from."""
        return self.folder / "last.safetensors"

    @property
    def log(self) -> Path:
        """The numbers of every step and evaluation."""
        return self.folder / "metrics.jsonl"

    @property
    def best(self) -> Path:
        """The detector with the highest AP on the validation split, or, where nothing is scored, the averaged one."""
        return self.folder / "best.safetensors"

    def save_config(self, findings: Sequence[str], loaded: LoadReport | None) -> None:
        """Write what was wrong in the data, what the run started from, the reasons, and, last, the configuration.

        A folder with a configuration is one that can be resumed: the checkpoint stands there already.
        """
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
        self.save_findings(findings)
        if self.reasons:
            replace_text(self.folder / REASONS, "".join(f"{reason}\n" for reason in self.reasons))
        if loaded is not None:
            replace_text(self.folder / LOADED, f"{loaded}\n\n{loaded.table()}\n")
        replace_text(self.folder / "config.json", json.dumps(content, indent=2) + "\n")

    def save_findings(self, findings: Sequence[str]) -> None:
        """Write what was wrong in the data, a line each; no file where nothing was."""
        if findings:
            replace_text(self.folder / FINDINGS, "".join(f"{finding}\n" for finding in findings))

    def remove_leftovers(self) -> None:
        """Remove what a run leaves that is killed while it writes a file."""
        for path in self.folder.glob(".*.safetensors.*"):
            path.unlink(missing_ok=True)


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
