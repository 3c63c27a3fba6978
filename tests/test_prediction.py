"""Prediction: from outputs to boxes in pixels, best first."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import detrkit
from detrkit.classification import SoftmaxClassification
from detrkit.detections import Detections
from detrkit.drawing import draw, of_detections
from detrkit.errors import DetrkitError
from detrkit.explain.overlay import overlay
from detrkit.explain.pictures import predict_to_folder
from detrkit.labels import LabelSpace
from detrkit.model import DetectorOutput
from detrkit.prediction import results

pytestmark = pytest.mark.fast


def test_detections_by_hand():
    """A query's score is that of its best class, no-object left out; boxes are fractions of width and height."""
    model = SimpleNamespace(classification=SoftmaxClassification(2), label_space=LabelSpace(("cat", "dog")))
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


def test_each_module_keeps_its_own_mode():
    model = detrkit.build("detr_tiny", backbone="tiny(width=8)", short_side=32, long_side=64).train()
    model.backbone.eval()
    model.predict([Image.new("RGB", (50, 30))])
    assert (model.training, model.backbone.training, model.decoder.training) == (True, False, True)


@pytest.mark.parametrize(
    ("images", "options", "word"),
    [
        (None, {}, "list of images"),
        (Image.new("RGB", (9, 9)), {}, "list of images"),
        ([np.zeros((0, 5, 3), np.uint8)], {}, "does not fit"),
        ([np.zeros((5, 5, 3), np.float32)], {}, "does not fit"),
        ([torch.zeros(5, 5, 3, dtype=torch.uint8)], {}, "does not fit"),
        ([3], {}, "not an image"),
        ([], {"batch_size": 0}, "batch_size"),
        ([], {"threshold": 1.5}, "threshold"),
    ],
)
def test_what_cannot_be_predicted_is_refused_in_one_line(images, options, word):
    model = detrkit.build("detr_tiny", backbone="tiny(width=8)", short_side=32, long_side=64)
    with pytest.raises(DetrkitError, match=word) as caught:
        model.predict(images, **options)
    assert "\n" not in str(caught.value)


def test_a_sliver_of_an_image_is_drawn_and_predicted():
    sliver = Image.new("RGB", (1500, 2))
    model = detrkit.build("detr_tiny", backbone="tiny(width=8)", short_side=32, long_side=64)
    (found,) = model.predict([sliver], threshold=0.0)
    assert draw(sliver, of_detections(found), side=280).size == (280, 1)


def test_pictures_stay_in_their_folder_and_no_name_is_written_twice(tmp_path):
    model = detrkit.build("detr_tiny", backbone="tiny(width=8)", short_side=32, long_side=64).double()
    images = [(name, Image.new("RGB", (40, 40))) for name in ("../out", "a/b", "a/b", "..")]
    found = predict_to_folder(model, iter(images), tmp_path / "in", threshold=0.0, batch_size=3)
    assert list(found) == ["_out", "a_b", "a_b-2", "image"]
    assert {path.name for path in tmp_path.iterdir()} == {"in"}
    assert len(list((tmp_path / "in").iterdir())) == 2 * len(images) + 1


def test_an_even_map_is_painted_faintly_and_a_peak_brightly():
    image = Image.new("RGB", (60, 60), (128, 128, 128))
    peak = np.zeros((6, 6))
    peak[2, 2] = 1
    even, peaked = (np.asarray(overlay(image, w)).astype(int) for w in (np.full((6, 6), 1 / 36), peak))
    assert np.abs(even - 128).max() < np.abs(peaked - 128).max()
    assert np.unravel_index(peaked.sum(-1).argmax(), (60, 60)) == pytest.approx((25, 25), abs=5)
