"""A few points around each reference."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from detrkit.attention import uneven_heads
from detrkit.errors import ConfigError
from detrkit.fields import Positive, Range
from detrkit.fitting import LEVELS, REFERENCES
from detrkit.looks import PointLook
from detrkit.reading import Reading, visible
from detrkit.registry import REGISTRY
from detrkit.transformer import Memory, Queries, needed, with_position


@final
class DeformableReading(Reading):
    """Multi-scale deformable attention (Deformable DETR, section 4.1).

    Each head reads some points a level: around a reference point, offset by cells of the level; around a reference
    box, by fractions of half its sides.

    Args:
        d_model: width D.
        num_levels: number of levels of the memory.
        heads: number of heads; divides D.
        points: points a head and level; several numbers are those of each level (RT-DETRv2).
        offset_scale: sides of the box that an offset of one takes a point, shared among the points of its level.
        method: ``bilinear`` reads between cells, ``discrete`` the cell that RT-DETRv2 rounds a point to, half a cell
            right and below of its own; its offsets are not trained, as in the official code.
        sampler: spec of the role `samplers`.
    """

    needs: ClassVar[frozenset[str]] = frozenset({REFERENCES, LEVELS})
    starts_otherwise: ClassVar[bool] = True

    def __init__(
        self,
        d_model: Positive,
        num_levels: Positive,
        *,
        heads: Positive = 8,
        points: Positive | tuple[Positive, ...] = 4,
        offset_scale: Annotated[float, Range(above=0)] = 0.5,
        method: Literal["bilinear", "discrete"] = "bilinear",
        sampler: str = "grid_sample",
    ) -> None:
        super().__init__()
        if found := list(self.problems(d_model, num_levels, heads, points, sampler)):
            raise ConfigError(f"deformable: {line}" for line in found)
        self.heads, self.points = heads, points if isinstance(points, tuple) else (points,) * num_levels
        self.offset_scale, self.discrete = offset_scale, method == "discrete"
        self.sampler = REGISTRY.make("samplers", sampler)
        self.sampling_offsets = nn.Linear(d_model, heads * sum(self.points) * 2).requires_grad_(not self.discrete)
        self.attention_weights = nn.Linear(d_model, heads * sum(self.points))
        self.value_proj, self.output_proj = nn.Linear(d_model, d_model), nn.Linear(d_model, d_model)
        self.reset_parameters()

    @staticmethod
    def problems(
        d_model: int, num_levels: int, heads: int, points: int | tuple[int, ...], sampler: str
    ) -> Iterator[str]:
        """Refuse heads that do not divide the width, points of other levels, and what is wrong with the sampler."""
        yield from uneven_heads(d_model, heads)
        if isinstance(points, tuple) and len(points) != num_levels:
            yield f"points: got {points}; expected a number a level, of {num_levels} levels"
        yield from REGISTRY.problems("samplers", sampler, {}, "sampler")

    def reset_parameters(self) -> None:
        """As the official code: head h looks in direction 2 pi h / H, point p at p cells; all weights alike."""
        for zeroed in (self.sampling_offsets.weight, self.attention_weights.weight, self.attention_weights.bias):
            nn.init.zeros_(zeroed)
        angles = torch.arange(self.heads) * (2 * math.pi / self.heads)
        directions = torch.stack([angles.cos(), angles.sin()], dim=-1)
        directions = directions / directions.abs().amax(-1, keepdim=True)
        steps = torch.cat([torch.arange(1, points + 1) for points in self.points])
        with torch.no_grad():
            self.sampling_offsets.bias.copy_((directions[:, None] * steps[:, None]).reshape(-1))
        for linear in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, queries: Queries, memory: Memory) -> Float[Tensor, "B Q D"]:
        """As the contract; needs references."""
        value = self.value_proj(visible(memory))
        if memory.padding is not None:
            value = value.masked_fill(memory.padding[..., None], 0)
        read = self.sampler.sample(value.unflatten(-1, (self.heads, -1)), memory.shapes, *self.look(queries, memory))
        return self.output_proj(read)

    def look(self, queries: Queries, memory: Memory) -> PointLook:
        """As the contract; needs references."""
        query = with_position(queries.content, queries.positions)
        weights = self.attention_weights(query).unflatten(-1, (self.heads, -1)).softmax(-1)
        points = self.points_of(query, needed(queries.references, REFERENCES, self), memory)
        return PointLook(points, self.by_level(weights))

    def by_level(self, x: Float[Tensor, "B Q H K *C"]) -> Float[Tensor, "B Q H L P *C"]:
        """What each point has, level after level, as a table; zeros where a level has fewer points than others."""
        if len(set(self.points)) == 1:
            return x.unflatten(3, (len(self.points), -1))
        most, rest = max(self.points), [0] * 2 * (x.ndim - 4)
        parts = zip(x.split(self.points, dim=3), self.points, strict=True)
        return torch.stack([F.pad(part, (*rest, 0, most - points)) for part, points in parts], dim=3)

    def points_of(
        self, query: Float[Tensor, "B Q D"], references: Float[Tensor, "B Q P"], memory: Memory
    ) -> Float[Tensor, "B Q H L P 2"]:
        """Where each query looks, (x, y) as fractions of each level's map, padding included."""
        offsets = self.by_level(self.sampling_offsets(query).unflatten(-1, (self.heads, -1, 2)))
        around = references[:, :, None]  # [B, Q, L, 2 or 4]
        if memory.valid is not None:
            around = around * memory.valid[:, None].repeat(1, 1, 1, references.shape[-1] // 2)
        around = around[:, :, None, :, None]
        sizes = [(width, height) for height, width in memory.shapes]
        cells = torch.tensor(sizes, dtype=offsets.dtype, device=offsets.device)[:, None]  # new_tensor fixes what varies
        if references.shape[-1] == 4:
            share = self.offset_scale / offsets.new_tensor(self.points)[:, None, None]
            points = around[..., :2] + offsets * share * around[..., 2:]
        else:
            points = around + offsets / cells
        return rounded(points, cells) if self.discrete else points


def rounded(points: Float[Tensor, "*B 2"], cells: Float[Tensor, "L 1 2"]) -> Float[Tensor, "*B 2"]:
    """Centres of the cells that RT-DETRv2 reads for points, (x, y) in fractions of maps of so many cells."""
    cell = (points * cells + 0.5).trunc().clamp(min=0).minimum(cells - 1)
    return (cell + 0.5) / cells
