"""Samplers: the laws for every registered one, export with dynamic shapes, and memory."""

import pytest
import torch
from conftest import draws
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.export import Dim, export

import detrkit
from detrkit.registry import REGISTRY
from detrkit.testing import NotConcerned, laws_of
from detrkit.testing.law import Maker, seeded_draw
from detrkit.testing.samplers import draw_case
from detrkit.testing.tensors import check_close

pytestmark = pytest.mark.fast

SAMPLERS = REGISTRY.names("samplers")


@pytest.mark.parametrize("law", laws_of("samplers"))
@pytest.mark.parametrize("name", SAMPLERS)
@settings(deadline=None, max_examples=15, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_law(name, law, data):
    try:
        laws_of("samplers")[law](Maker(REGISTRY.get("samplers", name)), draws(data))
    except NotConcerned as reason:
        pytest.skip(str(reason))


@pytest.mark.parametrize("name", SAMPLERS)
def test_gradients_are_those_of_the_function(name):
    sampler, case = detrkit.make("samplers", name), draw_case(seeded_draw(5))
    inputs = [part.detach().requires_grad_() for part in (case.value, case.points, case.weights)]
    right = torch.autograd.gradcheck(
        lambda value, points, weights: sampler.sample(value, case.shapes, points, weights), inputs, fast_mode=True
    )
    assert right


class Reader(nn.Module):
    """Two maps and the points at which a sampler reads them."""

    def __init__(self, name):
        super().__init__()
        self.sampler = detrkit.make("samplers", name)

    def forward(self, fine, coarse, points, weights):
        value = torch.cat([level.flatten(2) for level in (fine, coarse)], dim=2).transpose(1, 2)
        shapes = tuple(tuple(level.shape[-2:]) for level in (fine, coarse))
        return self.sampler.sample(value.unflatten(-1, (2, -1)), shapes, points, weights)


def inputs(batch, queries, *shapes):
    generator = torch.Generator().manual_seed(0)
    sizes = [(batch, 8, *shape) for shape in shapes] + [(batch, queries, 2, 2, 3, 2), (batch, queries, 2, 2, 3)]
    return tuple(torch.rand(size, generator=generator) for size in sizes)


@pytest.mark.parametrize("name", SAMPLERS)
def test_exports_with_dynamic_shapes(name):
    sizes = [{0: Dim("batch"), 2: Dim(f"h{level}"), 3: Dim(f"w{level}")} for level in (0, 1)]
    dynamic = (*sizes, *({0: sizes[0][0], 1: Dim("queries")},) * 2)
    program = export(Reader(name), inputs(2, 5, (6, 7), (3, 4)), dynamic_shapes=dynamic)
    if name != "grid_sample":
        assert "grid_sample" not in str(program.graph)
    other = inputs(3, 9, (5, 8), (4, 2))
    check_close(program.module()(*other), Reader("grid_sample")(*other), "when exported")


def test_bag_keeps_no_copies_of_values():
    """What the backward needs grows with the points, not with points times the width of a head."""
    case, kept = inputs(1, 50, (8, 8), (4, 4)), {}
    for name in ("bag", "gather"):
        sizes, tensors = [], [part.clone().requires_grad_() for part in case]
        with torch.autograd.graph.saved_tensors_hooks(
            lambda part, s=sizes: (s.append(part.numel()), part)[1], lambda x: x
        ):
            Reader(name)(*tensors)
        kept[name] = max(sizes)
    read = 50 * 2 * 2 * 3 * 4  # queries, heads, levels, points, corners
    assert kept == {"bag": read, "gather": 4 * read}
