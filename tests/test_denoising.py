"""Denoising: the laws for every registered one, and how far objects are noised."""

import pytest
import torch
from conftest import draws
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import detrkit
from detrkit import boxes as geometry
from detrkit.registry import REGISTRY
from detrkit.targets import Truth
from detrkit.testing import laws_of
from detrkit.testing.law import Maker

pytestmark = pytest.mark.fast

CLASSES = 50


@pytest.mark.parametrize("law", laws_of("denoising"))
@pytest.mark.parametrize("name", REGISTRY.builtin("denoising"))
@settings(deadline=None, max_examples=25, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_law(name, law, data):
    laws_of("denoising")[law](Maker(REGISTRY.get("denoising", name)), draws(data))


def objects(count):
    """As many objects, small and in the middle, so that no noise leaves the image."""
    generator = torch.Generator().manual_seed(0)
    boxes = torch.cat([torch.rand(count, 2, generator=generator) * 0.2 + 0.4, torch.full((count, 2), 0.1)], dim=1)
    return Truth(boxes.double(), torch.randint(CLASSES, (count,), generator=generator), 0)


def noised(spec, truth):
    torch.manual_seed(0)
    return detrkit.make("denoising", spec, num_classes=CLASSES).noise([truth])


def test_dn_moves_centres_and_sides_within_its_reach():
    truth = objects(40)
    found = noised("dn(groups=50, box_noise=0.4)", truth)
    assert found.labels.shape == (1, 50, 40)
    moved = (found.boxes[0] - truth.boxes) / truth.boxes[:, 2:].repeat(1, 2)
    largest = moved.abs().amax((0, 1))
    assert torch.allclose(largest, torch.tensor([0.2, 0.2, 0.4, 0.4]).double(), atol=0.01)
    assert (largest <= torch.tensor([0.2, 0.2, 0.4, 0.4]) + 1e-9).all()


def test_contrastive_moves_corners_a_little_to_restore_and_more_to_say_nothing():
    truth = objects(5)
    found = noised("contrastive(number=500, box_noise=0.4)", truth)
    assert found.labels.shape == (1, 100, 10)
    assert (found.objects[..., :5] == torch.arange(5)).all()
    assert (found.objects[..., 5:] == -1).all()
    corners = geometry.cxcywh_to_xyxy(truth.boxes).repeat(2, 1)
    moved = (geometry.cxcywh_to_xyxy(found.boxes[0]) - corners).abs() / 0.05 / 0.4  # in half sides times box_noise
    near, far = moved[:, :5], moved[:, 5:]
    assert near.max() <= 1 + 1e-9 < far.max() <= 2 + 1e-9
    assert far.min() >= 1 - 1e-9
    assert float(near.mean()) == pytest.approx(0.5, abs=0.03)
    assert float(far.mean()) == pytest.approx(1.5, abs=0.03)


@pytest.mark.parametrize(
    ("spec", "share"),
    [
        ("dn(groups=100, label_noise=0.6)", 0.6),
        ("contrastive(number=2000, label_noise=0.6)", 0.3),
        ("dn(label_noise=0.0)", 0.0),
    ],
)
def test_a_share_of_labels_is_flipped(spec, share):
    truth = objects(40)
    found = noised(spec, truth)
    kept = found.labels[0] == truth.labels.repeat(found.labels.shape[-1] // 40)
    assert float((~kept).double().mean()) == pytest.approx(share * (1 - 1 / CLASSES), abs=0.03)
