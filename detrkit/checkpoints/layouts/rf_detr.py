"""RF-DETR (roboflow/rf-detr, ``.pth``)."""

from __future__ import annotations

import math
from typing import Any, ClassVar, final

from detrkit.checkpoints.foreign import Foreign
from detrkit.checkpoints.layouts._renaming import Renaming, Row
from detrkit.checkpoints.layouts._sizes import Sizes
from detrkit.checkpoints.layouts._vit_file import TRUNK, VitFile, decoder_rows, projector_rows
from detrkit.config import DetectorConfig
from detrkit.errors import CheckpointError
from detrkit.presets import unchecked

DINO = f"{TRUNK}.encoder"
EMBEDDINGS, LAYER = f"{DINO}.embeddings", f"{DINO}.encoder.layer.#"
BLOCK = {"norm1.*": "norm1.*", "attn.proj.*": "attention.output.dense.*", "norm2.*": "norm2.*"}
BLOCK |= {f"ls{n}.gamma": f"layer_scale{n}.lambda1" for n in (1, 2)}
BLOCK |= {f"mlp.linear{n}.*": f"mlp.fc{n}.*" for n in (1, 2)}
ROWS: list[Row] = [
    *decoder_rows(),
    ("backbone.cls_token", f"{EMBEDDINGS}.cls_token"),
    ("backbone.mask_token", f"{EMBEDDINGS}.mask_token"),
    ("backbone.pos_embed", f"{EMBEDDINGS}.position_embeddings"),
    ("backbone.patch_embed.*", f"{EMBEDDINGS}.patch_embeddings.projection.*"),
    ("backbone.blocks.#.attn.qkv.*", tuple(f"{LAYER}.attention.attention.{x}.*" for x in ("query", "key", "value"))),
    *((f"backbone.blocks.#.{ours}", f"{LAYER}.{theirs}") for ours, theirs in BLOCK.items()),
    ("backbone.norm.*", f"{DINO}.layernorm.*"),
    *projector_rows(),
]
PUBLISHED = {14: "rf_detr_base", 16: "rf_detr_nano"}
"""Pixels of a patch -> the preset whose windows and maps it has; others of 16 differ in sides and decoder layers."""


@final
class RfDetr(VitFile):
    """RF-DETR (Robinson et al., 2025) with a small DINOv2: base, nano, small and medium."""

    spellings: ClassVar[dict[str, Renaming]] = {name: Renaming(ROWS) for name in PUBLISHED.values()}
    superfluous: ClassVar[dict[str, str]] = {"_kp_active_mask": "keypoints, which there are none of"}

    def base(self, spelling: str) -> DetectorConfig:
        """The preset."""
        return unchecked(spelling)

    def allows(self, foreign: Foreign, spelling: str) -> bool:
        """As the contract: patches show the preset."""
        return PUBLISHED.get(patch_of(foreign), "rf_detr_base") == spelling

    def trunk_in(self, foreign: Foreign, sizes: Sizes) -> dict[str, Any]:
        """As the template."""
        if (patch := patch_of(foreign)) not in PUBLISHED:
            expected = " or ".join(map(str, PUBLISHED))
            raise CheckpointError("unknown trunk", path=foreign.path, value=f"patches of {patch}", expected=expected)
        return {"patch": patch, "grid": grid_of(sizes)}

    def sides_in(self, foreign: Foreign, sizes: Sizes) -> dict[str, int]:
        """As the template: models of 16 pixels a patch have a position for each of their cells."""
        side = grid_of(sizes) * patch_of(foreign)
        return {} if patch_of(foreign) == 14 else {"short_side": side, "long_side": side}


def patch_of(foreign: Foreign) -> int:
    """Pixels of a patch, a side; 0 where no entry shows them."""
    weight = foreign.tensors.get(f"{EMBEDDINGS}.patch_embeddings.projection.weight")
    return 0 if weight is None or weight.ndim != 4 else weight.shape[-1]


def grid_of(sizes: Sizes) -> int:
    """Cells of the table of positions, a side; 1 where there is none."""
    table = sizes.weights.get("backbone.pos_embed")
    return 1 if table is None or table.ndim != 3 else max(1, math.isqrt(table.shape[1] - 1))


LAYOUT = RfDetr()
