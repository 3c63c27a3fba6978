"""All heads in one batched matrix product."""

from __future__ import annotations

from typing import final

from torch import Tensor
from torch.nn import functional as F

from detrkit.attention import AttentionOutput, DenseAttention


@final
class MatrixAttention(DenseAttention):
    """Dense attention written out: all heads in one batched matrix product (Vaswani et al. 2017, section 3.2.2)."""

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, need_weights: bool
    ) -> AttentionOutput:
        """Scores [B, H, Q, K], softmax over the keys, weighted sum of the values."""
        q, k, v = self.project(query, key, value)
        scores = (q * self.head_dim**-0.5) @ k.transpose(-2, -1)
        if mask is not None:
            scores = scores.masked_fill(mask[:, None, None, :], float("-inf"))
        weights = scores.softmax(dim=-1)
        dropped = F.dropout(weights, self.dropout, self.training)
        return AttentionOutput(self.merge(dropped @ v), weights if need_weights else None)
