"""Readings: the laws for every registered one, and deformable attention written out."""

import math

import pytest
import torch
from conftest import draws
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import detrkit
from detrkit.errors import ConfigError
from detrkit.registry import REGISTRY
from detrkit.testing import NotConcerned, laws_of
from detrkit.testing.law import Maker
from detrkit.testing.memory import disturb, draw_memory
from detrkit.testing.reading import draw_case, draw_queries
from detrkit.testing.samplers import Case, written_out
from detrkit.testing.tensors import check_close
from detrkit.transformer import Memory, Queries

pytestmark = pytest.mark.fast

DEFORMABLE = REGISTRY.get("reading", "deformable")
READINGS = [
    *((name, {}) for name in REGISTRY.names("reading")),
    *(("deformable", {"sampler": sampler, "points": 2, "heads": 2}) for sampler in ("gather", "bag")),
    ("deformable", {"method": "discrete", "offset_scale": 1.0}),
]


@pytest.mark.parametrize("law", laws_of("reading"))
@pytest.mark.parametrize(("name", "set_to"), READINGS)
@settings(deadline=None, max_examples=12, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_law(name, set_to, law, data):
    try:
        laws_of("reading")[law](Maker(REGISTRY.get("reading", name), set_to), draws(data))
    except NotConcerned as reason:
        pytest.skip(str(reason))


@pytest.mark.parametrize("name", REGISTRY.names("reading"))
def test_heads_must_divide_the_width(name):
    with pytest.raises(ConfigError, match=r"d_model=20 .*heads=3"):
        detrkit.make("reading", f"{name}(heads=3)", d_model=20, num_levels=1)


def test_deformable_refuses_an_unknown_sampler():
    with pytest.raises(ConfigError, match=r"sampler.*'gathr'"):
        detrkit.make("reading", "deformable(sampler=gathr)", d_model=16, num_levels=1)


# ---- deformable: the whole layer a number at a time (Deformable DETR, section 4.1 and appendix A)


def deformable_written_out(reading, queries, memory):
    """Offsets, weights and values by hand; bilinear interpolation in plain Python."""
    query = queries.content + queries.positions
    shape = (*query.shape[:2], reading.heads, len(reading.points), reading.points[0])
    offsets, weights = reading.sampling_offsets(query).view(*shape, 2), reading.attention_weights(query)
    weights = weights.view(*shape[:3], -1).softmax(-1).view(shape)
    points = torch.empty(*shape, 2, dtype=query.dtype)
    for image, level, axis in ((b, n, a) for b in range(shape[0]) for n in range(shape[3]) for a in (0, 1)):
        share = 1.0 if memory.valid is None else memory.valid[image, level, axis]
        steps, centre = offsets[image, :, :, level, :, axis], queries.references[image, :, axis, None, None] * share
        if queries.references.shape[-1] == 2:
            scale = 1 / memory.shapes[level][1 - axis]
        else:
            scale = queries.references[image, :, 2 + axis, None, None] * share / 2 / reading.points[0]
        points[image, :, :, level, :, axis] = centre + steps * scale
    value = reading.value_proj(memory.tokens)
    if memory.padding is not None:
        value = value * ~memory.padding[..., None]
    read = written_out(Case(value.unflatten(-1, (reading.heads, -1)), memory.shapes, points, weights))
    return reading.output_proj(read)


@pytest.mark.parametrize("sampler", REGISTRY.names("samplers"))
@pytest.mark.parametrize("padded", [False, True])
@settings(deadline=None, max_examples=4, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_deformable_written_out(sampler, padded, data):
    make = Maker(DEFORMABLE, {"sampler": sampler, "heads": 2, "points": 3})
    reading, queries, memory = draw_case(make, draws(data), padded=padded)
    with torch.no_grad():
        check_close(reading(queries, memory), deformable_written_out(reading, queries, memory), "from the formula")


@pytest.mark.parametrize("coordinates", [2, 4])
@settings(deadline=None, max_examples=10, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_offsets_to_a_cell_read_that_cell(coordinates, data):
    """With one certain point at a cell's centre, a query reads the projected token of the cell (A16)."""
    draw = draws(data)
    memory = draw_memory(draw, 16, levels=2, padded=False)
    queries = draw_queries(draw, len(memory.tokens), coordinates)
    reading = detrkit.make("reading", "deformable(heads=2, points=2)", d_model=16, num_levels=2).double()
    level = draw(0, 1)
    height, width = memory.shapes[level]
    row, column = draw(0, height - 1), draw(0, width - 1)
    references = torch.full_like(queries.references, 0.5)
    references[..., :2] = torch.tensor([0.5 / width, 0.5 / height], dtype=torch.float64)  # the first cell
    scale = (1, 1) if coordinates == 2 else (2 * 2 / 0.5 / width, 2 * 2 / 0.5 / height)
    with torch.no_grad():
        reading.sampling_offsets.bias.view(2, 2, 2, 2)[:, level, 1] = torch.tensor([column * scale[0], row * scale[1]])
        reading.attention_weights.bias.view(2, 2, 2)[:, level, 1] = 1000
        found = reading(queries._replace(references=references), memory)
        token = memory.tokens[:, sum(h * w for h, w in memory.shapes[:level]) + row * width + column]
        expected = reading.output_proj(reading.value_proj(token))[:, None].expand_as(found)
    check_close(found, expected, "from the cell itself", rtol=1e-6)


@pytest.mark.parametrize("coordinates", [2, 4])
@settings(deadline=None, max_examples=6, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_levels_may_have_other_numbers_of_points(coordinates, data):
    """A level of one point reads as one of two points of which the second never counts (RT-DETRv2)."""
    draw = draws(data)
    memory = draw_memory(draw, 16, levels=2)
    queries = draw_queries(draw, len(memory.tokens), coordinates)
    many, few = (
        detrkit.make("reading", f"deformable(heads=2, points={points})", d_model=16, num_levels=2).double()
        for points in ((2, 2), (2, 1))
    )
    disturb(many, draw)
    state = many.state_dict()
    with torch.no_grad():
        many.attention_weights.bias.view(2, 4)[:, 3] = -1e4
        for part, width in (("sampling_offsets", 2), ("attention_weights", 1)):
            for kind in ("weight", "bias"):
                rows = state[f"{part}.{kind}"].unflatten(0, (2, 4, width))[:, :3].clone()
                if part == "sampling_offsets" and coordinates == 4:
                    rows[:, 2] /= 2  # an offset is shared among the points of its level
                state[f"{part}.{kind}"] = rows.flatten(0, 2)
        few.load_state_dict(state)
        check_close(few(queries, memory), many(queries, memory), "with a point less", rtol=1e-6)


@pytest.mark.parametrize("sampler", REGISTRY.names("samplers"))
def test_discrete_reads_the_cell_that_the_official_code_rounds_to(sampler):
    """A point at 0.3 of 4 cells is rounded from 1.2 + 0.5 to cell 1, one at 0.4 to cell 2; beyond the border, to it."""
    reading = detrkit.make(
        "reading", f"deformable(method=discrete, heads=1, points=1, sampler={sampler})", d_model=1, num_levels=1
    )
    memory = Memory(torch.arange(4.0)[None, :, None], shapes=((1, 4),))
    with torch.no_grad():
        for linear in (reading.value_proj, reading.output_proj):
            linear.weight.fill_(1)
        reading.sampling_offsets.bias.zero_()
        places = torch.tensor([0.3, 0.4, -0.5, 1.5])
        references = torch.stack([places, torch.full_like(places, 0.5)], dim=-1)[None]
        found = reading(Queries(torch.zeros(1, 4, 1), references=references), memory)
    assert found.flatten().tolist() == pytest.approx([1, 2, 0, 3], abs=1e-5)
    assert not any(p.requires_grad for p in reading.sampling_offsets.parameters())


def test_points_are_told_for_every_level():
    with pytest.raises(ConfigError, match=r"points.*\(2, 1\).*3 levels"):
        detrkit.make("reading", "deformable(points=(2, 1))", d_model=16, num_levels=3)


def test_deformable_starts_in_eight_directions():
    """Head h looks in the direction of h eighths of a turn, its points one to four cells away, all weights alike."""
    reading = detrkit.make("reading", "deformable", d_model=16, num_levels=2)
    offsets = reading.sampling_offsets.bias.view(8, 2, 4, 2)
    assert offsets[0, 0].flatten().tolist() == pytest.approx([1, 0, 2, 0, 3, 0, 4, 0], abs=1e-5)
    assert offsets[1, 1, 3].tolist() == pytest.approx([4, 4], abs=1e-5)
    assert math.isclose(offsets.abs().max().item(), 4, rel_tol=1e-6)
    for zeroed in (reading.sampling_offsets.weight, reading.attention_weights.weight, reading.attention_weights.bias):
        assert not zeroed.any()


def test_conditional_adds_positions_to_content_in_the_first_layer_only():
    memory = Memory(torch.randn(1, 6, 16), torch.randn(1, 6, 16), shapes=((2, 3),))
    queries = Queries(torch.randn(1, 4, 16), torch.randn(1, 4, 16), sine=torch.randn(1, 4, 16))
    other = queries._replace(positions=torch.randn(1, 4, 16))
    for layer, same in ((0, False), (1, True)):
        reading = detrkit.make("reading", "conditional", d_model=16, layer=layer)
        assert torch.equal(reading(queries, memory), reading(other, memory)) == same
