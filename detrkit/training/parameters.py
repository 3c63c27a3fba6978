"""Parts of a model picked by the names of their parameters: which are frozen, and which learn at another rate."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from detrkit.errors import ConfigError, nearest


def matches(name: str, pattern: str) -> bool:
    """Whether a pattern is the name of a parameter or of something that holds it; ``*`` stands for anything.

    ``encoder``, ``class_embed.bias``, ``self_attn`` and ``decoder.layers.*.norm1`` are such patterns.
    """
    return fnmatchcase(f".{name}.", f"*.{pattern}.*")


def require_matches(field: str, patterns: Iterable[str], names: Sequence[str]) -> None:
    """Refuse patterns that match nothing.

    Raises:
        ConfigError: each of them, with the nearest name.
    """
    parts = {part for name in names for part in name.split(".") if not part.isdecimal()}
    idle = [pattern for pattern in patterns if not any(matches(name, pattern) for name in names)]
    if idle:
        raise ConfigError(f"{field}: {it!r} matches no trained parameter; {nearest(it, parts)}" for it in idle)


def freeze(model: nn.Module, patterns: Sequence[str]) -> list[nn.Module]:
    """Stop the training of matching parameters; returns the batch norms whose statistics are to rest as well.

    Raises:
        ConfigError: a pattern matches nothing, or nothing would be left to train.
    """
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    require_matches("freeze", patterns, list(trained))
    frozen = [p for name, p in trained.items() if any(matches(name, pattern) for pattern in patterns)]
    if len(frozen) == len(trained):
        raise ConfigError([f"freeze: {', '.join(patterns)} leaves nothing to train"])
    for parameter in frozen:
        parameter.requires_grad_(False)
    stopped = {id(p) for p in frozen}
    return [norm for norm in batch_norms(model) if any(id(p) in stopped for p in norm.parameters())]


def running_statistics(model: nn.Module) -> list[Tensor]:
    """What batch norms have seen so far."""
    return [buffer for norm in batch_norms(model) for buffer in norm.buffers()]


def batch_norms(model: nn.Module) -> list[nn.Module]:
    """The norms that take statistics over a batch."""
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]
