"""The laws of the role `reading`."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from detrkit.reading import Reading
from detrkit.registry import Signature
from detrkit.testing.law import Draw, Make, concern, law
from detrkit.testing.memory import check_gradients, disturb, draw_memory, image_of, mixture, pad
from detrkit.testing.tensors import check_close, check_finite, draw_normal, draw_order
from detrkit.transformer import Memory, Queries

WIDTH = 16


@law("reading")
def reads_as_declared(make: Make, draw: Draw) -> None:
    """Gives [B, Q, D], finite, in the dtype of the module; a mask that hides nothing changes nothing."""
    reading, queries, memory = draw_case(make, draw, padded=False)
    found = reading(queries, memory)
    assert found.shape == queries.content.shape, f"shape {tuple(found.shape)}, not {tuple(queries.content.shape)}"
    assert found.dtype == torch.float64, f"a module in float64 gives {found.dtype}"
    check_finite({"what is read": found}, "without padding")
    check_close(reading(queries, pad(memory, {})), found, "with a mask that hides nothing")


@law("reading")
def padding_has_no_influence(make: Make, draw: Draw) -> None:
    """Padded tokens may change, even to NaN: what is read stays, and so does every gradient."""
    reading, queries, memory = draw_case(make, draw)
    state = draw(0, 2**31 - 1)
    expected = learned(reading, queries, memory, state)
    for filling in (float(draw(-9, 9)), float("nan")):
        found = learned(reading, queries, hidden(memory, filling), state)
        check_close(found, expected, f"with {filling} in the padding")


@law("reading")
def blind_image_is_harmless(make: Make, draw: Draw) -> None:
    """An image whose tokens are all padding, NaN at that, gives finite outputs and gradients; its neighbours stay."""
    reading, queries, memory = draw_case(make, draw)
    blind = draw(0, len(memory.tokens) - 1)
    dark = hidden(pad(memory, {blind: (0.0, 0.0)}), float("nan"))
    check_finite(dict(learned(reading, queries, dark, draw(0, 99))), "beside a blind image")
    found, expected = reading(queries, dark), reading(queries, pad(memory, {}))
    others = [image for image in range(len(found)) if image != blind]
    check_close(found[others], expected[others], "beside a blind image")


@law("reading")
def images_do_not_influence_each_other(make: Make, draw: Draw) -> None:
    """A batch gives what its images give one by one."""
    reading, queries, memory = draw_case(make, draw)
    alone = [reading(part_of(queries, [i]), image_of(memory, i)) for i in range(len(memory.tokens))]
    check_close(torch.cat(alone), reading(queries, memory), "image by image")


@law("reading")
def queries_do_not_influence_each_other(make: Make, draw: Draw) -> None:
    """Permuting the queries permutes what they read."""
    reading, queries, memory = draw_case(make, draw)
    order = draw_order(draw, queries.content.shape[1])
    found = reading(part_of(queries, slice(None), order), memory)
    check_close(found, reading(queries, memory)[:, order], "in another order of the queries")


@law("reading")
def every_parameter_gets_a_finite_gradient(make: Make, draw: Draw) -> None:
    """A loss of what is read reaches every parameter."""
    reading, queries, memory = draw_case(make, draw)
    mixture(draw, reading(queries, memory)).backward()
    check_gradients(reading)


@law("reading")
def dropout_acts_in_training_only(make: Make, draw: Draw) -> None:
    """With dropout, training differs from evaluation, and evaluation is what it is without."""
    concern("dropout" in Signature.of(make.component).annotations, "has no dropout")
    case = Case(make, draw)
    reading, queries, memory = case.reading, case.queries, case.memory
    expected = reading(queries, memory)
    check_close(reading.train()(queries, memory), expected, "in training without dropout")
    dropping = case.make(dropout=0.5).double()
    dropping.load_state_dict(reading.state_dict())
    check_close(dropping.eval()(queries, memory), expected, "in evaluation with dropout")
    torch.manual_seed(draw(0, 2**31 - 1))
    dropped = torch.stack([dropping.train()(queries, memory) for _ in range(10)])
    assert not torch.allclose(dropped, expected), "dropout drops nothing in training"


@law("reading")
def state_dict_carries_everything(make: Make, draw: Draw) -> None:
    """Another instance that has loaded the state dict gives the same, to the bit."""
    case = Case(make, draw)
    twin = case.make(dropout=0.0).double()
    twin.load_state_dict(case.reading.state_dict())
    expected = case.reading(case.queries, case.memory)
    check_close(twin(case.queries, case.memory), expected, "in a copy by state dict", rtol=0)


class Case:
    """A reading in float64 with noise on all parameters, queries that have all that one may need, and a memory."""

    def __init__(self, make: Make, draw: Draw, *, padded: bool = True) -> None:
        options = {"d_model": WIDTH, "num_levels": draw(1, 3), "layer": draw(0, 1)}
        self.make = lambda dropout: make(**options, dropout=dropout)
        self.reading = disturb(self.make(dropout=0.0), draw).eval()
        self.memory = draw_memory(draw, WIDTH, levels=options["num_levels"], padded=padded)
        self.queries = draw_queries(draw, len(self.memory.tokens), (2, 4)[draw(0, 1)])


def draw_case(make: Make, draw: Draw, *, padded: bool = True) -> tuple[Reading, Queries, Memory]:
    """The parts of a `Case`."""
    case = Case(make, draw, padded=padded)
    return cast(Reading, case.reading), case.queries, case.memory


def draw_queries(draw: Draw, images: int, coordinates: int) -> Queries:
    """Queries with content, positions, sine codes, and points or boxes as references."""
    shape = (images, draw(1, 5), WIDTH)
    content, positions, sine = (draw_normal(draw, *shape) for _ in range(3))
    return Queries(content, positions, draw_normal(draw, *shape[:2], coordinates).sigmoid(), sine)


def part_of(queries: Queries, images: Any, rows: Any = slice(None)) -> Queries:
    """Some queries of some images."""
    parts = {name: part[images][:, rows] for name, part in queries._asdict().items() if isinstance(part, Tensor)}
    return queries._replace(**parts)  # type: ignore[arg-type]


def hidden(memory: Memory, filling: float) -> Memory:
    """The memory with other tokens under its padding."""
    return memory._replace(tokens=memory.tokens.masked_fill(cast(Tensor, memory.padding)[..., None], filling))


def learned(reading: Reading, queries: Queries, memory: Memory, seed: int) -> dict[str, Tensor | None]:
    """What is read, and the gradients of a fixed mixture of it."""
    reading.zero_grad()
    tokens, content = memory.tokens.clone().requires_grad_(), queries.content.clone().requires_grad_()
    found = reading(queries._replace(content=content), memory._replace(tokens=tokens))
    shares = torch.randn(found.shape, generator=torch.Generator().manual_seed(seed), dtype=found.dtype)
    (found * shares).sum().backward()
    named = {name: parameter.grad for name, parameter in reading.named_parameters() if parameter.requires_grad}
    return {**named, "output": found.detach(), "gradient of tokens": tokens.grad, "gradient of content": content.grad}
