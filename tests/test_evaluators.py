"""Evaluators: the laws for every registered one, pycocotools as the judge, published numbers, and examples by hand."""

import contextlib
import io
import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import draws
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import detrkit
from detrkit.detections import Detections
from detrkit.errors import ConfigError
from detrkit.evaluation.errors import KINDS, confusion, errors
from detrkit.evaluators import AREAS, METRICS, PER_CLASS, CocoEvaluator
from detrkit.labels import COCO, LabelSpace
from detrkit.registry import REGISTRY
from detrkit.testing import NotConcerned, check_component, laws_of, seeded_draw
from detrkit.testing.evaluators import SPACE, detections, draw_images, shown, truth
from detrkit.testing.law import Maker

pytestmark = pytest.mark.fast

EVALUATORS = [(name, {}) for name in REGISTRY.names("evaluators")] + [("voc", {"points": 11, "iou": 0.3})]
COCO_EVALUATORS = [n for n in REGISTRY.names("evaluators") if issubclass(REGISTRY.get("evaluators", n), CocoEvaluator)]


@pytest.mark.parametrize("law", laws_of("evaluators"))
@pytest.mark.parametrize(("name", "set_to"), EVALUATORS)
@settings(deadline=None, max_examples=25, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_law(name, set_to, law, data):
    try:
        laws_of("evaluators")[law](Maker(REGISTRY.get("evaluators", name), set_to), draws(data))
    except NotConcerned as reason:
        pytest.skip(str(reason))


def coco_entries(images, space):
    """The COCO dictionary and the results of targets and detections, with the label space's ids, as they arrive."""
    truth, results = [], []
    for target, found in images:
        height, width = target["orig_size"].tolist()
        boxes = target["boxes"].double().numpy() * [width, height, width, height]
        for row, (cx, cy, w, h) in enumerate(boxes.tolist()):
            truth.append(
                {
                    "id": len(truth) + 1,
                    "image_id": target["image_id"],
                    "category_id": space.ids[target["labels"][row]],
                    "bbox": [cx - w / 2, cy - h / 2, w, h],
                    "area": float(target["area"][row]) if "area" in target else w * h,
                    "iscrowd": int(target["iscrowd"][row]),
                }
            )
        for (x1, y1, x2, y2), label, score in zip(found.boxes.astype(float), found.labels, found.scores, strict=True):
            box = [x1, y1, x2 - x1, y2 - y1]
            entry = {
                "image_id": target["image_id"],
                "category_id": space.ids[label],
                "bbox": box,
                "score": float(score),
            }
            results.append(entry)
    categories = [{"id": i, "name": name} for i, name in zip(space.ids, space.names, strict=True)]
    return {
        "images": [{"id": target["image_id"]} for target, _ in images],
        "annotations": truth,
        "categories": categories,
    }, results


def by_pycocotools(images, space):
    """What pycocotools gives, under our names, class by class."""
    from pycocotools import coco
    from pycocotools.cocoeval import COCOeval

    data, results = coco_entries(images, space)
    with contextlib.redirect_stdout(io.StringIO()):
        api = coco.COCO()
        api.dataset = data
        api.createIndex()
        evaluation = COCOeval(api, api.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    numbers = dict(zip(METRICS, evaluation.stats, strict=True))
    precision, recall = evaluation.eval["precision"], evaluation.eval["recall"]
    for k, i in enumerate(evaluation.params.catIds):
        whole = {"AP": precision[:, :, k, 0, 2], "AP50": precision[0, :, k, 0, 2], "AP75": precision[5, :, k, 0, 2]}
        whole |= {f"AP{size}": precision[:, :, k, a, 2] for a, size in enumerate("sml", 1)}
        whole["AR100"] = recall[:, k, 0, 2]
        numbers |= {f"{name}/{space.names[space.ids.index(i)]}": values.mean() for name, values in whole.items()}
    return {name: np.nan if value == -1 else float(value) for name, value in numbers.items()}


def test_equals_pycocotools_on_random_sets():
    """Crowds, ties of scores and overlaps, empty images, more than a hundred detections, areas of masks."""
    compared = crowds = ties = surplus = 0
    for seed in range(300):
        images = draw_images(seeded_draw(seed))
        if not sum(len(found) for _, found in images):
            continue  # pycocotools raises an IndexError
        expected = by_pycocotools(images, SPACE)
        for name in COCO_EVALUATORS:
            numbers = shown(detrkit.make("evaluators", name), images).result()
            assert numbers.keys() == expected.keys()
            off = {n for n in expected if not np.isclose(numbers[n], expected[n], 0, 1e-12, equal_nan=True)}
            assert not off, f"seed {seed}: {name} differs in {off}"
        compared += 1
        crowds += any(target["iscrowd"].any() for target, _ in images)
        ties += any(len(np.unique(found.scores)) < len(found) for _, found in images)
        surplus += any(len(found) > 100 for _, found in images)
    assert compared > 280
    assert min(crowds, ties, surplus) > 30, "the sets have become too easy"


def read_cocoapi_example(folder):
    """Targets and detections of the example of the COCO API, in float64 as they are written."""
    truth = json.loads((folder / "instances_val2014_100.json").read_text())
    results = json.loads((folder / "instances_val2014_fakebbox100_results.json").read_text())
    images = []
    for image in truth["images"]:
        objects = [one for one in truth["annotations"] if one["image_id"] == image["id"]]
        found = [one for one in results if one["image_id"] == image["id"]]
        boxes, corners = (np.array([one["bbox"] for one in part]).reshape(-1, 4) for part in (objects, found))
        boxes[:, :2] += boxes[:, 2:] / 2
        corners[:, 2:] += corners[:, :2]
        size = image["height"], image["width"]
        target = {
            "boxes": torch.from_numpy(boxes / np.tile(size[::-1], 2)),
            "labels": torch.tensor([COCO.ids.index(one["category_id"]) for one in objects], dtype=torch.int64),
            "iscrowd": torch.tensor([bool(one["iscrowd"]) for one in objects], dtype=torch.bool),
            "area": torch.tensor([one["area"] for one in objects], dtype=torch.float64),
            "image_id": image["id"],
            "orig_size": torch.tensor(size),
        }
        labels = np.array([COCO.ids.index(one["category_id"]) for one in found], np.int64)
        scores = np.array([one["score"] for one in found])
        images.append((target, Detections(corners, labels, scores, size, COCO, np.arange(len(found)))))
    return images


@pytest.mark.parametrize("name", COCO_EVALUATORS)
def test_the_example_of_the_coco_api_has_its_published_numbers(shared, name):
    """All twelve to every digit: areas are those of the masks, equal scores rank as they arrive."""
    folder = shared / "fixtures/cocoapi_val2014_100"
    images, published = read_cocoapi_example(folder), json.loads((folder / "expected.json").read_text())
    numbers = shown(detrkit.make("evaluators", name), images).result()
    expected = dict(zip(published["names"], published["stats"], strict=True))
    assert {name: numbers[name] for name in METRICS} == pytest.approx(expected, rel=0, abs=1e-15)


def read_rafaelpadilla_sample(folder):
    """Boxes of inclusive pixels, as Pascal VOC's: the last pixel belongs to the box."""
    space, side, images = LabelSpace(("object",)), 256, []
    for path in sorted((folder / "groundtruths").iterdir()):
        there = np.loadtxt(path, usecols=range(1, 5), ndmin=2) + np.array([0, 0, 1, 1])
        found = np.loadtxt(folder / "detections" / path.name, usecols=range(1, 6), ndmin=2) + np.array([0, 0, 0, 1, 1])
        target = {
            "boxes": torch.from_numpy(np.concatenate([there[:, :2] + there[:, 2:] / 2, there[:, 2:]], 1) / side),
            "labels": torch.zeros(len(there), dtype=torch.int64),
            "iscrowd": torch.zeros(len(there), dtype=torch.bool),
            "image_id": path.stem,
            "orig_size": torch.tensor([side, side]),
        }
        corners = np.concatenate([found[:, 1:3], found[:, 1:3] + found[:, 3:]], 1)
        labels = np.zeros(len(found), np.int64)
        images.append((target, Detections(corners, labels, found[:, 0], (side, side), space, np.arange(len(found)))))
    return images


@pytest.mark.parametrize("iou", [0.3, 0.5])
def test_the_sample_of_rafael_padilla_has_its_published_numbers(shared, iou):
    folder = shared / "fixtures/rafaelpadilla_sample2"
    images, published = read_rafaelpadilla_sample(folder), json.loads((folder / "expected.json").read_text())
    expected = published[f"iou{iou:.2f}"]
    for points, name in (("all", "all_point"), (11, "eleven_point")):
        numbers = shown(detrkit.make("evaluators", f"voc(points={points}, iou={iou})"), images).result()
        assert numbers["AP"] == numbers["AP/object"] == pytest.approx(expected[name], rel=1e-14)
        assert numbers["AR"] == pytest.approx(expected["tp"] / published["npos"], rel=1e-14)


CAT, DOG, BED = (10.0, 10, 60, 60), (100.0, 20, 180, 90), (0.0, 0, 200, 100)


def there(image_id, *objects, crowd=False):
    """Target from pairs (name, box)."""
    boxes = np.array([box for _, box in objects], dtype=float).reshape(-1, 4)
    labels = np.array([SPACE.names.index(name) for name, _ in objects], dtype=np.int64)
    return truth(image_id, boxes, labels, [crowd] * len(objects))


def seen(*found):
    """Detections from triples (name, box, score)."""
    boxes = np.array([box for _, box, _ in found], dtype=float).reshape(-1, 4)
    labels = np.array([SPACE.names.index(name) for name, _, _ in found], dtype=np.int64)
    return detections(boxes, labels, np.array([score for _, _, score in found]))


def numbers_of(spec, *images):
    return shown(detrkit.make("evaluators", spec), images).result()


@pytest.mark.parametrize("name", COCO_EVALUATORS)
def test_what_is_found_exactly_scores_one(name):
    numbers = numbers_of(name, (there(0, ("cat", CAT)), seen(("cat", CAT, 0.9))))
    assert list(numbers) == [*METRICS, *(f"{metric}/{c}" for metric in PER_CLASS for c in SPACE.names)]
    assert (numbers["AP"], numbers["AR1"], numbers["AP/cat"], numbers["APm/cat"]) == pytest.approx((1, 1, 1, 1))
    assert np.isnan([numbers["AP/dog"], numbers["APs/cat"]]).all(), "no dog, and no small cat, is there to be found"


@pytest.mark.parametrize("spec", [*COCO_EVALUATORS, "voc"])
def test_a_better_scored_mistake_halves_the_precision(spec):
    found = seen(("cat", DOG, 0.9), ("cat", CAT, 0.8))
    assert numbers_of(spec, (there(0, ("cat", CAT)), found))["AP"] == pytest.approx(0.5)


@pytest.mark.parametrize("name", COCO_EVALUATORS)
def test_a_box_of_overlap_three_quarters_counts_up_to_that(name):
    """IoU 0.75 reaches the thresholds 0.50, 0.55 ... 0.75: 6 of 10."""
    numbers = numbers_of(name, (there(0, ("cat", (0, 0, 80, 80))), seen(("cat", (0, 0, 80, 60), 0.9))))
    assert (numbers["AP"], numbers["AP50"], numbers["AP75"]) == pytest.approx((0.6, 1, 1))


@pytest.mark.parametrize("name", COCO_EVALUATORS)
def test_crowds_are_regions_where_nothing_counts(name):
    first = there(0, ("cat", CAT)), seen(("cat", CAT, 0.5))
    second = there(1, ("cat", BED), crowd=True), seen(("cat", CAT, 0.9), ("cat", DOG, 0.8))
    assert numbers_of(name, first, second)["AP"] == pytest.approx(1)


@pytest.mark.parametrize("name", COCO_EVALUATORS)
def test_equal_scores_rank_by_query(name):
    """As they do in `detrkit.selection`, in whatever order they arrive."""
    found, target = seen(("cat", DOG, 0.5), ("cat", CAT, 0.5)), there(0, ("cat", CAT))
    assert numbers_of(name, (target, found))["AP"] == pytest.approx(0.5)
    assert numbers_of(name, (target, found[::-1]))["AP"] == pytest.approx(0.5)
    assert numbers_of(name, (target, replace(found, queries=found.queries[::-1])))["AP"] == pytest.approx(1)


def test_voc_by_hand():
    """Right, wrong, right of three objects: precision 1, 1/2, 2/3 at recall 1/3, 1/3, 2/3."""
    objects = there(0, ("cat", CAT), ("cat", DOG), ("cat", (200, 100, 300, 200)))
    images = [(objects, seen(("cat", CAT, 0.9), ("cat", CAT, 0.8), ("cat", DOG, 0.7)))]
    assert numbers_of("voc", *images)["AP"] == pytest.approx(1 / 3 + 2 / 3 / 3)
    assert numbers_of("voc(points=11)", *images)["AP"] == pytest.approx((4 + 3 * 2 / 3) / 11)
    assert numbers_of("voc", *images)["AR/cat"] == pytest.approx(2 / 3)


def test_voc_detections_answer_for_the_object_that_they_overlap_most_alone():
    """Where COCO gives the second detection the second object."""
    objects = there(0, ("cat", (0, 0, 100, 100)), ("cat", (0, 20, 100, 120)))
    found = seen(("cat", (0, 0, 100, 100), 0.9), ("cat", (0, 5, 100, 105), 0.8))
    assert numbers_of("voc", (objects, found))["AR"] == 0.5
    assert numbers_of("numpy", (objects, found))["AR100"] > 0.5


@pytest.mark.parametrize("spec", ["voc(points=10)", "voc(iou=0)", "voc(iou=1.5)"])
def test_settings_out_of_range_are_refused(spec):
    with pytest.raises(ConfigError, match="expected"):
        detrkit.make("evaluators", spec)


def test_the_table_has_a_line_a_class():
    images = [(there(0, ("cat", CAT), ("cat", DOG), ("dog", BED)), seen(("cat", CAT, 0.9)))]
    lines = shown(detrkit.make("evaluators", "voc"), images).table().splitlines()
    assert lines == [
        "AP    0.2500  AR    0.2500",
        "",
        "class        AP      AR  objects",
        "cat      0.5000  0.5000        2",
        "dog      0.0000  0.0000        1",
        "okapi         -       -        0",
        "narwhal       -       -        0",
        "all      0.2500  0.2500        3",
    ]


def test_the_laws_catch_a_tie_rule_that_depends_on_the_order(monkeypatch):
    monkeypatch.setattr("detrkit.evaluators.Found.of", classmethod(lambda cls, found: cls._make(as_they_come(found))))
    broken = {r.law for r in check_component(REGISTRY.get("evaluators", "numpy"), examples=8) if r.outcome == "broken"}
    assert "order_of_detections_does_not_matter" in broken


def as_they_come(found):
    boxes = found.boxes.astype(float)
    boxes[:, 2:] -= boxes[:, :2]
    return np.zeros(len(found), np.int64), found.labels, boxes, found.scores.astype(float)


def test_the_laws_catch_an_evaluator_that_counts_crowds():
    class Counting(CocoEvaluator):
        def curves(self, evidence):
            blind = evidence.truth._replace(crowd=np.zeros_like(evidence.truth.crowd))
            return detrkit.make("evaluators", "numpy").curves(replace(evidence, truth=blind))

    broken = {r.law for r in check_component(Counting, examples=8) if r.outcome == "broken"}
    assert {"what_lies_in_ignored_regions_does_not_count", "coco_numbers_are_those_of_the_reference"} <= broken


def test_areas_are_closed_intervals():
    """A square of 32 pixels is small and medium at once, as in pycocotools."""
    assert AREAS[1][1] == AREAS[2][0] == 1024
    for name in COCO_EVALUATORS:
        numbers = numbers_of(name, (there(0, ("cat", (0, 0, 32, 32))), seen(("cat", (0, 0, 32, 32), 0.9))))
        assert (numbers["APs"], numbers["APm"]) == pytest.approx((1, 1))


# What kinds of errors

MIXED = [
    (there(0, ("cat", CAT), ("dog", DOG)), seen(("cat", CAT, 0.9), ("cat", CAT, 0.8), ("cat", DOG, 0.7))),
    (there(1, ("dog", DOG)), seen(("dog", (130, 20, 210, 90), 0.6), ("cat", (140, 60, 220, 140), 0.5))),
    (there(2, ("okapi", BED), ("cat", CAT), crowd=True), seen(("okapi", CAT, 0.9), ("narwhal", DOG, 0.55))),
]


def test_errors_by_hand():
    found = errors(shown(detrkit.make("evaluators", "voc"), MIXED).evidence())
    number = {kind: counts.sum() for kind, counts in found.counts.items()}
    assert number == {"localisation": 1, "class": 1, "duplicate": 1, "both": 1, "background": 1, "missed": 0}
    assert found.counts["class"].tolist() == [1, 0, 0, 0], "a cat where a dog is"
    assert found.counts["background"].tolist() == [0, 0, 0, 1], "what lies in crowds does not count"
    assert found.costs["class"] == pytest.approx(51 / 101 / 2), (
        "half of the dogs, a half of the classes, would be found"
    )
    lines = found.table().splitlines()
    assert lines[0] == "error at IoU 0.5  AP lost  number"
    assert lines[2] == f"class              0.2525       1  {KINDS['class']}"
    assert found.to_json()["class"]["by_class"] == {"cat": 1, "dog": 0, "okapi": 0, "narwhal": 0}


def test_errors_equal_those_of_hotcoco():
    """Kinds, numbers and costs; no crowds, ties or overlaps just at a threshold, which its TIDE treats otherwise."""
    import hotcoco

    names = {"localisation": "Loc", "class": "Cls", "duplicate": "Dupe", "both": "Both", "background": "Bkg"}
    names |= {"missed": "Miss"}
    for seed in range(100):
        generator, images = np.random.default_rng(seed), []
        for target, found in draw_images(seeded_draw(seed)):
            boxes = found.boxes + [-0.1, -0.1, 0.1, 0.1] * generator.random((len(found), 4))
            scores = generator.random(len(found))
            images.append(
                ({**target, "iscrowd": target["iscrowd"] & False}, replace(found, boxes=boxes, scores=scores))
            )
        data, results = coco_entries(images, SPACE)
        if not results or not data["annotations"]:
            continue
        api = hotcoco.COCO(data)
        evaluation = hotcoco.COCOeval(api, api.load_res(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        expected = evaluation.tide_errors()
        found = errors(shown(detrkit.make("evaluators", "numpy"), images).evidence())
        assert found.ap == pytest.approx(expected["ap_base"], abs=1e-12), f"seed {seed}"
        for kind, name in names.items():
            assert found.counts[kind].sum() == expected["counts"][name], f"seed {seed}: {kind}"
            assert found.costs[kind] == pytest.approx(expected["delta_ap"][name], abs=1e-12), f"seed {seed}: {kind}"


def test_errors_of_nothing_and_of_no_truth():
    nothing = errors(shown(detrkit.make("evaluators", "voc"), [(there(0, ("cat", CAT)), seen())]).evidence())
    assert (nothing.ap, nothing.counts["missed"].sum()) == (0, 1)
    stray = errors(shown(detrkit.make("evaluators", "voc"), [(there(0), seen(("cat", CAT, 0.9)))]).evidence())
    assert np.isnan(stray.ap)
    assert stray.counts["background"].tolist() == [1, 0, 0, 0]


def test_confusion_by_hand():
    """From score 0.5: the cat found, its duplicate on nothing, the dog taken for a cat, the other dog badly framed."""
    found = confusion(shown(detrkit.make("evaluators", "voc"), MIXED).evidence())
    cat, dog, nothing = 0, 1, 4
    expected = np.zeros((5, 5), int)
    expected[cat, cat] = expected[dog, cat] = expected[dog, nothing] = 1
    expected[nothing, [0, 1, 3]] = 2, 1, 1
    assert found.matrix.tolist() == expected.tolist()
    assert found.swaps() == [("dog", "cat", 1)]
    assert found.table().splitlines()[:3] == [
        "class, score from 0.5  objects  right  confused  missed  invented",
        "cat                          1      1         0       0         2",
        "dog                          2      0         1       1         1",
    ]
    assert found.table().endswith("\ndog taken for cat: 1")


def test_confusion_counts_each_object_and_each_detection_once():
    for seed in range(30):
        evidence = shown(detrkit.make("evaluators", "voc"), draw_images(seeded_draw(seed))).evidence()
        matrix = confusion(evidence, threshold=0.3).matrix
        assert matrix[:-1].sum(1).tolist() == evidence.objects.tolist()
        assert matrix[:, :-1].sum() <= len(evidence.above(0.3).found.score)
        assert matrix[-1, -1] == 0


def test_evaluators_import_no_torch():
    code = "import detrkit.evaluators.hotcoco, detrkit.evaluators.numpy, detrkit.evaluators.voc, sys; "
    done = subprocess.run([sys.executable, "-c", code + "sys.exit('torch' in sys.modules)"], timeout=50)
    assert done.returncode == 0
