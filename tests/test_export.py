"""Exported detectors say what the detector says, for any batch and size; what does not is not kept."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import detrkit
from detrkit.checkpoints import save_detector
from detrkit.cli import main
from detrkit.errors import DetrkitError
from detrkit.export import FORMATS, Difference, ExportError, checked, export, onnx, torch_export
from detrkit.export.comparison import apart, noise, selected, undecided
from detrkit.outputs import LayerOutput
from detrkit.prediction import detections

SMALL = {"num_queries": 5, "d_model": 32, "dim_feedforward": 32, "enc_layers": 1, "dec_layers": 2}
TINY = {**SMALL, "backbone": "tiny(width=8, stride=16)"}
ATTENTIONS = ("encoder_attention", "decoder_self_attention", "decoder_cross_attention")
OTHER_SIZES = [(1, 64, 96), (2, 75, 49), (3, 33, 130), (4, 33, 40), (2, 120, 160)]

MIXED = {**TINY, **dict(zip(ATTENTIONS, ("torch", "per_head", "einops"), strict=True)), "positional": "learned"}
PLAIN = {**TINY, **dict.fromkeys(ATTENTIONS, "matrix"), "positional": None, "pre_norm": False, "aux_loss": False}
STRETCHED = {**TINY, "positional": "learned(size=3, interpolate=True)", "decoder_self_attention": None}
RESNET = {**SMALL, "backbone": "torchvision(model='resnet18')", "encoder_attention": "sdpa"}
TIMM = {**SMALL, "backbone": "timm(model='resnet18')"}
EXACT = {**RESNET, "padding_exact": True}
PATCHES = {**SMALL, "backbone": "timm(model='convnext_atto')"}

pytestmark = pytest.mark.timeout(300)


def make(fields):
    torch.manual_seed(0)
    return detrkit.build("detr_tiny", **fields).eval()


def assert_same(model, program, tolerance=1e-4):
    """A program agrees with the model where it was not checked when it was written."""
    for shape in OTHER_SIZES:
        sample = noise(model, *shape)
        with torch.inference_mode():
            expected = model(sample.images, sample.mask)
            *_, logits, boxes = program(*sample.inputs)
        assert torch.allclose(expected.pred_logits, logits, rtol=0, atol=tolerance), shape
        assert torch.allclose(expected.pred_boxes, boxes, rtol=0, atol=tolerance), shape


# --- the same function ------------------------------------------------------------------------------------------------


def test_onnx_says_what_the_detector_says(tmp_path):
    model = make(RESNET)
    written = export(model, tmp_path / "a.onnx")
    assert_same(model, onnx.OnnxWriter().read(written.path))
    assert max(written.differences.values()) <= written.tolerance == 1e-4
    assert (written.comparisons, list(written.differences)) == (6, ["scores", "boxes", "pred_logits", "pred_boxes"])
    assert [path.name for path in tmp_path.iterdir()] == ["a.onnx"]


def test_torch_export_says_what_the_detector_says(tmp_path):
    model = make(STRETCHED)
    written = export(model, tmp_path / "a.pt2", "torch-export")
    assert_same(model, torch_export.TorchExportWriter().read(written.path))
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt2"]


@pytest.mark.nightly
@pytest.mark.parametrize("format", ["onnx", "torch-export"])
@pytest.mark.parametrize(
    "fields",
    [MIXED, PLAIN, STRETCHED, RESNET, TIMM, EXACT, PATCHES, *({**TINY, name: "matrix"} for name in ATTENTIONS)],
    ids=["mixed", "plain", "stretched", "resnet", "timm", "exact", "patches", *ATTENTIONS],
)
def test_every_combination_is_exported(fields, format, tmp_path):
    written = export(make(fields), tmp_path / "a", format)
    assert max(written.differences.values()) <= 1e-4


@pytest.mark.nightly
def test_the_published_detector_is_exported(tmp_path):
    torch.manual_seed(0)
    written = export(detrkit.build("detr_r50").eval(), tmp_path / "a.onnx", "onnx")
    assert max(written.differences.values()) <= 1e-4


# --- what a deployer reads --------------------------------------------------------------------------------------------

READ_WITHOUT_DETRKIT = """if True:
    import json, sys, torch
    sys.modules["detrkit"] = None
    about = {"class_names": "", "mean": "", "config": ""}
    program = torch.export.load(sys.argv[1], extra_files=about).module()
    sizes, mask = torch.tensor([[80, 140]] * 3), torch.zeros(3, 40, 70, dtype=torch.bool)
    scores, labels, boxes, queries, *_ = program(torch.zeros(3, 3, 40, 70), sizes, mask)
    print(json.dumps([*(json.loads(about[key]) for key in ("class_names", "mean")), scores.shape, boxes.shape]))
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A checkpoint of a small detector of many parts."""
    path = tmp_path_factory.mktemp("run") / "best.safetensors"
    save_detector(make(MIXED), path)
    return path


@pytest.fixture
def call(capsys):
    """Runs the command line in this process: exit code, stdout, stderr."""

    def run(*words):
        return main(["export", *map(str, words)]), *capsys.readouterr()

    return run


def test_command_writes_onnx_for_a_deployer(checkpoint, call, tmp_path):
    import onnxruntime

    out = tmp_path / "new" / "a.onnx"
    code, text, err = call(checkpoint.parent, "--out", out, "--json")
    told = json.loads(text)
    assert (code, told["path"], told["format"]) == (0, str(out), "onnx")
    assert "comparing" in err
    assert "no photographs to compare on: " in err
    assert "Warning" not in err
    assert max(told["differences"].values()) <= told["tolerance"]
    assert_same(detrkit.load(checkpoint), onnx.OnnxWriter().read(out))
    session = onnxruntime.InferenceSession(out)
    shapes = {tensor.name: tensor.shape for tensor in (*session.get_inputs(), *session.get_outputs())}
    assert shapes == {
        "images": ["batch", 3, "height", "width"], "orig_size": ["batch", 2], "mask": ["batch", "height", "width"],
        "scores": ["batch", 5], "labels": ["batch", 5], "boxes": ["batch", 5, 4], "queries": ["batch", 5],
        "pred_logits": ["batch", 5, 4], "pred_boxes": ["batch", 5, 4],
    }  # fmt: skip
    assert set(shapes) == {*told["inputs"], *told["outputs"]}
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["class_names"]) == ["class 0", "class 1", "class 2"]
    assert json.loads(about["std"]) == [0.229, 0.224, 0.225]
    assert (about["short_side"], about["long_side"], about["detrkit_version"]) == ("96", "96", detrkit.__version__)
    assert json.loads(about["config"])["backbone"] == TINY["backbone"]
    assert str(tmp_path.anchor + "work").encode() not in out.read_bytes()
    assert b"site-packages" not in out.read_bytes()


def test_command_writes_a_program_that_runs_without_detrkit(call, tmp_path):
    checkpoint, out = tmp_path / "plain.safetensors", tmp_path / "plain.pt2"
    save_detector(make(PLAIN), checkpoint)
    code, text, _ = call(checkpoint, "--format", "torch-export", "--data", "toy")
    assert code == 0
    assert_same(detrkit.load(checkpoint), torch_export.TorchExportWriter().read(out))
    assert text.splitlines()[0] == str(out)
    assert "pred_logits differ by" in text
    assert "at most in 10 comparisons" in text, "six images of noise, four of the data"
    assert b"site-packages" not in out.read_bytes()
    done = subprocess.run([sys.executable, "-c", READ_WITHOUT_DETRKIT, out], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    names, mean, scores, boxes = json.loads(done.stdout)
    assert (len(names), len(mean), scores, boxes) == (3, 3, [3, 5], [3, 5, 4])


@pytest.mark.parametrize(("format", "name"), [("official", "a.pth"), ("transformers", "a")])
def test_checkpoints_for_others_come_back_bit_by_bit(format, name, tmp_path):
    model = make(RESNET)
    written = export(model, tmp_path / name, format)
    assert (written.differences, written.tolerance, written.inputs) == ({"weights": 0.0}, 0.0, {})
    assert written.comparisons == len(model.state_dict())
    assert [path.name for path in tmp_path.iterdir()] == [name]
    back = detrkit.load(tmp_path / name).state_dict()
    assert all(torch.equal(tensor, back[key]) for key, tensor in model.state_dict().items())


@pytest.mark.fast
def test_a_model_that_a_checkpoint_cannot_express_is_refused_by_the_place_asked_for(checkpoint, call, tmp_path):
    for format, name in (("official", "a.pth"), ("transformers", "a")):
        code, text, err = call(checkpoint, "--format", format, "--out", tmp_path / name)
        assert (code, text) == (2, "")
        assert err.splitlines()[-1].startswith(f"detrkit: {tmp_path / name}:backbone: the layout")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.fast
def test_a_checkpoint_that_comes_back_otherwise_is_caught(tmp_path, monkeypatch):
    model, other = make(RESNET), make(RESNET)
    other.bbox_embed.layers[0].weight.data[0, 0] += 1e-6
    monkeypatch.setattr("detrkit.export.checkpoints.load", lambda path: other)
    with pytest.raises(ExportError, match=r"differs from the detector in weights, bbox_embed.layers.0.weight"):
        export(model, tmp_path / "a.pth", "official")
    assert list(tmp_path.iterdir()) == []


# --- what is caught ---------------------------------------------------------------------------------------------------


def test_a_wrong_weight_is_caught_and_the_old_file_stays(checkpoint, call, tmp_path, monkeypatch):
    trace = torch_export.trace

    def spoilt(model):
        program = trace(model)
        program.state_dict["detector.class_embed.bias"] = nn.Parameter(model.class_embed.bias + 0.01)
        return program

    monkeypatch.setattr(torch_export, "trace", spoilt)
    out = tmp_path / "a.pt2"
    out.write_text("old")
    code, text, err = call(checkpoint, "--format", "torch-export", "--out", out)
    last = err.splitlines()[-1]
    assert (code, text) == (1, "")
    assert last.startswith(f"detrkit: {out}: what was written differs from the detector in pred_logits, batch ")
    assert "expected at most 0.0001" in last
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.pt2", "old")]


@pytest.mark.fast
@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), 1.01e-4])
def test_no_difference_escapes(wrong):
    found = [Difference("boxes", "here", 0.0), Difference("boxes", "there", wrong), Difference("boxes", "here", 1e-4)]
    with pytest.raises(ExportError, match=r"a: what was written differs from the detector in boxes, there"):
        checked(Path("a"), lambda: found, 1e-4)
    assert len(checked(Path("a"), lambda: found[::2], 1e-4)) == 2
    with pytest.raises(ExportError, match=r"a: what was written cannot be used; it is not kept; got \(division"):
        checked(Path("a"), lambda: [1 / 0], 1e-4)


@pytest.mark.fast
def test_queries_may_change_places_but_not_what_they_say():
    torch.manual_seed(0)
    here = LayerOutput(3 * torch.randn(6, 4), torch.rand(6, 4))
    order = torch.tensor([0, 2, 1, 3, 5, 4])
    assert max(apart(here, LayerOutput(*(part[order] for part in here)), 1e-4).values()) == 0
    for part in range(2):
        wrong = [x[order].clone() for x in here]
        wrong[part][3, 1] += 0.01
        assert max(apart(here, LayerOutput(*wrong), 1e-4).values()) > 1e-3
    twice = LayerOutput(*(part[[0, 0, 1, 2, 3, 4]] for part in here))
    assert max(apart(here, twice, 1e-4).values()) > 0.1
    assert apart(here, LayerOutput(here.pred_logits, here.pred_boxes * torch.nan), 1e-4)["pred_boxes"] == float("inf")


@pytest.mark.fast
@pytest.mark.parametrize("selection", ["argmax", "topk(k=7)"])
def test_no_wrong_detection_escapes(selection):
    model = make({**TINY, "selection": selection, "num_classes": 3, "classification": "focal"})
    last, sizes = LayerOutput(torch.randn(2, 5, 3), torch.rand(2, 5, 4)), torch.tensor([[30, 40], [50, 20]])
    right = detections(model, last, sizes)
    assert [max(amounts.values()) for amounts in selected(model, last, right, sizes)] == [0, 0]

    def worst(**changes):
        return max(selected(model, last, right._replace(**changes), sizes)[1].values())

    assert worst(scores=right.scores + 0.01) > 1e-3
    assert worst(boxes=right.boxes + 1) > 1e-3
    assert worst(boxes=right.boxes[:, :, [1, 0, 3, 2]]) > 1e-3
    assert worst(labels=(right.labels + 1) % 3) > 1e-3
    assert worst(queries=right.queries.flip(1)) > 1e-3
    assert worst(**{name: part[:, [0, 0, *range(2, part.shape[1])]] for name, part in right._asdict().items()}) > 1e-3
    assert worst(**{name: part.flip(1) for name, part in right._asdict().items()}) > 1e-3


@pytest.mark.fast
@torch.inference_mode()
def test_only_what_rounding_changes_is_left_out():
    """Ranks of tokens that are as good as equal, and nothing else."""
    model = make({**TINY})
    sample = noise(model, 2, 64, 96)
    output = model(sample.images, sample.mask)
    expected = LayerOutput(output.pred_logits, output.pred_boxes)
    assert not undecided(model, sample, 1, expected, 1e-4)
    assert undecided(model, sample, 1, expected._replace(pred_boxes=expected.pred_boxes + 0.01), 1e-4)


class OneSize(nn.Module):
    """A backbone that looks at its input's size."""

    channels, strides = (64,), (16,)

    def forward(self, images):
        size = 8 if len(images) == 2 else 16
        return [images.new_zeros(len(images), 64, size, size)]


def test_a_part_that_cannot_be_exported_is_named(tmp_path):
    model = make({**TINY, "backbone": "tiny(width=16, stride=16)"})
    model.backbone = OneSize()
    with pytest.raises(ExportError, match=r"backbone=tiny\(width=16, stride=16\): cannot be exported") as found:
        export(model, tmp_path / "a.pt2", "torch-export")
    assert len(str(found.value).splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.fast
def test_missing_extra_is_one_line(checkpoint, call, monkeypatch):
    monkeypatch.setattr("detrkit.export.find_spec", lambda name: None if name == "onnxruntime" else name)
    code, text, err = call(checkpoint)
    assert (code, text) == (2, "")
    assert err == (
        "detrkit: onnx: the format needs onnxruntime, which cannot be imported; pip install 'detrkit[onnx]'\n"
    )


@pytest.mark.fast
def test_places_that_cannot_be_written_are_refused_before_the_work(checkpoint, call, tmp_path):
    (tmp_path / "file").write_text("")
    for out, reason in ((tmp_path, "there is a folder"), (tmp_path / "file" / "a.onnx", "File exists")):
        code, text, err = call(checkpoint, "--out", out)
        assert (code, text) == (2, "")
        assert err.startswith(f"detrkit: {out}: cannot write there; got ({reason}")
        assert len(err.splitlines()) == 1
    before = checkpoint.read_bytes()
    code, text, err = call(checkpoint, "--out", checkpoint)
    assert (code, text, checkpoint.read_bytes() == before) == (2, "", True)
    assert "that is the run itself" in err


@pytest.mark.fast
def test_a_detector_in_another_state_is_refused(tmp_path):
    for model in (make(TINY).train(), make(TINY).double()):
        with pytest.raises(DetrkitError, match=r"call model.eval\(\).float\(\).cpu\(\) first"):
            export(model, tmp_path / "a.onnx")
    with pytest.raises(DetrkitError, match="did you mean 'onnx'"):
        export(make(TINY), tmp_path / "a", "onyx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.fast
def test_every_format_has_its_writer():
    for format in FORMATS.values():
        file, _, name = format.writer.partition(":")
        module = __import__(f"detrkit.export.{file}", fromlist=[name])
        assert getattr(module, name)().tolerance in (0.0, 1e-4)
