"""Looks of a model's parts, told while it runs, without a change to its output."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from torch import nn

from detrkit.attention import Attention, AttentionOutput
from detrkit.looks import DenseLook, Look
from detrkit.reading import Reading

if TYPE_CHECKING:
    from detrkit.model import Detector
    from detrkit.transformer import DecoderLayer, Memory

Seen = list[Look]


class Watched(NamedTuple):
    """What was seen of a model: a list for each layer, with a look for each call of its attention.

    Attributes:
        encoder: cells that look at cells.
        queries: queries that look at each other; empty lists where they do not.
        cross: queries that look at cells.
        memory: what the encoder gave, call by call.
    """

    encoder: list[Seen]
    queries: list[Seen]
    cross: list[Seen]
    memory: list[Memory]


@contextmanager
def watching(part: nn.Module | None) -> Iterator[Seen]:
    """Within the block, each call of an attention or a reading appends where it looked to the list."""
    seen: Seen = []

    def ask(_: nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return args, {**options, "need_weights": True}

    def keep(_: nn.Module, __: Any, answer: AttentionOutput) -> None:
        if answer.weights is not None:
            seen.append(DenseLook(answer.weights.detach()))

    def look(reading: Reading, args: tuple[Any, ...], _: Any) -> None:
        told = reading.look(*args)
        seen.append(type(told)(*(part.detach() for part in told)))

    hooks = []
    if isinstance(part, Attention):
        hooks = [part.register_forward_pre_hook(ask, with_kwargs=True), part.register_forward_hook(keep)]
    elif isinstance(part, Reading):
        hooks = [part.register_forward_hook(look)]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def watching_model(model: Detector) -> Iterator[Watched]:
    """Within the block, every attention and reading of encoder and decoder is watched."""
    layers = [cast("DecoderLayer", layer) for layer in model.decoder.layers]
    with ExitStack() as stack:

        def watch(*parts: nn.Module | None) -> list[Seen]:
            return [stack.enter_context(watching(part)) for part in parts]

        memories: list[Memory] = []
        hook = model.encoder.register_forward_hook(lambda _, __, memory: memories.append(memory))
        stack.callback(hook.remove)
        yield Watched(
            watch(*(part for part in model.encoder.modules() if isinstance(part, Attention | Reading))),
            watch(*(layer.self_attn for layer in layers)),
            watch(*(layer.cross_attn for layer in layers)),
            memories,
        )
