"""Evaluation of a detector: which evaluator, and classes that differ between model and data."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import detrkit
from detrkit.datasets import Dataset
from detrkit.detections import Detections
from detrkit.errors import ConfigError, DataError, RegistryError
from detrkit.evaluation import driver, evaluate
from detrkit.labels import COCO, COCO_RAW, VOC, LabelSpace
from detrkit.registry import REGISTRY

pytestmark = pytest.mark.fast

PETS = LabelSpace(("cat", "dog"), (17, 18))
SIZE = (100, 200)


class Photographs(Dataset):
    """Images of 100 x 200 with objects (name, (x1, y1, x2, y2) in pixels)."""

    def __init__(self, label_space, *images):
        self.label_space, self.findings, self.images = label_space, [], images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return Image.new("RGB", SIZE[::-1]), target(self.label_space, index, *self.images[index])


def target(space, image_id, *objects):
    """Target of an image with these objects."""
    corners = torch.tensor([box for _, box in objects], dtype=torch.float64).reshape(-1, 4)
    scale = torch.tensor([SIZE[1], SIZE[0]])
    boxes = torch.cat([(corners[:, :2] + corners[:, 2:]) / 2 / scale, (corners[:, 2:] - corners[:, :2]) / scale], 1)
    labels = torch.tensor([space.names.index(name) for name, _ in objects], dtype=torch.int64)
    return {
        "boxes": boxes.float(),
        "labels": labels,
        "iscrowd": torch.zeros(len(objects), dtype=torch.bool),
        "image_id": image_id,
        "orig_size": torch.tensor(SIZE),
    }


def found_in(space, *found):
    """Detections from triples (name, box, score)."""
    return Detections(
        np.array([box for _, box, _ in found], np.float32).reshape(-1, 4),
        np.array([space.names.index(name) for name, _, _ in found], np.int64),
        np.array([score for _, _, score in found], np.float32),
        SIZE,
        space,
        np.arange(len(found)),
    )


@pytest.fixture
def scored(monkeypatch):
    """Evaluates a model of a label space that finds, image by image, what is given: `scored(space, data, *found)`."""

    def run(space, data, *found, **options):
        answers = [found_in(space, *one) for one in found]

        def detect(model, images, batch_size):
            return (answer for _, answer in zip(images, answers, strict=True))

        monkeypatch.setattr(driver, "detect", detect)
        return evaluate(SimpleNamespace(label_space=space), data, progress=False, **options)

    return run


CAT, DOG, BED = (10, 10, 60, 60), (100, 20, 180, 90), (0, 0, 200, 100)


def test_an_evaluation_of_nothing_is_refused(scored):
    with pytest.raises(DataError, match="the data set is empty"):
        scored(PETS, Photographs(PETS))


@pytest.mark.parametrize("space", [COCO, COCO_RAW, VOC, PETS])
def test_a_model_of_more_classes_is_scored_on_those_of_the_data(scored, capsys, space):
    """Whatever their numbers; with the ids of the data."""
    data = Photographs(PETS, [("cat", CAT), ("dog", DOG)], [("dog", DOG)])
    other = [] if space is PETS else [("person", BED, 0.4)]
    found = [("dog", DOG, 0.8), ("cat", CAT, 0.7)], [("dog", DOG, 0.9)]
    numbers, detections = scored(space, data, [*found[0], *other], [*other, *found[1]])
    assert (numbers["AP"], numbers["AP/cat"], numbers["AP/dog"]) == pytest.approx((1, 1, 1), abs=1e-6)
    assert [one.names for one in detections] == [["dog", "cat"], ["dog"]]
    assert [entry["category_id"] for one in detections for entry in one.to_coco("id")] == [18, 17, 18]
    said = "2 of 5 detections left out: the data do not have their classes\n"
    assert capsys.readouterr() == ("", "" if space is PETS else said)


def test_a_class_that_the_model_does_not_know_scores_zero_and_is_named(scored, capsys):
    zoo = LabelSpace(("cat", "okapi", "narwhal"))
    data = Photographs(zoo, [("cat", CAT), ("okapi", DOG)])
    numbers, _ = scored(PETS, data, [("cat", CAT, 0.8)])
    assert (numbers["AP/cat"], numbers["AP/okapi"], numbers["AP"]) == pytest.approx((1, 0, 0.5), abs=1e-6)
    assert np.isnan(numbers["AP/narwhal"])
    assert capsys.readouterr().err == "the model does not know okapi, narwhal: their AP is 0\n"


def test_no_class_in_common_is_refused_and_both_are_named(scored):
    with pytest.raises(DataError) as caught:
        scored(COCO, Photographs(LabelSpace(("okapi", "narwhal")), [("okapi", CAT)]), [])
    message = str(caught.value)
    assert "got (okapi, narwhal); expected some of (person, bicycle, " in message
    assert message.endswith("and 70 more)")


def test_detections_that_are_all_left_out_score_zero(scored):
    numbers, detections = scored(COCO, Photographs(PETS, [("cat", CAT)]), [("person", CAT, 0.8)])
    assert (numbers["AP"], len(detections[0])) == (0, 0)


def test_labels_that_never_occur_in_the_truth_are_told(scored, capsys):
    """When they hold most of the score; what is found on the side is not spoken of."""
    data = Photographs(COCO, [("cat", CAT)], [("bird", DOG)])
    right, wrong, most = [("cat", CAT, 0.9)], [("dog", CAT, 0.8)], [("horse", DOG, 0.6), ("dog", CAT, 0.5)]
    scored(COCO, data, right, wrong)
    assert capsys.readouterr().err == ""
    scored(COCO, data, right, most)
    assert capsys.readouterr().err == (
        "most of what was found is of classes that never occur in the truth: found dog, horse; true are bird, cat\n"
    )
    scored(COCO, Photographs(COCO, []), most)
    assert capsys.readouterr().err == "", "where there is no truth, nothing is astray"


@pytest.mark.parametrize("evaluator", [*REGISTRY.names("evaluators"), "voc(points=11, iou=0.75)"])
def test_any_evaluator_scores(scored, evaluator):
    """Of two cats one is found, and one is found where none is, with a lower score."""
    data = Photographs(PETS, [("cat", CAT)], [("cat", CAT)])
    numbers, _ = scored(PETS, data, [("cat", CAT, 0.9)], [("cat", DOG, 0.5)], evaluator=evaluator)
    points = 6 / 11 if "11" in evaluator else 0.5
    assert numbers["AP/cat"] == numbers["AP"] == pytest.approx(points, abs=0.01)


def test_an_evaluator_keeps_what_it_was_shown_and_shares_merge(scored):
    """A caller's evaluator gives table and evidence afterwards; the shares of two processes are the whole."""
    data = Photographs(PETS, [("cat", CAT)], [("dog", DOG)], [])
    found = [("cat", CAT, 0.9)], [("cat", DOG, 0.8)], [("dog", DOG, 0.3)]
    whole, first, second = (detrkit.make("evaluators", "numpy") for _ in range(3))
    numbers, _ = scored(PETS, data, *found, evaluator=whole)
    assert whole.evidence().image_ids == (0, 1, 2)
    scored(PETS, Photographs(PETS, data.images[0]), found[0], evaluator=first)
    for index in (1, 2):
        second.add(target(PETS, index, *data.images[index]), found_in(PETS, *found[index]))
    second.merge(first)
    assert second.result() == pytest.approx(numbers, abs=0, nan_ok=True)


@pytest.mark.parametrize(
    ("spec", "error", "word"),
    [("hotcocoa", RegistryError, "did you mean 'hotcoco'"), ("voc(point=11)", ConfigError, "did you mean 'points'")],
)
def test_evaluators_that_cannot_be_made_are_refused_before_anything_is_detected(spec, error, word):
    with pytest.raises(error, match=word):
        evaluate(SimpleNamespace(label_space=PETS), Photographs(PETS, [("cat", CAT)]), evaluator=spec)


def test_a_detector_is_evaluated_from_images_to_numbers():
    """No part replaced: every image is seen, each query makes a detection, the numbers are bounded."""
    model = detrkit.build("detr_tiny", backbone="tiny(width=8)", short_side=32, long_side=64, label_space=PETS)
    numbers, found = evaluate(model, Photographs(PETS, [("cat", CAT)], [], [("dog", DOG)]), batch_size=2)
    assert [len(one) for one in found] == [model.config.num_queries] * 3
    assert all(0 <= numbers[name] <= 1 for name in ("AP", "AR100", "AP/cat", "AP/dog"))
