"""Processes that read images: forked once, told the epoch, deaf to signals from outside, gone with their trainer."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from launching import small, start

from detrkit.checkpoints import read
from detrkit.datasets import Dataset
from detrkit.datasets.toy import ToyDataset
from detrkit.registry import REGISTRY
from detrkit.training import train
from detrkit.training.loop import Trainer
from detrkit.training.run import Stopped

LONG = {"num_workers": 2, "steps": 100_000, "eval_every": 0}
PATIENCE = 25  # seconds


def pids():
    """Process ids of the workers of this process."""
    return sorted(process.pid for process in multiprocessing.active_children() if "Process" in process.name)


def weights(run):
    return {name: tensor for name, tensor in read(run.last)[0].items() if name.startswith("model.")}


@pytest.mark.parametrize("splits", [1, 2])
def test_workers_are_forked_once_for_all_epochs_and_change_nothing(tmp_path, splits):
    changes = {"epochs": 3, "steps": "none", "batch_size": 4 // splits, "accumulate": splits}
    before, seen = pids(), []
    trainer = Trainer(*small(**changes, num_workers=2), tmp_path / "workers", resume=False)
    after_step = trainer.after_step
    trainer.after_step = lambda: (seen.append([pid for pid in pids() if pid not in before]), after_step())
    run = trainer.run_to_end()
    assert len(seen) == 9
    assert len(seen[0]) == 2
    assert seen == [seen[0]] * 9
    assert pids() == before
    alone = train(*small(**changes), tmp_path / "alone")
    assert all(torch.equal(tensor, weights(alone)[name]) for name, tensor in weights(run).items())


def test_a_run_goes_on_inside_an_epoch_with_other_workers(tmp_path):
    changes = {"steps": 8, "eval_every": 0}
    whole = train(*small(**changes), tmp_path / "whole")
    trainer = Trainer(*small(**changes, num_workers=2), tmp_path / "parts", resume=False)
    after_step = trainer.after_step

    def stop():
        trainer.signum = signal.SIGTERM if trainer.run.progress.step == 7 else 0  # two steps into the second epoch
        after_step()

    trainer.after_step = stop
    with pytest.raises(Stopped):
        trainer.run_to_end()
    parts = train(*small(**changes, num_workers=1), tmp_path / "parts", resume=True)
    assert all(torch.equal(tensor, weights(parts)[name]) for name, tensor in weights(whole).items())


class Slow(Dataset):
    """Shapes of which a process can draw three at once and then needs a minute for each."""

    def __init__(self, split: str = "train") -> None:
        self.shapes, self.drawn = ToyDataset(split, size=48, length=10), 0
        self.label_space, self.findings = self.shapes.label_space, []

    def __len__(self) -> int:
        return len(self.shapes)

    def __getitem__(self, index: int):
        self.drawn += 1
        time.sleep(60 if self.drawn > 3 else 0)
        return self.shapes[index]


def test_a_worker_that_is_busy_does_not_hold_up_the_end(tmp_path):
    before = pids()
    with REGISTRY.temporarily("datasets", "slow", Slow):
        trainer = Trainer(*small(**{**LONG, "num_workers": 1}, data="slow"), tmp_path, resume=False)
        trainer.total = 1
        began = time.monotonic()
        trainer.run_to_end()
    assert pids() == before
    assert time.monotonic() - began < PATIENCE


# --- a run with a process group of its own, as a shell or a scheduler starts it ---------------------------------------


def lead(folder):
    """Train at the head of a process group."""
    os.setpgid(0, 0)
    train(*small(**LONG), folder)


@pytest.fixture
def running(tmp_path):
    """Starts a run with two workers; gives its process when it has made steps."""
    started = []

    def begin():
        (process,) = start(lead, tmp_path / "run")
        started.append(process)
        log = tmp_path / "run/metrics.jsonl"
        wait_until(lambda: log.exists() and log.stat().st_size > 100)
        return process

    yield begin
    for process in started:
        if not is_gone(process.pid):
            os.killpg(process.pid, signal.SIGKILL)


def is_gone(group):
    """Whether a process group has no process any more; zombies are counted out by those who wait for them."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


def wait_until(happens):
    """Seconds until something has happened."""
    began = time.monotonic()
    while not happens():
        assert time.monotonic() - began < PATIENCE
        time.sleep(0.05)
    return time.monotonic() - began


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_processes_stops_a_run_that_leaves_no_process(running, tmp_path, signum):
    process = running()
    os.killpg(process.pid, signum)
    process.join(PATIENCE)
    assert process.exitcode == 128 + signum
    wait_until(lambda: is_gone(process.pid))
    assert read(tmp_path / "run/last.safetensors")[1]["progress"]["step"] > 0


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_signals_to_the_workers_alone_change_nothing(running, tmp_path, signum):
    process = running()
    log = tmp_path / "run/metrics.jsonl"
    for pid in children_of(process.pid):
        os.kill(pid, signum)
    size = log.stat().st_size
    wait_until(lambda: log.stat().st_size > size + 5000)
    assert process.is_alive()


def children_of(pid):
    """Process ids of the children of a process."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_workers_do_not_outlive_a_trainer_that_is_killed(running):
    process = running()
    workers = children_of(process.pid)
    assert len(workers) == 2
    process.kill()
    process.join()
    wait_until(lambda: is_gone(process.pid))
