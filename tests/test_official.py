"""Official and demo checkpoints: read safely, renamed both ways, built, and the same answers out."""

import argparse
import itertools
import os

import pytest
import torch

import detrkit
from detrkit.checkpoints import load, save_detector, save_official
from detrkit.checkpoints.layouts import Layout, layouts
from detrkit.errors import CheckpointError
from detrkit.labels import COCO, COCO_RAW, LabelSpace

LAYOUTS = {layout.name: layout for layout in layouts()}


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
    save_detector(model, tmp_path / "ours.safetensors")
    again = detrkit.load(tmp_path / "ours.safetensors")
    assert (again.config, again.label_space) == (model.config, model.label_space)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


@pytest.mark.parametrize("name", ["detr_resnet50", "detr_resnet101"])
def test_every_entry_of_the_manifest_has_its_place(shared, name):
    our_name = LAYOUTS["official"].spellings[""].ours
    lines = (shared / "manifests" / f"{name}.txt").read_text().splitlines()
    shapes = {line.split(" ", 1)[0]: line.split(" ", 1)[1] for line in lines if line}
    ours = detrkit.build("detr_r50" if name == "detr_resnet50" else "detr_r101").state_dict()
    assert {our_name(entry) for entry in shapes} == set(ours)
    assert all(str(tuple(ours[our_name(entry)].shape)) == shape for entry, shape in shapes.items())


# --- the paper's demo -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "scale"), [("paper", 1.0), ("colab", 0.1)])
def test_demo_weights_in_the_same_answers_out(golden, tmp_path, name, scale):
    content, fill, state, (images, _) = golden(f"detr_demo_{name}")
    torch.save(state, tmp_path / "demo.pth")
    model = load(tmp_path / "demo.pth")
    assert model.config == detrkit.config("detr_demo", feature_scale=scale)
    assert (model.label_space, model.loaded.origin) == (COCO_RAW, "demo")
    model = model.double()
    with torch.no_grad():
        sizes = enumerate(content["images"])
        outputs = [model(images[i : i + 1, :, :height, :width]) for i, (height, width) in sizes]
    logits, boxes = (torch.cat([getattr(out, part) for out in outputs], dim=1) for part in ("logits", "boxes"))
    assert fill.compare(content, {"pred_logits": logits, "pred_boxes": boxes}, verbose=False)["worst"] < 1e-12


# --- and back again ---------------------------------------------------------------------------------------------------


def assert_same_state(state, other):
    """The same names in the same order, and the same bits."""
    assert list(state) == list(other)
    assert [name for name in state if not torch.equal(state[name], other[name])] == []
    assert [tensor.dtype for tensor in state.values()] == [tensor.dtype for tensor in other.values()]


@pytest.mark.parametrize("name", ["detr_r50", "detr_demo_paper", "detr_demo_colab"])
def test_written_again_the_file_is_the_original(golden, tmp_path, name):
    state = golden(name)[2]
    torch.save({"model": state}, tmp_path / "original.pth")
    model = load(tmp_path / "original.pth")
    save_official(model, tmp_path / "again.pth")
    assert_same_state(state, torch.load(tmp_path / "again.pth", weights_only=True)["model"])
    again = load(tmp_path / "again.pth")
    assert again.config == model.config
    assert_same_state(model.state_dict(), again.state_dict())


SMALL = {
    "backbone": "torchvision(model='resnet18', trainable_levels=3)", "d_model": 16, "dim_feedforward": 12,
    "num_queries": 4, "enc_layers": 1, "dec_layers": 2,
}  # fmt: skip
FOUR_HEADS = dict.fromkeys(("encoder_attention", "decoder_self_attention", "decoder_cross_attention"), "sdpa(heads=4)")
SMALL_DEMO = SMALL | {"backbone": "torchvision(model='resnet18', norm='batch')"}


@pytest.mark.parametrize(
    ("preset", "changes"),
    [
        ("detr_r50", {}),
        ("detr_r50", {"enc_layers": 0, "num_classes": 3, "bbox_loss_coef": 2.5, "aux_loss": False}),
        ("detr_r50", {"pre_norm": True, **FOUR_HEADS}),
        ("detr_r50", {"positional": "learned", "short_side": 96, "long_side": 128, "enc_layers": 11}),
        ("detr_demo", {}),
        ("detr_demo", {"feature_scale": 0.1, "dropout": 0.0}),
    ],
)
def test_every_variant_comes_back(tmp_path, preset, changes):
    small = SMALL_DEMO if preset == "detr_demo" else SMALL
    model = detrkit.build(preset, **{**small, **changes}).eval()
    save_official(model, tmp_path / "a.pth")
    again = load(tmp_path / "a.pth")
    assert again.config == model.config
    assert_same_state(model.state_dict(), again.state_dict())


def test_attention_components_of_one_function_are_one_in_the_file(tmp_path):
    model = detrkit.build(
        "detr_r50", **SMALL, encoder_attention="matrix", decoder_self_attention="torch", matcher="numpy"
    )
    save_official(model, tmp_path / "a.pth")
    assert load(tmp_path / "a.pth").config == detrkit.config("detr_r50", **SMALL)


@pytest.mark.fast
@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"backbone": "tiny(width=8)"}, "backbone"),
        ({"backbone": "torchvision(model='resnet18', norm='batch')"}, "backbone"),
        ({"positional": None}, "positional"),
        ({"positional": "sine(temperature=20.0)"}, "positional"),
        ({"positional": "learned(interpolate=True)"}, "positional"),
        ({"decoder_self_attention": None}, "decoder_self_attention"),
        ({"decoder_self_attention": "sdpa(heads=2)"}, "decoder_self_attention"),
        ({"activation": "gelu"}, "activation"),
        ({"bbox_layers": 2}, "bbox_layers"),
        ({"feature_scale": 0.5}, "feature_scale"),
        ({"encoder_norm": True}, "encoder_norm"),
        ({"queries": "content"}, "queries"),
        ({"position_at": "input"}, "position_at"),
        ({"padding_exact": True}, "padding_exact"),
        ({"selection": "topk"}, "selection"),
    ],
)
def test_what_the_layout_cannot_express_is_refused_by_field(tmp_path, changes, field):
    model = detrkit.build("detr_r50", **{**SMALL, **changes})
    with pytest.raises(CheckpointError, match="cannot express") as caught:
        save_official(model, tmp_path / "a.pth")
    assert caught.value.field == field
    assert "\n" not in str(caught.value)
    assert str(changes[field]) in str(caught.value)
    assert list(tmp_path.iterdir()) == []


# --- the tables -------------------------------------------------------------------------------------------------------


def filled(pattern, number, word):
    """A name with numbers from this one on, and a word, in the places left open."""
    numbers = itertools.count(number)
    return pattern.fill(str(next(numbers)) if piece == "#" else word for piece in pattern.pieces if piece in ("#", "*"))


@pytest.mark.fast
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_tables_are_bijections(layout):
    """No entry has two names, on either side, with every number and word in the places left open."""
    assert isinstance(layout, Layout)
    for renaming in layout.spellings.values():
        fillings = ((1, "2"), (3, "weight"), (0, "bias"))
        ours = [filled(row.ours, *filling) for row in renaming.rows for filling in fillings]
        for name in ours:
            theirs = [part for place in renaming.places(name) for part in place]
            assert len(set(theirs)) == len(theirs) > 0
            assert {renaming.ours(other) for other in theirs} == {name}
            assert len({row.ours.regex for row in renaming.rows if row.ours.match(name) is not None}) == 1
            assert all(sum(p.match(n) is not None for row in renaming.rows for p in row.theirs) == 1 for n in theirs)


# --- the report -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small():
    return detrkit.build("detr_r50", **SMALL, label_space=LabelSpace(("cat", "dog"))).eval()


@pytest.fixture
def official(small, tmp_path):
    """Writes what a change makes of a small official file; gives its path."""
    save_official(small, tmp_path / "whole.pth")
    state = torch.load(tmp_path / "whole.pth", weights_only=True)["model"]

    def write(change):
        change(state)
        torch.save({"model": state}, tmp_path / "a.pth")
        return tmp_path / "a.pth"

    return write


def test_report_of_an_official_file(small, official):
    report = load(official(lambda state: None)).loaded
    assert report.origin == "official"
    assert set(report.counts) == {"loaded", "renamed"}
    assert [entry.name for entry in report.entries] == list(small.state_dict())
    assert (
        "decoder.layers.1.cross_attn.in_proj_bias <- transformer.decoder.layers.1.multihead_attn.in_proj_bias"
        in report.table()
    )
    assert not report.partial


def test_report_of_our_own_file(small, tmp_path):
    save_detector(small, tmp_path / "a.safetensors")
    report = load(tmp_path / "a.safetensors").loaded
    assert (report.origin, report.counts) == ("detrkit", {"loaded": len(small.state_dict())})


def test_mask_head_of_a_panoptic_file_is_left_out_and_named(small, official):
    def make_panoptic(state):
        for name in list(state):
            state[f"detr.{name}"] = state.pop(name)
        state["mask_head.lay1.weight"] = state["bbox_attention.q_linear.bias"] = torch.zeros(3)
        state["detr.backbone.0.body.bn1.num_batches_tracked"] = torch.tensor(3)
        state["epoch"] = 5

    model = load(official(make_panoptic))
    counter = "detr.backbone.0.body.bn1.num_batches_tracked"
    unused = ["mask_head.lay1.weight", "bbox_attention.q_linear.bias", counter, "epoch"]
    assert [entry.source for entry in model.loaded.partial] == unused
    assert {entry.action for entry in model.loaded.partial} == {"unused"}
    assert all(entry.note for entry in model.loaded.partial)
    assert_same_state(small.state_dict(), model.state_dict())


def test_half_precision_is_noted(official):
    model = load(official(lambda state: state.update({"class_embed.bias": state["class_embed.bias"].half()})))
    assert [entry.note for entry in model.loaded.entries if entry.note] == ["float16 -> float32"]


# --- what is refused --------------------------------------------------------------------------------------------------


NORM = "transformer.encoder.layers.0.norm1.bias"


def cut(state):
    state["class_embed.weight"] = state["class_embed.weight"][:, :3]


@pytest.mark.fast
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: state.pop("class_embed.weight"), ["an entry is missing", "class_embed.weight"]),
        (lambda state: state.pop("class_embed.bias"), ["an entry is missing", "class_embed.bias"]),
        (lambda state: state.pop(NORM), ["an entry is missing", NORM]),
        (lambda state: state.update({"clas_embed.bias": state.pop("class_embed.bias")}), ["mean 'clas_"]),
        (lambda state: state.update({"class_embed.bia": torch.zeros(3)}), ["unknown", "mean 'class_embed.bias'"]),
        (lambda state: state.update({NORM.replace("0", "999999999"): torch.zeros(16)}), ["missing"]),
        (cut, ["wrong shape", "class_embed.weight", "(3, 3)", "(3, 16)"]),
        (lambda state: state.update({"class_embed.weight": torch.tensor(3.0)}), ["wrong shape", "()"]),
        (lambda state: state.update({"class_embed.bias": torch.zeros(3, dtype=torch.int64)}), ["kind of number"]),
        (lambda state: state.update({"class_embed.weight": torch.zeros(1, 16)}), ["no detector", "num_classes"]),
        (lambda state: state.pop("backbone.0.body.layer3.1.conv1.weight"), ["missing"]),
        (
            lambda state: [state.pop(name) for name in list(state) if ".layer3.1." in name],
            ["the trunk is no ResNet", "2, 2, 1, 2 blocks"],
        ),
    ],
)  # fmt: skip
def test_files_that_do_not_fit_are_refused_in_one_line(official, change, words):
    path = official(change)
    with pytest.raises(CheckpointError) as caught:
        load(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
    assert [word for word in words if word not in str(caught.value)] == []


@pytest.mark.fast
@pytest.mark.parametrize("arguments", [{"dropout": "much"}, {"nheads": 3}, {"nheads": "8), tiny("}, {"aux_loss": None}])
def test_arguments_that_make_no_detector_are_one_line(official, arguments):
    path = official(lambda state: None)
    torch.save({"model": torch.load(path, weights_only=True)["model"], "args": argparse.Namespace(**arguments)}, path)
    with pytest.raises(CheckpointError, match="describes no detector") as caught:
        load(path)
    assert "\n" not in str(caught.value)


@pytest.mark.fast
def test_truncated_anywhere_is_one_line(official):
    path = official(lambda state: None)
    whole = path.read_bytes()
    for length in (5, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="cannot be read") as caught:
            load(path)
        assert "\n" not in str(caught.value)


@pytest.mark.fast
def test_wrappers_that_hold_themselves_end(tmp_path):
    content = {}
    content["model"] = content
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="no tensors"):
        load(tmp_path / "a.pth")


@pytest.mark.fast
def test_dilation_told_to_a_file_that_knows_is_refused(small, tmp_path):
    save_detector(small, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="leave it out"):
        load(tmp_path / "a.safetensors", dilation=True)


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
        (lambda _: {"model": {"weight": torch.zeros(3)}}, "no detector in a known layout"),
        (lambda _: {0: torch.zeros(3), "model": {1: torch.zeros(3)}}, "no tensors"),
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
