"""The laws of the role `necks`."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from detrkit.necks import Neck
from detrkit.testing.law import Draw, Make, concern, law
from detrkit.testing.memory import check_gradients, mixture
from detrkit.testing.tensors import check_close, draw_normal

WIDTH, CHANNELS, STRIDES = 64, (4, 6, 8, 10), (4, 8, 16, 32)


@law("necks")
def maps_are_as_declared(make: Make, draw: Draw) -> None:
    """Gives a map [B, D, ceil(H / s), ceil(W / s)] for each of its strides, which ascend."""
    neck = make_neck(make)
    assert list(neck.strides) == sorted(set(neck.strides)), f"strides {neck.strides} do not ascend"
    images, height, width = draw(1, 2), draw(1, 200), draw(1, 200)
    found = [tuple(level.shape) for level in neck(maps_of(draw, images, height, width))]
    expected = [(images, WIDTH, -(-height // stride), -(-width // stride)) for stride in neck.strides]
    assert found == expected, f"images of {height}x{width} give maps {found} instead of {expected}"


@law("necks")
def levels_can_be_told_apart(make: Make, draw: Draw) -> None:
    """Levels have no embeddings, or one each, no two alike."""
    neck = make_neck(make)
    concern(neck.level_embed is not None, "levels have no embeddings")
    embeddings = cast(Tensor, neck.level_embed).detach()
    assert embeddings.shape == (len(neck.strides), WIDTH), f"embeddings have shape {tuple(embeddings.shape)}"
    assert (torch.nn.functional.pdist(embeddings) > 0).all(), "two levels have one embedding"


@law("necks")
def images_do_not_influence_each_other(make: Make, draw: Draw) -> None:
    """Images give the same maps in a batch as one by one; in training too, unless norms are taken over the batch."""
    neck, maps = make_neck(make), draw_maps(draw)
    neck.train(not any(isinstance(module, _BatchNorm) for module in neck.modules()))
    alone = [neck([level[i : i + 1] for level in maps]) for i in range(len(maps[0]))]
    check_close([torch.cat(level) for level in zip(*alone, strict=True)], neck(maps), "image by image")


@law("necks")
def every_parameter_gets_a_finite_gradient(make: Make, draw: Draw) -> None:
    """A loss of the maps reaches every parameter but the levels' embeddings."""
    neck = make_neck(make)
    mixture(draw, *neck(draw_maps(draw))).backward()
    check_gradients(neck, left_out=("level_embed",))


@law("necks")
def state_dict_carries_everything(make: Make, draw: Draw) -> None:
    """Another instance that has loaded the state dict gives the same, to the bit."""
    neck, twin, maps = make_neck(make), make_neck(make), draw_maps(draw)
    twin.load_state_dict(neck.state_dict())
    check_close(twin(maps), neck(maps), "in a copy by state dict", rtol=0)


def make_neck(make: Make) -> Neck:
    """A neck in float64 over four levels, in evaluation."""
    return make(d_model=WIDTH, in_channels=CHANNELS, strides=STRIDES).double().eval()


def maps_of(draw: Draw, images: int, height: int, width: int) -> list[Tensor]:
    """What a backbone gives for images of a size."""
    return [
        draw_normal(draw, images, channels, -(-height // stride), -(-width // stride))
        for channels, stride in zip(CHANNELS, STRIDES, strict=True)
    ]


def draw_maps(draw: Draw) -> list[Tensor]:
    """Maps of a few small images."""
    return maps_of(draw, draw(1, 3), draw(33, 130), draw(33, 130))
