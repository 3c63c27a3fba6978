"""DINO (IDEA-Research/DINO, ``.pth``)."""

from __future__ import annotations

from typing import ClassVar, final

from detrkit.checkpoints.layouts._renaming import Renaming
from detrkit.checkpoints.layouts._torch_file import TorchFile
from detrkit.checkpoints.layouts.deformable import MAPS, PROPOSALS, ROWS, shared_heads
from detrkit.config import DetectorConfig
from detrkit.presets import unchecked


@final
class Dino(TorchFile):
    """DINO with four levels (Zhang et al., ICLR 2023)."""

    spellings: ClassVar[dict[str, Renaming]] = {
        "": Renaming(
            [
                *ROWS,
                ("decoder.norm.*", "transformer.decoder.norm.*"),
                ("decoder.placement.position_head.layers.#.*", "transformer.decoder.ref_point_head.layers.#.*"),
                *shared_heads("transformer.decoder."),
                ("queries.content.weight", "transformer.tgt_embed.weight"),
                *PROPOSALS,
                ("queries.bbox_embed.layers.#.*", "transformer.enc_out_bbox_embed.layers.#.*"),
                ("queries.class_embed.*", "transformer.enc_out_class_embed.*"),
                ("queries.labels.weight", "label_enc.weight"),
                *MAPS,
                *shared_heads(""),
            ]
        )
    }

    def base(self, spelling: str) -> DetectorConfig:
        """The preset."""
        return unchecked("dino_4scale_r50")


LAYOUT = Dino()
