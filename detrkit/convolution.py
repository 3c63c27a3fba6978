"""Convolutions with a norm and an activation; with a batch norm they fold into plain ones (`detrkit.folding`)."""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from detrkit.folding import absorb
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

    def absorbed(self) -> nn.Conv2d:
        """The convolution with the norm, as it is in evaluation, folded into it; its weight is changed."""
        absorb(self.conv, self.norm)
        return self.conv

    def folded(self) -> nn.Module:
        """The same in evaluation, without its norm, if that is one over the batch."""
        return nn.Sequential(self.absorbed(), self.activation) if isinstance(self.norm, nn.BatchNorm2d) else self


class RepConv(nn.Module):
    """A 3x3 and a 1x1 convolution side by side, which are one 3x3 once trained (Ding et al. 2021, RepVGG, 3.3).

    Args:
        channels: that it reads and gives.
        activation: a name of `ACTIVATIONS`.
    """

    def __init__(self, channels: int, activation: str) -> None:
        super().__init__()
        self.wide, self.narrow = ConvNorm(channels, channels, 3), ConvNorm(channels, channels)
        self.activation = ACTIVATIONS[activation]()

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """[B, C, H, W] -> [B, C, H, W]."""
        return self.activation(self.wide(x) + self.narrow(x))

    def folded(self) -> nn.Sequential:
        """The same in evaluation, the small kernel added to the centre of the large one."""
        wide, narrow = self.wide.absorbed(), self.narrow.absorbed()
        wide.weight += F.pad(narrow.weight, (1, 1, 1, 1))
        wide.get_parameter("bias").add_(narrow.get_parameter("bias"))
        return nn.Sequential(wide, self.activation)


class ChannelNorm(nn.LayerNorm):
    """A layer norm over the channels of each cell (Liu et al. 2022, ConvNeXt, 2.6)."""

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """[B, C, H, W] -> [B, C, H, W]."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
