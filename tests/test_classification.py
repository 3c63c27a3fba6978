"""The role `classification`: the laws for every registered component, and examples by hand."""

import math

import pytest
import torch
from conftest import draws
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import detrkit
from detrkit.classification import Matched
from detrkit.registry import REGISTRY
from detrkit.testing import NotConcerned, laws_of
from detrkit.testing.law import Maker

pytestmark = pytest.mark.fast

CASES = [
    *((name, {}) for name in REGISTRY.names("classification")),
    ("focal", {"gamma": 0.0}),
    ("focal", {"gamma": 0.5}),
    ("focal", {"gamma": 5.0}),
    ("varifocal", {"gamma": 0.0}),
    ("varifocal", {"alpha": 0.25}),
    ("iou_aware", {"alpha": 0.0}),
    ("iou_aware", {"gamma": 0.5}),
]


@pytest.mark.parametrize("law", laws_of("classification"))
@pytest.mark.parametrize(("name", "set_to"), CASES)
@settings(deadline=None, max_examples=12, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_law(name, set_to, law, data):
    try:
        laws_of("classification")[law](Maker(REGISTRY.get("classification", name), set_to), draws(data))
    except NotConcerned as reason:
        pytest.skip(str(reason))


def test_focal_by_hand():
    """One matched and one unmatched query at probability one half: 0.25 x 0.25 ln 2 and 0.75 x 0.25 ln 2."""
    focal, zero = detrkit.make("classification", "focal", num_classes=1), torch.zeros(1, dtype=torch.int64)
    loss = focal.loss(torch.zeros(1, 1, 2, 1), Matched((zero, zero, zero), zero, torch.ones(1)), 1.0)
    assert loss.tolist() == pytest.approx([(0.25 + 0.75) * 0.25 * math.log(2)])
    assert focal.cost(torch.zeros(1, 1, 1, 1), zero, zero).item() == pytest.approx(
        (0.25 - 0.75) * 0.25 * math.log(2), rel=1e-5
    )


def test_no_object_weighs_eos_coef():
    softmax = detrkit.make("classification", "softmax", num_classes=1, eos_coef=0.25)
    none = torch.zeros(0, dtype=torch.int64)
    matched = Matched((none, none, none), none, torch.zeros(0))
    loss = softmax.loss(torch.zeros(1, 1, 2, 2), matched, softmax.normalizer(0, 0, 2))
    assert loss.tolist() == pytest.approx([math.log(2)])
    assert softmax.loss(torch.zeros(1, 1, 2, 2), matched, 1.0).tolist() == pytest.approx([0.5 * math.log(2)])


def test_varifocal_by_hand():
    """At probability one half: a matched query whose box fits half, 0.5 ln 2; an unmatched one, 0.75 x 0.25 ln 2."""
    varifocal, zero = detrkit.make("classification", "varifocal", num_classes=1), torch.zeros(1, dtype=torch.int64)
    loss = varifocal.loss(torch.zeros(1, 1, 2, 1), Matched((zero, zero, zero), zero, torch.full((1,), 0.5)), 1.0)
    assert loss.tolist() == pytest.approx([(0.5 + 0.75 * 0.25) * math.log(2)])


def test_iou_aware_by_hand():
    """At probability one half and an IoU of a sixteenth, told 0.5 ** 0.25 / 8: ln 2, as any bit; else 0.25 ln 2."""
    iou_aware, zero = detrkit.make("classification", "iou_aware", num_classes=1), torch.zeros(1, dtype=torch.int64)
    matched, logits = Matched((zero, zero, zero), zero, torch.full((1,), 1 / 16)), torch.zeros(1, 1, 2, 1)
    assert iou_aware.loss(logits, matched, 1.0).tolist() == pytest.approx([(1 + 0.25) * math.log(2)])
    gradient = torch.autograd.grad(iou_aware.loss(logits.requires_grad_(), matched, 1.0).sum(), logits)[0]
    assert gradient.flatten()[0].item() == pytest.approx(0.5 - 0.5**0.25 / 8)
