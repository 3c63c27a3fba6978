"""The laws of the role `queries`."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from detrkit.queries import ObjectQueries
from detrkit.testing.law import Draw, Make, law
from detrkit.testing.tensors import check_close, check_finite, draw_normal
from detrkit.transformer import Memory, Queries

WIDTH = 16


@law("queries")
def queries_are_as_declared(make: Make, draw: Draw) -> None:
    """Gives content [B, Q, D], and positions of that shape or none, in the dtype of the module."""
    source, memory, number = draw_source(make, draw)
    shape = (len(memory.tokens), number, WIDTH)
    for name, part in given(source(memory)).items():
        assert part.shape == shape, f"{name} has shape {tuple(part.shape)}, not {shape}"
        assert part.dtype == torch.float64, f"a module in float64 gives {name} in {part.dtype}"


@law("queries")
def no_two_queries_are_alike(make: Make, draw: Draw) -> None:
    """No two queries of an image start equal: they would stay equal for ever."""
    source, memory, _ = draw_source(make, draw)
    starts = torch.cat(list(given(source(memory)).values()), dim=-1)
    for image in starts:
        apart = torch.nn.functional.pdist(image)
        assert (apart > 0).all(), "two queries start equal"


@law("queries")
def images_do_not_influence_each_other(make: Make, draw: Draw) -> None:
    """Images are given the same queries in a batch as one by one."""
    source, memory, _ = draw_source(make, draw)
    together = given(source(memory))
    for i in range(len(memory.tokens)):
        alone = given(source(image_of(memory, i)))
        check_close(alone, {name: part[i : i + 1] for name, part in together.items()}, "in a batch")


@law("queries")
def padding_has_no_influence(make: Make, draw: Draw) -> None:
    """Padded tokens do not matter, not even when they are NaN."""
    source, memory, _ = draw_source(make, draw)
    expected, hidden = given(source(memory)), memory.padding
    for filling in (float(draw(-9, 9)), float("nan")):
        tokens = memory.tokens.masked_fill(cast(Tensor, hidden)[..., None], filling)
        check_close(given(source(memory._replace(tokens=tokens))), expected, f"with {filling} in the padding")


@law("queries")
def every_parameter_gets_a_finite_gradient(make: Make, draw: Draw) -> None:
    """A loss of what is given reaches every parameter."""
    source, memory, _ = draw_source(make, draw)
    parts = given(source(memory)).values()
    torch.stack([(part * draw_normal(draw, *part.shape)).sum() for part in parts]).sum().backward()
    check_finite({name: p.grad for name, p in source.named_parameters()}, "among the gradients")


@law("queries")
def state_dict_carries_everything(make: Make, draw: Draw) -> None:
    """Another instance that has loaded the state dict gives the same, to the bit."""
    source, memory, number = draw_source(make, draw)
    twin = make(d_model=WIDTH, num_queries=number).double()
    twin.load_state_dict(source.state_dict())
    check_close(given(twin(memory)), given(source(memory)), "in a copy by state dict", rtol=0)


def draw_source(make: Make, draw: Draw) -> tuple[ObjectQueries, Memory, int]:
    """A component in float64, the memory of a few padded images, and the number of queries."""
    number, images, height, width = draw(1, 7), draw(1, 3), draw(2, 4), draw(2, 4)
    padding = torch.zeros(images, height, width, dtype=torch.bool)
    padding[-1, draw(1, height) :] = True
    tokens, positions = (draw_normal(draw, images, height * width, WIDTH) for _ in range(2))
    memory = Memory(tokens, positions, padding.flatten(1), ((height, width),))
    return make(d_model=WIDTH, num_queries=number).double(), memory, number


def image_of(memory: Memory, index: int) -> Memory:
    """The memory of one image of the batch."""
    own = slice(index, index + 1)
    positions = None if memory.positions is None else memory.positions[own]
    padding = None if memory.padding is None else memory.padding[own]
    return Memory(memory.tokens[own], positions, padding, memory.shapes)


def given(queries: Queries) -> dict[str, Tensor]:
    """The parts that are there, by name."""
    return {name: part for name, part in queries._asdict().items() if part is not None}
