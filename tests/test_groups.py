"""Groups of queries: strangers to each other in training, all but the first gone in inference, in every member."""

from copy import deepcopy

import pytest
import torch
from twins import TWINS

import detrkit
from detrkit.criterion import SetCriterion
from detrkit.testing.tensors import check_close

pytestmark = pytest.mark.fast

GROUPS, QUERIES = 3, 5
SMALL = {"group_detr": GROUPS, "num_queries": QUERIES, "dropout": 0.0, "dec_layers": 2}


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def grouped(name, **options):
    """A member with groups, in float64, its weights moved from where they start."""
    torch.manual_seed(0)
    model = detrkit.build(name, **{**SMALL, **options}).double().train()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return model


def batch(objects=(2, 1)):
    """Two images with targets."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(2, 3, 64, 64, generator=generator, dtype=torch.float64)
    boxes = [torch.rand(n, 4, generator=generator) * 0.3 + 0.3 for n in objects]
    return images, [{"boxes": b, "labels": torch.arange(len(b)) % 3} for b in boxes]


def group(outputs, number):
    """Logits and boxes of one group."""
    return [part[:, :, number * QUERIES : (number + 1) * QUERIES] for part in outputs.pair]


@pytest.mark.parametrize("name", TWINS)
def test_only_the_first_group_is_left_in_inference(name):
    """It says what it says in training, whatever the others have learned; norms over the batch are held."""
    model, (images, _) = grouped(name), batch()
    model.backbone.eval(), model.neck.eval(), model.encoder.eval()
    outputs = model(images)
    assert outputs.groups == GROUPS
    assert outputs.logits.shape[2] == GROUPS * QUERIES
    model.eval()
    alone = model(images)
    assert alone.groups == 1
    check_close(alone.pair, tuple(group(outputs, 0)), "in inference", rtol=1e-9)
    with torch.no_grad():
        for parameter in model.queries.groups[1:].parameters():
            parameter.fill_(torch.nan)
    check_close(model(images).pair, alone.pair, "with other groups", rtol=0)


@pytest.mark.parametrize("name", TWINS)
def test_groups_do_not_see_each_other(name):
    model, (images, _) = grouped(name), batch()
    before = model(images)
    with torch.no_grad():
        for parameter in model.queries.groups[1].parameters():
            parameter += torch.randn_like(parameter)
    after = model(images)
    for number in range(GROUPS):
        same = [
            torch.allclose(a, b, atol=1e-9) for a, b in zip(group(before, number), group(after, number), strict=True)
        ]
        assert all(same) == (number != 1)


@pytest.mark.parametrize("objects", [(2, 1), (0, 0)])
@pytest.mark.parametrize("name", TWINS)
def test_every_parameter_of_every_group_gets_a_gradient(name, objects):
    model, (images, targets) = grouped(name), batch(objects)
    SetCriterion.from_config(model.config)(model(images, None, targets), targets).total.backward()
    for parameter_name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, parameter_name
            assert parameter.grad.isfinite().all(), parameter_name


@pytest.mark.parametrize("name", ["dino_tiny", "deformable_detr_tiny_two_stage", "lw_detr_small_tiny", "detr_tiny"])
def test_losses_are_means_over_groups_matched_apart(name):
    model, (images, targets) = grouped(name, denoising=None), batch()
    criterion, outputs = SetCriterion.from_config(model.config), model(images)
    terms = criterion(outputs, targets).terms
    apart, proposals = [], outputs.proposals
    for number in range(GROUPS):
        mine = proposals
        if proposals is not None:
            size = proposals.logits.shape[1] // GROUPS
            rows = slice(number * size, (number + 1) * size)
            mine = proposals._replace(logits=proposals.logits[:, rows], boxes=proposals.boxes[:, rows])
        logits, boxes = group(outputs, number)
        apart.append(criterion(outputs._replace(logits=logits, boxes=boxes, proposals=mine, groups=1), targets).terms)
    means = {term: sum(losses[term] for losses in apart) / GROUPS for term in apart[0]}
    check_close(terms, means, "group by group")


@pytest.mark.parametrize("name", ["dino_tiny", "dn_detr_tiny"])
def test_noised_queries_see_the_first_group_and_nobody_sees_them(name):
    model, (images, targets) = grouped(name), batch()
    torch.manual_seed(5)
    noised, plain = model(images, None, targets), model(images)
    check_close(noised.pair, plain.pair, "with noised queries beside", rtol=1e-9)
    other = deepcopy(model)
    with torch.no_grad():
        for parameter in other.queries.groups[1:].parameters():
            parameter += torch.randn_like(parameter)
    torch.manual_seed(5)
    again = other(images, None, targets)
    check_close(again.restored.logits, noised.restored.logits, "with other groups", rtol=1e-9)
