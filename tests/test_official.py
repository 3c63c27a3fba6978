"""Official checkpoints: read safely, renamed, built, and the same answers out."""

import argparse
import os

import pytest
import torch

import detrkit
from detrkit.checkpoints.official import our_name
from detrkit.errors import CheckpointError
from detrkit.labels import COCO, COCO_RAW


def wrap_plainly(state):
    return {"model": state}


def wrap_as_training_does(state):
    return {"model": state, "args": argparse.Namespace(dilation=False, lr=1e-4), "epoch": 3}


def wrap_for_processes(state):
    return {"model": {f"module.{name}": tensor for name, tensor in state.items()}}


def wrap_for_panoptics(state):
    return {"model": {f"detr.{name}": tensor for name, tensor in state.items()}}


def wrap_as_an_average(state):
    return {"ema": {"module": {f"_orig_mod.{name}": tensor for name, tensor in state.items()}}}


WRAPPINGS = [wrap_plainly, wrap_as_training_does, wrap_for_processes, wrap_for_panoptics, wrap_as_an_average, dict]


@pytest.mark.parametrize("wrap", WRAPPINGS)
def test_official_weights_in_the_same_answers_out(golden, tmp_path, wrap):
    content, fill, state, inputs = golden("detr_r50")
    torch.save(wrap(state), tmp_path / "official.pth")
    model = detrkit.load(tmp_path / "official.pth")
    assert not model.training
    assert model.config == detrkit.config("detr_r50")
    assert model.label_space == COCO_RAW
    with torch.no_grad():
        outputs = model.double()(*inputs)
    found = fill.compare(content, {"pred_logits": outputs.logits, "pred_boxes": outputs.boxes}, verbose=False)
    assert found["worst"] < 1e-10


@pytest.mark.parametrize("told", ["by the file", "by the caller"])
def test_dilation_is_told_by_the_file_or_the_caller(golden, tmp_path, told):
    content, fill, state, inputs = golden("detr_r50_dc5")
    arguments = {"args": argparse.Namespace(dilation=True)} if told == "by the file" else {}
    torch.save({"model": state, **arguments}, tmp_path / "dc5.pth")
    model = detrkit.load(tmp_path / "dc5.pth", dilation=None if arguments else True)
    with torch.no_grad():
        outputs = model.double()(*inputs)
    assert fill.compare(content, {"pred_boxes": outputs.boxes}, verbose=False)["ok"]


def test_what_was_loaded_can_be_saved_and_loaded_as_our_own(golden, tmp_path):
    torch.save(golden("detr_r101")[2], tmp_path / "official.pth")
    model = detrkit.load(tmp_path / "official.pth")
    detrkit.checkpoints.save_detector(model, tmp_path / "ours.safetensors")
    again = detrkit.load(tmp_path / "ours.safetensors")
    assert (again.config, again.label_space) == (model.config, model.label_space)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


@pytest.mark.parametrize("name", ["detr_resnet50", "detr_resnet101"])
def test_every_entry_of_the_manifest_has_its_place(shared, name):
    lines = (shared / "manifests" / f"{name}.txt").read_text().splitlines()
    shapes = {line.split(" ", 1)[0]: line.split(" ", 1)[1] for line in lines if line}
    ours = detrkit.build("detr_r50" if name == "detr_resnet50" else "detr_r101").state_dict()
    assert {our_name(entry) for entry in shapes} == set(ours)
    assert all(str(tuple(ours[our_name(entry)].shape)) == shape for entry, shape in shapes.items())


class Malice:
    """Would run a command if it were unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch '{self.marker}'",)


@pytest.mark.fast
@pytest.mark.parametrize(
    ("content", "word"),
    [
        (lambda folder: {"model": Malice(folder / "marker")}, "more than tensors"),
        (lambda _: [1, 2], "no state dict"),
        (lambda _: {"model": {}}, "no tensors"),
        (lambda _: {"model": {"weight": torch.zeros(3)}}, "not an official DETR"),
    ],
)
def test_what_is_no_official_checkpoint_is_refused_in_one_line(tmp_path, content, word):
    path = tmp_path / "a.pth"
    torch.save(content(tmp_path), path)
    with pytest.raises(CheckpointError, match=word) as caught:
        detrkit.load(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert not (tmp_path / "marker").exists()


@pytest.mark.fast
def test_coco_has_80_names_under_90_ids():
    assert (len(COCO), len(COCO_RAW), COCO.ids[0], COCO.ids[-1]) == (80, 91, 1, 90)
    assert all(COCO_RAW.names[i] == name for i, name in zip(COCO.ids, COCO.names, strict=True))
    assert (COCO_RAW.names[18], COCO_RAW.names[90], COCO_RAW.names[44]) == ("dog", "toothbrush", "bottle")
