"""PyTorch's fused kernel; the default."""

from __future__ import annotations

from typing import final

from torch import Tensor
from torch.nn import functional as F

from detrkit.attention import AttentionOutput, DenseAttention


@final
class FusedAttention(DenseAttention):
    """Dense attention by ``scaled_dot_product_attention``: fused, never holds the [Q, K] matrix (the default).

    The weights, where they are asked for, are computed beside the fused path and do not touch the output.
    """

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, need_weights: bool
    ) -> AttentionOutput:
        """One fused call; its mask is True where a key may be read."""
        q, k, v = self.project(query, key, value)
        hidden = None if mask is None else mask[:, None, None, :]
        visible = None if hidden is None else ~hidden
        dropout = self.dropout if self.training else 0.0
        read = F.scaled_dot_product_attention(q, k, v, attn_mask=visible, dropout_p=dropout)
        return AttentionOutput(self.merge(read), self._weights(q, k, hidden) if need_weights else None)

    def _weights(self, q: Tensor, k: Tensor, hidden: Tensor | None) -> Tensor:
        scores = (q * self.head_dim**-0.5) @ k.transpose(-2, -1)
        if hidden is not None:
            scores = scores.masked_fill(hidden, float("-inf"))
        return scores.softmax(dim=-1)
