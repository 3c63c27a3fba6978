"""Selection: the laws for every registered one, and examples by hand."""

import pytest
import torch
from conftest import draws
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import detrkit
from detrkit.registry import REGISTRY
from detrkit.testing import laws_of
from detrkit.testing.law import Maker

pytestmark = pytest.mark.fast

SCORES = torch.tensor([[[0.2, 0.1], [0.5, 0.9], [0.5, 0.3]]])


@pytest.mark.parametrize("law", laws_of("selection"))
@pytest.mark.parametrize(("name", "set_to"), [("argmax", {}), ("topk", {}), ("topk", {"k": 3})])
@settings(deadline=None, max_examples=25, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_law(name, set_to, law, data):
    laws_of("selection")[law](Maker(REGISTRY.get("selection", name), set_to), draws(data))


@pytest.mark.parametrize(
    ("spec", "scores", "labels", "queries"),
    [
        ("argmax", [0.9, 0.5, 0.2], [1, 0, 0], [1, 2, 0]),
        ("topk(k=4)", [0.9, 0.5, 0.5, 0.3], [1, 0, 0, 1], [1, 1, 2, 2]),
        ("topk(k=1)", [0.9], [1], [1]),
        ("topk", [0.9, 0.5, 0.5, 0.3, 0.2, 0.1], [1, 0, 0, 1, 0, 1], [1, 1, 2, 2, 0, 0]),
    ],
)
def test_by_hand(spec, scores, labels, queries):
    selected = detrkit.make("selection", spec).select(SCORES)
    assert selected.scores[0].tolist() == pytest.approx(scores)
    assert (selected.labels[0].tolist(), selected.queries[0].tolist()) == (labels, queries)
