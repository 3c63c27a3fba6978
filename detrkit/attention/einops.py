"""The same attention in Einstein notation."""

from __future__ import annotations

from typing import final

from einops import einsum, rearrange
from torch import Tensor
from torch.nn import functional as F

from detrkit.attention import AttentionOutput, DenseAttention


@final
class EinopsAttention(DenseAttention):
    """Dense attention in Einstein notation: every contraction names its axes (einops, Rogozhnikov 2022)."""

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, need_weights: bool
    ) -> AttentionOutput:
        """Axes: b image, h head, q query, k key, d width of a head."""
        weight = rearrange(self.in_proj_weight, "(p h d) m -> p h d m", p=3, h=self.heads)
        bias = rearrange(self.in_proj_bias, "(p h d) -> p h 1 d", p=3, h=self.heads)
        q, k, v = (
            einsum(tokens, weight[part], "b n m, h d m -> b h n d") + bias[part]
            for part, tokens in enumerate((query, key, value))
        )
        scores = einsum(q * self.head_dim**-0.5, k, "b h q d, b h k d -> b h q k")
        if mask is not None:
            scores = scores.masked_fill(rearrange(mask, "b k -> b 1 1 k"), float("-inf"))
        weights = scores.softmax(dim=-1)
        dropped = F.dropout(weights, self.dropout, self.training)
        read = einsum(dropped, v, "b h q k, b h k d -> b h q d")
        output = self.out_proj(rearrange(read, "b h q d -> b q (h d)"))
        return AttentionOutput(output, weights if need_weights else None)
