"""`nn.MultiheadAttention` behind the contract."""

from __future__ import annotations

from typing import final

from torch import Tensor, nn

from detrkit.attention import AttentionOutput, DenseAttention, State


@final
class TorchAttention(DenseAttention):
    """Dense attention by ``nn.MultiheadAttention``, as the official DETR uses it."""

    def make_parameters(self) -> None:
        """PyTorch's module, whose own names are the canonical layout below one prefix."""
        self.module = nn.MultiheadAttention(self.d_model, self.heads, dropout=self.dropout, batch_first=True)

    def to_canonical(self, own: State) -> State:
        """Strip the prefix."""
        return {name.removeprefix("module."): tensor for name, tensor in own.items()}

    def from_canonical(self, canonical: State) -> State:
        """Add the prefix."""
        return {f"module.{name}": tensor for name, tensor in canonical.items()}

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, need_weights: bool
    ) -> AttentionOutput:
        """PyTorch's own forward; fused when no weights are asked for."""
        return AttentionOutput(
            *self.module(
                query, key, value, key_padding_mask=mask, need_weights=need_weights, average_attn_weights=False
            )
        )
