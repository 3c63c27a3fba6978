"""`nn.MultiheadAttention` behind the contract."""

from __future__ import annotations

from typing import Any, final

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
        """PyTorch's own forward; fused when no weights are asked for.

        Its weights come with dropout applied; in training they are therefore asked for beside the output.
        """
        beside = need_weights and self.training and self.dropout > 0
        output, weights = self._call(query, key, value, mask, need_weights and not beside)
        if beside:
            self.module.eval()
            weights = self._call(query, key, value, mask, True)[1]
            self.module.train()
        return AttentionOutput(output, weights)

    def _call(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, need_weights: bool) -> Any:
        return self.module(
            query, key, value, key_padding_mask=mask, need_weights=need_weights, average_attn_weights=False
        )
