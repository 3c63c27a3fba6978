"""The set criterion: match every layer to the truth, then charge classes, boxes and overlap (DETR, section 3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64
from numpy.typing import NDArray
from torch import Tensor

from detrkit import boxes as geometry
from detrkit.classification import Classification, Matched
from detrkit.errors import NonFiniteCostError
from detrkit.matchers import Assignment, Matcher
from detrkit.registry import REGISTRY
from detrkit.targets import Truth, check_targets

if TYPE_CHECKING:
    from detrkit.config import DetectorConfig
    from detrkit.model import DetectorOutput, Restored
    from detrkit.transformer import Proposals


class Normalizer(NamedTuple):
    """What losses are divided by.

    Sums of losses over micro-batches and processes give the loss of the whole batch only if all divide by the
    whole batch's numbers: build it from every target of the accumulation window (`SetCriterion.normalizer`), add those
    of other windows or ranks, and pass it to each call.

    Attributes:
        num_boxes: objects of all images; at least 1 is used.
        class_weight: sum of the classification weights over all queries of all images.
    """

    num_boxes: float
    class_weight: float

    def __add__(self, other: object) -> Normalizer:
        if not isinstance(other, Normalizer):
            return NotImplemented
        return Normalizer(self.num_boxes + other.num_boxes, self.class_weight + other.class_weight)

    def times(self, groups: int) -> Normalizer:
        """Of so many groups of queries, each charged with every object."""
        return Normalizer(self.num_boxes * groups, self.class_weight * groups)


@dataclass
class Losses:
    """What the criterion says about a batch.

    Attributes:
        total: weighted sum of the terms; call ``backward`` on it.
        terms: unweighted terms, ``loss_ce``, ``loss_bbox``, ``loss_giou`` of the last layer, ``..._0`` ... of the
            others.
        metrics: ``class_error`` (percent) and ``cardinality_error`` (objects an image), to be logged, not trained.
    """

    total: Float[Tensor, ""]
    terms: dict[str, Tensor] = field(default_factory=dict)
    metrics: dict[str, Tensor] = field(default_factory=dict)

    def joined(self, other: Losses) -> Losses:
        """Both together."""
        return Losses(self.total + other.total, {**self.terms, **other.terms}, {**self.metrics, **other.metrics})


def _at_least_float(x: Tensor) -> Tensor:
    """float64 as it is, all else in float32."""
    return x if x.dtype == torch.float64 else x.float()


@dataclass(frozen=True)
class Weights:
    """Weights of the three terms, in the matching cost or in the loss."""

    ce: float = 1.0
    bbox: float = 5.0
    giou: float = 2.0
    giou_eps: float = 0.0


class SetMatching:
    """Bipartite matching of predictions and truth by class, L1 and generalized IoU (DETR, equation 1).

    Costs are those of each object with the queries of its own image ([L, N, Q] over the objects of all images, never
    the whole batch against all of them), and go to the host in one copy for all layers and images.
    """

    def __init__(self, matcher: Matcher, classification: Classification, weights: Weights) -> None:
        self.matcher, self.classification, self.weights = matcher, classification, weights

    @torch.no_grad()
    def __call__(
        self, logits: Float[Tensor, "L B Q C"], boxes: Float[Tensor, "L B Q 4"], truth: Sequence[Truth]
    ) -> list[list[Assignment]]:
        """Assignments by layer and image.

        Raises:
            NonFiniteCostError: a cost is NaN; names term, image, query and target.
        """
        costs = self.cost(logits, boxes, truth).cpu().double().numpy()
        if not np.isfinite(costs).all():
            raise self._not_finite(logits, boxes, truth)
        counts = [len(target.labels) for target in truth]
        spans = [slice(end - count, end) for end, count in zip(accumulate(counts), counts, strict=True)]
        return [[self._assign(layer[span].T) for span in spans] for layer in costs]

    def _assign(self, cost: NDArray[np.float64]) -> Assignment:
        """The assignment for a finite cost, which `Matcher.solve` would look through once more."""
        return self.matcher.assign(cost) if cost.size else self.matcher.solve(cost)

    def cost(self, logits: Tensor, boxes: Tensor, truth: Sequence[Truth]) -> Float[Tensor, "L N Q"]:
        """Cost of each object of all images with each query of its image, [L, N, Q]."""
        terms = self._terms(logits, boxes, truth)
        return self.weights.bbox * terms["L1"] + self.weights.ce * terms["class"] + self.weights.giou * terms["GIoU"]

    def _terms(self, logits: Tensor, boxes: Tensor, truth: Sequence[Truth]) -> dict[str, Tensor]:
        labels = torch.cat([target.labels for target in truth])
        objects, image = torch.cat([target.boxes for target in truth])[:, None], image_of_each(truth, boxes.device)
        rivals, corners = (of_each_object(x, image) for x in (boxes, geometry.cxcywh_to_xyxy(boxes)))
        true_corners = geometry.cxcywh_to_xyxy(objects)
        return {
            "class": self.classification.cost(logits, labels, image),
            "L1": (rivals - objects).abs().sum(-1),
            "GIoU": -geometry.elementwise_giou(corners, true_corners[None], eps=self.weights.giou_eps),
        }

    def _not_finite(self, logits: Tensor, boxes: Tensor, truth: Sequence[Truth]) -> NonFiniteCostError:
        terms = {**self._terms(logits, boxes, truth), "weighted": self.cost(logits, boxes, truth)}
        name, term = next((name, term) for name, term in terms.items() if not term.isfinite().all())
        layer, row, query = (~term.isfinite()).nonzero()[0].tolist()
        image = int(image_of_each(truth, torch.device("cpu"))[row])
        target = row - sum(len(before.labels) for before in truth[:image])
        return NonFiniteCostError(
            f"the {name} cost of query {query} and target {target} is not finite",
            image_id=truth[image].image_id,
            field=f"cost.{name}",
            value=float(term[layer, row, query]),
            hint="the model's outputs are not finite: lower the learning rate or look at the inputs of this image",
        )


def group_by_group(x: Float[Tensor, "L B Q C"], groups: int) -> Float[Tensor, "_ B _ C"]:
    """[L, B, K N, C] -> [L K, B, N, C]: groups of queries as if they were layers, since each is matched alone."""
    return x.unflatten(2, (groups, -1)).movedim(2, 1).flatten(0, 1)


def of_each_object(boxes: Float[Tensor, "L B Q 4"], image: Int64[Tensor, N]) -> Float[Tensor, "L N Q 4"]:
    """The queries of each object's image, each coordinate in memory of its own, which halves the time of arithmetic."""
    return boxes.movedim(-1, 0).contiguous().index_select(2, image).movedim(0, -1)


def image_of_each(truth: Sequence[Truth], device: torch.device) -> Int64[Tensor, N]:
    """Which image each object is of, image after image."""
    counts = torch.tensor([len(target.labels) for target in truth], dtype=torch.int64)
    return counts.new_tensor(range(len(truth))).repeat_interleave(counts).to(device)


class SetCriterion:
    """Losses of a detector's outputs against the truth, all decoder layers at once.

    Groups of queries are charged each on its own, and their losses averaged (Group DETR, section 3.2); in a batch
    without objects those of sigmoid classes are summed, as the official code of LW-DETR does.

    A batch with more objects than queries leaves the surplus unmatched; `num_boxes` still counts every object, as the
    official code does.

    Args:
        classification: how states become classes.
        matching: how predictions are matched to the truth; done for each layer anew.
        weights: weights of the loss terms.
        num_classes: K, background not counted.
    """

    def __init__(
        self, classification: Classification, matching: SetMatching, weights: Weights, num_classes: int
    ) -> None:
        self.classification, self.matching, self.weights = classification, matching, weights
        self.num_classes = num_classes

    @classmethod
    def from_config(cls, config: DetectorConfig) -> SetCriterion:
        """The criterion that belongs to a detector."""
        classification = REGISTRY.make("classification", config.classification, **config.dimensions())
        costs = Weights(config.set_cost_class, config.set_cost_bbox, config.set_cost_giou, config.giou_eps)
        matching = SetMatching(REGISTRY.make("matchers", config.matcher), classification, costs)
        weights = Weights(config.cls_loss_coef, config.bbox_loss_coef, config.giou_loss_coef, config.giou_eps)
        return cls(classification, matching, weights, config.num_classes)

    def normalizer(self, targets: Sequence[Any], num_queries: int) -> Normalizer:
        """What the losses of these targets are divided by; see `Normalizer` for windows and ranks."""
        counts = [len(truth.labels) for truth in check_targets(targets, self.num_classes)]
        matched = sum(min(count, num_queries) for count in counts)
        return Normalizer(sum(counts), self.classification.normalizer(sum(counts), matched, num_queries * len(counts)))

    def __call__(self, outputs: DetectorOutput, targets: Sequence[Any], normalizer: Normalizer | None = None) -> Losses:
        """Losses of a batch.

        Args:
            outputs: of a `Detector` for B images.
            targets: B dicts with ``boxes`` (cxcywh in [0, 1]) [T, 4] and ``labels`` int64 [T] in 0..K-1, and where
                known ``image_id`` and ``iscrowd`` [T] (crowds are left out).
            normalizer: of the whole accumulation window; by default of these targets.

        Raises:
            TargetError: targets that cannot be right; names image, box and value.
            NonFiniteCostError: outputs that are not finite; names term, image, query and target.
        """
        logits, boxes = (group_by_group(_at_least_float(x), outputs.groups) for x in outputs.pair)
        truth = check_targets(targets, self.num_classes, images=logits.shape[1], like=boxes)
        normalizer = normalizer or self.normalizer(targets, logits.shape[2])
        pairs = Pairs.of(self.matching(logits, boxes, truth), truth, logits.device)
        suffixes = [f"_{layer}" for layer in range(len(outputs.logits) - 1)] + [""]
        losses = self._weighted(self._terms(logits, boxes, pairs, normalizer.times(outputs.groups)), suffixes)
        with torch.no_grad():
            losses.metrics = self._metrics(logits, truth, pairs, suffixes)
        if outputs.proposals is not None:
            losses = losses.joined(self._charge_proposals(outputs.proposals, truth, normalizer, outputs.groups))
        if outputs.restored is not None:
            losses = losses.joined(self._charge_restored(outputs.restored, truth, normalizer))
        return losses

    def _weighted(self, by_layer: dict[str, Tensor], suffixes: Sequence[str]) -> Losses:
        """Terms by name, those of a layer the sum over its groups, and their weighted sum."""
        by_layer = {name: values.view(len(suffixes), -1).sum(1) for name, values in by_layer.items()}
        total = torch.stack([getattr(self.weights, name) * values.sum() for name, values in by_layer.items()]).sum()
        terms = {
            f"loss_{name}{s}": v for name, values in by_layer.items() for s, v in zip(suffixes, values, strict=True)
        }
        return Losses(total, terms)

    def _charge_proposals(
        self, proposals: Proposals, truth: Sequence[Truth], normalizer: Normalizer, groups: int
    ) -> Losses:
        """Losses of a two-stage source, matched like a layer; where it knows objects only, every label is 0."""
        if proposals.class_agnostic:
            truth = [t._replace(labels=torch.zeros_like(t.labels)) for t in truth]
        pair = (proposals.logits, proposals.boxes)
        logits, boxes = (group_by_group(_at_least_float(x[None]), groups) for x in pair)
        pairs = Pairs.of(self.matching(logits, boxes, truth), truth, logits.device)
        return self._weighted(self._terms(logits, boxes, pairs, normalizer.times(groups)), ["_enc"])

    def _charge_restored(self, restored: Restored, truth: Sequence[Truth], normalizer: Normalizer) -> Losses:
        """Losses of denoising queries, each against the object that it was made of, divided by the number of groups.

        Those made of nothing, empty places of smaller images included, are to say nothing (as the official codes).
        """
        noised = restored.noised
        logits, boxes = (_at_least_float(x) for x in (restored.logits, restored.boxes))
        pairs = Pairs.of_noised(noised.objects.flatten(1), truth, logits.shape[0])
        groups = noised.empty.shape[1]
        shared = Normalizer(max(normalizer.num_boxes, 1.0), max(normalizer.class_weight, 1.0)).times(groups)
        suffixes = [f"_dn_{layer}" for layer in range(logits.shape[0] - 1)] + ["_dn"]
        return self._weighted(self._terms(logits, boxes, pairs, shared), suffixes)

    def _terms(self, logits: Tensor, boxes: Tensor, pairs: Pairs, normalizer: Normalizer) -> dict[str, Tensor]:
        layers = logits.shape[0]
        predicted, num_boxes = boxes[pairs.slots], max(normalizer.num_boxes, 1.0)
        corners, true_corners = geometry.cxcywh_to_xyxy(predicted), geometry.cxcywh_to_xyxy(pairs.boxes)
        matched = Matched(pairs.slots, pairs.labels, geometry.elementwise_iou(corners.detach(), true_corners))
        giou = geometry.elementwise_giou(corners, true_corners, eps=self.weights.giou_eps)
        return {
            "ce": self.classification.loss(logits, matched, normalizer.class_weight),
            "bbox": (predicted - pairs.boxes).abs().view(layers, -1).sum(1) / num_boxes,
            "giou": (1 - giou).view(layers, -1).sum(1) / num_boxes,
        }

    def _metrics(
        self, logits: Tensor, truth: Sequence[Truth], pairs: Pairs, suffixes: Sequence[str]
    ) -> dict[str, Tensor]:
        counts = torch.tensor([len(t.labels) for t in truth], dtype=logits.dtype, device=logits.device)
        found = self.classification.says_object(logits).sum(-1).to(logits.dtype)
        cardinality = (found - counts).abs().mean(-1).view(len(suffixes), -1).mean(1)
        last = len(pairs.labels) - len(pairs.labels) // logits.shape[0]  # pairs stand layer after layer
        wrong = logits[pairs.slots].argmax(-1)[last:] != pairs.labels[last:]
        class_error = 100 * wrong.to(logits.dtype).mean() if len(wrong) else logits.new_tensor(100.0)
        metrics = {f"cardinality_error{s}": v for s, v in zip(suffixes, cardinality, strict=True)}
        return {"class_error": class_error, **metrics}


class Pairs(NamedTuple):
    """All matched pairs of all layers, layer after layer.

    Attributes:
        slots: layer, image and query of each pair, int64 [M] each.
        boxes: true boxes [M, 4], cxcywh.
        labels: true labels [M].
    """

    slots: tuple[Tensor, Tensor, Tensor]
    boxes: Float[Tensor, "M 4"]
    labels: Tensor

    @classmethod
    def of(cls, assignments: list[list[Assignment]], truth: Sequence[Truth], device: torch.device) -> Pairs:
        """Gather assignments [layer][image] into index tensors, in one copy to the device."""
        starts = np.cumsum([0] + [len(t.labels) for t in truth[:-1]])
        columns = [
            np.stack([np.full_like(a.rows, layer), np.full_like(a.rows, image), a.rows, a.cols + starts[image]])
            for layer, images in enumerate(assignments)
            for image, a in enumerate(images)
        ]
        index = torch.from_numpy(np.concatenate(columns, axis=1)).to(device)
        layer, image, query, target = index.unbind(0)
        boxes, labels = torch.cat([t.boxes for t in truth]), torch.cat([t.labels for t in truth])
        return cls((layer, image, query), boxes[target], labels[target])

    @classmethod
    def of_noised(cls, objects: Int64[Tensor, "B Q"], truth: Sequence[Truth], layers: int) -> Pairs:
        """Pairs that are known without matching: each query's object of its image (-1: none), for every layer."""
        image, query = (objects >= 0).nonzero(as_tuple=True)
        starts = torch.tensor([0, *(len(t.labels) for t in truth[:-1])], device=objects.device).cumsum(0)
        target = (starts[image] + objects[image, query]).repeat(layers)
        layer = torch.arange(layers, device=objects.device).repeat_interleave(len(image))
        boxes, labels = torch.cat([t.boxes for t in truth]), torch.cat([t.labels for t in truth])
        return cls((layer, image.repeat(layers), query.repeat(layers)), boxes[target], labels[target])
