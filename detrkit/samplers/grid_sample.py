"""By torch's own bilinear sampling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from detrkit.samplers import Sampler


@final
class GridSampleSampler(Sampler):
    """One ``grid_sample`` a level, heads as images (the formulation of Deformable DETR's code without its kernel)."""

    def sample(
        self,
        value: Float[Tensor, "B N H d"],
        shapes: Sequence[tuple[int, int]],
        points: Float[Tensor, "B Q H L P 2"],
        weights: Float[Tensor, "B Q H L P"],
    ) -> Float[Tensor, "B Q D"]:
        """As the contract."""
        batch, _, heads = points.shape[:3]
        maps = value.permute(0, 2, 3, 1).flatten(0, 1)  # [B H, d, N]
        grid = (2 * points - 1).transpose(1, 2).flatten(0, 1)  # [B H, Q, L, P, 2]
        read = []
        for level, (part, shape) in enumerate(zip(maps.split([h * w for h, w in shapes], dim=2), shapes, strict=True)):
            read.append(F.grid_sample(part.unflatten(2, shape), grid[:, :, level], align_corners=False))
        found = torch.stack(read, dim=-2)  # [B H, d, Q, L, P]
        shares = weights.transpose(1, 2).flatten(0, 1)[:, None]
        return (found * shares).sum((-2, -1)).unflatten(0, (batch, heads)).flatten(1, 2).transpose(1, 2)
