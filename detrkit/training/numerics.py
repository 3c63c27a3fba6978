"""Where a number that is not finite comes from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from detrkit.criterion import Losses
from detrkit.errors import NonFiniteError


def check_finite(losses: Losses) -> None:
    """Refuse a loss that is not finite.

    Raises:
        NonFiniteError: names the first bad term.
    """
    if not torch.isfinite(losses.total):
        name = next((n for n, value in losses.terms.items() if not torch.isfinite(value)), "total")
        raise NonFiniteError("the loss is not finite", field=name, value=float(losses.total.detach()))


def origin(model: nn.Module, *inputs: Any) -> str:
    """What is not finite first when the model sees these inputs, in words; runs it once more.

    A weight, the inputs themselves, or the innermost module whose output is not finite although its inputs are; when
    all of that is finite, the parameter nearest to the heads whose gradient is not.
    """
    for name, parameter in model.named_parameters():
        if not is_finite(parameter):
            return f"the weights {name!r} are not finite already"
    if not is_finite(inputs):
        return "the inputs are not finite"
    if module := first_module(model, *inputs):
        return f"the first output that is not finite is that of {module}"
    for name, parameter in reversed(list(model.named_parameters())):  # gradients spread from the heads backwards
        if parameter.grad is not None and not is_finite(parameter.grad):
            return f"all outputs are finite; going backwards, the first gradient that is not is that of {name!r}"
    return "the model's outputs are finite"


@torch.no_grad()
def first_module(model: nn.Module, *inputs: Any) -> str | None:
    """Name and kind of the first module whose output is not finite while its inputs are."""
    found: list[str] = []

    def hook_of(name: str) -> Any:
        def look(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            if not found and not is_finite(output) and is_finite(args) and is_finite(kwargs):
                found.append(f"{name or 'the model'} ({type(module).__name__})")

        return look

    hooks = [module.register_forward_hook(hook_of(name), with_kwargs=True) for name, module in model.named_modules()]
    try:
        model(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else None


def is_finite(value: Any) -> bool:
    """Whether all tensors within are, as far as tuples, lists and mappings go."""
    if isinstance(value, Tensor):
        return bool(torch.isfinite(value.detach()).all())
    if isinstance(value, Mapping):
        return all(map(is_finite, value.values()))
    return not isinstance(value, tuple | list) or all(map(is_finite, value))
