"""DAB-DETR as the library transformers keeps it."""

from __future__ import annotations

from typing import Any, ClassVar, final

from detrkit.checkpoints.layouts._hub import ITSELF, WORDS, Hub, Names, dense_rows, resnet_rows, spellings, trunk_rows
from detrkit.checkpoints.layouts._renaming import Renaming, Row
from detrkit.checkpoints.layouts.conditional import PROJECTIONS
from detrkit.config import DetectorConfig
from detrkit.presets import unchecked


def decoder_rows() -> list[Row]:
    """Rows of the decoder's layers; their projections repeat the name of the attention."""
    ours, theirs = "decoder.layers.#", "model.decoder.layers.#"
    rows: list[Row] = []
    for name in PROJECTIONS:
        side, _, what = name.partition(".")
        what = what.replace("position", "pos").replace("sine", "pos_sine")
        rows += [(f"{ours}.{name}.*", f"{theirs}.{side}.{side}_{what}_proj.*")]
    for side in ("self_attn", "cross_attn"):
        rows += [
            (f"{ours}.{side}.out_proj.*", f"{theirs}.{side}.{side}.output_proj.*"),
            (f"{ours}.{side}_residual.norm.*", f"{theirs}.{side}.{side}_layer_norm.*"),
        ]
    return rows


def ffn_rows(side: str, inside: str) -> list[Row]:
    """Rows of the FFN of one side's layers."""
    ours, theirs = f"{side}.layers.#", f"model.{side}.layers.#{inside}"
    return [
        (f"{ours}.ffn.activation.weight", f"{theirs}.activation_fn.weight"),
        *((f"{ours}.ffn.linear{n}.*", f"{theirs}.fc{n}.*") for n in (1, 2)),
        (f"{ours}.ffn_residual.norm.*", f"{theirs}.final_layer_norm.*"),
    ]


def rows(names: Names) -> list[Row]:
    """The table, without the trunk."""
    encoder = "encoder.layers.#.self_attn"
    return [
        *dense_rows(encoder, f"model.{encoder}", names.out),
        (f"{encoder}_residual.norm.*", f"model.{encoder}_layer_norm.*"),
        *ffn_rows("encoder", ""),
        ("encoder.position_scale.layers.#.*", "model.encoder.query_scale.layers.#.*"),
        *decoder_rows(),
        *ffn_rows("decoder", ".mlp"),
        ("decoder.norm.*", "model.decoder.layernorm.*"),
        ("decoder.placement.query_scale.layers.#.*", "model.decoder.query_scale.layers.#.*"),
        ("decoder.placement.position_head.layers.#.*", "model.decoder.ref_point_head.layers.#.*"),
        ("decoder.placement.size_head.layers.#.*", "model.decoder.ref_anchor_head.layers.#.*"),
        ("bbox_embed.layers.#.*", "bbox_predictor.layers.#.*"),
        ("bbox_embed.layers.#.*", "model.decoder.bbox_embed.layers.#.*"),
        ("class_embed.*", "class_embed.*"),
        ("queries.anchors.weight", "model.query_refpoint_embeddings.weight"),
        ("neck.projection.*", "model.input_projection.*"),
    ]


@final
class Dab(Hub):
    """DAB-DETR with a ResNet (``DabDetrForObjectDetection``).

    It keeps boxes from 0 and 1 by 1e-5, the published code by 1e-3: what is loaded here computes as transformers does;
    ``detrkit.load(folder, reference_eps=1e-3)`` computes as published.
    """

    kinds = ("dab-detr",)
    architecture = "DabDetrForObjectDetection"
    processor = "ConditionalDetrImageProcessor"
    width = "hidden_size"
    learned = False
    words: ClassVar[dict[str, str]] = {**WORDS, "cls_loss_coefficient": "cls_loss_coef"}
    silent: ClassVar[dict[str, Any]] = {"dropout": 0.1, "cls_loss_coefficient": 2}
    fixed: ClassVar[dict[str, Any]] = {
        "focal_alpha": 0.25,
        "temperature_height": 20,
        "temperature_width": 20,
        "sine_position_embedding_scale": None,
        "keep_query_pos": False,
        "num_patterns": 0,
        "normalize_before": False,
        "query_dim": 4,
    }
    activations = ("prelu", "relu", "gelu", "silu")
    spellings: ClassVar[dict[str, Renaming]] = spellings(
        rows, [ITSELF], {"timm": lambda prefix: trunk_rows(f"{prefix}._backbone"), "resnet": resnet_rows}
    )

    def base(self, spelling: str) -> DetectorConfig:
        """The preset, with the eps of transformers."""
        return unchecked("dab_detr_r50").replace(reference_eps=1e-5)


LAYOUT = Dab()
