"""Prediction: from outputs to boxes in pixels, best first."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import detrkit
from detrkit.classification import SoftmaxClassification
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
