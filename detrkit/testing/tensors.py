"""Tensors for laws: drawn from seeds, and compared up to the rounding of their dtype."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from detrkit.testing.law import Draw

ROUNDING = {torch.float64: 1e-11, torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""How far two ways of computing one thing may differ, relative to its largest number."""


def draw_generator(draw: Draw) -> torch.Generator:
    """Contents come from a drawn seed, shapes from draws."""
    return torch.Generator().manual_seed(draw(0, 2**31 - 1))


def draw_normal(draw: Draw, *shape: int) -> Tensor:
    """Normal noise, float64."""
    return torch.randn(shape, generator=draw_generator(draw), dtype=torch.float64)


def draw_order(draw: Draw, length: int) -> Tensor:
    """A permutation of 0..length-1."""
    return torch.randperm(length, generator=draw_generator(draw))


def check_close(found: Any, expected: Any, when: str, *, rtol: float | None = None) -> None:
    """Require equal shapes, and numbers equal up to rounding.

    Args:
        found: a tensor, or tensors in tuples and dicts; None stands for no tensor.
        expected: the same structure.
        when: completes "differs ...".
        rtol: allowed difference relative to the largest number of ``expected``; by default that of the dtype found.
    """
    pairs = dict(_flat(found)), dict(_flat(expected))
    assert pairs[0].keys() == pairs[1].keys(), f"{sorted(pairs[0])} are given {when}, not {sorted(pairs[1])}"
    largest = max((float(x.detach().abs().max()) for x in pairs[1].values() if x.numel()), default=0.0)
    for name, wanted in pairs[1].items():
        got = pairs[0][name]
        assert got.shape == wanted.shape, f"{name} has shape {tuple(got.shape)} {when}, not {tuple(wanted.shape)}"
        apart = float((got - wanted).detach().abs().max()) if got.numel() else 0.0
        allowed = (ROUNDING[got.dtype] if rtol is None else rtol) * largest
        assert apart <= allowed, f"{name} differs by {apart:.3g} {when}; {allowed:.3g} is rounding"


def check_finite(tensors: Mapping[str, Tensor | None], where: str) -> None:
    """Require that each tensor is there and finite."""
    for name, tensor in tensors.items():
        assert tensor is not None, f"{name} is missing {where}"
        assert tensor.isfinite().all(), f"{name} is not finite {where}"


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name or "the result", value
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield from _flat(part, f"{name}.{key}".lstrip("."))
    elif isinstance(value, (tuple, list)):
        names = getattr(value, "_fields", range(len(value)))
        for key, part in zip(names, value, strict=True):
            yield from _flat(part, f"{name}.{key}".lstrip("."))
