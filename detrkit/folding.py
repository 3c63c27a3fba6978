"""Norms folded into convolutions: a copy of a detector that says the same, faster, and does nothing but look.

A norm with fixed statistics scales and shifts what a convolution says; so may the convolution itself. On CPUs this, and
keeping the channels last in memory, saves a fifth to a third of a ResNet's time (`benchmarks/backbones.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, TypeVar, cast, runtime_checkable

import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from detrkit.backbones import Backbone
from detrkit.errors import ConfigError

if TYPE_CHECKING:
    from detrkit.model import Detector

Folded = TypeVar("Folded", bound=nn.Module)

PROBE = (65, 97)
TOLERANCE = 1e-9  # of the largest feature, in float64; a norm folded into the wrong convolution is of its order
WITH_FIXED_STATISTICS = (FrozenBatchNorm2d, nn.BatchNorm2d)


@runtime_checkable
class Foldable(Protocol):
    """A module that knows a plainer one of the same function in evaluation, as re-parameterised convolutions do.

    A backbone that is one becomes plainer itself.
    """

    def folded(self) -> nn.Module:
        """The plainer one; the module may be used up by it."""


def folded(model: Folded) -> Folded:
    """A copy of a detector, or of a backbone, for inference: see `fold`. The model itself stays as it is.

    The copy refuses to give a state dict, since its entries would fit no model.

    Raises:
        ConfigError: the folded backbone does not say the same.
    """
    copy = deepcopy(model)
    fold(copy)
    copy.register_state_dict_pre_hook(_refuse_state_dict)
    return copy


@torch.no_grad()
def fold(model: nn.Module) -> None:
    """Make a detector, or a backbone, one that only looks: evaluation mode, no gradients, channels last in memory.

    Folded is every batch norm of the backbone, frozen or in evaluation, that reads a plain convolution; what it says is
    then compared in float64 with what it said before. So is every `Foldable`. A detector sheds what only training asks
    for, and answers with its last decoder layer alone.

    Raises:
        ConfigError: the folded backbone does not say the same.
    """
    model.eval().requires_grad_(False)
    alone = isinstance(model, Backbone)
    backbone = model if alone else model.get_submodule("backbone")
    first = next(backbone.parameters())
    home, images = (first.device, first.dtype), torch.randn(1, 3, *PROBE, generator=torch.Generator().manual_seed(0))
    backbone.to("cpu", torch.float64)
    expected = backbone(images.double())
    for norm, convolution in list(convolutions_before(backbone, images.double())):
        absorb(convolution, backbone.get_submodule(norm))
        backbone.set_submodule(norm, what_follows(backbone.get_submodule(norm)))
    if not alone:
        fold_those_that_can(model)  # the backbone too, if it can
        cast("Detector", model).shed()
    elif isinstance(model, Foldable):
        model.folded()
    check_same(backbone(images.double()), expected, backbone)
    backbone.to(*home).to(memory_format=torch.channels_last)


def fold_those_that_can(model: nn.Module) -> None:
    """Put the plainer module in the place of each `Foldable`, outermost first, none that stands in a backbone."""
    for name, module in [] if isinstance(model, Backbone) else list(model.named_children()):
        if isinstance(module, Foldable):
            model.set_submodule(name, module.folded())
        else:
            fold_those_that_can(module)


def convolutions_before(backbone: nn.Module, images: Tensor) -> Iterator[tuple[str, nn.Conv2d]]:
    """Names of the norms that read what a plain convolution says, and that convolution; seen on these images."""
    said: list[tuple[Tensor, nn.Conv2d]] = []
    pairs: list[tuple[str, nn.Conv2d]] = []
    calls: list[nn.Module] = []

    def note_said(module: nn.Module, _: Any, output: Tensor) -> None:
        calls.append(module)
        said.append((output, module))  # type: ignore[arg-type]

    def note_read(name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            calls.append(module)
            pairs.extend((name, convolution) for output, convolution in said if output is inputs[0])

        return hook

    handles = []
    for name, module in backbone.named_modules():
        if type(module) is nn.Conv2d:  # what derives from it may change its weight on the way
            handles.append(module.register_forward_hook(note_said))
        elif isinstance(module, WITH_FIXED_STATISTICS) and module.running_mean is not None:
            handles.append(module.register_forward_pre_hook(note_read(name)))
    backbone(images)
    for handle in handles:
        handle.remove()
    for name, convolution in pairs:
        if calls.count(convolution) == calls.count(backbone.get_submodule(name)) == 1:
            yield name, convolution


def absorb(convolution: nn.Conv2d, norm: Any) -> None:
    """Let the convolution scale and shift its channels as the norm would."""
    mean, deviation = norm.running_mean, (norm.running_var + norm.eps).sqrt()
    scale = 1 / deviation if norm.weight is None else norm.weight / deviation
    shift = -mean * scale if norm.bias is None else norm.bias - mean * scale
    before = 0 if convolution.bias is None else convolution.bias * scale
    convolution.weight = nn.Parameter(convolution.weight * scale[:, None, None, None], requires_grad=False)
    convolution.bias = nn.Parameter(before + shift, requires_grad=False)


def what_follows(norm: nn.Module) -> nn.Module:
    """What a norm of timm does after it has normalised; nothing for others."""
    return nn.Sequential(*(getattr(norm, part) for part in ("drop", "act") if hasattr(norm, part)))


def check_same(found: Sequence[Tensor], expected: Sequence[Tensor], backbone: nn.Module) -> None:
    """Refuse maps that differ by more than rounding.

    Raises:
        ConfigError: they do.
    """
    apart = max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(found, expected, strict=True))
    if not apart <= TOLERANCE:
        name = type(backbone).__name__
        raise ConfigError(
            [f"{name}: its norms cannot be folded: features would move by {apart:.2g} of the largest; use it unfolded"]
        )


def _refuse_state_dict(*_: Any) -> NoReturn:
    raise ConfigError(["a folded model has no state dict; save, load and export the model that it was made of"])
