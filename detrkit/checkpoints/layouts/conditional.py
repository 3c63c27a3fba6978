"""Conditional DETR, DAB-DETR and DN-DETR (their official code, ``.pth``)."""

from __future__ import annotations

from typing import ClassVar, final

from detrkit.checkpoints.layouts._renaming import Renaming, Row
from detrkit.checkpoints.layouts._torch_file import TorchFile, layer_rows
from detrkit.checkpoints.layouts._trunks import trunk_rows
from detrkit.config import DetectorConfig
from detrkit.presets import unchecked

PROJECTIONS = {
    "self_attn.query_content": "sa_qcontent_proj",
    "self_attn.query_position": "sa_qpos_proj",
    "self_attn.key_content": "sa_kcontent_proj",
    "self_attn.key_position": "sa_kpos_proj",
    "self_attn.value": "sa_v_proj",
    "cross_attn.query_content": "ca_qcontent_proj",
    "cross_attn.query_position": "ca_qpos_proj",
    "cross_attn.key_content": "ca_kcontent_proj",
    "cross_attn.key_position": "ca_kpos_proj",
    "cross_attn.value": "ca_v_proj",
    "cross_attn.query_sine": "ca_qpos_sine_proj",
}


def attention_rows(side: str) -> list[Row]:
    """Rows of an attention of the decoder, whose projections stand beside it."""
    ours, theirs = "decoder.layers.#", "transformer.decoder.layers.#"
    named = [(o, t) for o, t in PROJECTIONS.items() if o.startswith(side)]
    return [(f"{ours}.{o}.*", f"{theirs}.{t}.*") for o, t in [*named, (f"{side}.out_proj", f"{side}.out_proj")]]


ROWS: list[Row] = [
    *layer_rows("encoder", {"self_attn": "self_attn"}),
    ("encoder.layers.#.ffn.activation.weight", "transformer.encoder.layers.#.activation.weight"),
    ("encoder.position_scale.layers.#.*", "transformer.encoder.query_scale.layers.#.*"),
    *attention_rows("self_attn"),
    *attention_rows("cross_attn"),
    *layer_rows("decoder", {"self_attn": "self_attn", "cross_attn": "cross_attn"}, entries=()),
    ("decoder.layers.#.ffn.activation.weight", "transformer.decoder.layers.#.activation.weight"),
    ("decoder.norm.*", "transformer.decoder.norm.*"),
    ("decoder.placement.query_scale.layers.#.*", "transformer.decoder.query_scale.layers.#.*"),
    ("class_embed.*", "class_embed.*"),
    ("bbox_embed.layers.#.*", "bbox_embed.layers.#.*"),
    ("neck.projection.*", "input_proj.*"),
    *trunk_rows("backbone.0.body"),
]


@final
class Conditional(TorchFile):
    """Conditional DETR (Meng et al., ICCV 2021)."""

    spellings: ClassVar[dict[str, Renaming]] = {
        "": Renaming(
            [
                *ROWS,
                ("decoder.placement.reference_head.layers.#.*", "transformer.decoder.ref_point_head.layers.#.*"),
                ("queries.positions.weight", "query_embed.weight"),
            ]
        )
    }

    def base(self, spelling: str) -> DetectorConfig:
        """The preset."""
        return unchecked("conditional_detr_r50")


LAYOUT = Conditional()
