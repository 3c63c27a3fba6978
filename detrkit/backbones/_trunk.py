"""What the backbones that wrap a library's network share: reading its levels, its norms, what is trained."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Literal, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import FrozenBatchNorm2d

from detrkit.backbones import Backbone
from detrkit.backbones._weights import load_weights
from detrkit.errors import ConfigError
from detrkit.fields import NonNegative

Norm = Literal["frozen", "batch"]

# Odd and even sizes, large enough that one stride alone explains the cells they give; on "meta" they cost nothing.
PROBES = ((512, 640), (225, 353), (97, 415))
COARSEST = 64
FINEST = 4


class Level(NamedTuple):
    """One feature level: its shape, and the parameters that it needs and finer levels do not."""

    channels: int
    stride: int
    parameters: frozenset[str]


class Trunk(Backbone):
    """Template of the wrapping backbones: a component sets `body`, defines `forward` and calls `settle`."""

    body: nn.Module

    def settle(
        self,
        owner: str,
        *,
        norm: Norm,
        trainable_levels: NonNegative | None,
        weights: Path | None,
        names: Mapping[str, str],
        known: Collection[str],
    ) -> None:
        """Read channels and strides from `body`, freeze what is not to be trained, load the weights.

        Args:
            owner: the component and its model, for errors.
            norm: see the component.
            trainable_levels: see the component.
            weights: file to load, or None.
            names: name in such a file of each entry of `body`.
            known: names of the whole network, head included; a file may hold these too.

        Raises:
            ConfigError: the network breaks the contract, or has fewer levels than are to be trained.
            CheckpointError: the file does not fit.
        """
        keep_every_pixel(self.body)
        with torch.inference_mode(False), torch.enable_grad():  # gradients tell which parameters a level needs
            levels = survey(self, owner)
        self.channels = tuple(level.channels for level in levels)
        self.strides = tuple(level.stride for level in levels)
        trained = trained_parameters(owner, levels, trainable_levels)
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name in trained)
        freeze_norms(self.body, everywhere=norm == "frozen")
        if weights is not None:
            load_weights(self.body, weights, names, known)

    def train(self, mode: bool = True) -> Self:
        """As for every module; while it learns, its kernels have the channels last in memory.

        That takes a tenth off a training step of DETR-R50. In evaluation they are as published, and so are the answers
        to the last digit that float32 has been compared in.
        """
        layout = torch.channels_last if mode else torch.contiguous_format
        with torch.inference_mode(False), torch.no_grad():
            return super().train(mode).to(memory_format=layout)


def strides_of_inputs(trunk: nn.Module, kinds: tuple[type[nn.Module], ...]) -> dict[nn.Module, int]:
    """Input pixels per cell of what each module of these kinds reads; those that read no map, or several, left out."""
    modules = [module for module in trunk.modules() if isinstance(module, kinds)]
    read: dict[nn.Module, list[Tensor]] = {module: [] for module in modules}
    handles = [m.register_forward_pre_hook(lambda m, inputs: read[m].append(inputs[0]), prepend=True) for m in modules]
    tensors = {name: t.detach().to("meta") for name, t in (*trunk.named_parameters(), *trunk.named_buffers())}
    training = trunk.training
    trunk.eval()
    for size in PROBES:
        _run_on_meta(trunk, tensors, size)
    trunk.train(training)
    for handle in handles:
        handle.remove()
    once = {module: stride_of(maps) for module, maps in read.items() if len(maps) == len(PROBES)}
    return {module: stride for module, stride in once.items() if stride is not None}


def survey(trunk: Trunk, owner: str) -> list[Level]:
    """Run the trunk without computing and read its levels.

    Raises:
        ConfigError: it does not take images of any size, or a level's cells are not ceil(size / stride).
    """
    tensors = {name: t.detach().to("meta") for name, t in (*trunk.named_parameters(), *trunk.named_buffers())}
    parameters = {name: tensors[name].requires_grad_() for name, _ in trunk.named_parameters()}
    trunk.eval()
    try:
        runs = [_run_on_meta(trunk, tensors, size) for size in PROBES]
    except (RuntimeError, AssertionError, ValueError, TypeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError([f"{owner}: does not take images of any size ({reason[:120]})"]) from error
    trunk.train()
    strides = [stride_of(maps) for maps in zip(*runs, strict=True)]
    if None in strides or sorted(strides) != strides:  # type: ignore[type-var]
        shapes = [tuple(level.shape[-2:]) for level in runs[1]]
        raise ConfigError(
            [
                f"{owner}: an image of {PROBES[1]} pixels gives maps of {shapes} cells, which no ascending "
                "strides explain as ceil(size / stride)"
            ]
        )
    owned = _owned(runs[0], parameters)
    return [
        Level(level.shape[1], int(stride or 0), names)
        for level, stride, names in zip(runs[0], strides, owned, strict=True)
    ]


def _run_on_meta(trunk: nn.Module, tensors: dict[str, Tensor], size: tuple[int, int]) -> list[Tensor]:
    images = torch.empty(1, 3, *size, device="meta", dtype=next(iter(tensors.values())).dtype)
    return torch.func.functional_call(trunk, tensors, (images,))


def _owned(maps: Sequence[Tensor], parameters: Mapping[str, Tensor]) -> list[frozenset[str]]:
    """For each map the names of the parameters that it depends on and the maps before it do not."""
    owned: list[frozenset[str]] = []
    free = dict(parameters)
    for level in maps:
        gradients = _gradients(level, list(free.values()))
        owned.append(frozenset(n for n, g in zip(free, gradients, strict=True) if g is not None))
        free = {name: parameter for name, parameter in free.items() if name not in owned[-1]}
    return owned


def _gradients(level: Tensor, parameters: Sequence[Tensor]) -> Sequence[Tensor | None]:
    if not parameters:  # a last level that is a mere pool, as in VGG
        return ()
    return torch.autograd.grad(level.sum(), parameters, retain_graph=True, allow_unused=True)


def stride_of(maps: Sequence[Tensor]) -> int | None:
    """The stride that explains the cells of one level for all of `PROBES`; None when there is none."""
    if any(level.ndim != 4 for level in maps):
        return None
    cells = [
        (size, cells)
        for probe, level in zip(PROBES, maps, strict=True)
        for size, cells in zip(probe, level.shape[-2:], strict=True)
    ]
    return next((s for s in range(1, COARSEST + 1) if all(-(-size // s) == n for size, n in cells)), None)


def trained_parameters(owner: str, levels: Sequence[Level], trainable: int | None) -> set[str]:
    """Names of the parameters to train: those of the last levels, or all.

    Raises:
        ConfigError: more levels than there are.
    """
    if trainable is None:
        trainable = len(levels)
    if trainable > len(levels):
        strides = tuple(level.stride for level in levels)
        raise ConfigError(
            [
                f"{owner}: trainable_levels: got {trainable}; expected at most {len(levels)}, the number "
                f"of levels (strides {strides})"
            ]
        )
    return set().union(*(level.parameters for level in levels[len(levels) - trainable :]))


def keep_every_pixel(body: nn.Module) -> None:
    """Let patch convolutions and pools, whose windows do not overlap, count a last incomplete window.

    They drop up to stride - 1 pixels otherwise, and a level would have fewer than ceil(size / stride) cells. Sizes
    that are multiples of the stride give what the network always gave.
    """
    for module in body.modules():
        if not isinstance(module, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d):
            continue
        kernel, stride, padding = (_pair(getattr(module, n)) for n in ("kernel_size", "stride", "padding"))
        if kernel != stride or stride == (1, 1) or padding != (0, 0):
            continue
        if isinstance(module, nn.Conv2d):
            module.register_forward_pre_hook(_pad_to_stride)
        else:
            module.ceil_mode = True


def _pair(value: object) -> tuple[object, ...]:
    return value if isinstance(value, tuple) else (value, value)


def _pad_to_stride(conv: nn.Conv2d, inputs: tuple[Tensor]) -> tuple[Tensor]:
    (x,) = inputs
    missing_h, missing_w = (-size % stride for size, stride in zip(x.shape[-2:], conv.stride, strict=True))
    return (F.pad(x, (0, missing_w, 0, missing_h)),)  # also by nothing: an exported program cannot branch on sizes


class FrozenNorm(FrozenBatchNorm2d):
    """Batch norm with fixed statistics and scale: four buffers, as in DETR. Takes over a batch norm's values.

    A scale that is zero everywhere (residual branches initialised as dead ones) becomes one: frozen, it would stay
    dead for ever.
    """

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__(norm.num_features, eps=norm.eps)
        for name in ("weight", "bias", "running_mean", "running_var"):
            if (value := getattr(norm, name)) is not None:
                self.register_buffer(name, value.detach().clone())
        self.register_buffer("weight", torch.where(self.weight.any(), self.weight, torch.ones_like(self.weight)))
        # timm's batch norm holds the activation that follows it
        self.drop, self.act = (getattr(norm, part, nn.Identity()) for part in ("drop", "act"))

    def forward(self, x: Tensor) -> Tensor:
        """Scale and shift each channel of [B, C, H, W]."""
        # The fused kernel is over twice as fast, but would keep x for a gradient that the plain form does not need.
        if x.requires_grad and torch.is_grad_enabled():
            x = super().forward(x)
        else:
            x = F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return self.act(self.drop(x))


def freeze_norms(body: nn.Module, *, everywhere: bool) -> None:
    """Replace batch norms by frozen ones: all, or those whose scale is not trained (their statistics stay too)."""
    for name, module in list(body.named_modules()):
        if isinstance(module, nn.BatchNorm2d) and (everywhere or _is_fixed(module.weight)):
            body.set_submodule(name, FrozenNorm(module))


def _is_fixed(scale: Tensor | None) -> bool:
    return scale is not None and not scale.requires_grad


def unknown_model(model: str, known: Iterable[str], listing: str) -> str:
    """The line about a model that a library does not have; ``listing`` tells where its names stand."""
    close = get_close_matches(model, known := list(known), n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(map(repr, close))}? " if close else ""
    return f"unknown model; got {model!r}; {hint}({listing} lists all {len(known)})"
