"""DAB-DETR and DN-DETR (their official code, ``.pth``)."""

from __future__ import annotations

from typing import ClassVar, final

from detrkit.checkpoints.foreign import Foreign
from detrkit.checkpoints.layouts._focal import Descendant
from detrkit.checkpoints.layouts._renaming import Renaming
from detrkit.checkpoints.layouts.conditional import ROWS
from detrkit.config import DetectorConfig
from detrkit.presets import unchecked


@final
class Dab(Descendant):
    """DAB-DETR (Liu et al., ICLR 2022), and DN-DETR (Li et al., CVPR 2022) where there is a table of labels."""

    table = "queries.anchors.weight"
    spellings: ClassVar[dict[str, Renaming]] = {
        "": Renaming(
            [
                *ROWS,
                ("decoder.placement.position_head.layers.#.*", "transformer.decoder.ref_point_head.layers.#.*"),
                ("decoder.placement.size_head.layers.#.*", "transformer.decoder.ref_anchor_head.layers.#.*"),
                ("queries.anchors.weight", "refpoint_embed.weight"),
                ("queries.labels.weight", "label_enc.weight"),
            ],
            copies=["transformer.decoder.bbox_embed.*"],
        )
    }

    def preset(self, foreign: Foreign) -> DetectorConfig:
        """As the template."""
        return unchecked("dn_detr_r50" if "label_enc.weight" in foreign.tensors else "dab_detr_r50")


LAYOUT = Dab()
