"""Boxes as positions, their size in the attention."""

from __future__ import annotations

from typing import ClassVar, final

import torch

from detrkit.fields import Positive
from detrkit.fitting import BOXES, POSITIONS, SINE
from detrkit.placement import Placement, sine_codes
from detrkit.transformer import MLP, Memory, Queries, needed


@final
class ModulatedPlacement(Placement):
    """Positions from the boxes' codes, the points' codes modulated by width and height (DAB-DETR, sections 4.1, 4.4).

    Args:
        d_model: width D.
    """

    needs: ClassVar[frozenset[str]] = frozenset({BOXES})
    gives: ClassVar[frozenset[str]] = frozenset({POSITIONS, SINE})

    def __init__(self, d_model: Positive) -> None:
        super().__init__()
        self.d_model = d_model
        self.query_scale = MLP(d_model, d_model, d_model)
        self.position_head = MLP(2 * d_model, d_model, d_model)
        self.size_head = MLP(d_model, d_model, 2)

    def forward(self, layer: int, queries: Queries, memory: Memory) -> Queries:
        """With positions and the modulated code of the centre; the first layer does not scale it by the content."""
        content, boxes = queries.content, needed(queries.references, BOXES, self)
        codes = sine_codes(boxes, self.d_model)
        sine = codes[..., : self.d_model]
        if layer > 0:
            sine = sine * self.query_scale(content)
        wanted = self.size_head(content).sigmoid()  # width and height that the content looks for
        y, x = sine.chunk(2, dim=-1)
        ratio_x, ratio_y = (wanted / boxes[..., 2:]).split(1, dim=-1)
        return queries._replace(positions=self.position_head(codes), sine=torch.cat([y * ratio_y, x * ratio_x], dim=-1))
