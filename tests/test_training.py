"""Training: exact windows, order of data, learning rates, and runs that stop and go on without a trace."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st

import detrkit
from detrkit.checkpoints import read
from detrkit.config import TrainConfig
from detrkit.criterion import SetCriterion
from detrkit.datasets import Dataset
from detrkit.errors import ConfigError, DataError, DetrkitError, NonFiniteError
from detrkit.labels import LabelSpace
from detrkit.presets import from_pairs
from detrkit.registry import REGISTRY
from detrkit.training import train
from detrkit.training.data import ORDER, TRANSFORMS, Samples, Windows, WindowStream, collate
from detrkit.training.log import read_log
from detrkit.training.loop import Trainer, check
from detrkit.training.optimizer import learning_rate_factor, make_optimizer
from detrkit.training.run import Stopped
from detrkit.training.window import Share

SMALL = {
    "d_model": "32",
    "enc_layers": "1",
    "dec_layers": "2",
    "dim_feedforward": "32",
    "num_queries": "6",
    "backbone": "tiny(width=8)",
    "data": "toy(size=48, length=10, held_out=4)",
    "short_side": "48",
    "long_side": "48",
    "batch_size": "2",
    "warmup_steps": "2",
    "steps": "8",
    "dropout": "0.1",
    "transforms": "flip",
    "eval_every": "1",
}


def configs(**changes):
    return from_pairs("detr_tiny", {**SMALL, **{name: str(value) for name, value in changes.items()}})


@given(size=st.integers(1, 40), batch=st.integers(1, 5), accumulate=st.integers(1, 4), seed=st.integers(0, 9))
@settings(deadline=None)
def test_each_epoch_shows_every_image_once(size, batch, accumulate, seed):
    windows = Windows(size, TrainConfig(batch_size=batch, accumulate=accumulate, seed=seed))
    micro_batches = [micro for share in windows.of_epoch(0) for micro in share]
    assert sorted(index for micro in micro_batches for _, index in micro) == list(range(size))
    assert all(len(micro) <= batch for micro in micro_batches)
    assert windows.per_epoch == -(-size // (batch * accumulate))


@given(step=st.integers(0, 30), workers=st.just(0))
@settings(deadline=None, max_examples=10)
def test_a_stream_from_any_step_gives_what_an_uninterrupted_one_gives(step, workers):
    detector, train_config = configs(accumulate=2, num_workers=workers)
    data = REGISTRY.make("datasets", train_config.data, split="train")
    whole, late = (iter(WindowStream(data, detector, train_config, start)) for start in (0, step))
    for _ in range(step):
        next(whole)
    for _ in range(2):
        expected, got = next(whole), next(late)
        assert [b.image_ids for b in expected] == [b.image_ids for b in got]
        assert all(torch.equal(a.inputs.images, b.inputs.images) for a, b in zip(expected, got, strict=True))


def test_workers_change_nothing():
    batches = []
    for workers in (0, 2):
        detector, train_config = configs(num_workers=workers)
        data = REGISTRY.make("datasets", train_config.data, split="train")
        stream = iter(WindowStream(data, detector, train_config))
        batches.append([next(stream)[0] for _ in range(7)])
    for alone, shared in zip(*batches, strict=True):
        assert torch.equal(alone.inputs.images, shared.inputs.images)
        assert alone.image_ids == shared.image_ids


@pytest.mark.fast
def test_learning_rates_follow_the_schedule():
    warm = TrainConfig(warmup_steps=10, steps=100, epochs=None, schedule="cosine")
    assert learning_rate_factor(0, 100, 10, warm) == pytest.approx(0.1)
    assert learning_rate_factor(10, 100, 10, warm) == pytest.approx(1.0)
    assert learning_rate_factor(55, 100, 10, warm) == pytest.approx(0.5)
    step = TrainConfig(lr_drop=2, epochs=5)
    assert [learning_rate_factor(s, 50, 10, step) for s in (19, 20)] == [1.0, 0.1]
    linear = TrainConfig(schedule="linear", steps=10, epochs=None)
    assert learning_rate_factor(5, 10, 10, linear) == pytest.approx(0.5)


@pytest.mark.fast
def test_the_trunk_has_its_own_learning_rate():
    import detrkit

    detector, train_config = configs(lr=1e-3, lr_backbone=1e-4)
    model = detrkit.build(detector)
    groups = make_optimizer(model, train_config).param_groups
    trunk = {id(p) for p in model.backbone.parameters()}
    assert {g["lr"] for g in groups if any(id(p) in trunk for p in g["params"])} == {1e-4}
    assert {g["lr"] for g in groups if any(id(p) not in trunk for p in g["params"])} == {1e-3}


def test_a_window_gives_the_same_weights_however_it_is_cut(tmp_path):
    """Six images as 1 x 6, 2 x 3, 3 x 2 and 6 x 1: one step, unequal object counts, the same weights."""
    states = []
    for index, (batch, accumulate) in enumerate([(6, 1), (3, 2), (2, 3), (1, 6)]):
        detector, train_config = configs(batch_size=batch, accumulate=accumulate, steps=1, dropout=0, eval_every=0)
        trainer = Trainer(detector, train_config, tmp_path / str(index), resume=False)
        trainer.model.double()
        window = next(iter(trainer.stream))
        double = [b._replace(inputs=b.inputs._replace(images=b.inputs.images.double())) for b in window]
        trainer.step(double)
        states.append({name: p.grad.clone() for name, p in trainer.model.named_parameters()})
    for other in states[1:]:
        for name, gradient in states[0].items():
            torch.testing.assert_close(other[name], gradient, rtol=1e-6, atol=1e-12)


def run_until(folder, stop_after, **changes):
    """Train, raising Stopped as a signal does after a number of steps; then go on to the end."""
    detector, train_config = configs(**changes)
    trainer = Trainer(detector, train_config, folder, resume=False)
    original = trainer.after_step

    def interrupt():
        if trainer.run.progress.step == stop_after:
            trainer.signum = signal.SIGTERM
        original()

    trainer.after_step = interrupt
    with pytest.raises(Stopped, match="--resume"):
        trainer.run_to_end()
    torch.manual_seed(999)  # whatever the process does in between
    return train(detector, train_config, folder, resume=True)


@pytest.mark.parametrize("stop_after", [3, 5])
def test_a_resumed_run_leaves_no_trace(tmp_path, stop_after):
    """Weights, optimizer, log and best checkpoint equal those of a run that never stopped, bit for bit."""
    whole = train(*configs(accumulate=2), tmp_path / "whole")
    parts = run_until(tmp_path / "parts", stop_after, accumulate=2)
    from detrkit.checkpoints import read

    for name in ("last.safetensors", "best.safetensors"):
        expected, got = (read(run.folder / name)[0] for run in (whole, parts))
        assert expected.keys() == got.keys()
        assert all(torch.equal(expected[key], got[key]) for key in expected)
    logs = [
        [
            {k: v for k, v in e.items() if k != "seconds"}
            for kind in ("train", "eval")
            for e in read_log(run.folder / "metrics.jsonl", kind)
        ]
        for run in (whole, parts)
    ]
    assert logs[0] == logs[1]


def test_the_log_of_a_run_that_died_is_cut_to_its_checkpoint(tmp_path):
    """Dead at step 7, last saved at step 5: steps 6 and 7 are trained again and logged once."""
    detector, train_config = configs(eval_every=0)
    trainer = Trainer(detector, train_config, tmp_path, resume=False)
    original = trainer.after_step

    def die():
        original()
        if trainer.run.progress.step == 7:
            raise KeyboardInterrupt

    trainer.after_step = die
    with pytest.raises(KeyboardInterrupt):
        trainer.run_to_end()
    assert [entry["step"] for entry in read_log(tmp_path / "metrics.jsonl", "train")] == list(range(1, 8))
    train(detector, train_config, tmp_path, resume=True)
    assert [entry["step"] for entry in read_log(tmp_path / "metrics.jsonl", "train")] == list(range(1, 9))


def test_a_real_signal_saves_and_says_how_to_go_on(tmp_path):
    words = [f"{name}={value}" for name, value in {**SMALL, "steps": "100000", "eval_every": "0"}.items()]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "detrkit.cli", "train", "detr_tiny", *words, "--out", str(tmp_path / "run")],
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    log = tmp_path / "run" / "metrics.jsonl"
    deadline = time.time() + 50
    while time.time() < deadline and not (log.exists() and log.stat().st_size > 500):
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    error = process.communicate(timeout=30)[1]
    assert process.returncode == 143
    assert "--resume" in error
    assert (tmp_path / "run" / "last.safetensors").exists()


def test_a_loss_that_is_not_finite_stops_before_the_step(tmp_path):
    detector, train_config = configs(eval_every=0)
    trainer = Trainer(detector, train_config, tmp_path / "run", resume=False)
    with torch.no_grad():
        trainer.model.class_embed.bias[0] = float("nan")
    before = {name: p.clone() for name, p in trainer.model.named_parameters()}
    with pytest.raises(NonFiniteError, match=r"class cost|loss of step 0|image"):
        trainer.run_to_end()
    for name, parameter in trainer.model.named_parameters():
        assert torch.equal(parameter.nan_to_num(7.0), before[name].nan_to_num(7.0))


def test_a_folder_holds_one_run(tmp_path):
    train(*configs(steps=1, eval_every=0), tmp_path / "run")
    with pytest.raises(DetrkitError, match="holds a run already"):
        train(*configs(steps=1), tmp_path / "run")
    with pytest.raises(DetrkitError, match="nothing to resume"):
        train(*configs(steps=1), tmp_path / "other", resume=True)


def test_what_a_run_leaves(tmp_path):
    run = train(*configs(), tmp_path / "run")
    saved = json.loads((run.folder / "config.json").read_text())
    assert saved["detector"]["num_classes"] == 3
    assert saved["train"]["steps"] == 8
    entries = read_log(run.folder / "metrics.jsonl", "train")
    assert [entry["step"] for entry in entries] == list(range(1, 9))
    assert {"loss", "loss_ce", "loss_ce_0", "class_error", "grad_norm"} <= set(entries[0])
    assert read_log(run.folder / "metrics.jsonl", "eval")[-1]["step"] == 8


class NoImages(Dataset):
    """An empty data set."""

    def __init__(self, split: str = "train") -> None:
        self.label_space, self.findings = LabelSpace(("thing",)), []

    def __len__(self) -> int:
        return 0

    def __getitem__(self, index: int):
        raise IndexError(index)


@pytest.mark.fast
def test_an_empty_training_set_is_refused_before_anything_is_written(tmp_path):
    with REGISTRY.temporarily("datasets", "no_images", NoImages), pytest.raises(DataError, match="empty"):
        train(*configs(data="no_images"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.fast
def test_data_and_device_must_be_given_rightly(tmp_path):
    with pytest.raises(ConfigError, match="data"):
        train(*from_pairs("detr_r50", {}), tmp_path / "run")
    with pytest.raises(ConfigError, match="device"):
        train(*configs(device="abacus"), tmp_path / "run")


@pytest.mark.fast
def test_surplus_objects_are_counted():
    detector, train_config = configs()
    data = REGISTRY.make("datasets", train_config.data, split="train")
    samples = Samples(data, detector, train_config)
    batch = collate([samples[(0, i)] for i in range(6)])
    counts = [len(t["labels"]) for t in batch.targets]
    share = Share.of([batch], SetCriterion.from_config(detector), 2, skip=False)
    assert share.surplus == sum(max(0, c - 2) for c in counts) > 0


def test_a_run_that_dies_before_its_first_epoch_ends_can_be_resumed(tmp_path):
    detector, train_config = configs(eval_every=0)
    trainer = Trainer(detector, train_config, tmp_path / "run", resume=False)
    trainer.step(next(iter(trainer.stream)))  # and then, say, the power fails
    run = train(detector, train_config, tmp_path / "run", resume=True)
    whole = train(*configs(eval_every=0), tmp_path / "whole")
    assert torch.equal(read(run.last)[0]["model.class_embed.weight"], read(whole.last)[0]["model.class_embed.weight"])


def test_a_run_goes_on_without_the_file_its_trunk_started_from(tmp_path):
    network = torchvision.models.shufflenet_v2_x0_5()
    torch.save(network.state_dict(), tmp_path / "trunk.pth")
    trunk = f"torchvision(model=shufflenet_v2_x0_5, weights='{tmp_path / 'trunk.pth'}', trainable_levels=2)"
    detector, train_config = configs(backbone=trunk, eval_every=0, steps=1)
    train(detector, train_config, tmp_path / "run")
    (tmp_path / "trunk.pth").unlink()
    run = train(detector, train_config.replace(steps=2), tmp_path / "run", resume=True)
    assert run.progress.step == 2
    with torch.no_grad():
        assert detrkit.load(run.folder).config == run.detector


def test_resuming_on_other_classes_is_refused(tmp_path):
    detector, train_config = configs(eval_every=0, steps=1)
    train(detector, train_config, tmp_path / "run")
    other = train_config.replace(data="toy(size=48, length=10, held_out=4, classes=4)")
    with pytest.raises(DetrkitError, match="classes are not those of the run"):
        train(detector, other, tmp_path / "run", resume=True)


def test_a_log_shorter_than_its_checkpoint_is_refused(tmp_path):
    detector, train_config = configs(eval_every=0, steps=1)
    run = train(detector, train_config, tmp_path / "run")
    (run.folder / "metrics.jsonl").write_text("")
    with pytest.raises(DetrkitError, match="shorter"):
        train(detector, train_config, tmp_path / "run", resume=True)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_is_named_in_one_line_whoever_reads_it(tmp_path, workers):
    class Broken(NoImages):
        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: int):
            raise DataError("truncated image", path="pictures/a.jpg")

    with REGISTRY.temporarily("datasets", "broken", Broken):
        detector, train_config = configs(data="broken", num_workers=workers, eval_every=0)
        with pytest.raises(DataError) as caught:
            train(detector, train_config, tmp_path / "run")
    assert str(caught.value) == "pictures/a.jpg: truncated image"
    assert caught.value.path == "pictures/a.jpg"


@pytest.mark.fast
def test_streams_of_random_numbers_are_apart():
    draws = {np.random.default_rng((*purpose, 42, 0, 0)).random() for purpose in ((), (TRANSFORMS,), (ORDER,))}
    assert len(draws) == 3


def test_everything_wrong_is_known_before_training(tmp_path):
    for changes, word in (
        ({"val_split": "nope"}, "split"),
        ({"device": "abacus"}, "device"),
        ({"positional": "learned(size=2)"}, "learned"),
        ({"backbone": "torchvision(model=resnet18, weights='no.pth')"}, "no.pth"),
    ):
        with pytest.raises(DetrkitError, match=word):
            check(*configs(**changes))


def test_bfloat16_is_near_and_leaves_weights_and_losses_in_float32(tmp_path):
    losses, dtypes = [], set()
    for amp in ("none", "bf16"):
        trainer = Trainer(*configs(eval_every=0, dropout=0, steps=1, amp=amp), tmp_path / amp, resume=False)
        criterion, outputs = trainer.criterion, []
        for part in (trainer.model.class_embed, trainer.model.neck.projection):
            part.register_forward_hook(lambda _, __, output, seen=outputs: seen.append(output.dtype))
        trainer.criterion = lambda *a, c=criterion: losses.append(c(*a)) or losses[-1]
        trainer.criterion.normalizer = criterion.normalizer
        trainer.run_to_end()
        assert (torch.bfloat16 in outputs) == (amp == "bf16")
        dtypes |= {p.dtype for p in trainer.model.parameters()} | {p.grad.dtype for p in trainer.model.parameters()}
    assert {value.dtype for value in losses[1].terms.values()} | dtypes == {torch.float32}
    assert losses[1].total.item() == pytest.approx(losses[0].total.item(), rel=0.05)


def test_tensorboard_holds_what_the_log_holds(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = train(*configs(tensorboard=True), tmp_path)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    told = [(event.step, event.value) for event in events.Scalars("train/loss_giou_0")]
    assert told == [(e["step"], pytest.approx(e["loss_giou_0"], abs=1e-4)) for e in read_log(run.log, "train")]
    assert [event.step for event in events.Scalars("eval/AP50")] == [5, 8]


@pytest.mark.fast
def test_missing_tensorboard_is_one_line_that_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(DetrkitError, match=r"^tensorboard: .*pip install detrkit\[tensorboard\]$"):
        train(*configs(tensorboard=True), tmp_path / "run")


def test_deterministic_training_leaves_the_process_as_it_was(tmp_path):
    whole, again = (train(*configs(deterministic=True, steps=2), tmp_path / name) for name in "ab")
    expected, got = (read(run.last)[0] for run in (whole, again))
    assert all(torch.equal(expected[name], got[name]) for name in expected)
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"epochs": 0}, "epochs: got 0; expected int, at least 1"),
        ({"steps": 0}, "steps: got 0; expected int, at least 1"),
        ({"ema_decay": 1}, "ema_decay: got 1; expected float, at least 0 and below 1"),
        ({"plain_epochs": 1, "transforms": None}, "plain_epochs: no effect with transforms=None and multi_scale=0"),
        ({"plain_epochs": 3, "epochs": 3, "transforms": "small"}, "plain_epochs: got 3; expected less than epochs=3"),
        ({"patience": 2, "eval_every": 0}, "patience: no effect with eval_every=0"),
        ({"amp": "fp16"}, "amp: got 'fp16'; expected one of 'none', 'bf16'"),
        ({"on_bad_image": "ignore"}, "on_bad_image: got 'ignore'"),
        ({"freeze": ","}, "freeze: got ','; expected NAME,NAME"),
    ],
)
@pytest.mark.fast
def test_options_that_cannot_be_meant_are_refused_by_name(changes, sentence):
    with pytest.raises(ConfigError, match=sentence):
        configs(**changes)


@pytest.mark.fast
def test_validation_data_without_images_or_objects(tmp_path, capsys):
    class Empty(NoImages):
        def __init__(self, split: str = "train") -> None:
            super().__init__(split)
            self.split = split

        def __len__(self) -> int:
            return 3 if self.split == "train" else 0

    with (
        REGISTRY.temporarily("datasets", "empty", Empty),
        pytest.raises(DataError, match=r"'val' is empty.*eval_every=0"),
    ):
        train(*configs(data="empty"), tmp_path / "run")
    run = train(*configs(data="toy(size=48, length=10, held_out=4, objects=(0, 0))"), tmp_path / "other")
    assert "hold no object, so that there is no AP" in capsys.readouterr().err
    assert not run.best.exists()
    assert detrkit.load(run.folder).config == run.detector
