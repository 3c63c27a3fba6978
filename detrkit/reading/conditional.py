"""Content and reference side by side."""

from __future__ import annotations

from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from detrkit.attention import uneven_heads
from detrkit.errors import ConfigError
from detrkit.fields import NonNegative, Positive, Probability
from detrkit.fitting import KEY_POSITIONS, POSITIONS, SINE
from detrkit.reading import Reading, attend, split_heads, visible
from detrkit.transformer import Memory, Queries, needed


@final
class ConditionalReading(Reading):
    """Conditional cross-attention: each head sees content beside the code of the reference (Conditional DETR, 3.3).

    In the first decoder layer, whose queries hold no content yet, positions are also added to content.

    Args:
        d_model: width D.
        dropout: probability of dropping an attention weight in training.
        layer: number of the decoder layer, from 0.
        heads: number of heads; divides D.
    """

    needs: ClassVar[frozenset[str]] = frozenset({POSITIONS, KEY_POSITIONS, SINE})

    def __init__(
        self, d_model: Positive, dropout: Probability = 0.0, layer: NonNegative = 0, *, heads: Positive = 8
    ) -> None:
        super().__init__()
        if found := list(self.problems(d_model, heads)):
            raise ConfigError(f"conditional: {line}" for line in found)
        self.heads, self.dropout = heads, dropout
        self.query_content, self.key_content = nn.Linear(d_model, d_model), nn.Linear(d_model, d_model)
        self.query_position = nn.Linear(d_model, d_model) if layer == 0 else None
        self.key_position, self.query_sine = nn.Linear(d_model, d_model), nn.Linear(d_model, d_model)
        self.value, self.out_proj = nn.Linear(d_model, d_model), nn.Linear(d_model, d_model)
        nn.init.zeros_(self.out_proj.bias)

    problems = staticmethod(uneven_heads)

    def forward(self, queries: Queries, memory: Memory) -> Float[Tensor, "B Q D"]:
        """As the contract; needs the queries' sine codes, and positions of the memory."""
        tokens = visible(memory)
        query, key = self.query_content(queries.content), self.key_content(tokens)
        place = self.key_position(needed(memory.positions, KEY_POSITIONS, self))
        if self.query_position is not None:
            query, key = query + self.query_position(needed(queries.positions, POSITIONS, self)), key + place
        query, key = (
            torch.cat([split_heads(content, self.heads), split_heads(where, self.heads)], dim=-1)
            for content, where in ((query, self.query_sine(needed(queries.sine, SINE, self))), (key, place))
        )
        value = split_heads(self.value(tokens), self.heads)
        return self.out_proj(attend(query, key, value, memory.padding, self.dropout if self.training else 0.0))
