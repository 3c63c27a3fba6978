"""Deformable DETR (fundamentalvision/Deformable-DETR, ``.pth``)."""

from __future__ import annotations

from typing import ClassVar, final

from detrkit.checkpoints.layouts._renaming import Renaming, Row
from detrkit.checkpoints.layouts._torch_file import TorchFile
from detrkit.checkpoints.layouts._trunks import trunk_rows
from detrkit.config import DetectorConfig
from detrkit.presets import unchecked

LAYERS = {
    "encoder": {"self_attn": "norm1", "ffn": "norm2"},
    "decoder": {"cross_attn": "norm1", "self_attn": "norm2", "ffn": "norm3"},
}
"""Norms by the sublayer that they follow, in the order of the file; the decoder's norm1 follows the cross-attention."""


def layer_rows(side: str) -> list[Row]:
    """Rows of one side's layers; attentions and the FFN have our names."""
    ours, theirs = f"{side}.layers.#", f"transformer.{side}.layers.#"
    rows: list[Row] = []
    for name, norm in LAYERS[side].items():
        entries = [(f"linear{n}.*", f"linear{n}.*") for n in (1, 2)] if name == "ffn" else [("*", f"{name}.*")]
        rows += [(f"{ours}.{name}.{o}", f"{theirs}.{t}") for o, t in entries]
        rows += [(f"{ours}.{name}_residual.norm.*", f"{theirs}.{norm}.*")]
    return rows


ROWS: list[Row] = [("neck.level_embed", "transformer.level_embed"), *layer_rows("encoder"), *layer_rows("decoder")]
MAPS: list[Row] = [("neck.projections.#.#.*", "input_proj.#.#.*"), *trunk_rows("backbone.0.body")]
POINTS: list[Row] = [("queries.reference_points.*", "transformer.reference_points.*")]
TABLE: list[Row] = [("queries.both.weight", "query_embed.weight")]
PROPOSALS: list[Row] = [
    ("queries.output.*", "transformer.enc_output.*"),
    ("queries.output_norm.*", "transformer.enc_output_norm.*"),
]
TWO_STAGE: list[Row] = [
    *PROPOSALS,
    ("queries.position.*", "transformer.pos_trans.*"),
    ("queries.position_norm.*", "transformer.pos_trans_norm.*"),
]


def shared_heads(prefix: str) -> list[Row]:
    """Heads that all layers share, written once a layer."""
    return [
        ("bbox_embed.layers.#.*", f"{prefix}bbox_embed.{{layer}}.layers.#.*"),
        ("class_embed.*", f"{prefix}class_embed.{{layer}}.*"),
    ]


def own_classes(prefix: str) -> list[Row]:
    """Heads for classes, one a layer."""
    return [("class_embed.{layer}.*", f"{prefix}class_embed.{{layer}}.*")]


def own_boxes(prefix: str) -> list[Row]:
    """Heads for boxes, one a layer."""
    return [("bbox_embed.{layer}.layers.#.*", f"{prefix}bbox_embed.{{layer}}.layers.#.*")]


def heads_of_proposals(prefix: str) -> list[Row]:
    """Heads of the proposals, numbered after those of the layers."""
    return [
        ("queries.bbox_embed.layers.#.*", f"{prefix}bbox_embed.{{layers}}.layers.#.*"),
        ("queries.class_embed.*", f"{prefix}class_embed.{{layers}}.*"),
    ]


IN_DECODER = "transformer.decoder."
PRESETS = {
    "plain": "deformable_detr_r50",
    "refine": "deformable_detr_r50_refine",
    "two_stage": "deformable_detr_r50_two_stage",
}


@final
class Deformable(TorchFile):
    """Deformable DETR (Zhu et al., ICLR 2021), on one level or several, refined or not, in one stage or two."""

    spellings: ClassVar[dict[str, Renaming]] = {
        "plain": Renaming([*ROWS, *POINTS, *shared_heads(""), *TABLE, *MAPS]),
        "refine": Renaming(
            [*ROWS, *own_boxes(IN_DECODER), *POINTS, *own_classes(""), *own_boxes(""), *TABLE, *MAPS],
        ),
        "two_stage": Renaming(
            [
                *ROWS,
                *own_boxes(IN_DECODER),
                *own_classes(IN_DECODER),
                *heads_of_proposals(IN_DECODER),
                *TWO_STAGE,
                *own_classes(""),
                *own_boxes(""),
                *heads_of_proposals(""),
                *MAPS,
            ]
        ),
    }

    def base(self, spelling: str) -> DetectorConfig:
        """The preset; levels are varied."""
        return unchecked(PRESETS[spelling])


LAYOUT = Deformable()
