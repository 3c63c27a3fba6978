"""The laws of the role `queries`."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from detrkit.queries import ObjectQueries
from detrkit.testing.law import Draw, Make, law
from detrkit.testing.memory import check_gradients, draw_memory, image_of, mixture
from detrkit.testing.tensors import check_close
from detrkit.transformer import Memory, Queries

WIDTH, CLASSES = 16, 3


@law("queries")
def queries_are_as_declared(make: Make, draw: Draw) -> None:
    """Gives content, and positions, references and proposals or none, of their shapes, in the dtype of the module."""
    source, memory, number = draw_source(make, draw)
    queries = source(memory)
    images, widths = len(memory.tokens), {"references": (2, 4), "logits": (CLASSES,), "boxes": (4,)}
    for name, part in given(queries).items():
        wanted = widths.get(name, (WIDTH,))
        rows = part.shape[1] if name in ("logits", "boxes") else number
        shape = tuple(part.shape)
        assert shape in {(images, rows, width) for width in wanted}, f"{name} has shape {shape}, not {rows} x {wanted}"
        assert part.dtype == torch.float64, f"a module in float64 gives {name} in {part.dtype}"
        within = name not in ("references", "boxes") or bool(((part >= 0) & (part <= 1)).all())
        assert within, f"{name} leave [0, 1]"


@law("queries")
def no_two_queries_are_alike(make: Make, draw: Draw) -> None:
    """No two queries of an image start equal: they would stay equal for ever."""
    source, memory, _ = draw_source(make, draw, padded=False)
    own = [part for name, part in given(source(memory)).items() if name not in ("logits", "boxes")]
    for image in torch.cat(own, dim=-1):
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
    """A loss of what is given, and of embedded labels if any, reaches every parameter, NaN in the padding or not."""
    source, memory, _ = draw_source(make, draw)
    tokens = memory.tokens.masked_fill(cast(Tensor, memory.padding)[..., None], float("nan"))
    parts = list(given(source(memory._replace(tokens=tokens))).values())
    if type(source).embed is not ObjectQueries.embed:
        parts.append(source.embed(torch.arange(CLASSES)))
    mixture(draw, *parts).backward()
    check_gradients(source)


@law("queries")
def state_dict_carries_everything(make: Make, draw: Draw) -> None:
    """Another instance that has loaded the state dict gives the same, to the bit."""
    source, memory, number = draw_source(make, draw)
    twin = make(d_model=WIDTH, num_queries=number, num_classes=CLASSES).double()
    twin.load_state_dict(source.state_dict())
    check_close(given(twin(memory)), given(source(memory)), "in a copy by state dict", rtol=0)


def draw_source(make: Make, draw: Draw, *, padded: bool = True) -> tuple[ObjectQueries, Memory, int]:
    """A component in float64, the memory of a few images, padded or not, and the number of queries."""
    memory = draw_memory(draw, WIDTH, levels=draw(1, 3), padded=padded)
    number = draw(1, min(7, memory.tokens.shape[1]))
    return make(d_model=WIDTH, num_queries=number, num_classes=CLASSES).double(), memory, number


def given(queries: Queries) -> dict[str, Tensor]:
    """The tensors that are there, by name; those of the proposals beside the others."""
    parts = queries._asdict()
    proposals = parts.pop("proposals")
    parts |= {} if proposals is None else {"logits": proposals.logits, "boxes": proposals.boxes}
    return {name: part for name, part in parts.items() if isinstance(part, Tensor)}
