"""Deformable DETR (fundamentalvision/Deformable-DETR, ``.pth``)."""

from __future__ import annotations

from typing import ClassVar, final

from detrkit.checkpoints.foreign import Foreign
from detrkit.checkpoints.layouts._focal import Descendant
from detrkit.checkpoints.layouts._parts import trunk_rows
from detrkit.checkpoints.layouts._renaming import Renaming, Row
from detrkit.config import DetectorConfig
from detrkit.presets import unchecked


def norm_rows(side: str, residuals: dict[str, str]) -> list[Row]:
    """Norms of one side's layers by residual; in the decoder norm1 follows the cross-attention."""
    pairs = residuals.items()
    return [(f"{side}.layers.#.{o}_residual.norm.*", f"transformer.{side}.layers.#.{t}.*") for o, t in pairs]


SIDES = {
    "encoder": {"self_attn": "norm1", "ffn": "norm2"},
    "decoder": {"cross_attn": "norm1", "self_attn": "norm2", "ffn": "norm3"},
}

ROWS: list[Row] = [
    ("neck.level_embed", "transformer.level_embed"),
    *(row for side, norms in SIDES.items() for row in norm_rows(side, norms)),
    *((f"{side}.layers.#.ffn.linear#.*", f"transformer.{side}.layers.#.linear#.*") for side in SIDES),
    ("encoder.layers.#.self_attn.*", "transformer.encoder.layers.#.self_attn.*"),
    ("decoder.layers.#.self_attn.*", "transformer.decoder.layers.#.self_attn.*"),
    ("decoder.layers.#.cross_attn.*", "transformer.decoder.layers.#.cross_attn.*"),
    ("neck.projections.#.#.*", "input_proj.#.#.*"),
    *trunk_rows("backbone.0.body"),
]
SHARED: list[Row] = [
    ("class_embed.*", "class_embed.0.*"),
    ("bbox_embed.layers.#.*", "bbox_embed.0.layers.#.*"),
]
OWN: list[Row] = [
    ("class_embed.#.*", "class_embed.#.*"),
    ("bbox_embed.#.layers.#.*", "bbox_embed.#.layers.#.*"),
]
POINTS: list[Row] = [
    ("queries.both.weight", "query_embed.weight"),
    ("queries.reference_points.*", "transformer.reference_points.*"),
]
PROPOSALS: list[Row] = [
    ("queries.output.*", "transformer.enc_output.*"),
    ("queries.output_norm.*", "transformer.enc_output_norm.*"),
]
LAYERS = 6  # of the published decoder; the head of the proposals is numbered after those of its layers
NUMBERED: list[Row] = [
    (name, name) for layer in range(LAYERS) for name in (f"class_embed.{layer}.*", f"bbox_embed.{layer}.layers.#.*")
]
TWO_STAGE: list[Row] = [
    *PROPOSALS,
    ("queries.position.*", "transformer.pos_trans.*"),
    ("queries.position_norm.*", "transformer.pos_trans_norm.*"),
    ("queries.class_embed.*", f"class_embed.{LAYERS}.*"),
    ("queries.bbox_embed.layers.#.*", f"bbox_embed.{LAYERS}.layers.#.*"),
]


COPIES = ("class_embed.#.*", "bbox_embed.#.layers.#.*")
DECODER_COPIES = ("transformer.decoder.class_embed.*", "transformer.decoder.bbox_embed.*")


@final
class Deformable(Descendant):
    """Deformable DETR (Zhu et al., ICLR 2021), on one level or four, refined or not, in one stage or two."""

    table = "queries.both.weight"
    spellings: ClassVar[dict[str, Renaming]] = {
        "plain": Renaming([*ROWS, *SHARED, *POINTS], copies=COPIES),
        "refine": Renaming([*ROWS, *OWN, *POINTS], copies=DECODER_COPIES),
        "two_stage": Renaming([*TWO_STAGE, *ROWS, *NUMBERED], copies=DECODER_COPIES),
    }

    def preset(self, foreign: Foreign) -> DetectorConfig:
        """As the template."""
        if "transformer.pos_trans.weight" in foreign.tensors:
            return unchecked("deformable_detr_r50_two_stage")
        if "transformer.decoder.bbox_embed.0.layers.0.weight" in foreign.tensors:
            return unchecked("deformable_detr_r50_refine")
        single = "input_proj.1.0.weight" not in foreign.tensors
        return unchecked("deformable_detr_r50_single_scale" if single else "deformable_detr_r50")


LAYOUT = Deformable()
