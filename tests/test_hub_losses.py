"""Losses of the family against transformers: costs of matching, terms, their sum and gradients, in float64.

Outputs are random: all decoder layers, proposals, groups of queries, denoising queries where a member has them.
"""

from typing import NamedTuple

import pytest
import torch
from parity import draw_truth
from scipy.optimize import linear_sum_assignment
from torch import Tensor

import detrkit
from detrkit.criterion import SetCriterion, group_by_group
from detrkit.denoising import Noised
from detrkit.model import DetectorOutput, Restored
from detrkit.targets import check_targets
from detrkit.testing.tensors import check_close
from detrkit.transformer import Proposals

pytestmark = pytest.mark.fast

LAYERS, QUERIES, CLASSES = 3, 9, 5
COUNTS = [(3, 1), (2, 0), (0, 0), (7, 9), (12, 4)]
OTHERS = range(LAYERS - 1)


class Said(NamedTuple):
    """Logits and boxes that ask for a gradient, [L, B, Q, C] and [L, B, Q, 4]."""

    logits: Tensor
    boxes: Tensor

    @classmethod
    def draw(cls, generator, layers, queries):
        logits = 2 * torch.randn(layers, 2, queries, CLASSES, generator=generator, dtype=torch.float64)
        boxes = torch.rand(layers, 2, queries, 4, generator=generator, dtype=torch.float64) * 0.4 + 0.2
        return cls(logits.requires_grad_(), boxes.requires_grad_())

    def layer(self, number):
        """One layer in the names of transformers."""
        return {"logits": self.logits[number], "pred_boxes": self.boxes[number]}


class Case(NamedTuple):
    """What a detector says in training of two images, and the truth."""

    every: Said
    proposed: Said
    restored: Said | None
    noised: Noised | None
    targets: list[dict[str, Tensor]]
    groups: int

    @classmethod
    def draw(cls, seed, counts, groups=1, copies=0):
        generator = torch.Generator().manual_seed(seed)
        every, proposed = (Said.draw(generator, layers, groups * QUERIES) for layers in (LAYERS, 1))
        noised = noised_of(counts, copies) if copies and any(counts) else None
        restored = None if noised is None else Said.draw(generator, LAYERS, noised.objects[0].numel())
        return cls(every, proposed, restored, noised, draw_truth(generator, counts, CLASSES), groups)

    @property
    def leaves(self):
        """Everything that a loss can move."""
        return [*self.every, *self.proposed, *(self.restored or ())]

    @property
    def labelled(self):
        """The truth in the names of transformers."""
        return [{"boxes": target["boxes"], "class_labels": target["labels"]} for target in self.targets]

    def outputs(self, class_agnostic):
        """All of it as our detectors say it."""
        proposals = Proposals(*(part[0] for part in self.proposed), class_agnostic)
        restored = None if self.restored is None else Restored(*self.restored, self.noised)
        return DetectorOutput(*self.every, proposals, restored, self.groups)

    def stacked(self):
        """Theirs: the last layer, and the others beside it."""
        return {**self.every.layer(-1), "auxiliary_outputs": [self.every.layer(number) for number in OTHERS]}


def noised_of(counts, copies):
    """In each group first the objects, then as many that are to say nothing."""
    widest = max(counts)
    objects = torch.full((len(counts), copies, 2 * widest), -1)
    for image, count in enumerate(counts):
        objects[image, :, :count] = torch.arange(count)
    return Noised(torch.zeros_like(objects), torch.zeros(*objects.shape, 4), objects, objects < 0)


# ---- what they say: unweighted terms in our names


def judge_focal(module, config, case):
    """Of Deformable DETR, whose encoder's losses transformers leaves out: charged here as one more layer."""
    matcher = module.DeformableDetrHungarianMatcher(config.set_cost_class, config.set_cost_bbox, config.set_cost_giou)
    judge = module.DeformableDetrImageLoss(matcher, CLASSES, 0.25, ["labels", "boxes", "cardinality"])
    objects = [{**truth, "class_labels": torch.zeros_like(truth["class_labels"])} for truth in case.labelled]
    terms, proposals = judge(case.stacked(), case.labelled), judge(case.proposed.layer(0), objects)
    return {**terms, **{f"{name}_enc": value for name, value in proposals.items()}}


def judge_iou_aware(module, config, case):
    """Of LW-DETR in training."""
    matcher = module.LwDetrHungarianMatcher(config.set_cost_class, config.set_cost_bbox, config.set_cost_giou)
    losses = ["labels", "boxes", "cardinality"]
    judge = module.LwDetrImageLoss(matcher, CLASSES, 0.25, losses, case.groups).train()
    return judge({**case.stacked(), "enc_outputs": case.proposed.layer(0)}, case.labelled)


def judge_varifocal(module, config, case):
    """Of RT-DETR, which tells weighted terms and calls the proposals one more layer."""
    from transformers import RTDetrConfig

    outputs = case.stacked()
    outputs["auxiliary_outputs"].append(case.proposed.layer(0))
    if case.noised is not None:
        positive = [(image >= 0).nonzero()[:, 0] for image in case.noised.objects.flatten(1)]
        outputs["dn_auxiliary_outputs"] = [case.restored.layer(number) for number in range(LAYERS)]
        groups = case.noised.objects.shape[1]
        outputs["denoising_meta_values"] = {"dn_positive_idx": positive, "dn_num_group": groups}
    judge = module.RTDetrLoss(RTDetrConfig(num_labels=CLASSES))
    suffixes = {f"_aux_{LAYERS - 1}": "_enc", f"_dn_{LAYERS - 1}": "_dn", "_aux": ""}
    terms = {}
    for name, value in judge(outputs, case.labelled).items():
        weight = judge.weight_dict[name.partition("_aux")[0].partition("_dn")[0]]
        for theirs, ours in suffixes.items():
            name = name.replace(theirs, ours)
        terms[name.replace("vfl", "ce")] = value / weight
    return terms


FAMILIES = {
    "deformable_detr": (judge_focal, "deformable_detr_r50_two_stage", {}, 1e-9),
    "rt_detr": (judge_varifocal, "rt_detr_r50", {"copies": 2}, 1e-9),
    "lw_detr": (judge_iou_aware, "lw_detr_small", {"groups": 3}, 1e-6),  # its matcher takes boxes in float32
}
"""By the name of their losses: the judge, our preset, what a case has besides, and how near costs are."""


# ---- equal to ours


def costs_of(criterion, outputs, targets):
    """Ours in the order of transformers, one [Q, T] a layer, group and image: the last layer, the others, proposals."""
    truth = check_targets(targets, CLASSES, like=outputs.boxes)
    objects = truth
    if outputs.proposals.class_agnostic:
        objects = [target._replace(labels=torch.zeros_like(target.labels)) for target in truth]
    proposed = outputs.proposals.logits[None], outputs.proposals.boxes[None]
    layers = [[part[number : number + 1] for part in outputs.pair] for number in (LAYERS - 1, *OTHERS)]
    found = []
    for pair, known in [*((layer, truth) for layer in layers), (proposed, objects)]:
        costs = criterion.matching.cost(*(group_by_group(part, outputs.groups) for part in pair), known)
        sizes = [len(target.labels) for target in known]
        found += [image.T for group in costs for image in group.split(sizes)]
    return found


@pytest.mark.parametrize("counts", COUNTS)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("family", FAMILIES)
def test_costs_terms_and_gradients_equal_those_of_transformers(monkeypatch, family, seed, counts):
    judge, preset, besides, near = FAMILIES[family]
    module = pytest.importorskip(f"transformers.loss.loss_{family}", reason="transformers is not installed")
    costs = []
    monkeypatch.setattr(
        module, "linear_sum_assignment", lambda cost: (costs.append(cost), linear_sum_assignment(cost))[1]
    )
    config = detrkit.config(preset, num_classes=CLASSES)
    case, criterion = Case.draw(seed, counts, **besides), SetCriterion.from_config(config)
    outputs = case.outputs(family == "deformable_detr")
    expected, losses = judge(module, config, case), criterion(outputs, case.targets)

    check_close(
        dict(enumerate(costs_of(criterion, outputs, case.targets))), dict(enumerate(costs)), "in cost", rtol=near
    )
    terms = {name: value for name, value in expected.items() if name.startswith("loss")}
    check_close(losses.terms, terms, "from transformers", rtol=1e-9)
    weights = {"ce": config.cls_loss_coef, "bbox": config.bbox_loss_coef, "giou": config.giou_loss_coef}
    total = sum(weights[name.split("_")[1]] * value for name, value in terms.items())
    check_close(losses.total, total, "in sum", rtol=1e-9)
    found = torch.autograd.grad(losses.total, case.leaves)
    check_close(found, torch.autograd.grad(total, case.leaves), "in gradient", rtol=1e-9)
