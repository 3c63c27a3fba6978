"""The role `placement`: the laws for every registered component, and examples by hand."""

import pytest
import torch
from conftest import draws
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import detrkit
from detrkit.placement import sine_codes
from detrkit.registry import REGISTRY
from detrkit.testing import NotConcerned, laws_of
from detrkit.testing.law import Maker
from detrkit.testing.tensors import check_close
from detrkit.transformer import Memory, Queries

pytestmark = pytest.mark.fast

CASES = [(name, {}) for name in REGISTRY.names("placement")]


@pytest.mark.parametrize("law", laws_of("placement"))
@pytest.mark.parametrize(("name", "set_to"), CASES)
@settings(deadline=None, max_examples=12, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_law(name, set_to, law, data):
    try:
        laws_of("placement")[law](Maker(REGISTRY.get("placement", name), set_to), draws(data))
    except NotConcerned as reason:
        pytest.skip(str(reason))


def test_codes_of_a_point_stand_in_the_order_y_x():
    """Half a turn of x and a quarter of y, in the fastest channels."""
    codes = sine_codes(torch.tensor([0.5, 0.25], dtype=torch.float64), 8)
    assert codes[[0, 1, 4, 5]].tolist() == pytest.approx([1, 0, 0, -1], abs=1e-12)


def test_modulation_is_by_the_sides():
    """Halving the width of a box doubles the x half of its sine code and leaves the y half (DAB-DETR, section 4.4)."""
    placement = detrkit.make("placement", "modulated", d_model=16)
    memory = Memory(torch.zeros(1, 1, 16))
    queries = Queries(torch.randn(1, 1, 16), references=torch.tensor([[[0.3, 0.4, 0.2, 0.6]]]))
    halved = queries._replace(references=torch.tensor([[[0.3, 0.4, 0.1, 0.6]]]))
    before, after = (placement(0, one, memory).sine for one in (queries, halved))
    check_close(after[..., :8], before[..., :8], "in the y half")
    check_close(after[..., 8:], 2 * before[..., 8:], "in the x half")
