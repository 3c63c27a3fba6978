"""What the layouts of DETR's descendants share: read, not written; focal loss; copies of shared heads."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar

from detrkit.checkpoints.foreign import TORCH, Foreign
from detrkit.checkpoints.layouts import SIZES, Layout
from detrkit.checkpoints.layouts._parts import Refusal, Sizes, Trunk
from detrkit.config import DetectorConfig


class Descendant(Layout):
    """Template: a file of a descendant, whose tensors show which preset it is and its sizes.

    Attributes:
        table: our entry that has a row a query; None where no entry shows their number, which is then the published.
    """

    kinds = (TORCH,)
    varies = SIZES
    writes = False
    table: ClassVar[str | None]

    @abstractmethod
    def preset(self, foreign: Foreign) -> DetectorConfig:
        """The preset that the entries show."""

    def config(self, foreign: Foreign, spelling: str, sizes: Sizes) -> DetectorConfig:
        """As the contract; dilation is none where nothing tells it."""
        base = self.preset(foreign)
        trunk = Trunk(sizes.resnet(), "frozen", bool(foreign.told.get("dilation", False)))
        head = "class_embed" if base.share_heads else "class_embed.0"
        table = self.table if self.table in sizes.weights else None
        return base.replace(**sizes.fields(table, head, background=0), backbone=trunk.spec())

    def told(self, config: DetectorConfig) -> dict[str, Any]:
        """Nothing: these files are read only."""
        return {}

    def refused_parts(self, config: DetectorConfig, spelling: str) -> Iterator[Refusal]:
        """Everything: these files are read only."""
        yield Refusal("classification", config.classification, "'softmax': files of DETR's descendants are read only")
