"""LW-DETR (Atten4Vis/LW-DETR, ``.pth``)."""

from __future__ import annotations

from typing import Any, ClassVar, final

from detrkit.checkpoints.foreign import Foreign
from detrkit.checkpoints.layouts._renaming import Renaming, Row
from detrkit.checkpoints.layouts._sizes import Sizes
from detrkit.checkpoints.layouts._vit_file import TRUNK, VitFile, decoder_rows, projector_rows
from detrkit.config import DetectorConfig
from detrkit.errors import CheckpointError
from detrkit.presets import unchecked

BLOCK = {"norm1.*": "norm1.*", "attn.*": "attn.*", "norm2.*": "norm2.*", "ls1.gamma": "gamma_1", "ls2.gamma": "gamma_2"}
BLOCK |= {f"mlp.linear{n}.*": f"mlp.fc{n}.*" for n in (1, 2)}
ROWS: list[Row] = [
    *decoder_rows(),
    ("backbone.pos_embed", f"{TRUNK}.pos_embed"),
    ("backbone.patch_embed.*", f"{TRUNK}.patch_embed.proj.*"),
    *((f"backbone.blocks.#.{ours}", f"{TRUNK}.blocks.#.{theirs}") for ours, theirs in BLOCK.items()),
    *projector_rows(),
]
PUBLISHED = {6: {"windowed": (0, 2, 4), "taken": (2, 4, 6)}, 10: {}}
"""What the scripts of LW-DETR-tiny and -small say of their trunks of so many blocks."""


@final
class LwDetr(VitFile):
    """LW-DETR (Chen et al., 2024) with the trunk of its tiny or small model."""

    spellings: ClassVar[dict[str, Renaming]] = {"": Renaming(ROWS)}

    def base(self, spelling: str) -> DetectorConfig:
        """The preset."""
        return unchecked("lw_detr_small")

    def trunk_in(self, foreign: Foreign, sizes: Sizes) -> dict[str, Any]:
        """As the template: known by the number of blocks, unless the arguments tell."""
        depth, told = sizes.count(r"backbone\.blocks\.(\d+)\."), foreign.told
        if {"window_block_indexes", "out_feature_indexes"} <= set(told):
            taken = tuple(number + 1 for number in told["out_feature_indexes"])
            return {"depth": depth, "windowed": tuple(told["window_block_indexes"]), "taken": taken}
        if depth not in PUBLISHED:
            expected = "6 or 10, or arguments that tell window_block_indexes and out_feature_indexes"
            raise CheckpointError("unknown trunk", path=foreign.path, value=f"{depth} blocks", expected=expected)
        return {"depth": depth, **PUBLISHED[depth]}


LAYOUT = LwDetr()
