"""The role `encoders`: the laws for every registered component, and examples by hand."""

import pytest
import torch
from conftest import draws
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import detrkit
from detrkit.errors import ConfigError
from detrkit.registry import REGISTRY
from detrkit.testing import NotConcerned, laws_of
from detrkit.testing.law import Maker

pytestmark = pytest.mark.fast

CASES = [
    *((name, {}) for name in REGISTRY.names("encoders")),
    ("hybrid", {"expansion": 0.5, "depth": 1}),
]


@pytest.mark.parametrize("law", laws_of("encoders"))
@pytest.mark.parametrize(("name", "set_to"), CASES)
@settings(deadline=None, max_examples=12, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_law(name, set_to, law, data):
    try:
        laws_of("encoders")[law](Maker(REGISTRY.get("encoders", name), set_to), draws(data))
    except NotConcerned as reason:
        pytest.skip(str(reason))


def test_hybrid_refuses_levels_that_do_not_double():
    with pytest.raises(ConfigError, match=r"double; got \(8, 16, 64\)"):
        detrkit.make("encoders", "hybrid", layers=nn.ModuleList(), d_model=8, level_strides=(8, 16, 64))


@pytest.mark.parametrize("attention", [*REGISTRY.names("attention"), "deformable"])
def test_what_reads_in_a_hybrid_encoder_can_be_swapped(attention):
    """Every attention stands on the coarsest level, told that it is the only one."""
    neck = "pyramid(levels=2, extra=0)"
    model = detrkit.build("detr_tiny", encoder="hybrid(depth=1)", neck=neck, encoder_attention=attention)
    found = model.eval()(torch.randn(1, 3, 64, 48))
    assert found.logits.isfinite().all()
