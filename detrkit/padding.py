"""Padding that has no effect: what backbone and neck say of an image, whatever the other images of its batch.

The published models let it have some: a convolution at the image's border reads what lies in the padding, which norms
and biases have moved away from zero, and the mask of a feature map is the nearest cell's. With `ExactPadding`, every
module that looks at neighbours sees in the padding what it would see beyond the border of the image alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from detrkit.backbones import Backbone
from detrkit.backbones._trunk import strides_of_inputs
from detrkit.necks import Neck

if TYPE_CHECKING:
    from detrkit.config import DetectorConfig
    from detrkit.positional import Positional

LOOKING = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.GroupNorm)
SMALLEST_SHARE = 1e-9  # keeps windows that see nothing of the image from dividing by zero
TOLERANCE = 1e-3  # of the features' deviation; real leaks are of its order


def every_nth(mask: Bool[Tensor, "B H W"], stride: int, height: int, width: int) -> Bool[Tensor, "B h w"]:
    """The mask of a map of ceil(size / stride) cells: a cell is padding where its first pixel is."""
    rows, columns = (stride * torch.arange(cells, device=mask.device) for cells in (height, width))
    return mask[:, rows[:, None], columns]


class ExactPadding:
    """Hooks on the modules of backbone and neck that keep what the padding holds away from its neighbours.

    Convolutions and pools see zeros, or nothing, as beyond the border; group norms take their statistics over the
    cells of the image alone.

    Args:
        backbone: anything made of such modules; `problem` tells whether it is.
        neck: the same, reading the maps of the backbone.
    """

    def __init__(self, backbone: Backbone, neck: Neck) -> None:
        self.backbone, self.both = backbone, nn.Sequential(backbone, neck)
        self.mask: Tensor | None = None
        self._seen: dict[tuple[int, torch.dtype], Tensor] = {}
        for module, stride in strides_of_inputs(self.both, LOOKING).items():
            if getattr(module, "kernel_size", None) != (1, 1):
                _Border(self, stride).attach(module)

    @contextmanager
    def hiding(self, mask: Bool[Tensor, "B H W"]) -> Iterator[None]:
        """While this lasts, what lies under the mask of the input images is hidden."""
        self.mask = mask
        try:
            yield
        finally:
            self.mask = None
            self._seen.clear()

    def seen(self, stride: int, like: Float[Tensor, "B C h w"]) -> Float[Tensor, "B 1 h w"] | None:
        """1 in the image's cells of a map of this stride, 0 in the padding; None when nothing is hidden."""
        if self.mask is None:
            return None
        key = (stride, like.dtype)
        if key not in self._seen:
            self._seen[key] = (~every_nth(self.mask, stride, *like.shape[-2:]))[:, None].to(like.dtype)
        return self._seen[key]

    def problem(self, config: DetectorConfig, positional: Positional | None) -> str | None:
        """A line when a part's answer for an image still depends on its padding, seen by trying."""
        if next(self.backbone.parameters()).device.type == "meta":
            return None
        for name, trunk in (("backbone", self.backbone), ("neck", self.both)):
            if (leak := self._leak(trunk)) > TOLERANCE:
                return (
                    f"padding_exact=True and {name}={getattr(config, name)} do not fit: padding moves its features by "
                    f"{leak:.2g} of their deviation; networks of plain convolutions, as ResNets are, and tiny do fit"
                )
        cells = -(-config.long_side // self.backbone.strides[-1])
        if positional is not None and positional.max_size is None and not _is_local(positional, cells):
            return (
                f"padding_exact=True and positional={config.positional} do not fit: padding changes its codes on maps "
                f"of {cells} cells, which long_side={config.long_side} gives; use sine, or a table that is large enough"
            )
        return None

    @torch.no_grad()
    def _leak(self, trunk: nn.Module) -> float:
        """How far padding moves the features, in deviations of them; tried on an image of 33 x 65."""
        modes = {module: module.training for module in trunk.modules()}
        trunk.eval()
        generator = torch.Generator().manual_seed(0)
        image = F.interpolate(torch.randn(1, 3, 5, 9, generator=generator), (33, 65), mode="bilinear")
        image = image.to(next(trunk.parameters()))
        padded = F.pad(image, (0, 79, 0, 47))
        mask = F.pad(torch.zeros_like(image[:, 0], dtype=torch.bool), (0, 79, 0, 47), value=True)
        alone = trunk(image)
        with self.hiding(mask):
            together = [
                there[..., : here.shape[-2], : here.shape[-1]] for here, there in zip(alone, trunk(padded), strict=True)
            ]
        for module, training in modes.items():
            module.training = training
        return max(float((a - b).abs().max() / a.std(correction=0)) for a, b in zip(alone, together, strict=True))


class _Border:
    """The hooks of one module, whose input has a known stride."""

    def __init__(self, padding: ExactPadding, stride: int) -> None:
        self.padding, self.stride = padding, stride

    def attach(self, module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d):
            module.register_forward_pre_hook(self.clear, prepend=True)
        elif isinstance(module, nn.MaxPool2d):
            module.register_forward_pre_hook(self.sink, prepend=True)
            module.register_forward_hook(self.lift)
        elif isinstance(module, nn.GroupNorm):
            module.register_forward_hook(self.normalize)
        else:
            module.register_forward_hook(self.average)

    def clear(self, _: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor] | None:
        """Before a convolution: zeros, as beyond the border."""
        seen = self.padding.seen(self.stride, inputs[0])
        return None if seen is None else (inputs[0] * seen,)

    def sink(self, _: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor] | None:
        """Before a maximum: what never wins."""
        seen = self.padding.seen(self.stride, inputs[0])
        return None if seen is None else (inputs[0].where(seen > 0, float("-inf")),)

    def lift(self, _: nn.Module, __: Any, pooled: Tensor) -> Tensor:
        """After a maximum: windows that held nothing say zero, so that no infinity goes on."""
        return pooled if self.padding.mask is None else pooled.where(pooled > float("-inf"), 0.0)

    def average(self, pool: nn.Module, inputs: tuple[Tensor], pooled: Tensor) -> Tensor:
        """After an average: over the image's cells of each window, and over the border where the pool counts it."""
        seen = self.padding.seen(self.stride, inputs[0])
        if seen is None:
            return pooled
        share = pool.forward(inputs[0] * seen)
        if isinstance(pool, nn.AvgPool2d) and pool.count_include_pad and pool.padding not in (0, (0, 0)):
            return share
        return share / pool.forward(seen).clamp(min=SMALLEST_SHARE)

    def normalize(self, norm: nn.GroupNorm, inputs: tuple[Tensor], normalized: Tensor) -> Tensor:
        """After a group norm: the same with the statistics of the image's cells."""
        seen = self.padding.seen(self.stride, inputs[0])
        return normalized if seen is None else group_norm(norm, inputs[0], seen)


def group_norm(norm: nn.GroupNorm, x: Float[Tensor, "B C H W"], seen: Float[Tensor, "B 1 H W"]) -> Tensor:
    """Group norm with mean and variance over the cells where ``seen`` is 1; zero before scale and shift elsewhere."""
    axes, groups, seen = (2, 3, 4), x.unflatten(1, (norm.num_groups, -1)), seen[:, :, None]
    count = (seen.sum(axes, keepdim=True) * groups.shape[2]).clamp(min=1)
    centred = (groups - (groups * seen).sum(axes, keepdim=True) / count) * seen
    variance = centred.square().sum(axes, keepdim=True) / count
    scaled = (centred * (variance + norm.eps).rsqrt()).flatten(1, 2)
    if norm.weight is None:
        return scaled
    return scaled * norm.weight[:, None, None] + norm.bias[:, None, None]


def _is_local(positional: Positional, cells: int) -> bool:
    """Whether padding to the right and below leaves the codes of a map of this size as they are."""
    alone = torch.zeros(1, cells, cells, dtype=torch.bool)
    codes = positional(F.pad(alone, (0, cells, 0, cells), value=True))[..., :cells, :cells]
    return bool(torch.allclose(codes, positional(alone), atol=1e-5))
