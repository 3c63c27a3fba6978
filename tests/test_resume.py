"""Runs that are killed at any moment, and go on without a trace."""

import os
import signal
import time

import numpy as np
import pytest
import torch
from launching import small, start

from detrkit.checkpoints import load, read
from detrkit.errors import DetrkitError
from detrkit.training import train
from detrkit.training.data import TRANSFORMS
from detrkit.training.ema import Average
from detrkit.training.log import read_log
from detrkit.training.loop import Trainer
from detrkit.training.run import Stopped

OFTEN = {"save_minutes": 1e-9, "accumulate": 2, "ema_decay": 0.9, "eval_every": 4}


def go_on(folder, changes):
    """Train in a folder, from where its run stands."""
    train(*small(**changes), folder, resume=(folder / "config.json").exists())


def trace(folder):
    """Everything that a run leaves, without times: tensors by file and name, and lines of the log."""
    tensors = {name: read(folder / name)[0] for name in ("last.safetensors", "best.safetensors")}
    lines = [entry for kind in ("train", "eval") for entry in read_log(folder / "metrics.jsonl", kind)]
    return tensors, [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


def assert_same_trace(one, other):
    (expected, lines), (got, other_lines) = trace(one), trace(other)
    for name in expected:
        assert expected[name].keys() == got[name].keys()
        assert [key for key in expected[name] if not torch.equal(expected[name][key], got[name][key])] == []
    assert lines == other_lines


def killed_run(folder, changes, delays):
    """Start a run again and again, killed after these seconds; at last to its end. How often it was killed."""
    kills = 0
    for delay in delays:
        (process,) = start(go_on, folder, changes)
        process.join(delay)
        kills += process.is_alive()
        process.kill()
        process.join()
        if (folder / "config.json").exists():
            assert read(folder / "last.safetensors")[1]["kind"] == "training"
    (process,) = start(go_on, folder, changes)
    process.join(50)
    assert process.exitcode == 0
    return kills


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=[pytest.mark.nightly, pytest.mark.timeout(600)])])
def test_a_run_that_is_killed_at_random_moments_ends_as_if_it_never_was(tmp_path, kills):
    changes = {**OFTEN, "steps": 15 * kills}
    (process,) = start(go_on, tmp_path / "whole", changes)
    begun = time.monotonic()
    process.join()
    seconds = time.monotonic() - begun
    delays = np.random.default_rng((TRANSFORMS, kills)).uniform(0.05, 2 / kills, kills) * seconds
    assert killed_run(tmp_path / "parts", changes, delays) >= 1
    assert_same_trace(tmp_path / "whole", tmp_path / "parts")
    leftovers = [path.name for path in (tmp_path / "parts").iterdir() if path.name.startswith(".")]
    assert leftovers == []


@pytest.mark.parametrize("changes", [{"ema_decay": 0.9}, {"patience": 3}, {"on_bad_image": "skip"}])
def test_a_signal_inside_a_window_lets_the_step_finish_and_leaves_no_trace(tmp_path, changes):
    changes = {"accumulate": 3, "batch_size": 1, "dropout": 0.2, "steps": 9, **changes}
    train(*small(**changes), tmp_path / "whole")
    trainer = Trainer(*small(**changes), tmp_path / "parts", resume=False)
    losses, seen = trainer.losses, []

    def interrupted(batch, whole):
        seen.append(batch)
        if len(seen) == 12:  # the second micro-batch of the fifth step: the epoch's fourth and last window holds 1
            os.kill(os.getpid(), signal.SIGINT)
        return losses(batch, whole)

    trainer.losses = interrupted
    with pytest.raises(Stopped) as caught:
        trainer.run_to_end()
    assert caught.value.exit_code == 130
    assert trainer.run.progress.step == 5
    torch.manual_seed(999)
    train(*small(**changes), tmp_path / "parts", resume=True)
    assert_same_trace(tmp_path / "whole", tmp_path / "parts")


def early(folder, stop_after=None, resume=False):
    """A run whose AP is best at the second of its evaluations; stopped by a signal after an evaluation."""
    trainer = Trainer(*small(patience=3, steps=40, batch_size=10), folder, resume=resume)

    def scores(_):
        if trainer.run.progress.step == stop_after:
            trainer.signum = signal.SIGTERM
        return dict.fromkeys(("AP", "AP50", "AP75"), 0.5 if trainer.run.progress.step == 2 else 0.25)

    trainer.scores = scores
    return trainer.run_to_end()


def test_a_run_that_ends_early_ends_at_the_same_step_when_it_was_stopped(tmp_path, capsys):
    assert early(tmp_path / "whole").progress.step == 5
    assert "step 5: no better AP in 3 evaluations; the run ends" in capsys.readouterr().err
    with pytest.raises(Stopped):
        early(tmp_path / "parts", stop_after=4)
    run = early(tmp_path / "parts", resume=True)
    assert (run.progress.step, run.progress.best_ap) == (5, 0.5)
    assert early(tmp_path / "parts", resume=True).progress.step == 5


@pytest.mark.fast
def test_a_folder_in_which_no_run_came_into_being_can_be_used(tmp_path, monkeypatch):
    from detrkit.training.run import Run

    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Run, "save_config", die)
        with pytest.raises(KeyboardInterrupt):
            train(*small(steps=1, eval_every=0), tmp_path)
    assert (tmp_path / "last.safetensors").exists()
    assert train(*small(steps=1, eval_every=0), tmp_path).progress.step == 1


def test_a_finished_run_has_nothing_left_to_do(tmp_path):
    run = train(*small(steps=2, eval_every=0), tmp_path)
    before = read(run.last)[0]
    assert train(*small(steps=2, eval_every=0), tmp_path, resume=True).progress.step == 2
    assert all(torch.equal(tensor, before[name]) for name, tensor in read(run.last)[0].items())


def test_a_run_of_other_windows_is_not_resumed(tmp_path):
    train(*small(steps=2, eval_every=0), tmp_path)
    with pytest.raises(DetrkitError, match=r"batch_size x accumulate x processes: .*got 6; expected 2 images"):
        train(*small(steps=4, eval_every=0, accumulate=3), tmp_path, resume=True)
    assert train(*small(steps=4, eval_every=0, batch_size=1, accumulate=2), tmp_path, resume=True).progress.step == 4


def test_saves_by_time_and_by_epoch_do_not_change_the_run(tmp_path):
    for name, changes in (("often", {"save_minutes": 1e-9}), ("seldom", {"save_minutes": 0, "save_every": 0})):
        train(*small(ema_decay=0.5, **changes), tmp_path / name)
    assert_same_trace(tmp_path / "often", tmp_path / "seldom")


def test_where_nothing_is_scored_the_averaged_weights_are_the_result(tmp_path):
    """Also of a run that is killed before the last thing that it does."""
    run = train(*small(ema_decay=0.9, eval_every=0), tmp_path)
    average, found = read(run.last)[0], load(tmp_path).state_dict()
    assert all(torch.equal(tensor, average[f"average.{name}"]) for name, tensor in found.items())
    assert not torch.equal(found["class_embed.weight"], average["model.class_embed.weight"])
    run.best.unlink()
    train(*small(ema_decay=0.9, eval_every=0), tmp_path, resume=True)
    assert all(torch.equal(tensor, found[name.removeprefix("model.")]) for name, tensor in read(run.best)[0].items())


@pytest.mark.fast
def test_statistics_of_norms_are_averaged_and_counts_are_not():
    """By hand, with a decay that is the smaller one from the first step on."""
    norm = torch.nn.BatchNorm1d(2)
    average, expected = Average(norm, 0.15), torch.zeros(2)
    for step, decay in ((1, 0.15), (2, 0.15)):
        norm(torch.randn(9, 2) + 5)
        average.update(step)
        expected = decay * expected + (1 - decay) * norm.running_mean
    torch.testing.assert_close(average.state["running_mean"], expected)
    assert average.state["num_batches_tracked"] == 2


def test_the_averaged_weights_are_scored_and_kept_and_the_own_ones_go_on(tmp_path):
    """By hand: the average of the weights after every step, with a decay of at most (1 + n) / (10 + n)."""
    trainer = Trainer(*small(ema_decay=0.5, steps=4, eval_every=2), tmp_path, resume=False)
    name = "class_embed.weight"
    expected, step = trainer.model.state_dict()[name].clone(), trainer.step

    def step_and_average(window):
        nonlocal expected
        said = step(window)
        n = trainer.run.progress.step
        decay = min(0.5, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * trainer.model.state_dict()[name]
        return said

    trainer.step = step_and_average
    run = trainer.run_to_end()
    tensors = read(run.last)[0]
    torch.testing.assert_close(tensors[f"average.{name}"], expected)
    assert torch.equal(tensors[f"model.{name}"], trainer.model.state_dict()[name])
    torch.testing.assert_close(load(run.best).state_dict()[name], expected)
    assert not torch.equal(tensors[f"model.{name}"], tensors[f"average.{name}"])
