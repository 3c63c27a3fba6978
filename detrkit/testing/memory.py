"""Memories for laws, and what laws of modules that read them share."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from detrkit.testing.law import Draw
from detrkit.testing.tensors import check_finite, draw_normal
from detrkit.transformer import Memory


def draw_memory(draw: Draw, width: int, *, levels: int = 1, padded: bool = True) -> Memory:
    """Tokens of 1 to 3 images, float64, the last image padded to the right and below.

    Args:
        draw: see `detrkit.testing`.
        width: D.
        levels: number of levels, each of its own size.
        padded: whether there is padding.
    """
    images = draw(1, 3)
    shapes = tuple((draw(2, 4), draw(2, 4)) for _ in range(levels))
    number = sum(height * columns for height, columns in shapes)
    tokens, positions = (draw_normal(draw, images, number, width) for _ in range(2))
    memory = Memory(tokens, positions, shapes=shapes)
    return pad(memory, {images - 1: (draw(1, 4) / 4, draw(1, 4) / 4)}) if padded else memory


def pad(memory: Memory, shares: Mapping[int, tuple[float, float]]) -> Memory:
    """Hide all but these shares of the rows and columns of some images, one row and column at least unless zero."""
    padding, valid = [], torch.ones(len(memory.tokens), len(memory.shapes), 2, dtype=memory.tokens.dtype)
    for level, (height, width) in enumerate(memory.shapes):
        hidden = torch.zeros(len(memory.tokens), height, width, dtype=torch.bool)
        for image, (rows, columns) in shares.items():
            down, right = -int(-rows * height // 1), -int(-columns * width // 1)
            hidden[image, down:], hidden[image, :, right:] = True, True
            valid[image, level] = valid.new_tensor([right / width, down / height])
        padding.append(hidden.flatten(1))
    return memory._replace(padding=torch.cat(padding, dim=1), valid=valid)


def image_of(memory: Memory, index: int) -> Memory:
    """The memory of one image of the batch."""
    own = slice(index, index + 1)
    parts = (memory.tokens, memory.positions, memory.padding, memory.valid)
    tokens, positions, padding, valid = (None if part is None else part[own] for part in parts)
    return Memory(tokens, positions, padding, memory.shapes, valid)  # type: ignore[arg-type]


def disturb(module: nn.Module, draw: Draw) -> nn.Module:
    """The module in float64, with noise on every parameter: none is zero, none equals another."""
    module.double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * draw_normal(draw, *parameter.shape))
    return module


def mixture(draw: Draw, *parts: Tensor) -> Tensor:
    """One number that depends on every number of these tensors in its own way."""
    return torch.stack([(part * draw_normal(draw, *part.shape)).sum() for part in parts]).sum()


def check_gradients(module: nn.Module, left_out: tuple[str, ...] = ()) -> None:
    """Require a finite gradient of every parameter that is trained."""
    trained = [(name, p) for name, p in module.named_parameters() if p.requires_grad and name not in left_out]
    named = {name: parameter.grad for name, parameter in trained}
    check_finite(named, "among the gradients")
