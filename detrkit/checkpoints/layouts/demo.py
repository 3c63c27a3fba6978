"""The demo of the DETR paper: the listing of its appendix A.6, and the variant of the authors' public notebook."""

from __future__ import annotations

from typing import ClassVar, final

from detrkit.checkpoints.layouts._renaming import Renaming, Row
from detrkit.checkpoints.layouts._torch_file import TorchFile
from detrkit.checkpoints.layouts._trunks import trunk_rows
from detrkit.checkpoints.layouts.official import TRANSFORMER
from detrkit.config import DetectorConfig
from detrkit.presets import unchecked

LISTING: list[Row] = [
    ("backbone.body.conv1.*", "backbone.0.*"),
    ("backbone.body.bn1.*", "backbone.1.*"),
    *((f"backbone.body.layer{stage}.*", f"backbone.{stage + 3}.*") for stage in range(1, 5)),
]
"""The listing's trunk: the children of a ResNet in a plain sequence."""


def rows(trunk: list[Row]) -> list[Row]:
    """All rows, around those of the trunk."""
    return [
        ("queries.content.weight", "query_pos"),
        ("positional.row_embed.weight", "row_embed"),
        ("positional.col_embed.weight", "col_embed"),
        *trunk,
        ("neck.projection.*", "conv.*"),
        *TRANSFORMER,
        ("class_embed.*", "linear_class.*"),
        ("bbox_embed.layers.0.*", "linear_bbox.*"),
    ]


@final
class Demo(TorchFile):
    """Positions and queries given once, at the input; one linear layer for boxes (DETR, appendix A.6)."""

    arguments = TorchFile.arguments | {"eos_coef"}
    varies = TorchFile.varies | {"eos_coef"}
    norm = "batch"
    learned = True
    spellings: ClassVar[dict[str, Renaming]] = {
        "paper": Renaming(rows(LISTING)),
        "notebook": Renaming(rows(trunk_rows("backbone"))),
    }

    def base(self, spelling: str) -> DetectorConfig:
        """The preset; the notebook multiplies the projected features by a tenth."""
        return unchecked("detr_demo").replace(feature_scale=1.0 if spelling == "paper" else 0.1)


LAYOUT = Demo()
