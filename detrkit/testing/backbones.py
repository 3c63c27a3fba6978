"""The laws of the role `backbones`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from detrkit.backbones import Backbone
from detrkit.errors import ConfigError
from detrkit.folding import WITH_FIXED_STATISTICS, folded
from detrkit.testing.law import Draw, Make, NotConcerned, law

SMALLEST, LARGEST = 33, 110


@law("backbones")
def maps_are_as_declared(make: Make, draw: Draw) -> None:
    """Gives one map a level with the declared channels and ceil(size / stride) cells; strides ascend."""
    backbone = make().eval()
    assert len(backbone.channels) == len(backbone.strides) > 0, "channels and strides must have an entry a level"
    assert list(backbone.strides) == sorted(backbone.strides), f"strides {backbone.strides} do not ascend"
    for _ in range(4):
        images = draw_images(draw)
        maps = look(backbone, images)
        expected = [
            (len(images), channels, *(-(-size // stride) for size in images.shape[-2:]))
            for channels, stride in zip(backbone.channels, backbone.strides, strict=True)
        ]
        got = [tuple(level.shape) for level in maps]
        assert got == expected, f"images {tuple(images.shape)} give maps {got} instead of {expected}"
        assert all(level.isfinite().all() for level in maps), "a map is not finite"


@law("backbones")
def dtype_follows_the_images(make: Make, draw: Draw) -> None:
    """Gives maps in the dtype of model and images, float32 and float64 alike and nearly equal."""
    backbone, images = make().eval(), draw_images(draw)
    single = look(backbone, images)
    double = look(backbone.double(), images.double())
    assert {level.dtype for level in single} == {torch.float32}, "float32 images give maps of another dtype"
    assert {level.dtype for level in double} == {torch.float64}, "float64 images give maps of another dtype"
    check_close(single, double, 1e-3, "in float32 and float64")


@law("backbones")
def evaluation_repeats_itself(make: Make, draw: Draw) -> None:
    """Gives the same maps twice in evaluation."""
    backbone, images = make().eval(), draw_images(draw)
    assert all(map(torch.equal, look(backbone, images), look(backbone, images))), "two evaluations differ"


@law("backbones")
def images_do_not_influence_each_other(make: Make, draw: Draw) -> None:
    """Gives an image in a batch what it gives the image alone (evaluation)."""
    backbone, images = make().eval().double(), draw_images(draw, batch=draw(2, 3)).double()
    together = look(backbone, images)
    alone = [look(backbone, image[None]) for image in images]
    check_close(together, [torch.cat(level) for level in zip(*alone, strict=True)], 1e-9, "together and alone")


@law("backbones")
def gradient_reaches_what_is_trained(make: Make, draw: Draw) -> None:
    """Gives every parameter that is to be trained a finite gradient, and no other one."""
    backbone = make().train()
    maps = backbone(draw_images(draw, batch=2))
    if any(level.requires_grad for level in maps):
        torch.stack([level.square().mean() for level in maps]).sum().backward()
    for name, parameter in backbone.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, f"{name}: trained and reached differ"
        assert parameter.grad is None or parameter.grad.isfinite().all(), f"{name}: the gradient is not finite"


@law("backbones")
def state_dict_carries_everything(make: Make, draw: Draw) -> None:
    """Gives the same maps from another instance that has loaded its state dict."""
    backbone, twin, images = make().eval(), make().eval(), draw_images(draw)
    twin.load_state_dict(backbone.state_dict())
    assert all(map(torch.equal, look(backbone, images), look(twin, images))), "the state dict leaves something out"


@law("backbones")
@torch.no_grad()
def folding_changes_nothing(make: Make, draw: Draw) -> None:
    """Gives the same maps from a copy whose norms are folded, where it lets them be (evaluation)."""
    backbone, images = make().eval().double(), draw_images(draw).double()
    norms: list[Any] = [norm for norm in backbone.modules() if isinstance(norm, WITH_FIXED_STATISTICS)]
    for norm in (norm for norm in norms if norm.running_mean is not None):
        norm.running_mean.normal_(std=0.2)
        norm.running_var.uniform_(0.5, 1.5)
    try:
        copy = folded(backbone)
    except ConfigError as refusal:
        raise NotConcerned(str(refusal)) from None
    maps = look(backbone, images)
    check_close(look(copy, images), maps, 1e-10, "folded and not")
    check_close(look(copy.float(), images.float()), maps, 1e-4, "folded and not, in float32")


def draw_images(draw: Draw, batch: int = 1) -> Tensor:
    """Normal noise [batch, 3, H, W], odd and even sizes."""
    generator = torch.Generator().manual_seed(draw(0, 2**31 - 1))
    return torch.randn(batch, 3, draw(SMALLEST, LARGEST), draw(SMALLEST, LARGEST), generator=generator)


def look(backbone: Backbone, images: Tensor) -> list[Tensor]:
    """The maps, without gradients."""
    with torch.no_grad():
        return backbone(images)


def check_close(first: list[Tensor], second: list[Tensor], tolerance: float, when: str) -> None:
    """Require maps that differ by at most ``tolerance`` times their largest entry."""
    for level, (a, b) in enumerate(zip(first, second, strict=True)):
        difference, largest = (a - b).abs().max().item(), b.abs().max().item()
        assert difference <= tolerance * largest + 1e-12, f"level {level} differs {when} by {difference:.3g}"
