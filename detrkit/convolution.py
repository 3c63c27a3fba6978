"""Convolutions with a norm and an activation; with a batch norm they fold into plain ones (`detrkit.folding`)."""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor, nn

from detrkit.transformer import ACTIVATIONS


class ConvNorm(nn.Module):
    """A convolution without bias that keeps the size, or divides it by the stride, its norm, an activation.

    Args:
        in_channels: channels that it reads.
        out_channels: channels that it gives.
        kernel_size: odd.
        stride: input cells per output cell.
        activation: a name of `ACTIVATIONS`; None: none.
        norm: gives a norm of so many channels.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        stride: int = 1,
        activation: str | None = None,
        norm: Callable[[int], nn.Module] = nn.BatchNorm2d,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, bias=False)
        self.norm = norm(out_channels)
        self.activation = nn.Identity() if activation is None else ACTIVATIONS[activation]()

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D _ _"]:
        """[B, C, H, W] -> [B, D, ceil(H / stride), ceil(W / stride)]."""
        return self.activation(self.norm(self.conv(x)))


class ChannelNorm(nn.LayerNorm):
    """A layer norm over the channels of each cell (Liu et al. 2022, ConvNeXt, 2.6)."""

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """[B, C, H, W] -> [B, C, H, W]."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
