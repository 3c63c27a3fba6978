"""The transformer of the family: memory, queries, encoder and decoder (DETR, section 3.2 and appendix A.3).

One skeleton for every member: what differs between papers is injected as a part, never copied.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from detrkit.attention import Attention

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU}


class Memory(NamedTuple):
    """What the decoder reads: the tokens of an image batch, level after level, row after row.

    Attributes:
        tokens: [B, N, D].
        positions: [B, N, D], added to queries and keys, never to values; None without positional encoding.
        padding: [B, N] bool, True = padding; None when no image is padded.
        shapes: (height, width) in cells of each level; their products sum to N.
    """

    tokens: Float[Tensor, "B N D"]
    positions: Float[Tensor, "B N D"] | None
    padding: Bool[Tensor, "B N"] | None
    shapes: tuple[tuple[int, int], ...]

    @property
    def keys(self) -> Float[Tensor, "B N D"]:
        """Tokens with their positions."""
        return with_position(self.tokens, self.positions)


class Queries(NamedTuple):
    """Where the decoder starts.

    Attributes:
        content: [B, Q, D], what each query holds.
        positions: [B, Q, D], where or who it is: added to queries and keys, never to values; None where there is none.
    """

    content: Float[Tensor, "B Q D"]
    positions: Float[Tensor, "B Q D"] | None


def with_position(tokens: Tensor, positions: Tensor | None) -> Tensor:
    """Tokens plus positions, where there are any."""
    return tokens if positions is None else tokens + positions


class FeedForward(nn.Module):
    """Two linear layers with an activation between, token by token (Vaswani et al. 2017, section 3.3)."""

    def __init__(self, d_model: int, dim_feedforward: int, dropout: float, activation: str) -> None:
        super().__init__()
        self.linear1 = nn.Linear(d_model, dim_feedforward)
        self.activation = ACTIVATIONS[activation]()
        self.dropout = nn.Dropout(dropout)
        self.linear2 = nn.Linear(dim_feedforward, d_model)

    def forward(self, tokens: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        """[B, N, D] -> [B, N, D]."""
        return self.linear2(self.dropout(self.activation(self.linear1(tokens))))


class Residual(nn.Module):
    """Adds what a sublayer says, normalised after the sum (post-norm) or before the sublayer (pre-norm)."""

    def __init__(self, d_model: int, dropout: float, pre_norm: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(d_model)
        self.dropout = nn.Dropout(dropout)
        self.pre_norm = pre_norm

    def forward(self, tokens: Tensor, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        """tokens [B, N, D] -> [B, N, D]."""
        if self.pre_norm:
            return tokens + self.dropout(sublayer(self.norm(tokens)))
        return self.norm(tokens + self.dropout(sublayer(tokens)))


class EncoderLayer(nn.Module):
    """Tokens read each other, then think alone (DETR, figure 10)."""

    def __init__(self, self_attn: Attention, ffn: FeedForward, residual: Callable[[], Residual]) -> None:
        super().__init__()
        self.self_attn, self.self_attn_residual = self_attn, residual()
        self.ffn, self.ffn_residual = ffn, residual()

    def forward(self, memory: Memory) -> Memory:
        """A memory with new tokens."""

        def read(tokens: Tensor) -> Tensor:
            placed = with_position(tokens, memory.positions)
            return self.self_attn(placed, placed, tokens, mask=memory.padding).output

        tokens = self.self_attn_residual(memory.tokens, read)
        return memory._replace(tokens=self.ffn_residual(tokens, self.ffn))


class Encoder(nn.Module):
    """A stack of encoder layers; pre-norm stacks end in a norm, post-norm stacks may."""

    def __init__(self, layers: Sequence[EncoderLayer], norm: nn.Module | None) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norm = norm

    def forward(self, memory: Memory) -> Memory:
        """A memory with new tokens."""
        for layer in self.layers:
            memory = layer(memory)
        return memory if self.norm is None else memory._replace(tokens=self.norm(memory.tokens))


class DecoderLayer(nn.Module):
    """Queries read each other, then the image, then think alone (DETR, figure 10).

    Without ``self_attn`` each query decides alone; duplicates are then what one expects (DETR, section 4.2).
    """

    def __init__(
        self,
        self_attn: Attention | None,
        cross_attn: Attention,
        ffn: FeedForward,
        residual: Callable[[], Residual],
    ) -> None:
        super().__init__()
        self.self_attn = self_attn
        self.self_attn_residual = residual() if self_attn is not None else None
        self.cross_attn, self.cross_attn_residual = cross_attn, residual()
        self.ffn, self.ffn_residual = ffn, residual()

    def forward(self, queries: Queries, memory: Memory) -> Float[Tensor, "B Q D"]:
        """What the queries hold after this layer."""
        content, positions = queries

        def read_queries(content: Tensor) -> Tensor:
            placed = with_position(content, positions)
            return self.self_attn(placed, placed, content).output  # type: ignore[misc]

        def read_image(content: Tensor) -> Tensor:
            placed = with_position(content, positions)
            return self.cross_attn(placed, memory.keys, memory.tokens, mask=memory.padding).output

        if self.self_attn_residual is not None:
            content = self.self_attn_residual(content, read_queries)
        content = self.cross_attn_residual(content, read_image)
        return self.ffn_residual(content, self.ffn)


class Decoder(nn.Module):
    """A stack of decoder layers; one norm, shared, over the state of every layer that is looked at (not fed back)."""

    def __init__(self, layers: Sequence[DecoderLayer], norm: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norm = norm

    def forward(self, queries: Queries, memory: Memory, *, every_layer: bool) -> Float[Tensor, "L B Q D"]:
        """States of the queries after every layer [L, B, Q, D], or after the last only (L = 1)."""
        states = []
        for layer in self.layers:
            queries = queries._replace(content=layer(queries, memory))
            states.append(queries.content)
        return self.norm(torch.stack(states if every_layer else states[-1:]))


def initialize(transformer: nn.Module) -> None:
    """Xavier-uniform for every matrix outside the attentions, which do it themselves (official DETR)."""
    inside = {id(p) for m in transformer.modules() if isinstance(m, Attention) for p in m.parameters()}
    for parameter in transformer.parameters():
        if parameter.dim() > 1 and id(parameter) not in inside:
            nn.init.xavier_uniform_(parameter)
