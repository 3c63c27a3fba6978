"""ResNets of the variant d."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Literal, final

from jaxtyping import Float
from torch import Tensor, nn

from detrkit.backbones._trunk import Norm, Trunk
from detrkit.convolution import ConvNorm
from detrkit.fields import NonNegative

STAGES = {"r18": (2, 2, 2, 2), "r34": (3, 4, 6, 3), "r50": (3, 4, 6, 3), "r101": (3, 4, 23, 3)}
STEM, WIDTHS, EXPANSION = 64, (64, 128, 256, 512), 4
BOTTLENECKS = ("r50", "r101")


@final
class ResnetVdBackbone(Trunk):
    """A ResNet-D: three convolutions as stem, shortcuts that average before they project (He et al. 2019, figure 2).

    As the trunk of RT-DETR, whose r18 and r34 project in the first shortcut too. Levels at strides 4, 8, 16 and 32.

    Args:
        model: r18, r34, r50 or r101.
        weights: a file of weights in the names of `body`; None: random ones.
        norm: ``frozen`` norms keep statistics and scale, as in RT-DETR's r50 and r101, ``batch`` norms learn them.
        trainable_levels: so many of the last levels are trained; None: all.
    """

    def __init__(
        self,
        *,
        model: Literal["r18", "r34", "r50", "r101"] = "r50",
        weights: str | Path | None = None,
        norm: Norm = "frozen",
        trainable_levels: NonNegative | None = None,
    ) -> None:
        super().__init__()
        self.body = ResNetVd(STAGES[model], bottlenecks=model in BOTTLENECKS)
        names = {key: key for key in self.body.state_dict()}
        self.settle(
            f"resnet_vd: model {model!r}",
            norm=norm,
            trainable_levels=trainable_levels,
            weights=None if weights is None else Path(weights).expanduser(),
            names=names,
            known=(),
        )

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> list[Float[Tensor, "B _ _ _"]]:
        """As the contract says: one map [B, C_l, ceil(H / s_l), ceil(W / s_l)] a level."""
        return self.body(images)


class ResNetVd(nn.Module):
    """The network without its classifier.

    Args:
        stages: blocks of each stage.
        bottlenecks: whether blocks are bottlenecks of three convolutions.
    """

    def __init__(self, stages: Sequence[int], *, bottlenecks: bool) -> None:
        super().__init__()
        half = STEM // 2
        self.stem = nn.Sequential(
            ConvNorm(3, half, 3, stride=2, activation="relu"),
            ConvNorm(half, half, 3, activation="relu"),
            ConvNorm(half, STEM, 3, activation="relu"),
        )
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        channels = [STEM, *(width * (EXPANSION if bottlenecks else 1) for width in WIDTHS)]
        self.stages = nn.ModuleList(
            nn.Sequential(
                *(
                    Block(c_out if block else c_in, c_out, 1 if block or not stage else 2, block == 0, bottlenecks)
                    for block in range(number)
                )
            )
            for stage, (number, (c_in, c_out)) in enumerate(zip(stages, pairwise(channels), strict=True))
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> list[Float[Tensor, "B _ _ _"]]:
        """Maps after each stage, finest first."""
        x, maps = self.pool(self.stem(images)), []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


class Block(nn.Module):
    """Convolutions beside a shortcut, which averages where the block divides the size.

    Args:
        in_channels: channels that it reads.
        out_channels: channels that it gives.
        stride: 1 or 2.
        projects: whether the shortcut projects; else it passes on what it reads.
        bottleneck: whether a 3x3 convolution stands between two 1x1, with a quarter of the channels; else two 3x3.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, projects: bool, bottleneck: bool) -> None:
        super().__init__()
        inner = out_channels // EXPANSION if bottleneck else out_channels
        self.branch = nn.Sequential(
            *([ConvNorm(in_channels, inner, activation="relu")] if bottleneck else []),
            ConvNorm(inner if bottleneck else in_channels, inner, 3, stride, "relu"),
            ConvNorm(inner, out_channels, 1 if bottleneck else 3),
        )
        average = nn.AvgPool2d(2, ceil_mode=True) if stride == 2 else nn.Identity()
        self.shortcut = nn.Sequential(average, ConvNorm(in_channels, out_channels)) if projects else nn.Identity()
        self.activation = nn.ReLU()

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D _ _"]:
        """[B, C, H, W] -> [B, D, ceil(H / stride), ceil(W / stride)]."""
        return self.activation(self.branch(x) + self.shortcut(x))
