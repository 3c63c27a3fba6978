"""DINOv2 in windows."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Self, final

import torch
from torch import nn

from detrkit.backbones._vit import PlainTransformer
from detrkit.errors import ConfigError
from detrkit.fields import Positive


@final
class Dinov2Backbone(PlainTransformer):
    """DINOv2 (Oquab et al. 2023), its blocks but those after maps in windows (RF-DETR, section 3).

    Sides of images that are no multiples of ``patch * windows`` (56) are padded with zeros, right and below, within.
    Blocks behind the last map stay, so that published weights load; they do not run and are not trained.

    Args:
        width: channels.
        depth: number of blocks.
        heads: number of heads; divides the width.
        patch: pixels of a patch, a side.
        grid: cells of the table of positions, a side; it is stretched to the cells of the image.
        windows: number of windows, a side, whatever the size of the image.
        taken: after how many blocks a map is taken, ascending. The block after each sees the whole image.
        swapped: as published, cut maps that are no squares as if height and width were each other's, though they are
            put together rightly: their cells change places. For squares, nothing.
        weights: file with weights, in the names of facebookresearch or timm; None: random.

    Raises:
        ConfigError: numbers that do not fit.
        CheckpointError: the weights cannot be read, or do not fit.
    """

    key_bias: ClassVar[bool] = True
    class_token: ClassVar[bool] = True
    antialias: ClassVar[bool] = True
    scale: ClassVar[float] = 1.0
    names_in_files: ClassVar[dict[str, str]] = {"patch_embed": "patch_embed.proj", "mlp.linear": "mlp.fc"}

    def __init__(
        self,
        *,
        width: Positive = 384,
        depth: Positive = 12,
        heads: Positive = 6,
        patch: Positive = 14,
        grid: Positive = 37,
        windows: Positive = 4,
        taken: tuple[int, ...] = (2, 5, 8, 11),
        swapped: bool = False,
        weights: str | Path | None = None,
    ) -> None:
        if found := list(self.problems(width, depth, heads, taken)):
            raise ConfigError(f"dinov2: {line}" for line in found)
        windowed = [number for number in range(depth) if number not in taken]
        super().__init__(width, depth, heads, patch, grid, windows, windowed, taken, swapped)
        # stands for hidden patches in pretraining; published weights have it
        self.mask_token = nn.Parameter(torch.zeros(1, width), requires_grad=False)
        self.fill(weights)

    def folded(self) -> Self:
        """As the template, without what stands for hidden patches."""
        del self.mask_token
        return super().folded()
