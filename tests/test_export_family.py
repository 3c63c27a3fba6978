"""Programs of every member: what they find in photographs is what the detector finds."""

from itertools import islice
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from parity import randomize_
from PIL import Image
from scipy.optimize import linear_sum_assignment

import detrkit
from detrkit.export import export
from detrkit.export.comparison import seen
from detrkit.prediction import in_pixels, look_at, results

PHOTOGRAPHS = Path(__file__).parents[2] / "shared" / "data" / "tiny_coco" / "val2017"
REAL_TIME = ["rt_detr_tiny", "lw_detr_small_tiny"]
TWINS = [name for name in detrkit.presets() if detrkit.config(name).short_side == 96]

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(not PHOTOGRAPHS.is_dir(), reason="the photographs (shared/data/tiny_coco) are not here"),
]


@pytest.fixture(scope="module")
def photographs():
    """Three, of different sizes."""
    return [Image.open(path).convert("RGB") for path in islice(sorted(PHOTOGRAPHS.glob("*.jpg")), 3)]


def make(name):
    """A detector whose weights are random but fixed, and hide no mistake."""
    return randomize_(detrkit.build(name), torch.Generator().manual_seed(0)).eval()


def check_same_detections(found, every, expected):
    """What a program found in an image is what the detector finds, whatever the order of those as good as equal.

    Ranks have the detector's scores, and each detection is one of the detector's pairs of query and class, another one
    each: of its label, with its score and its box.
    """
    scores, labels, boxes = found
    assert np.abs(scores - expected.scores).max() < 1e-4
    every_score, every_box = every  # [Q, K], [Q, 4]
    queries, classes = np.indices(every_score.shape).reshape(2, -1)
    fits = labels[:, None] == classes
    fits &= np.abs(scores[:, None] - every_score.reshape(-1)) < 1e-4
    fits &= np.abs(boxes[:, None] - every_box[queries]).max(-1) < 0.05  # pixels
    rows, columns = linear_sum_assignment(fits, maximize=True)
    assert fits[rows, columns].all()
    assert len(rows) == len(scores)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in REAL_TIME else pytest.mark.nightly) for name in TWINS]
)
def test_a_program_finds_in_photographs_what_the_detector_finds(name, photographs, tmp_path):
    check_program(make(name), photographs, tmp_path / "a.onnx")


@pytest.mark.nightly
def test_a_published_detector_at_its_size(photographs, tmp_path):
    check_program(make("rt_detr_r18"), photographs, tmp_path / "a.onnx")


@torch.inference_mode()
def check_program(model, photographs, path):
    """Written, checked on the photographs, and run by ONNX Runtime on another batch of them."""
    written = export(model, path, photographs=photographs)
    assert max(written.differences.values()) <= written.tolerance == 1e-4
    assert len(written.inputs) == (2 if model.config.square else 3)
    session = onnxruntime.InferenceSession(path)
    names = [given.name for given in session.get_inputs()]
    for batch in (photographs[:1], photographs[::-1]):
        inputs = [given.numpy() for given in seen(model, batch).inputs]
        found = session.run(["scores", "labels", "boxes"], dict(zip(names, inputs, strict=True)))
        output = look_at(model, batch)
        scores = model.classification.scores(output.pred_logits).numpy()
        sizes = [(image.height, image.width) for image in batch]
        boxes = in_pixels(output.pred_boxes, torch.tensor(sizes)).numpy()
        assert boxes.std(1).max() > 1, "queries that agree would hide mistakes"
        for index, expected in enumerate(results(model, output, sizes)):
            check_same_detections([part[index] for part in found], (scores[index], boxes[index]), expected)
