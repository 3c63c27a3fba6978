"""All tokens at once."""

from __future__ import annotations

from typing import final

from detrkit.encoders import Encoder
from detrkit.transformer import Memory


@final
class StackEncoder(Encoder):
    """Layers in which the tokens of all levels read each other (DETR, section 3.2)."""

    def forward(self, memory: Memory) -> Memory:
        """As the contract."""
        return self.in_turn(memory)
