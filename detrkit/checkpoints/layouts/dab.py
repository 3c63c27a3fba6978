"""DAB-DETR and DN-DETR (their official code, ``.pth``)."""

from __future__ import annotations

from typing import ClassVar, final

from detrkit.checkpoints.layouts._renaming import Renaming, Row
from detrkit.checkpoints.layouts._torch_file import TorchFile
from detrkit.checkpoints.layouts.conditional import ROWS
from detrkit.config import DetectorConfig
from detrkit.presets import unchecked

HEADS: list[Row] = [
    ("decoder.placement.position_head.layers.#.*", "transformer.decoder.ref_point_head.layers.#.*"),
    ("decoder.placement.size_head.layers.#.*", "transformer.decoder.ref_anchor_head.layers.#.*"),
    ("bbox_embed.layers.#.*", "transformer.decoder.bbox_embed.layers.#.*"),
    ("queries.anchors.weight", "refpoint_embed.weight"),
]
PRESETS = {"dab": "dab_detr_r50", "dn": "dn_detr_r50"}


@final
class Dab(TorchFile):
    """DAB-DETR (Liu et al., ICLR 2022), and DN-DETR (Li et al., CVPR 2022) where there is a table of labels."""

    spellings: ClassVar[dict[str, Renaming]] = {
        "dab": Renaming([*ROWS, *HEADS]),
        "dn": Renaming([*ROWS, *HEADS, ("queries.labels.weight", "label_enc.weight")]),
    }

    def base(self, spelling: str) -> DetectorConfig:
        """The preset."""
        return unchecked(PRESETS[spelling])


LAYOUT = Dab()
