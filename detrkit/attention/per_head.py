"""One small module per head."""

from __future__ import annotations

from typing import final

from torch import Tensor, cat, nn, stack
from torch.nn import functional as F

from detrkit.attention import AttentionOutput, DenseAttention, State


class Head(nn.Module):
    """One head: its own three projections and its own softmax."""

    def __init__(self, d_model: int, head_dim: int, dropout: float) -> None:
        super().__init__()
        self.query = nn.Linear(d_model, head_dim)
        self.key = nn.Linear(d_model, head_dim)
        self.value = nn.Linear(d_model, head_dim)
        self.dropout = dropout

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """[B, Q, D] and [B, K, D] -> what the head reads [B, Q, d] and its weights [B, Q, K]."""
        scores = self.query(query) * self.query.out_features**-0.5 @ self.key(key).transpose(-2, -1)
        if mask is not None:
            scores = scores.masked_fill(mask[:, None, :], float("-inf"))
        weights = scores.softmax(dim=-1)
        return F.dropout(weights, self.dropout, self.training) @ self.value(value), weights


@final
class PerHeadAttention(DenseAttention):
    """Dense attention as a list of small heads: the abstraction-heavy design, read like the paper's figure 2."""

    def make_parameters(self) -> None:
        """H heads and one output projection."""
        self.head = nn.ModuleList(Head(self.d_model, self.head_dim, self.dropout) for _ in range(self.heads))
        self.out_proj = nn.Linear(self.d_model, self.d_model)

    def to_canonical(self, own: State) -> State:
        """Stack the heads' projections: all queries, then all keys, then all values."""
        packed = {
            f"in_proj_{kind}": cat([own.pop(f"head.{h}.{part}.{kind}") for part in _PARTS for h in range(self.heads)])
            for kind in ("weight", "bias")
            if f"head.0.query.{kind}" in own
        }
        return packed | own

    def from_canonical(self, canonical: State) -> State:
        """Cut the packed projections into one piece a part and head."""
        own = dict(canonical)
        for kind in ("weight", "bias"):
            if f"in_proj_{kind}" in own:
                pieces = iter(own.pop(f"in_proj_{kind}").chunk(3 * self.heads))
                own |= {f"head.{h}.{part}.{kind}": next(pieces) for part in _PARTS for h in range(self.heads)}
        return own

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, need_weights: bool
    ) -> AttentionOutput:
        """Ask each head, join what they read, project."""
        read, weights = zip(*(head(query, key, value, mask) for head in self.head), strict=True)
        output = self.out_proj(cat(read, dim=-1))
        return AttentionOutput(output, stack(weights, dim=1) if need_weights else None)


_PARTS = ("query", "key", "value")
