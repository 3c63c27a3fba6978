"""The role `reading`: attention that knows where its queries are.

A dense attention (role `attention`) is told keys with their positions and nothing else. A reading is told the queries
with their references, and the memory with its levels: it decides itself what becomes of them. Both stand in the same
places of a layer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from detrkit.attention import uneven_heads
from detrkit.errors import ConfigError
from detrkit.looks import DenseLook, Look
from detrkit.transformer import Memory, Queries


class Reading(nn.Module, ABC):
    """Contract of the role. Keep it by defining `forward` and `look`.

    Laws: tokens under the padding have no influence, not even when they are NaN; an image whose tokens are all padding
    gives finite outputs and gradients; images do not influence each other; every parameter gets a gradient; what is
    read is a linear map of the tokens, summed as `look` says.

    Attributes:
        needs: names of `detrkit.fitting`: what it must be given by other parts.
        starts_otherwise: whether `reset_parameters` is to be called after the stack's own initialisation.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    starts_otherwise: ClassVar[bool] = False

    @abstractmethod
    def forward(self, queries: Queries, memory: Memory) -> Float[Tensor, "B Q D"]:
        """What each query has read, [B, Q, D]."""

    @abstractmethod
    def look(self, queries: Queries, memory: Memory) -> Look:
        """Where each query looks and how much: what `forward` reads by without dropout, told beside it."""


class DenseReading(Reading):
    """Template of the readings that look at all cells: softmax over the keys; a component fills `project`.

    A component makes ``out_proj``, a linear layer over what the heads have read.
    """

    heads: int
    dropout: float
    out_proj: nn.Linear

    problems = staticmethod(uneven_heads)

    def check(self, d_model: int, heads: int) -> None:
        """Raise what `problems` finds."""
        if found := list(self.problems(d_model, heads)):
            raise ConfigError(f"{type(self).__name__}: {line}" for line in found)

    @abstractmethod
    def project(self, queries: Queries, memory: Memory) -> tuple[Tensor, Tensor, Tensor]:
        """Query [B, H, Q, d], key [B, H, N, d] and value [B, H, N, e] of each head."""

    def forward(self, queries: Queries, memory: Memory) -> Float[Tensor, "B Q D"]:
        """As the contract."""
        dropout = self.dropout if self.training else 0.0
        return self.out_proj(attend(*self.project(queries, memory), memory.padding, dropout))

    def look(self, queries: Queries, memory: Memory) -> DenseLook:
        """As the contract; zero for an image that is all padding."""
        query, key, _ = self.project(queries, memory)
        scores = query * query.shape[-1] ** -0.5 @ key.transpose(-2, -1)
        if memory.padding is None:
            return DenseLook(scores.softmax(-1))
        hidden = memory.padding[:, None, None]
        lowest = torch.finfo(scores.dtype).min
        return DenseLook(scores.masked_fill(hidden, lowest).softmax(-1).masked_fill(hidden, 0))


def visible(memory: Memory) -> Float[Tensor, "B N D"]:
    """The tokens, zero under the padding: what stands there reaches neither outputs nor gradients, be it NaN."""
    return memory.tokens if memory.padding is None else memory.tokens.masked_fill(memory.padding[..., None], 0)


def split_heads(tokens: Float[Tensor, "B N D"], heads: int) -> Float[Tensor, "B H N d"]:
    """[B, N, D] -> [B, H, N, D / H]."""
    return tokens.unflatten(-1, (heads, -1)).transpose(1, 2)


def merge_heads(heads: Float[Tensor, "B H N d"]) -> Float[Tensor, "B N D"]:
    """The inverse of `split_heads`."""
    return heads.transpose(1, 2).flatten(2)


def attend(
    query: Float[Tensor, "B H Q d"],
    key: Float[Tensor, "B H K d"],
    value: Float[Tensor, "B H K e"],
    padding: Bool[Tensor, "B K"] | None,
    dropout: float,
) -> Float[Tensor, "B Q D"]:
    """Softmax attention of projected heads, merged; zero for an image that is all padding."""
    if padding is None:
        return merge_heads(F.scaled_dot_product_attention(query, key, value, dropout_p=dropout))
    blind = padding.all(1)[:, None, None]
    seen = ~padding[:, None, None] | blind[..., None]
    return merge_heads(F.scaled_dot_product_attention(query, key, value, seen, dropout_p=dropout)).masked_fill(blind, 0)
