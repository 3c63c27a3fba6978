"""Prediction: from outputs to boxes in pixels, best first."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import detrkit
from detrkit.classification.softmax import SoftmaxClassification
from detrkit.detections import Detections
from detrkit.drawing import draw, of_detections
from detrkit.errors import DetrkitError
from detrkit.explanation.overlay import overlay
from detrkit.images import to_rgb
from detrkit.labels import LabelSpace
from detrkit.model import DetectorOutput
from detrkit.prediction import open_image, predict, results

pytestmark = pytest.mark.fast


@pytest.fixture
def tiny():
    """A detector of small images."""
    return detrkit.build("detr_tiny", backbone="tiny(width=8)", short_side=32, long_side=64)


def test_detections_by_hand():
    """A query's score is that of its best class, no-object left out; boxes are fractions of width and height."""
    model = SimpleNamespace(
        classification=SoftmaxClassification(2),
        selection=detrkit.make("selection", "argmax"),
        label_space=LabelSpace(("cat", "dog")),
    )
    probabilities = torch.tensor([[0.2, 0.1, 0.7], [0.05, 0.9, 0.05], [0.5, 0.3, 0.2]])
    boxes = torch.tensor([[0.5, 0.5, 1.0, 1.0], [0.25, 0.5, 0.5, 0.2], [0.5, 0.25, 0.1, 0.5]])
    (found,) = results(model, DetectorOutput(probabilities.log()[None, None], boxes[None, None]), [(100, 200)])
    assert found.queries.tolist() == [1, 2, 0]
    assert found.names == ["dog", "cat", "cat"]
    assert found.scores.tolist() == pytest.approx([0.9, 0.5, 0.2])
    assert found.boxes.tolist() == [
        pytest.approx(box, abs=1e-4) for box in ([0, 40, 100, 60], [90, 0, 110, 50], [0, 0, 200, 100])
    ]
    assert (found.size, len(found.above(0.4))) == ((100, 200), 2)


def test_every_image_has_its_own_size_and_the_mode_is_kept():
    model = detrkit.build("detr_tiny", backbone="tiny(width=8)", short_side=32, long_side=64).train()
    images = [Image.new("RGB", (50, 30)), np.zeros((20, 70, 3), np.uint8), torch.zeros(3, 40, 40, dtype=torch.uint8)]
    found = model.predict(images, threshold=0.0, batch_size=2)
    assert [one.size for one in found] == [(30, 50), (20, 70), (40, 40)]
    assert all(len(one) == model.config.num_queries for one in found)
    assert model.training


def test_coco_entries_carry_the_ids_and_boxes_of_the_data():
    space = LabelSpace(("cat", "dog"), (17, 18))
    boxes, one = np.array([[10, 20, 40, 60]], np.float32), np.ones(1)
    found = Detections(boxes, np.array([1]), 0.25 * one.astype(np.float32), (100, 200), space, np.array([3]))
    assert found.to_coco(7) == [{"image_id": 7, "category_id": 18, "bbox": [10, 20, 30, 40], "score": 0.25}]


def sigmoid(logits):
    """Scores of the classes where there is no no-object."""
    return logits.sigmoid()


@pytest.mark.parametrize(
    ("case", "scores", "rule"),
    [
        ("detr_softmax", SoftmaxClassification(91).scores, "argmax"),
        ("deformable_sigmoid_top100", sigmoid, "topk"),
        ("dino_sigmoid_top300", sigmoid, "topk(k=300)"),
    ],
)
def test_detections_are_those_of_the_official_code(shared, fill, case, scores, rule):
    """In pixels of the original image, not clipped; the official DETR leaves them in the order of the queries."""
    published = json.loads((shared / "golden/postprocess.json").read_text())
    expected = published["cases"][case]
    logits, boxes = fill.make_outputs(published["seed"], f"post.{case}", 2, expected["Q"], expected["C"])
    model = SimpleNamespace(
        classification=SimpleNamespace(scores=scores),
        selection=detrkit.make("selection", rule),
        label_space=LabelSpace.numbered(91),
    )
    output = DetectorOutput(torch.from_numpy(logits)[None], torch.from_numpy(boxes)[None])
    found = list(results(model, output, expected["target_sizes"]))
    for one, wanted in zip(found, expected["images"], strict=True):
        one = one[np.argsort(one.queries)] if rule == "argmax" else one
        rows = one[np.array(wanted["rows"])]
        assert len(one) == wanted["count"]
        assert rows.labels.tolist() == wanted["labels"]
        assert rows.scores.tolist() == pytest.approx(wanted["scores"], abs=1e-6)
        assert np.allclose(rows.boxes, wanted["boxes"], atol=published["tolerance"]["float32_absolute"])
        assert int(one.labels.sum()) == wanted["sum_labels"]
        assert one.boxes.astype(float).sum(0).tolist() == pytest.approx(wanted["sum_boxes"], rel=1e-6)


def test_each_module_keeps_its_own_mode():
    model = detrkit.build("detr_tiny", backbone="tiny(width=8)", short_side=32, long_side=64).train()
    model.backbone.eval()
    model.predict([Image.new("RGB", (50, 30))])
    assert (model.training, model.backbone.training, model.decoder.training) == (True, False, True)


def as_tensor(array):
    """[H, W, C] -> [C, H, W]."""
    return torch.from_numpy(array.copy()).movedim(-1, 0)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_pixels_of_every_kind_are_the_same_image(tmp_path, channels):
    """Arrays, tensors, files and PIL images of 1, 3 and 4 channels; grey may do without the axis."""
    pixels = np.random.default_rng(0).integers(0, 256, (7, 5, channels), np.uint8)
    picture = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
    picture.save(tmp_path / "a.png")
    wanted = np.asarray(to_rgb(picture))
    sources = [pixels, as_tensor(pixels), picture, tmp_path / "a.png", str(tmp_path / "a.png")]
    sources += [pixels[..., 0], torch.from_numpy(pixels[..., 0].copy())] if channels == 1 else []
    assert [np.array_equal(np.asarray(open_image(source)), wanted) for source in sources] == [True] * len(sources)


def test_turned_and_sliced_pixels_are_read_as_they_look():
    """What OpenCV reads is turned by a negative stride."""
    pixels = np.random.default_rng(0).integers(0, 256, (8, 6, 3), np.uint8)
    turned = pixels[::2, :, ::-1]
    assert np.array_equal(np.asarray(open_image(turned)), turned)


@pytest.mark.parametrize(
    ("images", "options", "words"),
    [
        (None, {}, ["list of images", "predict([image])"]),
        (Image.new("RGB", (9, 9)), {}, ["list of images"]),
        ("a.png", {}, ["list of images", "'str'"]),
        (b"a.png", {}, ["list of images", "'bytes'"]),
        (np.zeros((5, 5), np.uint8), {}, ["list of images"]),
        (torch.zeros(3, 5, 5, dtype=torch.uint8), {}, ["list of images"]),
        ([np.zeros((0, 5, 3), np.uint8)], {}, ["images[0]: image array does not fit", "(0, 5, 3)"]),
        ([np.zeros((5, 5, 3), np.float32)], {}, ["float32", "(255 * image).round().astype(np.uint8)"]),
        ([np.zeros((5, 5, 3), np.uint16)], {}, ["uint16", "expected uint8 [H, W, 3]"]),
        ([np.zeros((5, 5, 2), np.uint8)], {}, ["(5, 5, 2)", "expected uint8 [H, W, 3]"]),
        ([torch.zeros(5, 5, 3, dtype=torch.uint8)], {}, ["image tensor does not fit", "expected uint8 [3, H, W]"]),
        ([torch.zeros(3, 5, 5, dtype=torch.bfloat16)], {}, ["bfloat16", "(255 * image).round().byte()"]),
        ([np.zeros((5, 5, 3), np.uint8), 3], {}, ["images[1]: not an image", "'int'", "a path, a PIL image"]),
        ([b"bytes"], {}, ["images[0]: not an image", "'bytes'"]),
        (["http://host/a.jpg"], {}, ["http://host/a.jpg: URLs are not fetched; download the file"]),
        (["https://host/a.jpg"], {}, ["https://host/a.jpg: URLs are not fetched"]),
        (["missing/a.jpg"], {}, ["missing/a.jpg: no such image file"]),
        ([Path(__file__).parent], {}, [f"{Path(__file__).parent}: is a folder, not an image"]),
        ([__file__], {}, [f"{__file__}: not an image"]),
        ([], {"batch_size": 0}, ["batch_size", "got 0"]),
        ([], {"batch_size": "8"}, ["batch_size", "got '8'"]),
        ([], {"threshold": 1.5}, ["threshold", "got 1.5", "0 to 1"]),
        ([], {"threshold": "0.5"}, ["threshold", "got '0.5'"]),
        ([], {"threshold": float("nan")}, ["threshold", "got nan"]),
    ],
)
def test_what_cannot_be_predicted_is_refused_in_one_line(tiny, images, options, words):
    with pytest.raises(DetrkitError) as caught:
        tiny.predict(images, **options)
    assert [word for word in words if word not in str(caught.value)] == []
    assert "\n" not in str(caught.value)


def test_nothing_is_found_in_nothing(tiny):
    assert tiny.predict([]) == tiny.predict(iter([])) == []


def test_a_generator_is_read_a_batch_at_a_time(tiny):
    """When the third image is opened, the first two have been seen by the model."""
    events = []
    tiny.backbone.register_forward_pre_hook(lambda _, inputs: events.append(f"batch of {len(inputs[0])}"))

    def stream():
        for number in range(5):
            events.append(number)
            yield Image.new("RGB", (40, 40))

    assert len(tiny.predict(stream(), batch_size=2)) == 5
    assert events == [0, 1, "batch of 2", 2, 3, "batch of 2", 4, "batch of 1"]


@pytest.mark.parametrize(
    ("count", "known", "progress", "terminal", "shown"),
    [
        (3, True, None, True, True),
        (2, True, None, True, False),
        (3, True, None, False, False),
        (1, False, None, True, True),
        (1, True, True, False, True),
        (3, True, False, True, False),
    ],
)
def test_the_bar_is_shown_to_people_who_wait(tiny, capsys, monkeypatch, count, known, progress, terminal, shown):
    """By default on terminals, for more than one batch of 2 or an unknown number; on stderr in any case."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    images = [Image.new("RGB", (40, 40))] * count
    predict(tiny, images if known else iter(images), batch_size=2, progress=progress)
    said = capsys.readouterr()
    assert (said.out, "predict" in said.err) == ("", shown)


def test_a_sliver_of_an_image_is_drawn_and_predicted():
    sliver = Image.new("RGB", (1500, 2))
    model = detrkit.build("detr_tiny", backbone="tiny(width=8)", short_side=32, long_side=64)
    (found,) = model.predict([sliver], threshold=0.0)
    assert draw(sliver, of_detections(found), side=280).size == (280, 1)


def test_an_even_map_is_painted_faintly_and_a_peak_brightly():
    image = Image.new("RGB", (60, 60), (128, 128, 128))
    peak = np.zeros((6, 6))
    peak[2, 2] = 1
    even, peaked = (np.asarray(overlay(image, w)).astype(int) for w in (np.full((6, 6), 1 / 36), peak))
    assert np.abs(even - 128).max() < np.abs(peaked - 128).max()
    assert np.unravel_index(peaked.sum(-1).argmax(), (60, 60)) == pytest.approx((25, 25), abs=5)
