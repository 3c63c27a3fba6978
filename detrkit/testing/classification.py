"""The laws of the role `classification`."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from detrkit.classification import Classification, Matched
from detrkit.testing.law import Draw, Make, law
from detrkit.testing.tensors import check_close, check_finite, draw_generator, draw_normal, draw_order

SURE = 30.0


class Case(NamedTuple):
    """A classification, logits [L, B, Q, C], and matched queries, the same number in each layer."""

    classification: Classification
    logits: Tensor
    matched: Matched
    num_classes: int

    def loss(self, logits: Tensor, normalizer: float = 1.0) -> Tensor:
        """Loss of each layer."""
        return self.classification.loss(logits, self.matched, normalizer)

    @property
    def slots(self) -> tuple[Tensor, ...]:
        """Layer, image, query and class of each pair."""
        return (*self.matched.slots, self.matched.labels)

    def fitting(self, overlap: float | Tensor) -> Case:
        """The same with boxes that fit so well."""
        return self._replace(matched=self.matched._replace(overlap=0 * self.matched.overlap + overlap))

    def right(self, sure: float) -> Tensor:
        """Logits that say the truth, as surely as told."""
        logits = torch.full_like(self.logits, -sure)
        logits[..., self.num_classes :] = sure  # nothing, where it has a logit of its own
        logits[self.matched.slots] = -sure
        logits[self.slots] = sure
        return logits


@law("classification")
def cost_falls_as_its_class_becomes_likelier(make: Make, draw: Draw) -> None:
    """Costs are [L, N, Q]; raising a class in an image lowers the cost of its objects there and of no others."""
    case = draw_case(make, draw)
    layers, images, queries, _ = case.logits.shape
    pairs = torch.cartesian_prod(torch.arange(images), torch.arange(case.num_classes))
    image, labels = pairs[draw_order(draw, len(pairs))].unbind(1)
    cost = case.classification.cost(case.logits, labels, image)
    expected = (layers, len(pairs), queries)
    assert cost.shape == expected, f"cost has shape {tuple(cost.shape)}, not {expected}"
    raised, label, place = case.logits.clone(), draw(0, case.num_classes - 1), draw(0, images - 1)
    raised[:, place, :, label] += draw(1, 8) / 4
    change, meant = case.classification.cost(raised, labels, image) - cost, (labels == label) & (image == place)
    assert (change[:, meant] < 0).all(), "the cost of a class does not fall as it becomes likelier"
    assert (change[:, ~meant] >= -1e-12).all(), "the cost of another class falls"
    assert (change[:, image != place] == 0).all(), "the cost in another image changes"


@law("classification")
def loss_is_small_only_where_right(make: Make, draw: Draw) -> None:
    """Losses are [L], not negative, near zero where every query is sure, right and fits, not where sure and wrong."""
    case = draw_case(make, draw)
    found = case.loss(case.logits)
    assert found.shape == case.logits.shape[:1], f"losses have shape {tuple(found.shape)}, not a number a layer"
    assert (found >= 0).all(), "a loss is negative"
    fitting = case.fitting(1.0)
    assert (fitting.loss(case.right(SURE)) < 1e-6).all(), "sure and right answers are not near zero"
    # the least that is wanted of an unlikely class may be a hundredth (LW-DETR)
    assert (fitting.loss(-case.right(SURE)) > SURE / 200).all(), "sure and wrong answers cost nothing"


@law("classification")
def normalizer_is_additive(make: Make, draw: Draw) -> None:
    """The normalizer of a batch is the sum of those of its parts, and the loss is divided by it."""
    case = draw_case(make, draw)
    parts = [(draw(0, 9), draw(0, 9), draw(9, 30)) for _ in range(draw(1, 4))]
    whole = case.classification.normalizer(*map(sum, zip(*parts, strict=True)))
    added = sum(case.classification.normalizer(*part) for part in parts)
    assert abs(whole - added) <= 1e-9 * max(1.0, abs(whole)), f"the whole has {whole}, its parts {added}"
    check_close(case.loss(case.logits, 8.0) * 8, case.loss(case.logits, 1.0), "with another normalizer")


@law("classification")
def gradients_point_to_the_truth(make: Make, draw: Draw) -> None:
    """The loss pulls every class of an unmatched query down, and the class of one whose box fits up."""
    case = draw_case(make, draw)
    gradient = gradient_of(case.fitting(1.0))
    unmatched = torch.ones(case.logits.shape[:3], dtype=torch.bool)
    unmatched[case.matched.slots] = False
    assert (gradient[unmatched][:, : case.num_classes] > 0).all(), "a class of an unmatched query is not pulled down"
    assert (gradient[unmatched][:, case.num_classes :] < 0).all(), "nothing is not pulled up where there is nothing"
    assert (gradient[case.slots] < 0).all(), "the class of a matched query is not pulled up"


@law("classification")
def better_boxes_are_not_pulled_down(make: Make, draw: Draw) -> None:
    """A class that is pulled up where the box fits a little is not pulled down where it fits better."""
    case = draw_case(make, draw)
    better = case.matched.overlap + (1 - case.matched.overlap) * draw(0, 4) / 4
    low, high = (gradient_of(case.fitting(overlap))[case.slots] for overlap in (case.matched.overlap, better))
    assert not ((low < 0) & (high > 0)).any(), "a class is pulled up where the box is worse, and down where better"


@law("classification")
def layers_and_queries_count_alike(make: Make, draw: Draw) -> None:
    """Layers have losses of their own; queries in another order, with their matches, have the same loss."""
    case = draw_case(make, draw)
    layers, _, queries, _ = case.logits.shape
    expected, order = case.loss(case.logits), draw_order(draw, queries)
    layer, image, query = case.matched.slots
    shuffled = case._replace(matched=case.matched._replace(slots=(layer, image, order.argsort()[query])))
    check_close(shuffled.loss(case.logits[:, :, order]), expected, "in another order of the queries")
    for one in range(layers):
        own = layer == one
        slots = (layer[own] * 0, image[own], query[own])
        matched = Matched(slots, case.matched.labels[own], case.matched.overlap[own])
        alone = case._replace(matched=matched).loss(case.logits[one : one + 1])
        check_close(alone, expected[one : one + 1], "for a layer alone")


@law("classification")
def scores_rise_with_their_logits(make: Make, draw: Draw) -> None:
    """Scores are [..., Q, K] in [0, 1] and rise with the logit of their class; sure answers are told apart."""
    case = draw_case(make, draw)
    scores, label = case.classification.scores(case.logits), draw(0, case.num_classes - 1)
    assert scores.shape == (*case.logits.shape[:3], case.num_classes), f"scores have shape {tuple(scores.shape)}"
    assert ((scores >= 0) & (scores <= 1)).all(), "scores leave [0, 1]"
    raised = case.logits.clone()
    raised[..., label] += 1
    assert (case.classification.scores(raised)[..., label] > scores[..., label]).all(), "a score does not rise"
    seen = torch.zeros(case.logits.shape[:3], dtype=torch.bool)
    seen[case.matched.slots] = True
    assert torch.equal(case.classification.says_object(case.right(SURE)), seen), "sure objects are not those matched"


@law("classification")
def large_logits_are_finite(make: Make, draw: Draw) -> None:
    """Costs, losses, scores and gradients are finite in float32 for logits of 10000, right or wrong."""
    case = draw_case(make, draw)
    case = case._replace(matched=case.matched._replace(overlap=case.matched.overlap.float()))
    for logits in (case.right(1e4), -case.right(1e4), 1e4 * case.logits.sign()):
        single = logits.float().requires_grad_()
        loss = case.loss(single)
        loss.sum().backward()
        cost = case.classification.cost(single, case.matched.labels, case.matched.slots[1])
        scores = case.classification.scores(single)
        check_finite({"cost": cost, "loss": loss, "scores": scores, "gradient": single.grad}, "for large logits")


def draw_case(make: Make, draw: Draw) -> Case:
    """Logits in float64, and a few queries of each image matched, none twice, as many in every layer."""
    num_classes, layers, images, queries = draw(1, 5), draw(1, 3), draw(1, 3), draw(1, 6)
    classification = make(num_classes=num_classes)
    logits = draw_normal(draw, layers, images, queries, classification.num_logits)
    slots = [
        (layer, image, query)
        for layer in range(layers)
        for image in range(images)
        for query in draw_order(draw, queries)[: draw(0, queries)].tolist()
    ]
    layer, image, query = torch.tensor(slots, dtype=torch.int64).view(-1, 3).unbind(1)
    labels = torch.randint(0, num_classes, (len(slots),), generator=draw_generator(draw))
    overlap = torch.tensor([draw(0, 8) / 8 for _ in slots], dtype=logits.dtype)
    return Case(classification, logits, Matched((layer, image, query), labels, overlap), num_classes)


def gradient_of(case: Case) -> Tensor:
    """The gradient of the loss by the logits."""
    logits = case.logits.clone().requires_grad_()
    return torch.autograd.grad(case.loss(logits).sum(), logits)[0]
