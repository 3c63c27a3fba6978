"""Content and position projected apart."""

from __future__ import annotations

from typing import ClassVar, final

from jaxtyping import Float
from torch import Tensor, nn

from detrkit.attention import uneven_heads
from detrkit.errors import ConfigError
from detrkit.fields import Positive, Probability
from detrkit.fitting import KEY_POSITIONS, POSITIONS
from detrkit.reading import Reading, attend, split_heads, visible
from detrkit.transformer import Memory, Queries, needed


@final
class SeparateReading(Reading):
    """Dense attention whose queries and keys sum projections of content and of position (Conditional DETR, figure 3).

    Args:
        d_model: width D.
        dropout: probability of dropping an attention weight in training.
        heads: number of heads; divides D.
    """

    needs: ClassVar[frozenset[str]] = frozenset({POSITIONS, KEY_POSITIONS})

    def __init__(self, d_model: Positive, dropout: Probability = 0.0, *, heads: Positive = 8) -> None:
        super().__init__()
        if found := list(self.problems(d_model, heads)):
            raise ConfigError(f"separate: {line}" for line in found)
        self.heads, self.dropout = heads, dropout
        self.query_content, self.query_position = nn.Linear(d_model, d_model), nn.Linear(d_model, d_model)
        self.key_content, self.key_position = nn.Linear(d_model, d_model), nn.Linear(d_model, d_model)
        self.value, self.out_proj = nn.Linear(d_model, d_model), nn.Linear(d_model, d_model)
        nn.init.zeros_(self.out_proj.bias)

    problems = staticmethod(uneven_heads)

    def forward(self, queries: Queries, memory: Memory) -> Float[Tensor, "B Q D"]:
        """As the contract; needs positions on both sides."""
        where, there = needed(queries.positions, POSITIONS, self), needed(memory.positions, KEY_POSITIONS, self)
        tokens = visible(memory)
        query = self.query_content(queries.content) + self.query_position(where)
        key = self.key_content(tokens) + self.key_position(there)
        query, key, value = (split_heads(x, self.heads) for x in (query, key, self.value(tokens)))
        return self.out_proj(attend(query, key, value, memory.padding, self.dropout if self.training else 0.0))
