"""Queries: the laws for every registered source, and what each one learns."""

import pytest
import torch
from conftest import draws
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from detrkit.registry import REGISTRY
from detrkit.testing import NotConcerned, laws_of
from detrkit.testing.law import Maker, seeded_draw
from detrkit.testing.queries import draw_source

pytestmark = pytest.mark.fast


@pytest.mark.parametrize("law", laws_of("queries"))
@pytest.mark.parametrize("name", REGISTRY.names("queries"))
@settings(deadline=None, max_examples=15, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_law(name, law, data):
    try:
        laws_of("queries")[law](Maker(REGISTRY.get("queries", name)), draws(data))
    except NotConcerned as reason:
        pytest.skip(str(reason))


@pytest.mark.parametrize(("name", "learned", "other"), [("positions", 1, 0), ("content", 0, 1)])
def test_what_is_learned(name, learned, other):
    source, memory, number = draw_source(Maker(REGISTRY.get("queries", name)), seeded_draw(3))
    parts, (table,) = source(memory), source.parameters()
    assert table.shape[0] == number
    for image in parts[learned]:
        assert torch.equal(image, table)
    assert parts[other] is None or not parts[other].any()
