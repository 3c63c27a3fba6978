"""Several processes train as one: the same gradients, one writer, and a common end."""

import os
import signal
import subprocess
import sys
import time
from itertools import chain

import pytest
import torch
from launching import SMALL, small, start, together

from detrkit.checkpoints import read
from detrkit.errors import CheckpointError, DataError
from detrkit.training import train
from detrkit.training.data import Windows
from detrkit.training.distributed import Processes
from detrkit.training.log import read_log
from detrkit.training.loop import Trainer

STEPS = 3  # an epoch of 10 images in windows of 4: in the last, a second process with batches of 2 has none


# --- the same step however it is shared out ---------------------------------------------------------------------------


@pytest.mark.fast
@pytest.mark.parametrize("size", [1, 7, 8, 12, 13])
@pytest.mark.parametrize(("count", "batch", "accumulate"), [(2, 2, 1), (2, 1, 2), (4, 1, 1), (1, 2, 2), (1, 1, 4)])
def test_windows_hold_the_same_images_however_they_are_shared_out(size, count, batch, accumulate):
    _, whole = small(batch_size=4)
    _, shared = small(batch_size=batch, accumulate=accumulate)
    expected = [sorted(keys) for (keys,) in Windows(size, whole).of_epoch(0)]
    parts = []
    for rank in range(count):
        windows = Windows(size, shared, Processes(rank, count))
        shares = list(windows.of_epoch(0))
        assert windows.per_epoch == len(shares) == len(expected)
        assert max(map(len, shares)) <= accumulate
        parts.append([list(chain(*share)) for share in shares])
    assert [sorted(chain(*keys)) for keys in zip(*parts, strict=True)] == expected


def write_gradients(folder, changes):
    """Gradients of the steps of an epoch, in double precision."""
    processes = Processes.started()
    with processes.joined():
        trainer = Trainer(*small(dropout=0, eval_every=0, **changes), folder / "run", resume=False, processes=processes)
        trainer.model.double()
        windows, steps = iter(trainer.stream), []
        for _ in range(STEPS):
            window = [b._replace(inputs=b.inputs._replace(images=b.inputs.images.double())) for b in next(windows)]
            trainer.step(window)
            steps.append({name: p.grad.clone() for name, p in trainer.model.named_parameters()})
    torch.save(steps, folder / f"{processes.rank}.pt")


def test_gradients_do_not_depend_on_the_number_of_processes(tmp_path):
    """Images with 0 to 5 objects, auxiliary losses, and a last window of which one process has nothing."""
    ways = {"alone": (1, 4, 1), "two": (2, 2, 1), "accumulated": (2, 1, 2)}
    gradients = {}
    for name, (count, batch, accumulate) in ways.items():
        (tmp_path / name).mkdir()
        changes = {"batch_size": batch, "accumulate": accumulate}
        assert together(write_gradients, tmp_path / name, changes, count=count) == [0] * count
        gradients[name] = [torch.load(tmp_path / name / f"{r}.pt", weights_only=True) for r in range(count)]
    (alone,) = gradients["alone"]
    for name in ("two", "accumulated"):
        first, second = gradients[name]
        for step in range(STEPS):
            for key, gradient in alone[step].items():
                assert torch.equal(first[step][key], second[step][key])
                torch.testing.assert_close(first[step][key], gradient, rtol=1e-6, atol=1e-12)


# --- one run ----------------------------------------------------------------------------------------------------------


def whole_run(folder, changes, resume):
    """Train, then note this process's weights."""
    run = train(*small(**changes), folder, resume=resume)
    (folder / f"finished.{os.environ.get('RANK', 0)}").write_text(str(run.progress.step))


def stopped_run(folder, changes, rank, after):
    """Train, with a signal for one process after a number of steps."""
    processes = Processes.started()
    with processes.joined():
        trainer = Trainer(*small(**changes), folder, resume=False, processes=processes)
        step = trainer.step

        def step_and_signal(window):
            said = step(window)
            if processes.rank == rank and trainer.run.progress.step == after:
                os.kill(os.getpid(), signal.SIGTERM)
            return said

        trainer.step = step_and_signal
        trainer.run_to_end()


def test_a_signal_to_one_process_stops_all_at_one_step_and_the_run_goes_on_without_a_trace(tmp_path):
    changes = {"ema_decay": 0.5, "steps": 6}
    assert together(whole_run, tmp_path / "whole", changes, False, count=2) == [0, 0]
    assert together(stopped_run, tmp_path / "parts", changes, 1, 2, count=2) == [143, 143]
    assert read(tmp_path / "parts/last.safetensors")[1]["progress"]["step"] == 2
    assert together(whole_run, tmp_path / "parts", changes, True, count=2) == [0, 0]
    for name in ("last.safetensors", "best.safetensors"):
        expected, got = (read(tmp_path / part / name)[0] for part in ("whole", "parts"))
        assert expected.keys() == got.keys()
        assert all(torch.equal(expected[key], got[key]) for key in expected)
    logs = [read_log(tmp_path / part / "metrics.jsonl", "train") for part in ("whole", "parts")]
    assert logs[0] == logs[1]
    assert [entry["step"] for entry in logs[0]] == list(range(1, 7))
    with pytest.raises(CheckpointError, match=r"as many processes as before"):
        train(*small(**changes), tmp_path / "whole", resume=True)


def run_with_bad_image(folder, changes):
    """Train where only the second process meets an image that cannot be read."""
    processes = Processes.started()
    with processes.joined():
        trainer = Trainer(*small(**changes), folder, resume=False, processes=processes)
        samples = trainer.stream.loader.dataset
        sample = samples.sample

        def broken(epoch, index):
            if processes.rank == 1 and index == 3:
                raise DataError("truncated image", path="a.jpg")
            return sample(epoch, index)

        samples.sample = broken
        trainer.run_to_end()


def second_process_has(index, batch):
    """Whether that image is the second process's in the first epoch."""
    _, config = small(batch_size=batch)
    return any((0, index) in keys for share in Windows(10, config, Processes(1, 2)).of_epoch(0) for keys in share)


def test_a_failure_of_one_process_ends_all_with_its_exit_code(tmp_path):
    batch = next(batch for batch in (1, 2, 3) if second_process_has(3, batch))
    changes = {"batch_size": batch, "eval_every": 0}
    assert together(run_with_bad_image, tmp_path / "strict", changes, count=2) == [2, 2]
    assert together(run_with_bad_image, tmp_path / "skip", {**changes, "on_bad_image": "skip"}, count=2) == [0, 0]
    assert (tmp_path / "skip/findings.txt").read_text() == "a.jpg: truncated image; image left out\n"


def test_a_dead_process_ends_the_other(tmp_path):
    processes = start(whole_run, tmp_path, {"steps": 100000, "eval_every": 0}, False, count=2)
    log = tmp_path / "metrics.jsonl"
    deadline = time.time() + 50
    while time.time() < deadline and not (log.exists() and log.stat().st_size > 500):
        time.sleep(0.05)
    processes[1].kill()
    processes[0].join(30)
    assert processes[0].exitcode not in (0, None)
    assert read(tmp_path / "last.safetensors")[1]["kind"] == "training"


@pytest.mark.timeout(180)
def test_torchrun_is_stopped_by_a_signal_and_saves(tmp_path):
    words = [f"{name}={value}" for name, value in {**SMALL, "steps": "100000", "eval_every": "0"}.items()]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    process = subprocess.Popen(
        [*launch, "-m", "detrkit.cli", "train", "detr_tiny", *words, "--out", str(tmp_path / "run")],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    log = tmp_path / "run" / "metrics.jsonl"
    deadline = time.time() + 120
    while time.time() < deadline and not (log.exists() and log.stat().st_size > 500):
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=30)[1]
    assert process.returncode != 0
    assert said.count("stopped by SIGTERM after step") == 1
    progress = read(tmp_path / "run" / "last.safetensors")[1]["progress"]
    assert progress["window"] == 4
    assert progress["step"] > 0
