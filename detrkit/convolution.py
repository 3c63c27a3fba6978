"""Convolutions with a batch norm and an activation, which fold into plain ones for inference (`detrkit.folding`)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from detrkit.transformer import ACTIVATIONS


class ConvNorm(nn.Module):
    """A convolution without bias that keeps the size, or divides it by the stride, its batch norm, an activation.

    Args:
        in_channels: channels that it reads.
        out_channels: channels that it gives.
        kernel_size: odd.
        stride: input cells per output cell.
        activation: a name of `ACTIVATIONS`; None: none.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int = 1, stride: int = 1, activation: str | None = None
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)
        self.activation = nn.Identity() if activation is None else ACTIVATIONS[activation]()

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D _ _"]:
        """[B, C, H, W] -> [B, D, ceil(H / stride), ceil(W / stride)]."""
        return self.activation(self.norm(self.conv(x)))
