"""A few points around each reference."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from detrkit.attention import uneven_heads
from detrkit.errors import ConfigError
from detrkit.fields import Positive
from detrkit.fitting import LEVELS, REFERENCES
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
        points: points a head and level.
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
        points: Positive = 4,
        sampler: str = "grid_sample",
    ) -> None:
        super().__init__()
        if found := list(self.problems(d_model, heads, sampler)):
            raise ConfigError(f"deformable: {line}" for line in found)
        self.heads, self.levels, self.points = heads, num_levels, points
        self.sampler = REGISTRY.make("samplers", sampler)
        self.sampling_offsets = nn.Linear(d_model, heads * num_levels * points * 2)
        self.attention_weights = nn.Linear(d_model, heads * num_levels * points)
        self.value_proj, self.output_proj = nn.Linear(d_model, d_model), nn.Linear(d_model, d_model)
        self.reset_parameters()

    @staticmethod
    def problems(d_model: int, heads: int, sampler: str) -> Iterator[str]:
        """Refuse a number of heads that does not divide the width, and what is wrong with the sampler."""
        yield from uneven_heads(d_model, heads)
        yield from REGISTRY.problems("samplers", sampler, {}, "sampler")

    def reset_parameters(self) -> None:
        """As the official code: head h looks in direction 2 pi h / H, point p at p cells; all weights alike."""
        for zeroed in (self.sampling_offsets.weight, self.attention_weights.weight, self.attention_weights.bias):
            nn.init.zeros_(zeroed)
        angles = torch.arange(self.heads) * (2 * math.pi / self.heads)
        directions = torch.stack([angles.cos(), angles.sin()], dim=-1)
        directions = directions / directions.abs().amax(-1, keepdim=True)
        steps = torch.arange(1, self.points + 1)[:, None]
        with torch.no_grad():
            offsets = (directions[:, None, None] * steps).expand(-1, self.levels, -1, -1)
            self.sampling_offsets.bias.copy_(offsets.reshape(-1))
        for linear in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, queries: Queries, memory: Memory) -> Float[Tensor, "B Q D"]:
        """As the contract; needs references."""
        value = self.value_proj(visible(memory))
        if memory.padding is not None:
            value = value.masked_fill(memory.padding[..., None], 0)
        query = with_position(queries.content, queries.positions)
        weights = self.attention_weights(query).unflatten(-1, (self.heads, -1)).softmax(-1)
        read = self.sampler.sample(
            value.unflatten(-1, (self.heads, -1)),
            memory.shapes,
            self.points_of(query, needed(queries.references, REFERENCES, self), memory),
            weights.unflatten(-1, (self.levels, self.points)),
        )
        return self.output_proj(read)

    def points_of(
        self, query: Float[Tensor, "B Q D"], references: Float[Tensor, "B Q P"], memory: Memory
    ) -> Float[Tensor, "B Q H L P 2"]:
        """Where each query looks, (x, y) as fractions of each level's map, padding included."""
        offsets = self.sampling_offsets(query).unflatten(-1, (self.heads, self.levels, self.points, 2))
        around = references[:, :, None]  # [B, Q, L, 2 or 4]
        if memory.valid is not None:
            around = around * memory.valid[:, None].repeat(1, 1, 1, references.shape[-1] // 2)
        centre = around[:, :, None, :, None, :2]
        if references.shape[-1] == 4:
            return centre + offsets / self.points * around[:, :, None, :, None, 2:] / 2
        cells = offsets.new_tensor([(width, height) for height, width in memory.shapes])
        return centre + offsets / cells[:, None]
