"""The set criterion: its laws, a slow reference, transformers' DETR loss, the golden losses, and bad targets."""

import json
from itertools import permutations

import numpy as np
import pytest
import torch
from conftest import draws
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from detrkit.config import DetectorConfig
from detrkit.criterion import Normalizer, SetCriterion
from detrkit.errors import NonFiniteCostError, TargetError
from detrkit.model import DetectorOutput
from detrkit.testing import NotConcerned, laws_of
from detrkit.testing.criterion import CLASSES, QUERIES, crop, draw_batch, gradients, make_criterion
from detrkit.testing.law import seeded_draw
from detrkit.testing.tensors import check_close


@pytest.mark.fast
@pytest.mark.parametrize("law", laws_of("criterion"))
@settings(deadline=None, max_examples=15, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_law(law, data):
    try:
        laws_of("criterion")[law](make_criterion, draws(data))
    except NotConcerned as reason:
        pytest.skip(str(reason))


# ---- a reference in plain loops


def corners(box):
    x, y, w, h = box
    return x - w / 2, y - h / 2, x + w / 2, y + h / 2


def slow_giou(one, other):
    (a, b, c, d), (e, f, g, h) = corners(one), corners(other)
    shared = max(min(c, g) - max(a, e), 0) * max(min(d, h) - max(b, f), 0)
    union = (c - a) * (d - b) + (g - e) * (h - f) - shared
    hull = (max(c, g) - min(a, e)) * (max(d, h) - min(b, f))
    return shared / union - (hull - union) / hull


def slow_l1(one, other):
    return sum(abs(a - b) for a, b in zip(one, other, strict=True))


def slow_match(probabilities, boxes, target):
    """The cheapest assignment of all, object by object: its query."""

    def cost(query, label, box):
        return -probabilities[query][label] + 5 * slow_l1(boxes[query], box) - 2 * slow_giou(boxes[query], box)

    objects = list(zip(target["labels"].tolist(), target["boxes"].tolist(), strict=True))
    return min(
        permutations(range(len(boxes)), len(objects)),
        key=lambda queries: sum(cost(q, *o) for q, o in zip(queries, objects, strict=True)),
    )


def slow_terms(logits, boxes, targets, eos_coef):
    """Terms of one layer by the paper's words."""
    surprise = weights = l1 = giou = 0.0
    for scores, places, target in zip(logits.softmax(-1).tolist(), boxes.tolist(), targets, strict=True):
        wanted = [CLASSES] * len(scores)
        for query, label, box in zip(
            slow_match(scores, places, target), target["labels"].tolist(), target["boxes"].tolist(), strict=True
        ):
            wanted[query] = label
            l1 += slow_l1(places[query], box)
            giou += 1 - slow_giou(places[query], box)
        for score, label in zip(scores, wanted, strict=True):
            weight = eos_coef if label == CLASSES else 1.0
            surprise -= weight * float(torch.tensor(score[label], dtype=torch.float64).log())
            weights += weight
    objects = max(sum(len(target["labels"]) for target in targets), 1)
    return {"loss_ce": surprise / weights, "loss_bbox": l1 / objects, "loss_giou": giou / objects}


@pytest.mark.fast
@settings(deadline=None, max_examples=15)
@given(data=st.data())
def test_equals_the_slow_reference(data):
    outputs, targets = draw_batch(draws(data), layers=2)
    outputs, targets = outputs.mapped(lambda part: part[:, :, :6]), crop(targets, 3)
    losses = make_criterion(eos_coef=0.3)(outputs, targets)
    for layer, suffix in ((0, "_0"), (1, "")):
        for name, expected in slow_terms(outputs.logits[layer], outputs.boxes[layer], targets, 0.3).items():
            assert float(losses.terms[name + suffix]) == pytest.approx(expected, rel=1e-9)


@pytest.mark.fast
def test_one_image_by_hand():
    """One object, two queries, undecided classes: ln 2; half the width: L1 and GIoU of a half."""
    logits = torch.tensor([[[[0.0, 0.0], [0.0, 0.0]]]])
    boxes = torch.tensor([[[[0.5, 0.5, 0.5, 1.0], [0.1, 0.1, 0.1, 0.1]]]])
    target = {"boxes": torch.tensor([[0.5, 0.5, 1.0, 1.0]]), "labels": torch.tensor([0])}
    losses = make_criterion(num_classes=1)(DetectorOutput(logits, boxes), [target])
    ln2 = float(torch.tensor(2.0).log())
    assert {n: round(float(v), 6) for n, v in losses.terms.items()} == {
        "loss_ce": round(ln2, 6),
        "loss_bbox": 0.5,
        "loss_giou": 0.5,
    }
    assert float(losses.total) == pytest.approx(ln2 + 5 * 0.5 + 2 * 0.5)
    assert float(losses.metrics["class_error"]) == 0
    assert float(losses.metrics["cardinality_error"]) == 1


# ---- others as the judge


def test_equals_transformers():
    theirs = pytest.importorskip("transformers.loss.loss_for_object_detection", reason="transformers is not installed")
    for name in ("HungarianMatcher", "ImageLoss"):
        if not hasattr(theirs, name):
            pytest.skip(f"transformers has moved {name}")
    matcher = theirs.HungarianMatcher(class_cost=1, bbox_cost=5, giou_cost=2)
    judge = theirs.ImageLoss(matcher, CLASSES, 0.1, ["labels", "boxes", "cardinality"]).double()
    for seed in range(5):
        outputs, targets = draw_batch(seeded_draw(seed), layers=3, images=3)
        layers = [{"logits": logits, "pred_boxes": boxes} for logits, boxes in zip(*outputs.pair, strict=True)]
        renamed = [{"class_labels": target["labels"], "boxes": target["boxes"]} for target in targets]
        expected = judge({**layers[-1], "auxiliary_outputs": layers[:-1]}, renamed)
        found = make_criterion()(outputs, targets)
        numbers = {name: float({**found.terms, **found.metrics}[name]) for name in expected}
        assert numbers == pytest.approx({name: float(value) for name, value in expected.items()}, rel=1e-6)


def test_equals_the_golden_losses(shared, fill):
    golden = json.loads((shared / "golden" / "losses_detr.json").read_text())
    assert golden["cases"]
    for name, case in golden["cases"].items():
        layers = [fill.make_outputs(golden["seed"], f"detr.{name}.layer{layer}", 2, 100, 92) for layer in range(6)]
        logits, boxes = (torch.tensor(np.stack(part)).double() for part in zip(*layers, strict=True))
        targets = fill.make_targets(golden["seed"], f"detr.{name}", case["target_counts"], 91)
        gradient, losses = gradients(SetCriterion.from_config(DetectorConfig()), DetectorOutput(logits, boxes), targets)
        numbers = {key: float(value.detach()) for key, value in {**losses.terms, **losses.metrics}.items()}
        numbers["class_error"] = float(np.float32(numbers["class_error"]))  # the official code counts in float32
        assert fill.compare_numbers(case["losses"], numbers, rel=1e-9) == []
        assert losses.total.item() == pytest.approx(case["weighted_total"], rel=1e-9)
        norms = {
            f"layer{i}": {"logits": float(gradient.logits[i].norm()), "boxes": float(gradient.boxes[i].norm())}
            for i in range(6)
        }
        assert fill.compare_numbers(case["gradient_norms_of_weighted_total"], norms, rel=1e-9) == []
        samples = {
            key: {"index": part["index"], "value": getattr(gradient, key)[-1].flatten()[part["index"]].tolist()}
            for key, part in case["gradient_samples_layer5"].items()
        }
        assert fill.compare_numbers(case["gradient_samples_layer5"], samples, rel=1e-7, abs_=1e-12) == []


# ---- what targets may be, and what they may not


def batch(targets, images=None):
    outputs, _ = draw_batch(seeded_draw(0), layers=2, images=images or len(targets))
    return outputs, targets


def objects(count=2, **changes):
    labels = torch.arange(count) % CLASSES
    return {"boxes": torch.full((count, 4), 0.5), "labels": labels, "image_id": 77, **changes}


def box(*numbers):
    return objects(1, boxes=torch.tensor([numbers]))


@pytest.mark.fast
@pytest.mark.parametrize(
    ("target", "words"),
    [
        (
            objects(labels=torch.tensor([0, CLASSES])),
            ["labels: image 77: box 1: label out of range; got 4; expected 0..3"],
        ),
        (objects(labels=torch.tensor([7, 0])), ["box 0: label out of range", "got 7", "0-based"]),
        (objects(labels=torch.tensor([-1, 0])), ["box 0: label out of range", "got -1"]),
        (objects(labels=torch.tensor([0, -100])), ["box 1: label out of range", "got -100"]),
        (
            objects(labels=torch.tensor([0.0, 1.0])),
            ["labels: image 77: labels have the wrong dtype", "float32", "int64"],
        ),
        (objects(labels=torch.tensor([True, False])), ["wrong dtype", "torch.bool"]),
        (objects(labels=torch.tensor([0, 1], dtype=torch.uint8)), ["wrong dtype", "torch.uint8"]),
        (objects(labels=torch.tensor([0, 1, 2])), ["image 77", "2 boxes", "(3,)"]),
        (objects(labels=torch.tensor([[0, 1]])), ["image 77", "2 boxes", "(1, 2)"]),
        (box(0.5, float("nan"), 0.1, 0.1), ["boxes: image 77: box 0: coordinates are not finite", "nan"]),
        (box(0.5, 0.5, float("inf"), 0.1), ["box 0: coordinates are not finite", "inf"]),
        (box(50.0, 40.0, 20.0, 30.0), ["boxes: image 77: box 0: looks like pixels", "50.0", "cxcywh"]),
        (box(0.5, 0.5, 0.0, 0.1), ["box 0: no width or height", "w > 0"]),
        (box(0.5, 0.5, 0.1, -0.1), ["box 0: no width or height"]),
        (objects(boxes=torch.full((2, 5), 0.5)), ["boxes: image 77", "wrong shape", "(2, 5)", "[T, 4]"]),
        (objects(boxes=torch.ones(2, 4, dtype=torch.int64)), ["boxes: image 77", "wrong dtype", "torch.int64"]),
    ],
)
def test_bad_targets_are_refused_in_one_line(target, words):
    outputs, targets = batch([objects(), target])
    with pytest.raises(TargetError) as refusal:
        make_criterion()(outputs, targets)
    message = str(refusal.value)
    assert [word for word in words if word not in message] == []
    assert "\n" not in message
    assert refusal.value.image_id == 77


@pytest.mark.fast
def test_a_target_an_image():
    outputs, targets = batch([objects()], images=2)
    with pytest.raises(TargetError, match="one target an image; got 1; expected 2"):
        make_criterion()(outputs, targets)


@pytest.mark.fast
def test_unnamed_images_are_named_by_their_place():
    bad = objects(labels=torch.tensor([0, 9]))
    del bad["image_id"]
    outputs, targets = batch([objects(), bad])
    with pytest.raises(TargetError, match="image 1: box 1"):
        make_criterion()(outputs, targets)


@pytest.mark.fast
def test_int32_labels_lists_and_arrays_are_taken():
    outputs, targets = batch([objects()])
    expected = make_criterion()(outputs, targets).terms
    plain = {"boxes": targets[0]["boxes"].tolist(), "labels": targets[0]["labels"].tolist()}
    arrays = {"boxes": targets[0]["boxes"].numpy(), "labels": targets[0]["labels"].int().numpy()}
    for target in (plain, arrays, objects(labels=targets[0]["labels"].int())):
        check_close(make_criterion()(outputs, [target]).terms, expected, "for targets written otherwise")


@pytest.mark.fast
def test_crowds_are_left_out():
    outputs, targets = batch([objects(3, iscrowd=torch.tensor([0, 1, 0]))])
    alone = [{name: targets[0][name][[0, 2]] for name in ("boxes", "labels")}]
    check_close(make_criterion()(outputs, targets).terms, make_criterion()(outputs, alone).terms, "with a crowd")
    assert make_criterion().normalizer(targets, QUERIES).num_boxes == 2


@pytest.mark.fast
def test_more_objects_than_queries():
    outputs, targets = batch([objects(QUERIES + 3), objects(1)])
    found, losses = gradients(make_criterion(), outputs, targets)
    assert losses.total.isfinite()
    assert all(part.isfinite().all() for part in found.pair)
    assert make_criterion(eos_coef=0.5).normalizer(targets, QUERIES) == Normalizer(QUERIES + 4, 13 + 0.5 * 11)


@pytest.mark.fast
@pytest.mark.parametrize(("field", "name"), [("logits", "class"), ("boxes", "L1")])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_outputs_that_are_not_finite_are_named(field, name, value):
    outputs, targets = batch([objects(), objects()])
    getattr(outputs, field)[1, 1, 5, 0] = value
    for matcher in ("scipy", "numpy"):
        with pytest.raises(NonFiniteCostError, match=f"image 77: the {name} cost of query 5 and target 0") as refusal:
            make_criterion(matcher=matcher)(outputs, targets)
        assert refusal.value.field == f"cost.{name}"


@pytest.mark.fast
def test_normalizers_of_windows_and_ranks_add_up():
    assert sum([Normalizer(3, 1.5), Normalizer(0, 0.5)], Normalizer(0, 0)) == Normalizer(3, 2.0)
    with pytest.raises(TypeError):
        Normalizer(1, 1) + 1


@pytest.mark.fast
@pytest.mark.parametrize(
    ("target", "words"),
    [
        ({"boxes": torch.zeros(0, 4)}, ["labels", "missing"]),
        ((torch.zeros(0, 4), torch.zeros(0)), ["not a target", "tuple"]),
        ({"boxes": None, "labels": []}, ["boxes", "cannot be a tensor"]),
        ({"boxes": [[0.1, 0.1, 0.1, 0.1], [0.1]], "labels": [0, 0]}, ["boxes", "cannot be a tensor"]),
        ({"boxes": torch.zeros(0, 5), "labels": []}, ["boxes", "wrong shape", "(0, 5)"]),
        (objects(iscrowd=torch.tensor([True])), ["iscrowd", "(1,)"]),
        (objects(iscrowd=torch.tensor([0.3, 0.0])), ["iscrowd", "float32"]),
    ],
)
def test_targets_of_a_wrong_kind_are_refused_in_one_line(target, words):
    outputs, targets = batch([objects(), target])
    with pytest.raises(TargetError) as refusal:
        make_criterion()(outputs, targets)
    assert [word for word in words if word not in str(refusal.value)] == []
    assert "\n" not in str(refusal.value)


@pytest.mark.fast
def test_a_mapping_is_no_list_of_targets():
    outputs, _ = batch([objects()])
    with pytest.raises(TargetError, match="mapping"):
        make_criterion()(outputs, objects())


@pytest.mark.fast
def test_empty_images_that_weigh_nothing_cost_nothing():
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    outputs, targets = batch([empty, empty])
    losses = make_criterion(eos_coef=0.0)(outputs, targets)
    assert float(losses.total.detach()) == 0
