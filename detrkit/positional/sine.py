"""Fixed sine codes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from detrkit.errors import ConfigError
from detrkit.fields import Positive, Range
from detrkit.positional import Positional, check_map


@final
class SinePositional(Positional):
    """Fixed sine and cosine codes of row and column (DETR, appendix A.4; Parmar et al. 2018, Image Transformer).

    The first half of the channels tells the row, the second the column; within a half, sine and cosine alternate over
    frequencies ``temperature ** (-2i / (D/2))``. Cells are counted from 1 over what is not padding. RT-DETR's code is
    ``sine(normalize=False, offset=-1.0, interleave=False)``.

    Args:
        d_model: number of channels D, divisible by 4.
        temperature: ratio of the longest to the shortest wavelength.
        normalize: count cells as a fraction of the unpadded image times `scale`, not in cells.
        scale: angle of the last cell when normalised, in radians.
        offset: added to the cell number before normalising (Deformable DETR uses -0.5, the centre of the cell).
        interleave: sine and cosine alternate; otherwise all sines of a half stand before its cosines.
    """

    def __init__(
        self,
        d_model: Positive,
        *,
        temperature: Annotated[float, Range(above=0)] = 10000.0,
        normalize: bool = True,
        scale: Annotated[float, Range(above=0)] = 2 * math.pi,
        offset: float = 0.0,
        interleave: bool = True,
    ) -> None:
        super().__init__()
        if found := list(self.problems(d_model)):
            raise ConfigError(f"{type(self).__name__}: {line}" for line in found)
        self.d_model, self.temperature, self.offset = d_model, temperature, offset
        self.normalize, self.scale, self.interleave = normalize, scale, interleave
        # knows the module's dtype and device, so that .double() gives codes that are exact in float64
        self.like: Tensor
        self.register_buffer("like", torch.empty(0), persistent=False)

    @staticmethod
    def problems(d_model: int) -> Iterator[str]:
        """Refuse a width that sine and cosine of two axes cannot share."""
        if d_model % 4:
            yield f"d_model={d_model} is not divisible by 4 (sine and cosine of row and column)"

    def forward(self, mask: Bool[Tensor, "B H W"]) -> Float[Tensor, "B D H W"]:
        """As the contract; computed in float32 at least."""
        check_map(mask)
        dtype = torch.promote_types(self.like.dtype, torch.float32)
        rows, columns = (self._counted(mask, axis, dtype) for axis in (1, 2))
        codes = torch.cat([self._waves(rows), self._waves(columns)], dim=-1)
        return codes.permute(0, 3, 1, 2).to(self.like.dtype)

    def _counted(self, mask: Tensor, axis: int, dtype: torch.dtype) -> Tensor:
        """Number of each cell along the axis, in cells or in radians."""
        count = (~mask).cumsum(axis, dtype=dtype)
        if not self.normalize:
            return count + self.offset
        last = count.narrow(axis, count.shape[axis] - 1, 1)
        return (count + self.offset) / (last + 1e-6) * self.scale

    def _waves(self, position: Tensor) -> Tensor:
        """[B, H, W] -> [B, H, W, D/2]: sine and cosine by turns, or one after the other."""
        half = self.d_model // 2
        exponent = torch.arange(0, half, 2, dtype=position.dtype, device=position.device) / half
        angle = position[..., None] / self.temperature**exponent
        return torch.stack([angle.sin(), angle.cos()], dim=-1 if self.interleave else -2).flatten(-2)
