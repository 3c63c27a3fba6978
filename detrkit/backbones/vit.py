"""A plain vision transformer."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, final

from detrkit.backbones._vit import PlainTransformer
from detrkit.errors import ConfigError
from detrkit.fields import Positive


@final
class VitBackbone(PlainTransformer):
    """A vision transformer with windows in some blocks, maps after several (LW-DETR, section 3.1).

    Sides of images that are no multiples of ``patch * windows`` (64) are padded with zeros, right and below, within.

    Args:
        width: channels.
        depth: number of blocks.
        heads: number of heads; divides the width.
        patch: pixels of a patch, a side.
        grid: cells of the table of positions, a side; it is stretched to the cells of the image.
        windows: number of windows, a side, whatever the size of the image.
        windowed: blocks, counted from 0, that see their window only; the others see the whole image.
        taken: after how many blocks a map is taken, ascending.
        weights: file with weights, in the official names; None: random.

    Raises:
        ConfigError: numbers that do not fit.
        CheckpointError: the weights cannot be read, or do not fit.
    """

    key_bias: ClassVar[bool] = False
    class_token: ClassVar[bool] = False
    antialias: ClassVar[bool] = False
    scale: ClassVar[float] = 0.1
    names_in_files: ClassVar[dict[str, str]] = {
        "patch_embed": "patch_embed.proj",
        "mlp.linear": "mlp.fc",
        "ls1.gamma": "gamma_1",
        "ls2.gamma": "gamma_2",
    }

    def __init__(
        self,
        *,
        width: Positive = 192,
        depth: Positive = 10,
        heads: Positive = 12,
        patch: Positive = 16,
        grid: Positive = 14,
        windows: Positive = 4,
        windowed: tuple[int, ...] = (0, 1, 3, 6, 7, 9),
        taken: tuple[int, ...] = (3, 5, 6, 10),
        weights: str | Path | None = None,
    ) -> None:
        if found := list(self.problems(width, depth, heads, taken, windowed)):
            raise ConfigError(f"vit: {line}" for line in found)
        super().__init__(width, depth, heads, patch, grid, windows, windowed, taken)
        self.fill(weights)
