"""The laws of the role `evaluators`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from math import isnan, nan
from multiprocessing.reduction import ForkingPickler
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from detrkit.datasets import Target
from detrkit.detections import Detections
from detrkit.errors import DataError, DetrkitError, NonFiniteError
from detrkit.evaluators import CocoEvaluator, Evaluator, Numbers
from detrkit.evaluators.numpy import NumpyEvaluator
from detrkit.labels import LabelSpace
from detrkit.testing.law import Draw, Make, concern, law

Images = list[tuple[Target, Detections]]
T = TypeVar("T")

SPACE = LabelSpace(("cat", "dog", "okapi", "narwhal"), (17, 18, 90, 4))
SIZE = (256, 512)  # powers of two: boxes in whole pixels are fractions without rounding, so that overlaps tie
EMPTY_STRIP = 480  # no box of `draw_images` reaches beyond this x


@law("evaluators")
def result_is_as_declared(make: Make, draw: Draw) -> None:
    """Gives floats in [0, 1] or NaN, ``AP`` first, each per class for every class, NaN where a class has no object."""
    images = draw_images(draw)
    numbers = score(make, images)
    objects = {SPACE.names[i] for target, _ in images for i in target["labels"][~target["iscrowd"]].tolist()}
    names = list(numbers)
    assert names[0] == "AP", f"the first number is {names[0]!r}, not 'AP'"
    kinds = {name.split("/")[0] for name in names if "/" in name}
    assert all(f"{kind}/{c}" in numbers for kind in kinds for c in SPACE.names), f"a class lacks numbers: {names}"
    for name, value in numbers.items():
        assert isinstance(value, float), f"{name} is a {type(value).__name__}"
        assert isnan(value) or 0 <= value <= 1, f"{name} is {value}"
    for c in SPACE.names:
        assert isnan(numbers[f"AP/{c}"]) == (c not in objects), f"AP/{c} is {numbers[f'AP/{c}']}"


@law("evaluators")
def order_of_images_does_not_matter(make: Make, draw: Draw) -> None:
    """Images added in another order, or asked for twice, give the same."""
    images = draw_images(draw)
    judge = shown(make(), permuted(draw, images))
    check_same(judge.result(), score(make, images), "with images in another order", tolerance=0)
    check_same(judge.result(), judge.result(), "when asked again", tolerance=0)


@law("evaluators")
def shards_merge_to_the_whole(make: Make, draw: Draw) -> None:
    """Shares of the images, pickled as between processes and merged in any order, give what all images give."""
    images, shards = draw_images(draw), [make() for _ in range(draw(1, 4))]
    for image in images:
        shards[draw(0, len(shards) - 1)].add(*image)
    first, *others = (ForkingPickler.loads(ForkingPickler.dumps(shard)) for shard in permuted(draw, shards))
    for other in others:
        first.merge(other)
    check_same(first.result(), score(make, images), "from merged shards", tolerance=0)


@law("evaluators")
def order_of_detections_does_not_matter(make: Make, draw: Draw) -> None:
    """The detections of an image may come in any order, equal scores and all."""
    images = draw_images(draw)
    shuffled = [(target, found[np.array(permuted(draw, range(len(found))), int)]) for target, found in images]
    check_same(score(make, shuffled), score(make, images), "with detections in another order", tolerance=0)


@law("evaluators")
def ids_mean_nothing(make: Make, draw: Draw) -> None:
    """Other image ids give the same: in the same order, or in any where no scores are equal; texts as numbers."""
    images, offset = draw_images(draw), draw(-10, 10**6)
    moved = [(with_id(target, int(target["image_id"]) + offset), found) for target, found in images]
    check_same(score(make, moved), score(make, images), "with ids moved", tolerance=0)
    texts = [(with_id(target, f"image {target['image_id']:09}"), found) for target, found in images]
    check_same(score(make, texts), score(make, images), "with texts for ids", tolerance=0)
    images = with_distinct_scores(draw, images)
    ids = permuted(draw, range(len(images)))
    exchanged = [(with_id(target, i), found) for i, (target, found) in zip(ids, images, strict=True)]
    check_same(score(make, exchanged), score(make, images), "with ids exchanged", tolerance=0)


@law("evaluators")
def numbers_follow_the_classes(make: Make, draw: Draw) -> None:
    """Classes in another order have the same numbers under their names."""
    images, order = draw_images(draw), permuted(draw, range(len(SPACE)))
    other, new = LabelSpace(tuple(SPACE.names[i] for i in order)), np.argsort(order)
    renamed: Images = [
        (
            {**target, "labels": torch.from_numpy(new[target["labels"].numpy()])},
            found.in_space(other),
        )
        for target, found in images
    ]
    check_same(score(make, renamed), score(make, images), "with classes in another order")


@law("evaluators")
def only_the_order_of_scores_matters(make: Make, draw: Draw) -> None:
    """A rising function of the scores changes nothing."""
    images = draw_images(draw)
    power, scale = (0.5, 1, 2)[draw(0, 2)], draw(1, 8) / 8
    moved = [(t, with_scores(found, scale * found.scores.astype(np.float64) ** power)) for t, found in images]
    check_same(score(make, moved), score(make, images), "with scores transformed", tolerance=0)


@law("evaluators")
def what_is_found_exactly_scores_one(make: Make, draw: Draw) -> None:
    """Detections that are the truth have AP 1 in every class that has objects, and recall 1 without a narrow limit."""
    images = [(target, truth_as_found(draw, target)) for target, _ in draw_images(draw)]
    for name, value in score(make, images).items():
        least = 0.0 if is_limited(name) else 1 - 1e-9
        assert isnan(value) or value >= least, f"{name} is {value}, not 1"


@law("evaluators")
def nothing_found_scores_zero(make: Make, draw: Draw) -> None:
    """Without detections every number is 0, or NaN where there is no object."""
    images = [(target, found[:0]) for target, found in draw_images(draw)]
    for name, value in score(make, images).items():
        assert isnan(value) or value == 0, f"{name} is {value}, not 0"


@law("evaluators")
def a_mistake_behind_all_else_costs_nothing(make: Make, draw: Draw) -> None:
    """A wrong detection with the least score of all leaves every number as it is."""
    images = draw_images(draw, few=True)
    target, found = images.pop(draw(0, len(images) - 1))
    label, x = draw(0, len(SPACE) - 1), EMPTY_STRIP + 2.0
    wrong = detections(np.array([[x, 5, x + draw(4, 25), draw(20, 200)]]), np.array([label]), np.array([1 / 64]))
    worse = [*images, (target, joined(found, wrong))]
    check_same(score(make, worse), score(make, [*images, (target, found)]), "with one mistake more", tolerance=0)


@law("evaluators")
def losing_a_detection_never_raises_recall(make: Make, draw: Draw) -> None:
    """Any detection taken away: no recall rises, except under a narrow limit, where the next one moves up."""
    images = draw_images(draw, few=True)
    target, found = images.pop(draw(0, len(images) - 1))
    lost = draw(0, max(len(found) - 1, 0))
    before = score(make, [*images, (target, found)])
    after = score(make, [*images, (target, found[np.arange(len(found)) != lost])])
    for name in before:
        if name.startswith("AR") and not is_limited(name) and not isnan(before[name]):
            assert after[name] <= before[name] + 1e-12, f"{name} rises from {before[name]} to {after[name]}"


@law("evaluators")
def what_lies_in_ignored_regions_does_not_count(make: Make, draw: Draw) -> None:
    """An image with an ignored object and detections of just that box changes nothing, however many and well scored."""
    images = draw_images(draw)
    there = [label for target, _ in images for label in target["labels"].tolist()] or [0]
    box, label, count = np.array([[10.0, 20, 130, 90]]), np.array([there[draw(0, len(there) - 1)]]), draw(2, 6)
    scores = np.array([draw(32, 64) / 64 for _ in range(count)])
    more = (truth(10**7, box, label, [True]), detections(box.repeat(count, 0), label.repeat(count), scores))
    check_same(score(make, [*images, more]), score(make, images), "with an ignored object more")


@law("evaluators")
def what_cannot_be_counted_is_refused(make: Make, draw: Draw) -> None:
    """Refuses numbers that are not finite, scores outside [0, 1], an image twice, two label spaces, no image at all."""
    images = draw_images(draw)
    target = with_id(images[0][0], 10**7)
    sound = detections(np.array([[0.0, 0, 9, 9]]), np.array([0]), np.array([0.5]))
    bad = {"scores": (nan, np.inf, 1.0001, -0.25)[draw(0, 3)], "boxes": (nan, np.inf, -np.inf)[draw(0, 2)]}
    for name, value in bad.items():
        wrong = replace(sound, **{name: np.full_like(getattr(sound, name), value)})
        check_refused(lambda wrong=wrong: make().add(target, wrong), NonFiniteError, f"{name} of {value}")  # type: ignore[misc]
    judge = shown(make(), images)
    check_refused(lambda: judge.add(*images[-1]), DataError, "an image added twice")
    check_refused(lambda: judge.merge(shown(make(), images[:1])), DataError, "an image in two shards")
    foreign = replace(sound, label_space=LabelSpace(("cat", "dog", "okapi", "unicorn")))
    check_refused(lambda: judge.add(target, foreign), DataError, "another label space")
    check_refused(lambda: make().result(), DataError, "no image")
    check_same(judge.result(), score(make, images), "after refusals", tolerance=0)


@law("evaluators")
def coco_numbers_are_those_of_the_reference(make: Make, draw: Draw) -> None:
    """An evaluator that gives COCO's numbers gives those of `numpy`, class by class, up to the rounding of sums."""
    concern(issubclass(make.component, CocoEvaluator), "gives other numbers than COCO's")
    images = draw_images(draw)
    check_same(score(make, images), shown(NumpyEvaluator(), images).result(), "from the reference")


def draw_images(draw: Draw, *, few: bool = False) -> Images:
    """Images with objects and detections near them: crowds, empty images, all sizes, equal scores and overlaps, masks.

    Args:
        few: no image has more than a hundred detections of a class; else one in five sets has one that does.
    """
    generator = np.random.default_rng(draw(0, 2**32 - 1))
    crowded, coarse, masked = not few and draw(0, 4) == 4, draw(0, 3) > 0, draw(0, 1) == 1
    images: Images = []
    for number in range(draw(1, 6)):
        boxes = np.unique(draw_boxes(generator, int(generator.integers(0, 8))), axis=0)
        labels = generator.integers(0, len(SPACE) - 1, len(boxes))  # the last class has no objects
        crowd = generator.random(len(boxes)) < 0.2
        count = 160 if crowded and number == 0 else int(generator.integers(0, 12))
        near = generator.integers(0, max(len(boxes), 1), count)
        stray = generator.random(count) < (0.3 if len(boxes) else 2)
        moved = boxes[near] + generator.integers(-6, 7, (count, 4)) if len(boxes) else draw_boxes(generator, count)
        moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2])
        found = np.where(stray[:, None], draw_boxes(generator, count), moved).clip(0, EMPTY_STRIP)
        wrong = stray | (generator.random(count) < 0.2)
        guess = np.where(wrong, generator.integers(0, len(SPACE), count), labels[near] if len(boxes) else 0)
        guess = np.zeros_like(guess) if count > 100 else guess
        scores = generator.integers(1, 9, count) / 8 if coarse else generator.random(count) * 0.9 + 0.05
        target = truth(3 * number + 5, boxes, labels, crowd)
        if masked:
            target["area"] = torch.from_numpy((boxes[:, 2:] - boxes[:, :2]).prod(1) * generator.random(len(boxes)))
        images.append((target, detections(found, guess, scores)))
    return images


def draw_boxes(generator: np.random.Generator, count: int) -> NDArray[np.float64]:
    """Boxes (x1, y1, x2, y2) in whole pixels of an image of `SIZE`, of all sizes: [count, 4]."""
    sides = np.floor(4 * 2 ** generator.uniform(0, 5.5, (count, 2)))
    corners = np.floor(generator.random((count, 2)) * ([EMPTY_STRIP, SIZE[0]] - sides))
    return np.concatenate([corners, corners + sides], axis=1)


def truth(
    image_id: int, boxes: NDArray[np.float64], labels: NDArray[np.int64], crowd: Sequence[bool] | NDArray[np.bool_]
) -> Target:
    """A target of an image of `SIZE` from corners in pixels."""
    centred = np.concatenate([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], axis=1)
    return Target(
        boxes=torch.from_numpy(centred / np.tile(SIZE[::-1], 2)).float(),
        labels=torch.from_numpy(labels.astype(np.int64)),
        iscrowd=torch.tensor(np.array(crowd, dtype=bool)),
        image_id=image_id,
        orig_size=torch.tensor(SIZE),
    )


def detections(boxes: NDArray[np.float64], labels: NDArray[np.int64], scores: NDArray[np.float64]) -> Detections:
    """Detections in an image of `SIZE`, by queries 0, 1, ..."""
    columns = boxes.astype(np.float32), labels.astype(np.int64), scores.astype(np.float32)
    return Detections(*columns, SIZE, SPACE, np.arange(len(boxes)))


def joined(one: Detections, other: Detections) -> Detections:
    """All detections of both; the other's queries come after."""
    parts = [np.concatenate([getattr(part, name) for part in (one, other)]) for name in ("boxes", "labels", "scores")]
    return detections(*parts)


def with_id(target: Target, image_id: int | str) -> Target:
    """The same under another id."""
    return {**target, "image_id": image_id}


def with_scores(found: Detections, scores: NDArray[Any]) -> Detections:
    """The same with other scores, as exact as they are given."""
    return replace(found, scores=scores)


def with_distinct_scores(draw: Draw, images: Images) -> Images:
    """The same with scores that are all different."""
    total = sum(len(found) for _, found in images)
    scores = np.array(permuted(draw, range(1, total + 1))) / (total + 1)
    parts = np.split(scores, np.cumsum([len(found) for _, found in images])[:-1])
    return [(target, with_scores(found, part)) for (target, found), part in zip(images, parts, strict=True)]


def truth_as_found(draw: Draw, target: Target) -> Detections:
    """What is there, crowds left out, as detections of any scores; the boxes as exact as the truth's."""
    kept = ~target["iscrowd"]
    boxes, labels = target["boxes"][kept].double().numpy(), target["labels"][kept].numpy()
    corners = np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], axis=1)
    scores = np.array([draw(1, 8) / 8 for _ in labels])
    return detections(corners * np.tile(SIZE[::-1], 2), labels, scores)


def permuted(draw: Draw, things: Iterable[T]) -> list[T]:
    """The same things in a drawn order."""
    things = list(things)
    order = np.random.default_rng(draw(0, 2**32 - 1)).permutation(len(things))
    return [things[i] for i in order]


def is_limited(name: str) -> bool:
    """Whether a number is a recall of so few detections of an image that not all objects may be found."""
    return name.split("/")[0] in ("AR1", "AR10")


def shown(judge: Evaluator, images: Images) -> Evaluator:
    """The evaluator with these images added."""
    for target, found in images:
        judge.add(target, found)
    return judge


def score(make: Make, images: Images) -> Numbers:
    """The numbers of a fresh evaluator."""
    return shown(make(), images).result()


def check_same(numbers: Numbers, expected: Numbers, when: str, *, tolerance: float = 1e-12) -> None:
    """The same names, in any order, with numbers that agree; NaN agrees with NaN."""
    assert numbers.keys() == expected.keys(), f"other names {when}: {numbers.keys() ^ expected.keys()}"
    for name, value in expected.items():
        got = numbers[name]
        agree = isnan(got) if isnan(value) else abs(got - value) <= tolerance
        assert agree, f"{name} is {got} {when}, not {value}"


def check_refused(act: Callable[[], object], error: type[DetrkitError], what: str) -> None:
    """The error is raised."""
    try:
        act()
    except error:
        return
    raise AssertionError(f"{what} must raise {error.__name__}, and is accepted")
