"""What the plain vision transformers share: one width and one stride throughout, attention in windows and at large."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from detrkit.backbones import Backbone
from detrkit.backbones._weights import load_weights
from detrkit.transformer import FeedForward

EPS, SPREAD, FEED_FORWARD = 1e-6, 0.02, 4


class PlainTransformer(Backbone):
    """Template: patches as tokens, blocks that see their window or the whole image, maps after some of them.

    Every image is cut into as many windows, whose size follows its own. Sides that are no multiples of
    ``patch * windows`` are padded with zeros, right and below; cells that show nothing else are cut off the maps.

    Blocks behind the last map stay, so that published weights load; they do not run and are not trained.

    Args:
        width: channels.
        depth: number of blocks.
        heads: number of heads; divides the width.
        patch: pixels of a patch, a side.
        grid: cells of the table of positions, a side; it is stretched to the cells of the image.
        windows: number of windows, a side.
        windowed: blocks, counted from 0, that see their window only; the others see the whole image.
        taken: after how many blocks a map is taken, ascending.
        swapped: cut maps that are no squares as if height and width were each other's, and put them together rightly.

    Attributes:
        key_bias: whether keys have a bias; it moves the logits of a query alike, and so nothing.
        class_token: whether each window has a class token beside its patches, and maps a norm.
        antialias: whether positions are smoothed where they are shrunk.
        scale: what the branches of blocks are multiplied by, at first.
        names_in_files: parts of our entries' names -> theirs, where weight files call them otherwise.

    Raises:
        ConfigError: numbers that do not fit.
    """

    key_bias: ClassVar[bool]
    class_token: ClassVar[bool]
    antialias: ClassVar[bool]
    scale: ClassVar[float]
    names_in_files: ClassVar[dict[str, str]]

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        patch: int,
        grid: int,
        windows: int,
        windowed: Sequence[int],
        taken: Sequence[int],
        swapped: bool = False,
    ) -> None:
        super().__init__()
        self.channels, self.strides = (width,) * len(taken), (patch,) * len(taken)
        self.patch, self.grid, self.windows, self.swapped = patch, grid, windows, swapped
        self.windowed, self.taken = frozenset(windowed), frozenset(taken)
        self.patch_embed = nn.Conv2d(3, width, patch, stride=patch)
        self.cls_token = nn.Parameter(torch.empty(1, 1, width)) if self.class_token else None
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + grid * grid, width))  # the first is the class token's
        self.blocks = nn.ModuleList(Block(width, heads, self.key_bias, self.scale) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=EPS) if self.class_token else nn.Identity()
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                nn.init.trunc_normal_(parameter, std=SPREAD)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
        self.blocks[max(taken) :].requires_grad_(False)

    @staticmethod
    def problems(
        width: int, depth: int, heads: int, taken: Sequence[int], windowed: Sequence[int] = ()
    ) -> Iterator[str]:
        """Refuse heads that do not divide the width, and blocks and maps that there are not."""
        if width % heads:
            yield f"width={width} is not divisible by heads={heads}"
        if not taken or list(taken) != sorted(set(taken)) or not 1 <= taken[0] <= taken[-1] <= depth:
            yield f"taken: got {tuple(taken)}; expected ascending numbers from 1 to depth={depth}"
        if windowed and not 0 <= min(windowed) <= max(windowed) < depth:
            yield f"windowed: got {tuple(windowed)}; expected numbers from 0 to depth - 1 = {depth - 1}"

    def fill(self, weights: str | Path | None) -> None:
        """Load a file, if there is one.

        Raises:
            CheckpointError: it cannot be read, or does not fit.
        """
        if weights is None:
            return
        names = {name: name for name in self.state_dict() if name != "mask_token"}
        for ours, theirs in self.names_in_files.items():
            names = {name: other.replace(ours, theirs) for name, other in names.items()}
        load_weights(self, Path(weights).expanduser(), names, known=("mask_token",))

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> list[Float[Tensor, "B _ _ _"]]:
        """As the contract says: one map [B, C, ceil(H / s), ceil(W / s)] for each number in `taken`."""
        rows, columns = (-(-size // self.patch) for size in images.shape[-2:])
        missing = [-size % (self.patch * self.windows) for size in images.shape[-2:]]
        cells = self.patch_embed(F.pad(images, (0, missing[1], 0, missing[0]))).permute(0, 2, 3, 1)
        height, width = cells.shape[1:3]
        tokens = self.cut(cells + self.positions(height, width))
        if self.cls_token is not None:
            own = (self.cls_token + self.pos_embed[:, :1]).expand(*tokens.shape[:2], -1)[:, :, None]
            tokens = torch.cat([own, tokens], dim=2)
        maps = []
        for number, block in enumerate(self.blocks[: max(self.taken)]):
            tokens = block(tokens, alone=number in self.windowed)
            if number + 1 in self.taken:
                patches = self.norm(tokens[:, :, int(self.class_token) :])
                maps.append(self.joined(patches, height, width).permute(0, 3, 1, 2)[..., :rows, :columns])
        return maps

    def folded(self) -> Self:
        """The same without the blocks behind the last map, scales folded into what they scale."""
        self.blocks = nn.ModuleList(block.folded() for block in self.blocks[: max(self.taken)])  # type: ignore[operator]
        return self

    def positions(self, height: int, width: int) -> Float[Tensor, "1 H W C"]:
        """The table of positions, stretched."""
        table = self.pos_embed[:, 1:].unflatten(1, (self.grid, self.grid)).permute(0, 3, 1, 2)
        return F.interpolate(table, (height, width), mode="bicubic", antialias=self.antialias).permute(0, 2, 3, 1)

    def cut(self, cells: Float[Tensor, "B H W C"]) -> Float[Tensor, "B _ T C"]:
        """The cells of each window."""
        height, width = (size // self.windows for size in cells.shape[1:3])
        if self.swapped:
            height, width = width, height
        tiles = cells.reshape(cells.shape[0], self.windows, height, self.windows, width, -1)
        return tiles.transpose(2, 3).flatten(3, 4).flatten(1, 2)

    def joined(self, tokens: Float[Tensor, "B _ T C"], height: int, width: int) -> Float[Tensor, "B H W C"]:
        """The inverse of `cut`, for a map of this size."""
        tiles = tokens.unflatten(2, (height // self.windows, width // self.windows))
        return tiles.unflatten(1, (self.windows, self.windows)).transpose(2, 3).flatten(3, 4).flatten(1, 2)


class Block(nn.Module):
    """Tokens read each other, then think alone; what is added has a learned scale a channel."""

    def __init__(self, width: int, heads: int, key_bias: bool, scale: float) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width, eps=EPS), SelfAttention(width, heads, key_bias)
        self.norm2, self.mlp = nn.LayerNorm(width, eps=EPS), FeedForward(width, FEED_FORWARD * width, 0.0, "gelu")
        self.ls1: nn.Module = LayerScale(width, scale)
        self.ls2: nn.Module = LayerScale(width, scale)

    def forward(self, tokens: Float[Tensor, "B W T C"], alone: bool) -> Float[Tensor, "B W T C"]:
        """Tokens of all windows -> the same; each window alone, or all of an image together."""
        together = self.norm1(tokens).flatten(0, 1) if alone else self.norm1(tokens).flatten(1, 2)
        tokens = tokens + self.ls1(self.attn(together).reshape(tokens.shape))
        return tokens + self.ls2(self.mlp(self.norm2(tokens)))

    def folded(self) -> Self:
        """The same, each scale folded into the linear layer before it."""
        for scale, linear in ((self.ls1, self.attn.proj), (self.ls2, self.mlp.linear2)):
            linear.weight.mul_(scale.get_parameter("gamma")[:, None])
            linear.bias.mul_(scale.get_parameter("gamma"))
        self.ls1, self.ls2 = nn.Identity(), nn.Identity()
        return self


class LayerScale(nn.Module):
    """A learned factor a channel (Touvron et al. 2021, CaiT, section 2.1)."""

    def __init__(self, width: int, scale: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), scale))

    def forward(self, x: Float[Tensor, "*B C"]) -> Float[Tensor, "*B C"]:
        """[..., C] -> [..., C]."""
        return x * self.gamma


class SelfAttention(nn.Module):
    """Dense self-attention (Vaswani et al. 2017, section 3.2), keys without a bias where they need none."""

    def __init__(self, width: int, heads: int, key_bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=key_bias)
        self.q_bias, self.v_bias = (None if key_bias else nn.Parameter(torch.empty(width)) for _ in range(2))
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Float[Tensor, "B N C"]) -> Float[Tensor, "B N C"]:
        """[B, N, C] -> [B, N, C]."""
        bias: Tensor = self.qkv.bias
        if self.q_bias is not None and self.v_bias is not None:
            bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        query, key, value = F.linear(tokens, self.qkv.weight, bias).unflatten(-1, (3, self.heads, -1)).unbind(-3)
        read = F.scaled_dot_product_attention(*(part.transpose(1, 2) for part in (query, key, value)))
        return self.proj(read.transpose(1, 2).flatten(2))
