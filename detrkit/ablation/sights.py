"""What the detectors of a study look at: explorer pages of their best and worst images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import detrkit
from detrkit.ablation.identity import digest
from detrkit.ablation.runner import Job
from detrkit.config import TrainConfig
from detrkit.evaluation.images import judge
from detrkit.explanation.extremes import FOLDER, save_extremes
from detrkit.training.splits import make_data

SIGHTS = "sights"


def save_sights(jobs: Sequence[Job], folder: Path) -> dict[str, dict[str, str]]:
    """Write pages of each variant's run with the first seed, unless they are there already.

    Args:
        jobs: runs that have ended.
        folder: of the study.

    Returns:
        By variant, paths below the folder by ``worst`` and ``best``; nothing for a run that left no detector, and no
        page where there is no such image.
    """
    first = {job.variant: job for job in reversed(jobs)}
    return {variant: _pages(job, folder) for variant, job in first.items()}


def _pages(job: Job, folder: Path) -> dict[str, str]:
    place = folder / SIGHTS / digest(job.identity)
    if not (place / FOLDER).exists() and job.result()["failure"] is None:
        train = TrainConfig(**job.identity["train"])
        model, data = detrkit.load(job.folder), make_data(train, train.val_split)
        save_extremes(
            place, model, data, judge(model, data, threshold=0.5, batch_size=8), of=f"{job.variant}, seed {job.seed}"
        )
    return {page.stem: page.relative_to(folder).as_posix() for page in sorted((place / FOLDER).glob("*.html"))}
