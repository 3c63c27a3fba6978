"""The laws of the role `placement`."""

from __future__ import annotations

import torch
from torch import Tensor

from detrkit.placement import Placement
from detrkit.testing.law import Draw, Make, concern, law
from detrkit.testing.memory import check_gradients, disturb, draw_memory, image_of, mixture
from detrkit.testing.reading import WIDTH, draw_queries, part_of
from detrkit.testing.tensors import check_close, check_finite, draw_order
from detrkit.transformer import Memory, Queries

LAYERS = (0, 1)


@law("placement")
def positions_are_as_declared(make: Make, draw: Draw) -> None:
    """Gives positions and sine codes, where it gives them, as [B, Q, D], finite, in the dtype of the module."""
    placement, queries, memory = draw_case(make, draw)
    for name, part in placed(placement, queries, memory).items():
        shape = tuple(part.shape)
        assert shape == tuple(queries.content.shape), f"{name} has shape {shape}, not {tuple(queries.content.shape)}"
        assert part.dtype == torch.float64, f"a module in float64 gives {name} in {part.dtype}"
        check_finite({name: part}, "from a placement")


@law("placement")
def content_and_references_stay(make: Make, draw: Draw) -> None:
    """A layer's placement changes neither content nor references, and the start does not change the content."""
    placement, queries, memory = draw_case(make, draw)
    started = placement.start(queries)
    check_close(started.content, queries.content, "at the start", rtol=0)
    for layer in LAYERS:
        found = placement(layer, started, memory)
        kept = (found.content, found.references)
        check_close(kept, (started.content, started.references), f"in layer {layer}", rtol=0)


@law("placement")
def images_and_queries_do_not_influence_each_other(make: Make, draw: Draw) -> None:
    """Images are placed in a batch as one by one; queries in another order are placed in that order."""
    placement, queries, memory = draw_case(make, draw)
    together = placed(placement, queries, memory)
    for i in range(len(memory.tokens)):
        alone = placed(placement, part_of(queries, [i]), image_of(memory, i))
        check_close(alone, {name: part[i : i + 1] for name, part in together.items()}, "in a batch")
    order = draw_order(draw, queries.content.shape[1])
    shuffled = placed(placement, part_of(queries, slice(None), order), memory)
    check_close(shuffled, {name: part[:, order] for name, part in together.items()}, "in another order")


@law("placement")
def every_parameter_gets_a_finite_gradient(make: Make, draw: Draw) -> None:
    """A loss of what two layers are told reaches every parameter."""
    placement, queries, memory = draw_case(make, draw)
    concern(any(True for _ in placement.parameters()), "has no parameters")
    mixture(draw, *placed(placement, queries, memory).values()).backward()
    check_gradients(placement)


@law("placement")
def state_dict_carries_everything(make: Make, draw: Draw) -> None:
    """Another instance that has loaded the state dict gives the same, to the bit, in training too."""
    placement, queries, memory = draw_case(make, draw)
    twin = make(d_model=WIDTH).double().train()
    twin.load_state_dict(placement.state_dict())
    check_close(placed(twin, queries, memory), placed(placement, queries, memory), "in a copy by state dict", rtol=0)


def draw_case(make: Make, draw: Draw) -> tuple[Placement, Queries, Memory]:
    """A placement in float64 with noise on its parameters, queries with positions and boxes, and a memory."""
    memory = draw_memory(draw, WIDTH, levels=draw(1, 3))
    placement = disturb(make(d_model=WIDTH), draw).eval()
    return placement, draw_queries(draw, len(memory.tokens), 4)._replace(sine=None), memory  # type: ignore[return-value]


def placed(placement: Placement, queries: Queries, memory: Memory) -> dict[str, Tensor]:
    """Positions and sine codes of two layers, by name."""
    started = placement.start(queries)
    found: dict[str, Tensor | None] = {}
    for layer in LAYERS:
        told = placement(layer, started, memory)
        found |= {f"positions of layer {layer}": told.positions, f"sine codes of layer {layer}": told.sine}
    return {name: part for name, part in found.items() if part is not None}
