"""Images that cannot be read: an error that names them, or left out, counted and named; and workers that die."""

import os
import signal

import pytest
import torch
from launching import small, together
from PIL import Image

from detrkit.checkpoints import read
from detrkit.datasets import Dataset
from detrkit.datasets._reading import make_target
from detrkit.errors import DataError, DetrkitError, TargetError
from detrkit.images import read_image
from detrkit.labels import LabelSpace
from detrkit.registry import REGISTRY
from detrkit.training import train
from detrkit.training.data import SampleError, WindowStream, WorkerError
from detrkit.training.log import read_log
from detrkit.training.loop import Trainer
from detrkit.training.pictures import save_pictures

BAD = (2, 5, 6)


class Photographs(Dataset):
    """Seven grey image files with one object each, of which some are cut off."""

    def __init__(self, split: str = "train", *, root: str, bad: tuple[int, ...] = ()) -> None:
        self.root, self.bad = root, bad
        self.label_space, self.findings = LabelSpace(("thing",)), []

    def __len__(self) -> int:
        return 7

    def __getitem__(self, index: int):
        index = range(7)[index]
        path = f"{self.root}/{index}{'cut' if index in self.bad else ''}.png"
        return read_image(path), make_target([(4, 4, 20, 30)], [0], (48, 48), image_id=index)


@pytest.fixture
def photographs(tmp_path):
    """Spec of the data set above."""
    for index in range(7):
        Image.linear_gradient("L").rotate(17 * index).resize((48, 48)).save(tmp_path / f"{index}.png")
        whole = (tmp_path / f"{index}.png").read_bytes()
        (tmp_path / f"{index}cut.png").write_bytes(whole[: len(whole) // 2])
    with REGISTRY.temporarily("datasets", "photographs", Photographs):
        yield lambda bad: f"photographs(root='{tmp_path}', bad={bad})"


def weights(run):
    return [tensor for name, tensor in sorted(read(run.last)[0].items()) if name.startswith("model.")]


@pytest.mark.parametrize("workers", [0, 2])
def test_what_cannot_be_read_is_left_out_counted_and_named(photographs, tmp_path, capsys, workers):
    changes = {"data": photographs(BAD), "epochs": 2, "steps": "none", "dropout": 0, "eval_every": 0}
    with pytest.raises(DataError, match=r"[256]cut\.png: ") as caught:
        train(*small(**changes, num_workers=workers), tmp_path / "strict")
    assert str(caught.value.path).endswith("cut.png")
    run = train(*small(**changes, num_workers=workers, on_bad_image="skip"), tmp_path / "run")
    said = capsys.readouterr().err
    for epoch in (1, 2):
        assert f"epoch {epoch}: 3 images could not be read and were left out" in said
    findings = (run.folder / "findings.txt").read_text().splitlines()
    assert sorted(line.split("/")[-1].split(":")[0] for line in findings) == [f"{index}cut.png" for index in BAD]
    assert all(line.endswith("; image left out") for line in findings)
    alone = train(*small(**changes, on_bad_image="skip"), tmp_path / "alone")
    assert all(torch.equal(a, b) for a, b in zip(weights(run), weights(alone), strict=True))
    assert run.progress.left_out == alone.progress.left_out


def test_a_resumed_run_counts_what_an_uninterrupted_one_counts(photographs, tmp_path, capsys):
    changes = {"data": photographs(BAD), "epochs": 2, "steps": "none", "eval_every": 0, "on_bad_image": "skip"}
    whole = train(*small(**changes), tmp_path / "whole")
    trainer = Trainer(*small(**changes), tmp_path / "parts", resume=False)
    after_step = trainer.after_step

    def stop():
        trainer.signum = signal.SIGTERM if trainer.run.progress.step == 2 else 0
        after_step()

    trainer.after_step = stop
    with pytest.raises(DetrkitError, match="stopped by SIGTERM"):
        trainer.run_to_end()
    capsys.readouterr()
    parts = train(*small(**changes), tmp_path / "parts", resume=True)
    assert "epoch 1: 3 images could not be read" in capsys.readouterr().err
    assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(parts), strict=True))
    assert (whole.folder / "findings.txt").read_text() == (parts.folder / "findings.txt").read_text()


def test_windows_of_which_nothing_is_left_do_nothing(photographs, tmp_path):
    everything = tuple(range(7))
    changes = {"batch_size": 4, "steps": 2, "eval_every": 0, "on_bad_image": "skip", "weight_decay": 0.1}
    trainer = Trainer(*small(data=photographs(everything), **changes), tmp_path / "run", resume=False)
    before = [p.clone() for p in trainer.model.parameters()]
    run = trainer.run_to_end()
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.model.parameters(), strict=True))
    assert [entry["grad_norm"] for entry in read_log(run.log, "train")] == [0.0, 0.0]
    assert len(run.progress.left_out) == 7


def test_held_out_images_are_tried_once_and_left_out(photographs, tmp_path):
    changes = {"data": photographs(BAD), "steps": 1}
    run = train(*small(**changes, on_bad_image="skip"), tmp_path / "run")
    assert read_log(run.log, "eval")[0]["step"] == 1
    with pytest.raises(DataError, match=r"the split 'val' is empty; .*eval_every=0"):
        train(*small(data=photographs(tuple(range(7))), on_bad_image="skip"), tmp_path / "none")
    trainer = Trainer(*small(**changes, on_bad_image="skip"), tmp_path / "other", resume=False)
    paths = save_pictures(run.folder, trainer.model, trainer.data)
    assert all(path.exists() for path in paths)


def test_wrong_targets_are_an_error_in_any_case(tmp_path):
    trainer = Trainer(*small(eval_every=0, on_bad_image="skip"), tmp_path, resume=False)
    window = next(iter(trainer.stream))
    window[0].targets[0]["labels"] += 100
    with pytest.raises(TargetError, match="label out of range"):
        trainer.step(window)
    window[0].failures.append(TargetError("wrong"))
    with pytest.raises(TargetError, match="wrong"):
        trainer.step(window)


class Deadly(Photographs):
    """Kills the process that reads image 3."""

    def __getitem__(self, index: int):
        if index == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


def train_deadly(folder, root):
    with REGISTRY.temporarily("datasets", "deadly", Deadly):
        try:
            train(*small(data=f"deadly(root='{root}')", num_workers=2, eval_every=0), folder)
        except WorkerError as error:
            (folder / "said").write_text(str(error))
            raise


def test_a_worker_that_is_killed_is_an_error_with_a_hint(photographs, tmp_path):
    assert together(train_deadly, tmp_path / "run", tmp_path, count=1) == [1]
    said = (tmp_path / "run/said").read_text()
    assert said.startswith("num_workers: a process that reads images has died")
    assert "memory" in said
    assert "\n" not in said
    assert read(tmp_path / "run/last.safetensors")[1]["progress"]["step"] == 0


def test_another_failure_of_a_worker_is_not_taken_for_its_death(photographs, tmp_path):
    class Failing(Photographs):
        def __getitem__(self, index: int):
            raise RuntimeError("DataLoader or not, this is a defect")

    with REGISTRY.temporarily("datasets", "failing", Failing):
        trainer = Trainer(
            *small(data=f"failing(root='{tmp_path}')", eval_every=0, num_workers=1), tmp_path / "run", resume=False
        )
        with pytest.raises(
            SampleError, match=r"image \d: the data set failed: RuntimeError: DataLoader or not"
        ) as caught:
            trainer.run_to_end()
    assert caught.value.exit_code == 1


@pytest.mark.parametrize(("batch", "accumulate"), [(16, 1), (3, 5)])
def test_data_smaller_than_a_batch_are_one_step_an_epoch(tmp_path, batch, accumulate):
    detector, config = small(batch_size=batch, accumulate=accumulate, epochs=2, steps="none", eval_every=0)
    stream = WindowStream(REGISTRY.make("datasets", config.data, split="train"), detector, config)
    assert sorted(i for b in next(iter(stream)) for i in b.image_ids) == list(range(10))
    run = train(detector, config, tmp_path)
    assert [(entry["step"], entry["epoch"]) for entry in read_log(run.log, "train")] == [(1, 0), (2, 1)]
