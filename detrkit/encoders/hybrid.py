"""Attention on the coarsest level, convolutions between levels."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated, ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from detrkit.convolution import ConvNorm, RepConv
from detrkit.encoders import Encoder
from detrkit.errors import ConfigError
from detrkit.fields import Positive, Range
from detrkit.transformer import Memory

ACTIVATION = "silu"


@final
class HybridEncoder(Encoder):
    """The layers on the coarsest level; then levels fused from coarse to fine, and back (RT-DETR, section 4.2).

    What a convolution reads is zero under the padding. Its batch norms count those cells too, in training.

    Args:
        layers: encoder layers, made as the configuration says.
        d_model: width D.
        level_strides: input pixels per cell of each level, each twice the one before.
        encoder_norm: whether the layers end in a norm.
        scale_positions: see the contract.
        expansion: channels within a fusion block, as a share of D.
        depth: re-parameterised convolutions of a fusion block.
    """

    coarsest_only: ClassVar[bool] = True

    def __init__(
        self,
        layers: nn.ModuleList,
        d_model: Positive,
        level_strides: tuple,
        encoder_norm: bool = False,
        scale_positions: bool = False,
        *,
        expansion: Annotated[float, Range(above=0)] = 1.0,
        depth: Positive = 3,
    ) -> None:
        super().__init__(layers, d_model, encoder_norm, scale_positions)
        if found := list(self.problems(level_strides)):
            raise ConfigError(f"hybrid: {line}" for line in found)
        inner, steps = max(1, int(d_model * expansion)), len(level_strides) - 1

        def fusions() -> nn.ModuleList:
            return nn.ModuleList(Fusion(2 * d_model, inner, d_model, depth) for _ in range(steps))

        self.lateral = nn.ModuleList(ConvNorm(d_model, d_model, activation=ACTIVATION) for _ in range(steps))
        self.top_down = fusions()
        self.downsample = nn.ModuleList(
            ConvNorm(d_model, d_model, 3, stride=2, activation=ACTIVATION) for _ in range(steps)
        )
        self.bottom_up = fusions()
        self.output = nn.ModuleList(ConvNorm(d_model, d_model) for _ in level_strides)

    @staticmethod
    def problems(level_strides: tuple) -> Iterator[str]:
        """Refuse levels that are not each half as fine as the one before."""
        if any(2 * fine != coarse for fine, coarse in pairwise(level_strides)):
            yield f"needs levels of strides that double; got {level_strides}"

    def forward(self, memory: Memory) -> Memory:
        """As the contract."""
        if memory.padding is not None:
            memory = memory._replace(tokens=memory.tokens.masked_fill(memory.padding[..., None], 0))
        *finer, coarsest = memory.levels()
        coarsest = self.in_turn(coarsest)
        maps = [level.map for level in (*finer, coarsest)]
        seen = [level.seen for level in (*finer, coarsest)]
        fused = self.from_fine(self.from_coarse(maps, seen), seen)
        tokens = [project(x).flatten(2).transpose(1, 2) for project, x in zip(self.output, fused, strict=True)]
        return memory._replace(tokens=torch.cat(tokens, dim=1))

    def from_coarse(self, maps: list[Tensor], seen: list[Tensor | None]) -> list[Tensor]:
        """Each level joined with the next coarser one, which is stretched; coarsest first in turn, finest first out."""
        *finer, x = maps
        passed = []
        for step, level in enumerate(reversed(finer)):
            x = self.lateral[step](x)
            passed.append(x)
            stretched = F.interpolate(x, scale_factor=2.0, mode="nearest")[..., : level.shape[-2], : level.shape[-1]]
            x = self.top_down[step](torch.cat([stretched, level], dim=1), seen[-2 - step])
        return [x, *reversed(passed)]

    def from_fine(self, maps: list[Tensor], seen: list[Tensor | None]) -> list[Tensor]:
        """Each level joined with the next finer one, which is shrunk."""
        x, *coarser = maps
        fused = [x]
        for step, level in enumerate(coarser):
            shrunk = self.downsample[step](shown(x, seen[step]))
            x = self.bottom_up[step](torch.cat([shrunk, level], dim=1), seen[step + 1])
            fused.append(x)
        return fused


def shown(x: Float[Tensor, "B C H W"], seen: Float[Tensor, "B 1 H W"] | None) -> Float[Tensor, "B C H W"]:
    """A map, zero under the padding."""
    return x if seen is None else x * seen


class Fusion(nn.Module):
    """Two paths over a pair of maps, one of them through re-parameterised convolutions (RT-DETR, figure 4).

    Args:
        in_channels: channels of both maps together.
        inner: channels within.
        out_channels: channels that it gives.
        depth: re-parameterised convolutions.
    """

    def __init__(self, in_channels: int, inner: int, out_channels: int, depth: int) -> None:
        super().__init__()
        self.first, self.second = (ConvNorm(in_channels, inner, activation=ACTIVATION) for _ in range(2))
        self.blocks = nn.ModuleList(RepConv(inner, ACTIVATION) for _ in range(depth))
        same = inner == out_channels
        self.last = nn.Identity() if same else ConvNorm(inner, out_channels, activation=ACTIVATION)

    def forward(self, x: Float[Tensor, "B C H W"], seen: Float[Tensor, "B 1 H W"] | None) -> Float[Tensor, "B D H W"]:
        """[B, C, H, W] -> [B, D, H, W]."""
        deep = self.first(x)
        for block in self.blocks:
            deep = block(shown(deep, seen))
        return self.last(deep + self.second(x))
