"""DINO (IDEA-Research/DINO, ``.pth``)."""

from __future__ import annotations

from typing import ClassVar, final

from detrkit.checkpoints.foreign import Foreign
from detrkit.checkpoints.layouts._focal import Descendant
from detrkit.checkpoints.layouts._renaming import Renaming
from detrkit.checkpoints.layouts.deformable import COPIES, DECODER_COPIES, PROPOSALS, ROWS, SHARED
from detrkit.config import DetectorConfig
from detrkit.presets import unchecked


@final
class Dino(Descendant):
    """DINO with four levels (Zhang et al., ICLR 2023)."""

    table = "queries.content.weight"
    spellings: ClassVar[dict[str, Renaming]] = {
        "": Renaming(
            [
                *PROPOSALS,
                *ROWS,
                ("decoder.norm.*", "transformer.decoder.norm.*"),
                ("decoder.placement.position_head.layers.#.*", "transformer.decoder.ref_point_head.layers.#.*"),
                ("queries.content.weight", "transformer.tgt_embed.weight"),
                ("queries.class_embed.*", "transformer.enc_out_class_embed.*"),
                ("queries.bbox_embed.layers.#.*", "transformer.enc_out_bbox_embed.layers.#.*"),
                *SHARED,
                ("queries.labels.weight", "label_enc.weight"),
            ],
            copies=[*COPIES, *DECODER_COPIES],
        )
    }

    def preset(self, foreign: Foreign) -> DetectorConfig:
        """As the template."""
        return unchecked("dino_4scale_r50")


LAYOUT = Dino()
