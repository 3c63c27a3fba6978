"""The pre-norm DETR, which transformers calls Table Transformer."""

from __future__ import annotations

from typing import ClassVar, final

from detrkit.checkpoints.layouts._hub import ITSELF, spellings
from detrkit.checkpoints.layouts._renaming import Renaming
from detrkit.checkpoints.layouts.transformers import Detr, rows
from detrkit.config import DetectorConfig


@final
class TableTransformer(Detr):
    """Pre-norm DETR with a ResNet (``TableTransformerForObjectDetection``); the names are those of version 4."""

    kinds = ("table-transformer",)
    architecture = "TableTransformerForObjectDetection"
    spellings: ClassVar[dict[str, Renaming]] = spellings(rows, [ITSELF])

    def base(self, spelling: str) -> DetectorConfig:
        """DETR, pre-norm."""
        return DetectorConfig(pre_norm=True)


LAYOUT = TableTransformer()
