"""The runs of a study: prepared and checked together, trained one by one or side by side, never twice.

A run is an ordinary one, in ``runs/VARIANT/seed-N`` of the study, or in a store that studies share, under a digest of
all that it depends on: there, what one study has trained, another one finds. Beside its files lie ``identity.json``,
what it depends on, written before it starts, and ``result.json``, written when it has ended.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import detrkit
from detrkit.ablation.costs import using_threads
from detrkit.ablation.identity import Identity, differences, digest, identity
from detrkit.ablation.recording import KIND, Recorder, dynamics
from detrkit.ablation.study import Study
from detrkit.checkpoints.storage import replace_text
from detrkit.config import DetectorConfig, TrainConfig
from detrkit.datasets import Dataset
from detrkit.errors import ConfigError, DetrkitError, NonFiniteError
from detrkit.training.log import read_log
from detrkit.training.loop import Trainer, check
from detrkit.training.run import Stopped
from detrkit.training.signals import noticing_signals

IDENTITY, RESULT, SAID = "identity.json", "result.json", "said.txt"
STOPPED = (130, 143)

Say = Callable[[str], object]


@dataclass(frozen=True)
class Job:
    """A run of a study.

    Attributes:
        variant: its name.
        seed: of the run.
        folder: where it lies.
        identity: what it depends on.
    """

    variant: str
    seed: int
    folder: Path
    identity: Identity

    @property
    def is_finished(self) -> bool:
        """Whether it has ended."""
        return (self.folder / RESULT).exists()

    @property
    def is_started(self) -> bool:
        """Whether there is something to go on from; a folder with a configuration can be resumed."""
        return (self.folder / "config.json").exists()

    def refusal(self) -> str | None:
        """Why what lies in its folder is not this run."""
        saved = _read(self.folder / IDENTITY)
        if saved is None:
            return "a run that is no part of a study" if self.is_started else None
        found = "; ".join(differences(saved, self.identity))
        return f"not the same run: {found}" if found else None

    def result(self) -> dict[str, Any]:
        """How it ended, with every evaluation and what the instruments say; as JSON holds it."""
        log = self.folder / "metrics.jsonl"
        return {
            **json.loads((self.folder / RESULT).read_text()),
            "evaluations": read_log(log, "eval"),
            "dynamics": dynamics(read_log(log, KIND)),
        }


class Interrupted(DetrkitError):
    """A signal ended a study; its runs are saved."""

    def __init__(self, folder: Path, exit_code: int) -> None:
        super().__init__("the study was stopped", path=folder, hint="the same command goes on with it")
        self.exit_code = exit_code  # type: ignore[misc]


class WatchedTrainer(Trainer):
    """A training that instruments watch at its evaluations, and that may end after so many seconds.

    Args:
        seconds: limit of the training time, evaluations not counted; None: there is none.
    """

    def __init__(self, *args: Any, seconds: float | None, **options: Any) -> None:
        self.seconds = float("inf") if seconds is None else seconds
        super().__init__(*args, **options)
        self.recorder = Recorder(self.criterion, self.val or self.data)

    def scores(self, data: Dataset) -> dict[str, float]:
        """Score, and write down what the instruments need; a line of structure, which is for the run's own log."""
        with self.recorder.watching(self.model):
            numbers = super().scores(data)
        self.logs[0].write(KIND, {"step": self.run.progress.step, **self.recorder.line()})
        return numbers

    def restore(self) -> None:
        """Go to where the run stands, which may be its end already."""
        super().restore()
        self.end_in_time()

    def after_step(self) -> None:
        """Make the step that exceeds the limit the last one."""
        self.end_in_time()
        super().after_step()

    def end_in_time(self) -> None:
        """End here if the time is up: the last step is the one that is scored and saved."""
        if self.run.progress.seconds >= self.seconds:
            self.total = self.run.progress.step


def prepare(study: Study, folder: Path, *, threads: int, store: Path | None = None) -> list[Job]:
    """All runs of a study, one seed after the other, so that what an interrupted study has is paired.

    Args:
        study: what is asked.
        folder: of the study.
        threads: of PyTorch in a run.
        store: where runs lie that studies share; by default they lie in the study's folder.

    Raises:
        ConfigError: variants that cannot be compared, or folders that hold other runs; each with its name.
        DetrkitError: a variant that cannot be trained.
    """
    splits = {variant.name: check(variant.detector, variant.train) for variant in study.variations.variants}
    jobs = []
    for seed in study.seeds:
        for variant in study.variations.variants:
            depends_on = identity(
                variant.detector.replace(num_classes=len(splits[variant.name][0].label_space)),
                variant.train.replace(seed=seed),
                *splits[variant.name],
                seconds=study.budget.seconds,
                threads=threads,
            )
            own = folder / "runs" / folder_name(variant.name) / f"seed-{seed}"
            place = own if store is None else store / digest(depends_on)
            jobs.append(Job(variant.name, seed, place, depends_on))
    if found := [*_incomparable(jobs), *_refused(jobs)]:
        raise ConfigError(found)
    return jobs


def _incomparable(jobs: Sequence[Job]) -> Iterator[str]:
    """Variants that are not scored on the base's images."""
    scored_on = {job.variant: job.identity["data"]["val"] for job in jobs}
    base = scored_on[jobs[0].variant]
    for name, images in scored_on.items():
        if images != base:
            yield f"{name}: not scored on the images of the base: {'; '.join(differences(base, images))}"


def _refused(jobs: Sequence[Job]) -> Iterator[str]:
    """Folders that hold other runs, those of one reason together."""
    folders: dict[str, list[Path]] = {}
    for job in jobs:
        if reason := job.refusal():
            folders.setdefault(reason, []).append(job.folder)
    for reason, (first, *more) in folders.items():
        others = f" and {len(more)} more" if more else ""
        yield f"{first}{others}: {reason}; choose another --out, or remove what is there"


def folder_name(variant: str) -> str:
    """A variant's name as that of a folder; what had to be changed is told apart by a digest."""
    safe = re.sub(r"[^\w.=-]+", "_", variant)[:80]
    return safe if safe == variant else f"{safe}-{digest(variant)[:6]}"


def run_all(jobs: Sequence[Job], folder: Path, *, workers: int = 0, say: Say) -> None:
    """Train what is not finished.

    Args:
        jobs: the runs.
        folder: of the study.
        workers: processes of one thread each; 0: this process, with the threads it has.
        say: takes a line of progress.

    Raises:
        Interrupted: by a signal; every run was saved.
        DetrkitError: a run failed.
    """
    waiting = [job for job in jobs if not job.is_finished]
    say(f"{len(jobs)} runs, {len(jobs) - len(waiting)} of them finished")
    if workers:
        _run_in_processes(waiting, folder, workers, say)
        return
    for number, job in enumerate(waiting, 1):
        say(f"run {number} of {len(waiting)}: {job.variant}, seed {job.seed}")
        try:
            run(job)
        except Stopped as stop:
            raise Interrupted(folder, stop.exit_code) from None


def run(job: Job) -> None:
    """Train a run from where it stands to its end; losses that are not finite are a result, too."""
    detector, train = DetectorConfig(**job.identity["detector"]), TrainConfig(**job.identity["train"])
    replace_text(job.folder / IDENTITY, json.dumps(job.identity, indent=2) + "\n")
    seconds, failure, steps = job.identity["seconds"], None, None
    with using_threads(job.identity["threads"]):
        trainer = WatchedTrainer(detector, train, job.folder, resume=job.is_started, seconds=seconds)
        try:
            trainer.run_to_end()
        except NonFiniteError as error:
            failure = str(error)
        steps = trainer.run.progress.step
    content = {
        "steps": steps,
        "seconds": round(trainer.run.progress.seconds, 1),
        "out_of_time": seconds is not None and trainer.run.progress.seconds >= seconds,
        "failure": failure,
    }
    replace_text(job.folder / RESULT, json.dumps(content, indent=2) + "\n")


def _run_in_processes(jobs: Sequence[Job], folder: Path, workers: int, say: Say) -> None:
    running: set[subprocess.Popen[bytes]] = set()
    ending: list[int] = []

    def end(code: int) -> None:
        ending.append(code)
        for process in list(running):
            process.terminate()  # it finishes its step and saves

    def one(job: Job) -> None:
        if ending:
            return
        replace_text(job.folder / IDENTITY, json.dumps(job.identity, indent=2) + "\n")
        with (job.folder / SAID).open("wb") as said:
            process = subprocess.Popen(_command(job), env=_environment(), stdout=said, stderr=said)
            running.add(process)
            if ending:
                process.terminate()
            code = process.wait()
            running.discard(process)
        if code == 0:
            say(f"ended: {job.variant}, seed {job.seed}")
        elif not ending:
            end(code)
            lines = (job.folder / SAID).read_text(errors="replace").split("\n")
            failures.append((job, next((line for line in reversed(lines) if line.strip()), f"exit code {code}")))

    failures: list[tuple[Job, str]] = []
    with noticing_signals(lambda signum: end(128 + signum)), ThreadPoolExecutor(workers) as pool:
        list(pool.map(one, jobs))
    if ending and ending[0] in STOPPED:
        raise Interrupted(folder, ending[0])
    for job, line in failures:
        raise DetrkitError(f"the run failed: {line.rpartition(chr(13))[2]}", path=job.folder / SAID)


def _command(job: Job) -> list[str]:
    return [sys.executable, "-m", "detrkit.ablation.runner", str(job.folder)]


def _environment() -> dict[str, str]:
    paths = [str(Path(detrkit.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}


def _read(path: Path) -> Any:
    return json.loads(path.read_text()) if path.exists() else None


def main(folder: Path) -> int:
    """Train the run whose identity lies in a folder; what a worker does."""
    try:
        run(Job("", 0, folder, _read(folder / IDENTITY)))
    except DetrkitError as error:
        sys.stderr.write(f"{' '.join(str(error).split())}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
