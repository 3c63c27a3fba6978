"""The role `box_coders`: the laws for every registered component, and examples by hand."""

import math

import pytest
import torch
from conftest import draws
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import detrkit
from detrkit.errors import ShapeError
from detrkit.registry import REGISTRY
from detrkit.testing import NotConcerned, laws_of
from detrkit.testing.law import Maker

pytestmark = pytest.mark.fast

CASES = [(name, {}) for name in REGISTRY.names("box_coders")]


@pytest.mark.parametrize("law", laws_of("box_coders"))
@pytest.mark.parametrize(("name", "set_to"), [*CASES, ("sigmoid", {"reference_eps": 1e-3})])
@settings(deadline=None, max_examples=12, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_law(name, set_to, law, data):
    try:
        laws_of("box_coders")[law](Maker(REGISTRY.get("box_coders", name), set_to), draws(data))
    except NotConcerned as reason:
        pytest.skip(str(reason))


def test_delta_by_hand():
    """A centre half a side to the right, a height twice as large."""
    offsets, box = torch.tensor([0.5, 0.0, 0.0, math.log(2)]), torch.tensor([0.4, 0.5, 0.2, 0.1])
    found = detrkit.make("box_coders", "delta").decode(offsets, box)
    assert found.tolist() == pytest.approx([0.5, 0.5, 0.2, 0.2])


def test_delta_needs_boxes():
    with pytest.raises(ShapeError, match="DeltaBoxCoder needs references that are boxes"):
        detrkit.make("box_coders", "delta").decode(torch.zeros(4), None)
    with pytest.raises(
        detrkit.DetrkitError, match=r"box_coder=delta needs references that are boxes.*queries=positions"
    ):
        detrkit.config("detr_tiny", box_coder="delta")


def test_eps_of_references_is_refused_where_it_has_no_effect():
    with pytest.raises(detrkit.DetrkitError, match="reference_eps: no effect with box_coder=delta"):
        detrkit.config("lw_detr_tiny", reference_eps=1e-3)
