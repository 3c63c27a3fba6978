"""The laws of the set criterion (`detrkit.criterion`), whatever its classification, matcher and weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from detrkit.classification.softmax import SoftmaxClassification
from detrkit.config import DetectorConfig
from detrkit.criterion import Losses, Normalizer, SetCriterion
from detrkit.model import DetectorOutput
from detrkit.targets import check_targets
from detrkit.testing.law import Draw, Make, concern, law
from detrkit.testing.tensors import check_close, check_finite, draw_generator, draw_normal, draw_order

CLASSES, QUERIES = 4, 12
Target = dict[str, Tensor]


class CriterionMaker:
    """A `Make` of criteria: options are fields of `DetectorConfig`, for example ``make(eos_coef=0.2)``."""

    component = SetCriterion

    def __call__(self, **options: Any) -> SetCriterion:
        """A criterion for `CLASSES` classes."""
        return SetCriterion.from_config(DetectorConfig(num_classes=CLASSES, num_queries=QUERIES).replace(**options))


make_criterion = CriterionMaker()


@law("criterion")
def total_is_the_weighted_sum(make: Make, draw: Draw) -> None:
    """The total is the sum of all terms, each times its weight, and doubling the weights doubles it."""
    names = ("cls_loss_coef", "bbox_loss_coef", "giou_loss_coef")
    weights = {name: draw(0, 80) / 10 for name in names}
    outputs, targets = draw_batch(draw)
    losses = make(**weights)(outputs, targets)
    of_term = dict(zip(("loss_ce", "loss_bbox", "loss_giou"), weights.values(), strict=True))
    expected = sum(of_term[name.rstrip("_0123456789")] * value for name, value in losses.terms.items())
    check_close(losses.total, expected, "from the weighted sum of the terms")
    doubled = make(**{name: 2 * weight for name, weight in weights.items()})(outputs, targets)
    check_close(doubled.total, 2 * losses.total, "with doubled weights")


@law("criterion")
def every_layer_is_charged_alike(make: Make, draw: Draw) -> None:
    """The loss of L layers is the sum of L losses of one layer; the last layer's terms have no number."""
    criterion, (outputs, targets) = make(), draw_batch(draw, layers=draw(1, 4))
    together = criterion(outputs, targets)
    single = [criterion(layer_of(outputs, layer), targets) for layer in range(len(outputs.logits))]
    check_close(together.total, sum(losses.total for losses in single), "from the sum of the layers")
    suffixes = [f"_{layer}" for layer in range(len(single) - 1)] + [""]
    expected = {f"{n}{s}": v for s, one in zip(suffixes, single, strict=True) for n, v in one.terms.items()}
    check_close(together.terms, expected, "from the layers one by one")


@law("criterion")
def order_of_targets_does_not_matter(make: Make, draw: Draw) -> None:
    """Permuting the objects of each image leaves every term unchanged."""
    criterion, (outputs, targets) = make(), draw_batch(draw)
    orders = [draw_order(draw, len(target["labels"])) for target in targets]
    shuffled = [{name: t[name][order] for name in t} for t, order in zip(targets, orders, strict=True)]
    check_close(criterion(outputs, shuffled).terms, criterion(outputs, targets).terms, "with the objects shuffled")


@law("criterion")
def order_of_queries_does_not_matter(make: Make, draw: Draw) -> None:
    """Permuting the queries leaves every term unchanged."""
    criterion, (outputs, targets) = make(), draw_batch(draw)
    order = draw_order(draw, QUERIES)
    shuffled = outputs.mapped(lambda part: part[:, :, order])
    check_close(criterion(shuffled, targets).terms, criterion(outputs, targets).terms, "with the queries shuffled")


@law("criterion")
def perfect_prediction_costs_nothing(make: Make, draw: Draw) -> None:
    """Predictions that are the truth cost less than 0.001 in every term, and no term is ever negative."""
    criterion, (outputs, targets) = make(), draw_batch(draw)
    for name, value in criterion(outputs, targets).terms.items():
        assert value >= 0, f"{name} is {value}"
    for name, value in criterion(perfect(criterion, targets), targets).terms.items():
        assert 0 <= value < 1e-3, f"{name} of a perfect prediction is {value}"


@law("criterion")
def box_losses_are_means_over_objects(make: Make, draw: Draw) -> None:
    """When all boxes are off by one distance, loss_bbox is that distance, however many objects and images there are."""
    criterion, (_, targets) = make(set_cost_class=1000.0), draw_batch(draw)
    concern(isinstance(criterion.classification, SoftmaxClassification), "another classification")
    targets = [{**t, "labels": torch.arange(len(t["labels"])) % CLASSES} for t in crop(targets, CLASSES)]
    outputs = perfect(criterion, targets)
    losses = criterion(outputs._replace(boxes=outputs.boxes + torch.tensor([0.02, -0.01, 0, 0])), targets)
    expected = 0.03 if any(len(t["labels"]) for t in targets) else 0.0
    check_close(losses.terms["loss_bbox"], torch.tensor(expected).double(), "from the shift", rtol=1e-6)


@law("criterion")
def unmatched_queries_weigh_eos_coef(make: Make, draw: Draw) -> None:
    """The derivative of the class loss by an unmatched query's logits is eos_coef times that of a matched one."""
    eos_coef = draw(1, 20) / 10
    criterion = make(eos_coef=eos_coef)
    concern(isinstance(criterion.classification, SoftmaxClassification), "has no no-object weight")
    outputs, targets = draw_batch(draw, layers=1, images=1)
    logits = outputs.logits.requires_grad_()
    (gradient,) = torch.autograd.grad(criterion(outputs, targets, Normalizer(1, 1)).terms["loss_ce"], logits)
    assignment = criterion.matching(*outputs.pair, check_targets(targets, CLASSES))[0][0]
    wanted = torch.full((QUERIES,), CLASSES)
    wanted[assignment.rows] = targets[0]["labels"][assignment.cols]
    weight = torch.full((QUERIES, 1), eos_coef, dtype=logits.dtype)
    weight[assignment.rows] = 1
    surprise = logits.detach()[0, 0].softmax(-1) - torch.nn.functional.one_hot(wanted, CLASSES + 1)
    check_close(gradient[0, 0], weight * surprise, "from softmax minus truth, weighted", rtol=1e-10)


@law("criterion")
def micro_batches_add_up_to_the_batch(make: Make, draw: Draw) -> None:
    """With the normalizer of the whole window, losses and gradients of micro-batches add up to those of the batch."""
    criterion, (outputs, targets) = make(), draw_batch(draw, images=draw(2, 5))
    expected, whole = gradients(criterion, outputs, targets)
    cut = draw(1, len(targets) - 1)
    parts = (slice(None, cut), slice(cut, None))
    first, second = (criterion.normalizer(targets[part], QUERIES) for part in parts)
    window = first + second
    alone = criterion.normalizer(targets, QUERIES)
    check_close(torch.tensor(window), torch.tensor(alone), "when normalizers are added")
    pieces = [gradients(criterion, images_of(outputs, part), targets[part], window) for part in parts]
    check_close(sum(losses.total for _, losses in pieces), whole.total, "over micro-batches")
    for index, name in enumerate(("logits", "boxes")):
        found = torch.cat([gradient.pair[index] for gradient, _ in pieces], dim=1)
        check_close(found, expected.pair[index], f"in {name} over micro-batches", rtol=1e-6)


@law("criterion")
def duplicated_batch_has_the_same_loss(make: Make, draw: Draw) -> None:
    """A batch given twice over has the loss of the batch, and twice that under the batch's normalizer."""
    criterion, (outputs, targets) = make(), draw_batch(draw)
    twice = outputs.mapped(lambda part: torch.cat([part, part], 1))
    expected = criterion(outputs, targets).terms
    check_close(criterion(twice, targets * 2).terms, expected, "for a batch given twice")
    doubled = criterion(twice, targets * 2, criterion.normalizer(targets, QUERIES)).terms
    check_close(doubled, {name: 2 * value for name, value in expected.items()}, "under the batch's normalizer")


@law("criterion")
def empty_images_are_charged_for_classes_only(make: Make, draw: Draw) -> None:
    """Without any object box losses are exactly zero, and all is finite, gradients included."""
    criterion, (outputs, targets) = make(), draw_batch(draw)
    empty = crop(targets, 0)
    found, losses = gradients(criterion, outputs, empty)
    for name, value in losses.terms.items():
        assert "ce" in name or value == 0, f"{name} of empty images is {value}"
    assert losses.terms["loss_ce"] > 0, "empty images are not charged for their classes"
    check_finite({**losses.terms, **losses.metrics, "total": losses.total}, "for empty images")
    check_finite({"logits": found.logits, "boxes": found.boxes}, "among the gradients of empty images")
    assert (found.boxes == 0).all(), "boxes of empty images get a gradient"


@law("criterion")
def empty_targets_may_be_written_in_any_way(make: Make, draw: Draw) -> None:
    """Empty boxes of shape (0, 4), (0,) or [] are one and the same."""
    criterion, (outputs, targets) = make(), draw_batch(draw, images=draw(1, 3))
    image = draw(0, len(targets) - 1)
    written: list[dict[str, Any]] = [
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
        {"boxes": torch.zeros(0), "labels": torch.zeros(0)},
        {"boxes": [], "labels": []},
    ]
    terms = [criterion(outputs, [*targets[:image], empty, *targets[image + 1 :]]).terms for empty in written]
    for found in terms[1:]:
        check_close(found, terms[0], "for empty boxes written otherwise", rtol=0)


@law("criterion")
def extreme_outputs_have_finite_losses(make: Make, draw: Draw) -> None:
    """Saturated logits and boxes at the limits of the sigmoid have finite losses and gradients."""
    criterion, (outputs, targets) = make(), draw_batch(draw)
    boxes = (outputs.boxes * 4).floor() / 3
    extreme = DetectorOutput(outputs.logits * 10.0 ** draw(0, 6), boxes.clamp(0, 1))
    found, losses = gradients(criterion, extreme, targets)
    check_finite({**losses.terms, "total": losses.total}, "for extreme outputs")
    check_finite({"logits": found.logits, "boxes": found.boxes}, "among the gradients of extreme outputs")


@law("criterion")
def gradients_are_those_of_the_loss(make: Make, draw: Draw) -> None:
    """The gradient of the total equals numerical differences, the assignment being fixed."""
    criterion, (outputs, targets) = make(), draw_batch(draw, layers=2, images=2)

    def total(logits: Tensor, boxes: Tensor) -> Tensor:
        return criterion(DetectorOutput(logits, boxes), targets).total

    inputs = outputs.mapped(lambda part: part.detach().requires_grad_()).pair
    right = torch.autograd.gradcheck(total, inputs, eps=1e-7, atol=1e-4, fast_mode=True, raise_exception=False)
    assert right, "torch.autograd.gradcheck: the gradient is not that of the loss"


@law("criterion")
def autocast_changes_little(make: Make, draw: Draw) -> None:
    """Under autocast, float32 outputs give nearly the same total; half-precision outputs are computed in float32."""
    criterion, (outputs, targets) = make(), draw_batch(draw)
    single = outputs.mapped(Tensor.float)
    expected = criterion(single, targets).total
    with torch.autocast("cpu", torch.bfloat16):
        check_close(criterion(single, targets).total, expected, "under autocast", rtol=0.02)
    half = criterion(outputs.mapped(Tensor.bfloat16), targets)
    assert half.total.dtype == torch.float32, f"half-precision outputs give a total in {half.total.dtype}"


def draw_batch(
    draw: Draw, *, layers: int | None = None, images: int | None = None
) -> tuple[DetectorOutput, list[Target]]:
    """Random outputs in float64 and targets of 0, 1 or many objects an image."""
    layers, images = layers or draw(1, 3), images or draw(1, 4)
    logits = 2 * draw_normal(draw, layers, images, QUERIES, CLASSES + 1)
    outputs = DetectorOutput(logits, draw_normal(draw, layers, images, QUERIES, 4).sigmoid())
    return outputs, [draw_target(draw, draw(0, 9)) for _ in range(images)]


def draw_target(draw: Draw, objects: int) -> Target:
    """Objects with boxes inside the image."""
    generator = draw_generator(draw)
    center, size = (torch.rand(objects, 2, generator=generator, dtype=torch.float64) for _ in range(2))
    boxes = torch.cat([0.25 + 0.5 * center, 0.05 + 0.4 * size], dim=1)
    return {"boxes": boxes, "labels": torch.randint(CLASSES, (objects,), generator=generator)}


def crop(targets: Sequence[Target], objects: int) -> list[Target]:
    """At most so many objects an image."""
    return [{name: values[:objects] for name, values in target.items()} for target in targets]


def perfect(criterion: SetCriterion, targets: Sequence[Target]) -> DetectorOutput:
    """One layer that says the truth with logits of +-10, the first queries the objects."""
    logits = torch.full((1, len(targets), QUERIES, criterion.classification.num_logits), -10.0, dtype=torch.float64)
    boxes = torch.full((1, len(targets), QUERIES, 4), 0.5, dtype=torch.float64)
    for image, target in enumerate(targets):
        objects = len(target["labels"])
        logits[0, image, range(objects), target["labels"]] = 10
        logits[0, image, objects:, CLASSES:] = 10
        boxes[0, image, :objects] = target["boxes"]
    return DetectorOutput(logits, boxes)


def layer_of(outputs: DetectorOutput, layer: int) -> DetectorOutput:
    """One layer alone."""
    return outputs.mapped(lambda part: part[layer : layer + 1])


def images_of(outputs: DetectorOutput, images: slice) -> DetectorOutput:
    """Some images of the batch."""
    return outputs.mapped(lambda part: part[:, images])


def gradients(
    criterion: SetCriterion, outputs: DetectorOutput, targets: Sequence[Target], window: Normalizer | None = None
) -> tuple[DetectorOutput, Losses]:
    """Gradients of the total by logits and boxes, and the losses."""
    outputs = outputs.mapped(lambda part: part.detach().requires_grad_())
    losses = criterion(outputs, targets, window)
    logits, boxes = torch.autograd.grad(losses.total, outputs.pair)
    return DetectorOutput(logits, boxes), losses
