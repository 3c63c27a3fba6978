"""A small convolutional backbone for toys and tests."""

from __future__ import annotations

from typing import Literal, final

from jaxtyping import Float
from torch import Tensor, nn

from detrkit.backbones import Backbone
from detrkit.errors import ConfigError
from detrkit.fields import Positive

GROUP = 8


@final
class TinyBackbone(Backbone):
    """Residual 3x3 convolutions with group norm: trains from scratch, at any batch size, fast on a CPU.

    Levels at strides 4, 8, ... up to ``stride``; each has twice the channels of the one before.

    Args:
        width: channels of the finest level; a multiple of 8.
        depth: residual blocks a level.
        stride: input pixels per cell of the coarsest level.

    Raises:
        ConfigError: a width that is no multiple of 8.
    """

    def __init__(self, *, width: Positive = 32, depth: Positive = 1, stride: Literal[4, 8, 16, 32] = 8) -> None:
        super().__init__()
        if found := list(self.problems(width)):
            raise ConfigError(f"tiny: {line}" for line in found)
        self.strides = tuple(s for s in (4, 8, 16, 32) if s <= stride)
        self.channels = tuple(width * s // 4 for s in self.strides)
        self.stem = convolution(3, width, stride=2)
        before = (width, *self.channels)
        self.levels = nn.ModuleList(
            nn.Sequential(convolution(c_in, c_out, stride=2), *(Block(c_out) for _ in range(depth)))
            for c_in, c_out in zip(before, self.channels, strict=False)
        )

    @staticmethod
    def problems(width: int) -> list[str]:
        """A line when the norms' groups do not divide the width."""
        return [f"width: got {width}; expected a multiple of {GROUP}"] if width % GROUP else []

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> list[Float[Tensor, "B _ _ _"]]:
        """As the contract says: one map [B, C_l, ceil(H / s_l), ceil(W / s_l)] a level."""
        x = self.stem(images)
        maps = []
        for level in self.levels:
            x = level(x)
            maps.append(x)
        return maps


class Block(nn.Module):
    """Two convolutions beside an identity (Deep Residual Learning, figure 2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            convolution(channels, channels),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.GroupNorm(channels // GROUP, channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H, W]."""
        return (x + self.residual(x)).relu()


def convolution(in_channels: int, out_channels: int, stride: int = 1) -> nn.Sequential:
    """3x3 convolution, group norm, ReLU; gives ceil(size / stride) cells."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False),
        nn.GroupNorm(out_channels // GROUP, out_channels),
        nn.ReLU(),
    )
