"""Positions that stay."""

from __future__ import annotations

from typing import final

from detrkit.placement import Placement
from detrkit.transformer import Memory, Queries


@final
class FixedPlacement(Placement):
    """Queries keep the positions that they start with (DETR, section 3.2)."""

    def __init__(self) -> None:
        super().__init__()

    def forward(self, layer: int, queries: Queries, memory: Memory) -> Queries:
        """The queries as they are."""
        return queries
