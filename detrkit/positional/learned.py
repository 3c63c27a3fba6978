"""Learned codes of rows and columns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import final

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from detrkit.errors import ConfigError, ShapeError
from detrkit.fields import Positive
from detrkit.positional import Positional, check_map


@final
class LearnedPositional(Positional):
    """A learned code for each column and each row, side by side (DETR, appendix A.4 and table 3).

    Args:
        d_model: number of channels D, even; the first half tells the column, the second the row.
        size: number of rows and of columns in the table.
        interpolate: stretch the table linearly over a map that is larger than it; otherwise such a map is refused.
    """

    def __init__(self, d_model: Positive, *, size: Positive = 50, interpolate: bool = False) -> None:
        super().__init__()
        if found := list(self.problems(d_model)):
            raise ConfigError(f"{type(self).__name__}: {line}" for line in found)
        self.size, self.interpolate = size, interpolate
        self.max_size = None if interpolate else size
        self.row_embed = nn.Embedding(size, d_model // 2)
        self.col_embed = nn.Embedding(size, d_model // 2)
        for table in (self.row_embed, self.col_embed):
            nn.init.uniform_(table.weight)

    @staticmethod
    def problems(d_model: int) -> Iterator[str]:
        """Refuse a width that two axes cannot share."""
        if d_model % 2:
            yield f"d_model={d_model} is not divisible by 2 (row and column)"

    def forward(self, mask: Bool[Tensor, "B H W"]) -> Float[Tensor, "B D H W"]:
        """As the contract; the same for every image of the batch."""
        check_map(mask)
        batch, height, width = mask.shape
        columns = self._codes(self.col_embed, width, "width")
        rows = self._codes(self.row_embed, height, "height")
        grid = torch.cat([columns.expand(height, -1, -1), rows[:, None].expand(-1, width, -1)], dim=-1)
        return grid.permute(2, 0, 1).expand(batch, -1, -1, -1)

    def _codes(self, table: nn.Embedding, cells: int, side: str) -> Tensor:
        if self.interpolate:
            return self._stretched(table.weight, cells)
        if cells > self.size:
            raise ShapeError(
                f"feature map is larger than the learned table along its {side}",
                field="positional=learned",
                value=cells,
                expected=f"at most {self.size} cells",
                hint=(f"use learned(size={cells}) or learned(interpolate=True), or smaller images"),
            )
        return table.weight[:cells]

    def _stretched(self, table: Tensor, cells: int) -> Tensor:
        """[size, D/2] -> [cells, D/2]; no branch on the number of cells, so that one exported program takes any."""
        cell = torch.arange(cells, device=table.device, dtype=torch.promote_types(table.dtype, torch.float32))
        row = cell * ((self.size - 1) / cell[-1:].clamp(min=1)).clamp(max=1)
        before = row.floor().long()
        after = (before + 1).clamp(max=self.size - 1)
        return torch.lerp(table[before], table[after], (row - before)[:, None].to(table.dtype))
