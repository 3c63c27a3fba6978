"""RT-DETR: losses and gradients beside those of transformers, which holds an implementation of its own."""

import pytest
import torch

import detrkit
from detrkit.criterion import SetCriterion
from detrkit.denoising import Noised
from detrkit.model import DetectorOutput, Restored
from detrkit.testing.tensors import check_close
from detrkit.transformer import Proposals

LAYERS, QUERIES, CLASSES, GROUPS = 3, 9, 5, 2


# --- losses -----------------------------------------------------------------------------------------------------------


def said(generator, *shape):
    """Logits and boxes that ask for a gradient."""
    logits = 2 * torch.randn(*shape, CLASSES, generator=generator, dtype=torch.float64)
    boxes = torch.rand(*shape, 4, generator=generator, dtype=torch.float64) * 0.4 + 0.2
    return logits.requires_grad_(), boxes.requires_grad_()


def noised_of(counts):
    """In each group first the objects, then as many that are to say nothing."""
    widest = max(counts)
    objects = torch.full((len(counts), GROUPS, 2 * widest), -1)
    for image, count in enumerate(counts):
        objects[image, :, :count] = torch.arange(count)
    return Noised(torch.zeros_like(objects), torch.zeros(*objects.shape, 4), objects, objects < 0)


def layer_of(pair, layer):
    return {"logits": pair[0][layer], "pred_boxes": pair[1][layer]}


@pytest.mark.fast
@pytest.mark.parametrize("counts", [(3, 1), (2, 0), (0, 0), (7, 9)])
@pytest.mark.parametrize("seed", range(5))
def test_losses_and_gradients_equal_those_of_transformers(counts, seed):
    theirs = pytest.importorskip("transformers.loss.loss_rt_detr", reason="transformers is not installed")
    from transformers import RTDetrConfig

    generator = torch.Generator().manual_seed(seed)
    every, proposed = said(generator, LAYERS, 2, QUERIES), said(generator, 1, 2, QUERIES)
    noised = noised_of(counts) if any(counts) else None
    restored = None if noised is None else said(generator, LAYERS, 2, noised.objects[0].numel())
    targets = [
        {
            "boxes": torch.rand(count, 4, generator=generator, dtype=torch.float64) * 0.3 + 0.3,
            "labels": torch.randint(CLASSES, (count,), generator=generator),
        }
        for count in counts
    ]
    last, others = layer_of(every, -1), [layer_of(every, layer) for layer in range(LAYERS - 1)]
    outputs = {**last, "auxiliary_outputs": [*others, layer_of(proposed, 0)]}
    if noised is not None:
        positive = [(image >= 0).nonzero()[:, 0] for image in noised.objects.flatten(1)]
        outputs["dn_auxiliary_outputs"] = [layer_of(restored, layer) for layer in range(LAYERS)]
        outputs["denoising_meta_values"] = {"dn_positive_idx": positive, "dn_num_group": GROUPS}
    labelled = [{"boxes": t["boxes"], "class_labels": t["labels"]} for t in targets]
    expected = theirs.RTDetrLoss(RTDetrConfig(num_labels=CLASSES))(outputs, labelled)

    criterion = SetCriterion.from_config(detrkit.config("rt_detr_r50", num_classes=CLASSES))
    ours = criterion(
        DetectorOutput(
            *every, Proposals(*(x[0] for x in proposed)), None if noised is None else Restored(*restored, noised)
        ),
        targets,
    )
    check_close(ours.total, sum(expected.values()), "in sum", rtol=1e-9)
    check_close(ours.terms["loss_ce_enc"], expected[f"loss_vfl_aux_{LAYERS - 1}"], "of the proposals", rtol=1e-9)
    check_close(5 * ours.terms["loss_bbox_0"], expected["loss_bbox_aux_0"], "of the first layer", rtol=1e-9)
    leaves = [*every, *proposed, *(restored or ())]
    found = torch.autograd.grad(ours.total, leaves, retain_graph=True)
    check_close(found, torch.autograd.grad(sum(expected.values()), leaves), "in gradient", rtol=1e-9)
