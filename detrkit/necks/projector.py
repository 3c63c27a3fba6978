"""Several maps of one stride, joined at one or more scales."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Literal, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from detrkit.convolution import ChannelNorm, ConvNorm
from detrkit.errors import ConfigError
from detrkit.fields import Positive, Rate
from detrkit.necks import Neck

SCALES = (2.0, 1.0, 0.5)
NORM_EPS, ACTIVATION = 1e-6, "silu"
WIDE = 512  # channels that are halved once more before a map is stretched
NORMS: dict[str, Callable[..., nn.Module]] = {"batch": nn.BatchNorm2d, "layer": ChannelNorm}


@final
class ProjectorNeck(Neck):
    """The backbone's maps of its coarsest stride, side by side, through a C2f block a level (LW-DETR, section 3.1).

    A level that is finer than the maps has just twice their cells: images should be multiples of the maps' stride.

    Args:
        d_model: width D.
        in_channels: channels of each backbone level.
        strides: stride of each backbone level.
        scales: how much finer than the maps each level is: 2.0, 1.0 or 0.5, finest first.
        depth: pairs of 3x3 convolutions in a block.
        norm: of the convolutions: over the batch, or over the channels of each cell (RF-DETR).
        eps: of these norms; None: 1e-5 of those over the batch, 1e-6 of the others, as published.
    """

    def __init__(
        self,
        d_model: Positive,
        in_channels: tuple,
        strides: tuple,
        *,
        scales: tuple[float, ...] = (1.0,),
        depth: Positive = 3,
        norm: Literal["batch", "layer"] = "batch",
        eps: Rate | None = None,
    ) -> None:
        super().__init__()
        if found := list(self.problems(scales)):
            raise ConfigError(f"projector: {line}" for line in found)
        self.taken = strides.count(strides[-1])
        self.strides, self.level_embed = tuple(int(strides[-1] / scale) for scale in scales), None
        if eps is None:
            eps = NORM_EPS if norm == "layer" else 1e-5
        normed = partial(ConvNorm, norm=partial(NORMS[norm], eps=eps))
        taken = in_channels[len(in_channels) - self.taken :]
        self.levels = nn.ModuleList(Level(taken, d_model, scale, depth, normed) for scale in scales)

    @staticmethod
    def problems(scales: tuple[float, ...]) -> Iterator[str]:
        """Refuse scales that there are not, and those that do not descend."""
        if not scales or set(scales) - set(SCALES) or list(scales) != sorted(set(scales), reverse=True):
            yield f"scales: got {scales}; expected some of {SCALES}, in this order"

    def forward(self, maps: Sequence[Float[Tensor, "B _ _ _"]]) -> list[Float[Tensor, "B D _ _"]]:
        """As the contract."""
        return [level(maps[len(maps) - self.taken :]) for level in self.levels]


class Level(nn.Module):
    """Maps stretched or shrunk, side by side, through a block, and normed over the channels of each cell.

    Args:
        in_channels: channels of each map.
        d_model: width D.
        scale: how much finer than the maps the level is.
        depth: pairs of 3x3 convolutions in the block.
        normed: makes a convolution with its norm.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        d_model: int,
        scale: float,
        depth: int,
        normed: Callable[..., ConvNorm],
    ) -> None:
        super().__init__()
        self.samplings = nn.ModuleList(sampling(channels, scale, normed) for channels in in_channels)
        given = [channels if scale <= 1 else channels // (4 if channels > WIDE else 2) for channels in in_channels]
        self.block, self.norm = C2f(sum(given), d_model, depth, normed), ChannelNorm(d_model, eps=NORM_EPS)

    def forward(self, maps: Sequence[Float[Tensor, "B _ H W"]]) -> Float[Tensor, "B D _ _"]:
        """[B, C, H, W] of each map -> [B, D, H, W], or half or twice that."""
        sampled = [sample(x) for sample, x in zip(self.samplings, maps, strict=True)]
        return self.norm(self.block(torch.cat(sampled, dim=1)))


def sampling(channels: int, scale: float, normed: Callable[..., ConvNorm]) -> nn.Module:
    """A map made finer or coarser."""
    if scale == 1:
        return nn.Identity()
    if scale < 1:
        return normed(channels, channels, 3, stride=2, activation="relu")
    if channels <= WIDE:
        return nn.ConvTranspose2d(channels, channels // 2, 2, stride=2)
    half = channels // 2
    return nn.Sequential(normed(channels, half, activation="relu"), nn.ConvTranspose2d(half, half // 2, 2, stride=2))


class C2f(nn.Module):
    """Half of the channels through convolutions, all that stand between kept (Jocher et al. 2023, YOLOv8).

    Args:
        in_channels: channels that it reads.
        out_channels: channels that it gives.
        depth: pairs of 3x3 convolutions.
        normed: makes a convolution with its norm.
    """

    def __init__(self, in_channels: int, out_channels: int, depth: int, normed: Callable[..., ConvNorm]) -> None:
        super().__init__()
        inner = out_channels // 2
        self.first = normed(in_channels, 2 * inner, activation=ACTIVATION)
        self.blocks = nn.ModuleList(
            nn.Sequential(*(normed(inner, inner, 3, activation=ACTIVATION) for _ in range(2))) for _ in range(depth)
        )
        self.last = normed((2 + depth) * inner, out_channels, activation=ACTIVATION)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D H W"]:
        """[B, C, H, W] -> [B, D, H, W]."""
        parts = list(self.first(x).chunk(2, dim=1))
        for block in self.blocks:
            parts.append(block(parts[-1]))
        return self.last(torch.cat(parts, dim=1))
