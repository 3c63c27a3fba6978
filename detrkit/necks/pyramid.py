"""Several levels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from detrkit.convolution import ConvNorm
from detrkit.errors import ConfigError
from detrkit.fields import Positive
from detrkit.necks import Neck

GROUPS = 32
Norm = Literal["group", "batch"]


@final
class PyramidNeck(Neck):
    """The coarsest maps, each projected and normalised, and coarser ones made from the last (Deformable DETR, A.2).

    The first extra level is a strided convolution of the backbone's last map, the next of the level before.

    Args:
        d_model: width D; with group norms a multiple of 32, their groups.
        in_channels: channels of each backbone level.
        strides: stride of each backbone level.
        levels: number of levels.
        extra: how many of them are made beyond the backbone's.
        norm: over groups of channels, or over the batch (RT-DETR).
        level_embed: whether the positions of each level have an embedding added, so that levels can be told apart.
    """

    def __init__(
        self,
        d_model: Positive,
        in_channels: tuple,
        strides: tuple,
        *,
        levels: Positive = 4,
        extra: int = 1,
        norm: Norm = "group",
        level_embed: bool = True,
    ) -> None:
        super().__init__()
        if found := list(self.problems(d_model, in_channels, levels, extra, norm)):
            raise ConfigError(f"pyramid: {line}" for line in found)
        self.taken = levels - extra
        channels = list(in_channels[len(in_channels) - self.taken :])
        self.strides = (*strides[len(strides) - self.taken :], *(strides[-1] * 2**i for i in range(1, extra + 1)))
        made = [(in_channels[-1] if i == 0 else d_model) for i in range(extra)]
        self.projections = nn.ModuleList(
            [PROJECTIONS[norm](c, d_model, 1, 1) for c in channels]
            + [PROJECTIONS[norm](c, d_model, 3, 2) for c in made]
        )
        self.level_embed = nn.Parameter(torch.empty(levels, d_model).normal_()) if level_embed else None

    @staticmethod
    def problems(d_model: int, in_channels: tuple, levels: int, extra: int, norm: str) -> Iterator[str]:
        """Refuse widths that the groups do not divide, and more levels than there are."""
        if norm == "group" and d_model % GROUPS:
            yield f"d_model={d_model} is not divisible by {GROUPS}, the groups of the norms"
        if not 0 <= extra < levels:
            yield f"extra: got {extra}; expected 0 to levels - 1 = {levels - 1}"
        elif levels - extra > len(in_channels):
            yield f"levels={levels}, extra={extra}: needs {levels - extra} of the backbone's {len(in_channels)} levels"

    def forward(self, maps: Sequence[Float[Tensor, "B _ _ _"]]) -> list[Float[Tensor, "B D _ _"]]:
        """As the contract."""
        taken = list(maps[len(maps) - self.taken :])
        levels = [project(x) for project, x in zip(self.projections, taken, strict=False)]
        source = maps[-1]
        for project in self.projections[self.taken :]:
            source = project(source)
            levels.append(source)
        return levels


def _in_groups(in_channels: int, d_model: int, kernel_size: int, stride: int) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, d_model, kernel_size, stride, padding=kernel_size // 2)
    nn.init.xavier_uniform_(conv.weight)
    nn.init.zeros_(conv.get_parameter("bias"))
    return nn.Sequential(conv, nn.GroupNorm(GROUPS, d_model))


PROJECTIONS: dict[str, Callable[[int, int, int, int], nn.Module]] = {"group": _in_groups, "batch": ConvNorm}
