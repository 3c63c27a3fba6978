"""The transformer of the family: memory, queries, encoder and decoder (DETR, section 3.2 and appendix A.3).

One skeleton for every member: what differs between papers is injected as a part, never copied.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, NamedTuple, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from detrkit.attention import Attention
from detrkit.errors import ShapeError
from detrkit.fitting import REFERENCES

if TYPE_CHECKING:
    from detrkit.placement import Placement

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "prelu": nn.PReLU,
}


class Memory(NamedTuple):
    """What is read: the tokens of an image batch, level after level, row after row; or queries that read each other.

    Attributes:
        tokens: [B, N, D].
        positions: [B, N, D], added to queries and keys, never to values; None without positional encoding.
        padding: [B, N] bool, True = padding; None when no image is padded.
        shapes: (height, width) in cells of each level; their products sum to N.
        valid: [B, L, 2], which share of each level's width and height is no padding; None when no image is padded.
    """

    tokens: Float[Tensor, "B N D"]
    positions: Float[Tensor, "B N D"] | None = None
    padding: Bool[Tensor, "B N"] | None = None
    shapes: tuple[tuple[int, int], ...] = ()
    valid: Float[Tensor, "B L 2"] | None = None

    @property
    def keys(self) -> Float[Tensor, "B N D"]:
        """Tokens with their positions."""
        return with_position(self.tokens, self.positions)

    @property
    def map(self) -> Float[Tensor, "B D H W"]:
        """The tokens of the one level that there is, as a feature map."""
        return self.tokens.transpose(1, 2).unflatten(2, self.shapes[0])

    @property
    def seen(self) -> Float[Tensor, "B 1 H W"] | None:
        """1 in the cells of the one level that there is, 0 in its padding; None when no image is padded."""
        return None if self.padding is None else (~self.padding)[:, None].unflatten(2, self.shapes[0]).to(self.tokens)

    def levels(self) -> list[Memory]:
        """A memory for each level."""
        ends = list(accumulate((height * width for height, width in self.shapes), initial=0))

        def level(index: int) -> Memory:
            own, one = slice(ends[index], ends[index + 1]), slice(index, index + 1)
            positions, padding = (None if x is None else x[:, own] for x in (self.positions, self.padding))
            valid = None if self.valid is None else self.valid[:, one]
            return Memory(self.tokens[:, own], positions, padding, self.shapes[one], valid)

        return [level(index) for index in range(len(self.shapes))]


class Proposals(NamedTuple):
    """What a two-stage source says of tokens before the decoder.

    Attributes:
        logits: [B, N, C].
        boxes: [B, N, 4], cxcywh in [0, 1].
        class_agnostic: whether it knows objects only, all of label 0 (Deformable DETR).
    """

    logits: Float[Tensor, "B N C"]
    boxes: Float[Tensor, "B N 4"]
    class_agnostic: bool = False


class Queries(NamedTuple):
    """What reads: queries of the decoder on their way through its layers, or tokens of the encoder.

    Attributes:
        content: [B, Q, D], what each query holds.
        positions: [B, Q, D], where or who it is: added to queries and keys, never to values; None where there is none.
        references: [B, Q, 2] or [B, Q, 4], a point (cx, cy) or a box (cx, cy, w, h) in [0, 1] of the unpadded image
            that the query starts from; None where there is none.
        sine: [B, Q, D], code of the reference, kept apart from the content (Conditional DETR); else None.
        proposals: of a two-stage source, to be trained; None elsewhere.
        empty: places [B, G, n] of the last G n queries that hold nothing: denoising queries in G sets, each of which
            sees the first group of the others and itself, while those see no set; None without denoising.
        groups: into how many groups of one size the others fall, which do not see each other (Group DETR).
    """

    content: Float[Tensor, "B Q D"]
    positions: Float[Tensor, "B Q D"] | None = None
    references: Float[Tensor, "B Q _"] | None = None
    sine: Float[Tensor, "B Q D"] | None = None
    proposals: Proposals | None = None
    empty: Bool[Tensor, "B G n"] | None = None
    groups: int = 1

    def part(self, start: int, end: int) -> Queries:
        """Some of the queries, without groups."""
        return self.mapped(lambda x: x[:, start:end])

    def mapped(self, change: Callable[[Tensor], Tensor]) -> Queries:
        """The queries with every tensor changed alike, all of one group, without proposals."""
        positions, references, sine = (None if x is None else change(x) for x in self[1:4])
        return Queries(change(self.content), positions, references, sine)


def needed(value: Tensor | None, what: str, part: object) -> Tensor:
    """The value.

    Raises:
        ShapeError: there is none; names the part that needs it.
    """
    if value is None:
        raise ShapeError(f"{type(part).__name__} needs {what}, which nothing gives")
    return value


def with_position(tokens: Tensor, positions: Tensor | None) -> Tensor:
    """Tokens plus positions, where there are any."""
    return tokens if positions is None else tokens + positions


def read(part: nn.Module, queries: Queries, memory: Memory) -> Float[Tensor, "B Q D"]:
    """Queries read a memory by a dense attention (keys and queries with their positions), or by a `Reading`."""
    if isinstance(part, Attention):
        placed = with_position(queries.content, queries.positions)
        return part(placed, memory.keys, memory.tokens, mask=memory.padding).output
    return part(queries, memory)


def read_each_other(part: nn.Module, queries: Queries) -> Float[Tensor, "B Q D"]:
    """Queries read their group (Group DETR, 3.2); noised ones the first group and their own set (DN-DETR, 3.4)."""
    if queries.empty is None:
        return read_in_groups(part, queries, queries.groups)
    batch, sets, size = queries.empty.shape
    count = queries.content.shape[1] - sets * size
    main, noised = queries.part(0, count), queries.part(count, queries.content.shape[1])
    first, apart = main.part(0, count // queries.groups), noised.mapped(lambda x: x.reshape(batch * sets, size, -1))

    def beside(all_see: Tensor, own: Tensor) -> Tensor:
        return torch.cat([all_see.repeat_interleave(sets, 0), own], dim=1)

    tokens, positions = beside(first.content, apart.content), None
    if first.positions is not None and apart.positions is not None:
        positions = beside(first.positions, apart.positions)
    seen = first.content.shape[1]
    hidden = torch.cat([queries.empty.new_zeros(batch * sets, seen), queries.empty.flatten(0, 1)], dim=1)
    restored = read(part, apart, Memory(tokens, positions, hidden))
    return torch.cat([read_in_groups(part, main, queries.groups), restored.reshape(batch, sets * size, -1)], dim=1)


def read_in_groups(part: nn.Module, queries: Queries, groups: int) -> Float[Tensor, "B Q D"]:
    """Queries read those of their group, as if each group were an image of its own."""
    batch, count, width = queries.content.shape
    apart = queries.mapped(lambda x: x.reshape(batch * groups, count // groups, -1))
    return read(part, apart, Memory(apart.content, apart.positions)).reshape(batch, count, width)


class MLP(nn.Module):
    """Linear layers with ReLU between.

    Args:
        widths: of the input, of each hidden layer, and of the output.
    """

    def __init__(self, *widths: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))

    @property
    def last(self) -> nn.Linear:
        """The layer that gives the output."""
        return cast(nn.Linear, self.layers[-1])

    def forward(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B E"]:
        """[..., first width] -> [..., last width]."""
        for layer in self.layers[:-1]:
            x = layer(x).relu()
        return self.layers[-1](x)


class FeedForward(nn.Module):
    """Two linear layers with an activation between, token by token (Vaswani et al. 2017, section 3.3)."""

    def __init__(self, d_model: int, dim_feedforward: int, dropout: float, activation: str) -> None:
        super().__init__()
        self.linear1 = nn.Linear(d_model, dim_feedforward)
        self.activation = ACTIVATIONS[activation]()
        self.dropout = nn.Dropout(dropout)
        self.linear2 = nn.Linear(dim_feedforward, d_model)

    def forward(self, tokens: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        """[B, N, D] -> [B, N, D]."""
        return self.linear2(self.dropout(self.activation(self.linear1(tokens))))


class Residual(nn.Module):
    """Adds what a sublayer says, normalised after the sum (post-norm) or before the sublayer (pre-norm)."""

    def __init__(self, d_model: int, dropout: float, pre_norm: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(d_model)
        self.dropout = nn.Dropout(dropout)
        self.pre_norm = pre_norm

    def forward(self, tokens: Tensor, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        """tokens [B, N, D] -> [B, N, D]."""
        if self.pre_norm:
            return tokens + self.dropout(sublayer(self.norm(tokens)))
        return self.norm(tokens + self.dropout(sublayer(tokens)))


class EncoderLayer(nn.Module):
    """Tokens read each other, then think alone (DETR, figure 10)."""

    def __init__(self, self_attn: nn.Module, ffn: FeedForward, residual: Callable[[], Residual]) -> None:
        super().__init__()
        self.self_attn, self.self_attn_residual = self_attn, residual()
        self.ffn, self.ffn_residual = ffn, residual()

    def forward(self, memory: Memory, references: Float[Tensor, "B N 2"] | None) -> Float[Tensor, "B N D"]:
        """The tokens after this layer."""

        def read_tokens(tokens: Tensor) -> Tensor:
            return read(self.self_attn, Queries(tokens, memory.positions, references), memory._replace(tokens=tokens))

        return self.ffn_residual(self.self_attn_residual(memory.tokens, read_tokens), self.ffn)


class DecoderLayer(nn.Module):
    """Queries read each other, then the image, then think alone (DETR, figure 10).

    Without ``self_attn`` each query decides alone; duplicates are then what one expects (DETR, section 4.2).
    """

    def __init__(
        self,
        self_attn: nn.Module | None,
        cross_attn: nn.Module,
        ffn: FeedForward,
        residual: Callable[[], Residual],
    ) -> None:
        super().__init__()
        self.self_attn = self_attn
        self.self_attn_residual = residual() if self_attn is not None else None
        self.cross_attn, self.cross_attn_residual = cross_attn, residual()
        self.ffn, self.ffn_residual = ffn, residual()

    def forward(self, queries: Queries, memory: Memory) -> Float[Tensor, "B Q D"]:
        """What the queries hold after this layer."""

        def read_queries(content: Tensor) -> Tensor:
            return read_each_other(self.self_attn, queries._replace(content=content))  # type: ignore[arg-type]

        def read_image(content: Tensor) -> Tensor:
            return read(self.cross_attn, queries._replace(content=content), memory)

        content = queries.content
        if self.self_attn_residual is not None:
            content = self.self_attn_residual(content, read_queries)
        content = self.cross_attn_residual(content, read_image)
        return self.ffn_residual(content, self.ffn)


class Decoded(NamedTuple):
    """What the decoder gives.

    Attributes:
        states: [L, B, Q, D] of every layer.
        references: what each layer's boxes are told from, [B, Q, 2] or [B, Q, 4] or None.
    """

    states: Float[Tensor, "L B Q D"]
    references: tuple[Float[Tensor, "B Q _"] | None, ...]


Refine = Callable[[int, Tensor, Tensor], Tensor]


class Decoder(nn.Module):
    """A stack of decoder layers.

    Args:
        layers: the layers.
        norm: one norm, shared, over the state of every layer that is looked at (not fed back); None: none.
        placement: how a query's reference becomes its position in each layer.
        look_twice: whether the gradient of a layer's box also reaches the references that the layer before has moved
            (DINO, section 3.5).
    """

    def __init__(
        self, layers: Sequence[DecoderLayer], norm: nn.Module | None, placement: Placement, look_twice: bool = False
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norm, self.placement, self.look_twice = norm, placement, look_twice

    def forward(self, queries: Queries, memory: Memory, refine: Refine | None = None) -> Decoded:
        """States and references of every layer.

        Args:
            queries: where the decoder starts.
            memory: what it reads.
            refine: (layer, states, references) -> where the references move after a layer; None: they stay.
        """
        queries = self.placement.start(queries)
        told, states, references = queries.references, [], []
        for index, layer in enumerate(self.layers):
            content = layer(self.placement(index, queries, memory), memory)
            states.append(content)
            references.append(told)
            if refine is not None and index + 1 < len(self.layers):
                moved = refine(index, content, needed(queries.references, REFERENCES, self))
                told = moved if self.look_twice else moved.detach()
                queries = queries._replace(references=moved.detach())
            queries = queries._replace(content=content)
        stacked = torch.stack(states) if self.norm is None else self.norm(torch.stack(states))
        return Decoded(stacked, tuple(references))


def cell_centres(memory: Memory) -> Float[Tensor, "B N 2"] | None:
    """(x, y) of every token's cell in [0, 1] of the unpadded image (Deformable DETR, 4.1); None without levels."""
    if not memory.shapes:
        return None
    centres = []
    for level, (height, width) in enumerate(memory.shapes):
        rows, columns = (
            (torch.arange(cells, dtype=memory.tokens.dtype, device=memory.tokens.device) + 0.5) / cells
            for cells in (height, width)
        )
        grid = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1).flatten(0, 1)
        centres.append(grid[None] if memory.valid is None else grid / memory.valid[:, level, None])
    return torch.cat(centres, dim=1).expand(memory.tokens.shape[0], -1, -1)


def initialize(transformer: nn.Module) -> None:
    """Xavier-uniform for every matrix outside the dense attentions, which do it themselves (official DETR).

    Then every part that starts otherwise is asked to, by its method ``reset_parameters`` (Deformable DETR).
    """
    inside = {id(p) for m in transformer.modules() if isinstance(m, Attention) for p in m.parameters()}
    for parameter in transformer.parameters():
        if parameter.dim() == 2 and id(parameter) not in inside:
            nn.init.xavier_uniform_(parameter)
    for module in transformer.modules():
        if getattr(module, "starts_otherwise", False):
            module.reset_parameters()  # type: ignore[operator]
