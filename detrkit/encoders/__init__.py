"""The role `encoders`: tokens of the image -> tokens that know of each other."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from torch import nn

from detrkit.attention import Attention
from detrkit.transformer import MLP, Memory, cell_centres


class Encoder(nn.Module, ABC):
    """Contract of the role. Keep it by defining `forward`; `in_turn` runs the layers.

    Laws: gives tokens of the same levels, and leaves all else in the memory as it is; tokens under the padding have no
    influence, not even when they are NaN; in evaluation, images do not influence each other; every parameter gets a
    gradient.

    Args:
        layers: encoder layers, made as the configuration says.
        d_model: width D.
        encoder_norm: whether the layers end in a norm.
        scale_positions: whether the positions are multiplied, in each layer, by what is read from the tokens (DAB-DETR,
            as its official code).

    Attributes:
        coarsest_only: whether its layers see the tokens of the coarsest level alone.
    """

    coarsest_only: ClassVar[bool] = False

    def __init__(
        self, layers: nn.ModuleList, d_model: int, encoder_norm: bool = False, scale_positions: bool = False
    ) -> None:
        super().__init__()
        self.layers = layers
        self.norm = nn.LayerNorm(d_model) if encoder_norm and len(layers) else None
        self.position_scale = MLP(d_model, d_model, d_model) if scale_positions else None
        self.placed = any(not isinstance(layer.self_attn, Attention) for layer in layers)

    def in_turn(self, memory: Memory) -> Memory:
        """The memory after all layers."""
        positions, references = memory.positions, cell_centres(memory) if self.placed else None
        for layer in self.layers:
            scaled = positions
            if self.position_scale is not None and positions is not None:
                scaled = positions * self.position_scale(memory.tokens)
            memory = memory._replace(tokens=layer(memory._replace(positions=scaled), references))
        memory = memory._replace(positions=positions)
        return memory if self.norm is None else memory._replace(tokens=self.norm(memory.tokens))

    @abstractmethod
    def forward(self, memory: Memory) -> Memory:
        """A memory with new tokens."""

    def __call__(self, *args: Any, **kwargs: Any) -> Memory:
        """As `forward`."""
        return super().__call__(*args, **kwargs)
