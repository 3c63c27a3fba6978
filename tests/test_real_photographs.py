"""BCCD blood cells from end to end: train, stop, go on, score, predict; skipped where they are not at hand."""

import json
import signal

import pytest
import torch

from detrkit.checkpoints import read
from detrkit.cli import main
from detrkit.presets import from_pairs
from detrkit.training.loop import Trainer
from detrkit.training.run import Stopped

TRUNK = "weights/shufflenetv2_x0_5_cocodet_trunk_tv_rgbnorm.pth"


@pytest.fixture
def fields(shared):
    """A small DETR on a pretrained trunk, for a few steps on small images."""
    return {
        "data": f"voc(root='{shared / 'data/bccd'}')",
        "backbone": f"torchvision(model=shufflenet_v2_x0_5, weights='{shared / TRUNK}', trainable_levels=3)",
        "short_side": "96",
        "long_side": "128",
        "num_queries": "40",
        "d_model": "32",
        "dim_feedforward": "32",
        "dropout": "0.1",
        "transforms": "small",
        "batch_size": "4",
        "steps": "4",
        "eval_every": "0",
    }


def test_train_stop_resume_eval_predict(fields, tmp_path, capsys):
    words = [f"{name}={value}" for name, value in fields.items()]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert main(["train", "detr_tiny", *words, "--out", str(whole)]) == 0
    trainer = Trainer(*from_pairs("detr_tiny", fields), parts, resume=False)
    trainer.step(next(iter(trainer.stream)))
    trainer.signum = signal.SIGTERM
    with pytest.raises(Stopped):
        trainer.after_step()
    assert main(["train", "--resume", str(parts)]) == 0
    expected, got = (read(folder / "last.safetensors")[0] for folder in (whole, parts))
    assert all(torch.equal(expected[name], got[name]) for name in expected)

    said = capsys.readouterr()
    assert "BloodImage_00343.xml:object[3].bndbox: box has no area" in said.err
    assert "data: 1 thing was wrong" in said.out

    assert main(["eval", str(whole), "--split", "test", "--json"]) == 0
    numbers = json.loads(capsys.readouterr().out)
    assert {"AP", "AP50", "AP/RBC", "AP/WBC", "AP/Platelets"} <= set(numbers)
    scores = {name: value for name, value in numbers.items() if name.startswith(("AP", "AR"))}
    assert all(value is None or 0 <= value <= 1 for value in scores.values())

    pictures = tmp_path / "pictures"
    options = ["--split", "test", "--limit", "3", "--threshold", "0", "--out", str(pictures), "--json"]
    assert main(["predict", str(whole), *options]) == 0
    assert [len(found) for found in json.loads(capsys.readouterr().out).values()] == [40, 40, 40]
    assert len(list(pictures.glob("*.attention.png"))) == 3


def test_both_boxes_without_area_are_named(shared):
    import detrkit

    splits = ("train", "val", "test")
    data = [detrkit.make("datasets", f"voc(root='{shared / 'data/bccd'}')", split=split) for split in splits]
    named = [finding for part in data for finding in part.findings]
    assert len(named) == 2
    assert all("no area" in str(finding) and "BloodImage_00" in str(finding) for finding in named)
