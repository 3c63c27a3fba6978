"""From states to classes and boxes: shared by all decoder layers or one a layer, told from a reference or not."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from detrkit.transformer import MLP


def heads(make: Callable[[], nn.Module], layers: int | None) -> nn.Module:
    """One head for all layers, or a list of ``layers``."""
    return make() if layers is None else nn.ModuleList(make() for _ in range(layers))


def start(class_embed: nn.Module, bbox_embed: nn.Module, *, prior: float | None, box_bias: float | None) -> None:
    """First values of the heads, where they are not those of their layers (Deformable DETR, as its official code).

    Args:
        class_embed: heads for classes, last linear layer and all.
        bbox_embed: heads for boxes.
        prior: probability that every class is to start with; None: as it comes.
        box_bias: what width and height start from, before the sigmoid, while the last layer says nothing: boxes start
            at their references; None: as it comes.
    """
    if prior is not None:
        for linear in [m for m in class_embed.modules() if isinstance(m, nn.Linear)]:
            nn.init.constant_(linear.bias, -math.log((1 - prior) / prior))
    if box_bias is not None:
        last_layers = [m.last for m in bbox_embed.modules() if isinstance(m, MLP)]
        for last in last_layers:
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
        nn.init.constant_(last_layers[0].bias[2:], box_bias)


def head_of(head: nn.Module, layer: int) -> nn.Module:
    """The head of one layer."""
    return head[layer] if isinstance(head, nn.ModuleList) else head


def told(head: nn.Module, states: Float[Tensor, "L B Q D"]) -> Float[Tensor, "L B Q C"]:
    """What the heads say of the states of the last L layers."""
    if isinstance(head, nn.ModuleList):
        return torch.stack(
            [unrounded(one, state) for one, state in zip(list(head)[-len(states) :], states, strict=True)]
        )
    return unrounded(head, states)


def unrounded(head: nn.Module, states: Float[Tensor, "*B D"]) -> Float[Tensor, "*B C"]:
    """What a head says in the precision of its weights, also under autocast: 8 bits of a box are off by pixels."""
    kind = states.device.type
    if not (torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)):
        return head(states)
    with torch.autocast(kind, enabled=False):
        return head(states.to(next(head.parameters()).dtype))
