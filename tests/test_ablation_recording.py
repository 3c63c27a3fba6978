"""What runs of a study write down for the instruments, and what these make of it."""

import json

import numpy as np
import pytest
import torch

import detrkit
from detrkit.ablation.instruments import NOBODY
from detrkit.ablation.recording import Recorder, dynamics
from detrkit.criterion import SetCriterion
from detrkit.evaluation import evaluate
from detrkit.targets import check_targets

DATA = "toy(length=4, held_out=5, size=32, objects=(0, 3))"


@pytest.fixture(scope="module")
def recorded():
    """A recorder that has seen an untrained detector being scored, and that detector's data."""
    torch.manual_seed(0)
    config = detrkit.config(
        "detr_tiny", num_queries=2, d_model=32, dec_layers=2, dim_feedforward=32, short_side=32, long_side=32
    )
    data = detrkit.make("datasets", DATA, split="val")
    model = detrkit.build(config, label_space=data.label_space)
    recorder = Recorder(SetCriterion.from_config(model.config), data, most=4)
    with recorder.watching(model):
        evaluate(model, data, batch_size=3)
    evaluate(model, data)  # not watched
    return recorder, data, model


def test_every_object_of_the_first_images_has_its_owners(recorded):
    recorder, data, _ = recorded
    line = json.loads(json.dumps(recorder.line()))
    counts = [len(data[index][1]["labels"]) for index in range(4)]
    assert [len(layers) for layers in line["owners"]] == [2] * 4
    assert [len(layer) for layers in line["owners"] for layer in layers] == np.repeat(counts, 2).tolist()
    assert sum(line["claims"][3:]) == sum(counts)
    for layers, count in zip(line["owners"], counts, strict=True):
        for layer in layers:
            answering = [query for query in layer if query != NOBODY]
            assert len(set(answering)) == len(answering) == min(count, 2)


def test_the_matching_is_the_criterion_s_own(recorded):
    recorder, data, model = recorded
    from detrkit.prediction import infer
    from detrkit.preprocessing import normalize, pad

    images, targets = zip(*(data[index] for index in range(4)), strict=True)
    inputs = pad([normalize(image) for image in images])
    output = infer(model, inputs.images, inputs.mask)
    truth = check_targets(targets, 3, like=output.boxes)
    for layer, assignments in enumerate(recorder.criterion.matching(output.logits, output.boxes, truth)):
        for image, found in enumerate(assignments):
            owners = recorder.line()["owners"][image][layer]
            assert [owners[place] for place in found.cols] == found.rows.tolist()


def test_recording_begins_anew_and_leaves_the_model_alone(recorded):
    recorder, data, model = recorded
    before = recorder.line()
    with recorder.watching(model):
        evaluate(model, data, batch_size=2)
    assert recorder.line() == before
    assert not model._forward_hooks


def test_dynamics_by_hand():
    """Two images with two objects and one; the second layer's query of one object changes."""
    claims = [2, 1, 3, 1, 1, 1, 0]
    lines = [
        {"step": 10, "owners": [[[0, 1], [0, 1]], [[2], [3]]], "num_queries": 4, "claims": claims},
        {"step": 20, "owners": [[[0, 1], [0, 2]], [[3], [3]]], "num_queries": 4, "claims": claims},
    ]
    found = dynamics(lines)
    assert (found[10]["changed"], found[10]["answered"]) == (None, None)
    assert found[20]["changed"] == pytest.approx(1 / 3)
    assert found[20]["answered"] == pytest.approx(4 / 3)
    assert found[10]["agreement"] == pytest.approx(2 / 3)
    assert found[20]["agreement"] == pytest.approx(2 / 3)
    assert found[10]["used"] == pytest.approx(3)
    assert (found[20]["duplicates"], found[20]["claimed"], found[20]["unmatched"]) == (0.5, 1, 1 / 3)


def test_what_does_not_exist_is_none():
    (found,) = dynamics([{"step": 1, "owners": [[[]]], "num_queries": 4, "claims": [0] * 7}]).values()
    assert set(found.values()) == {None}
