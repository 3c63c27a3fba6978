"""RF-DETR as the library transformers keeps it: under the official names in files, under others in memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, final

from detrkit.checkpoints.layouts._hub_vit import (
    IN_MEMORY,
    PROJECTOR,
    TRUNK,
    VitHub,
    block_rows,
    decoder_rows,
    projector_rows,
)
from detrkit.checkpoints.layouts._renaming import Renaming, Row
from detrkit.checkpoints.layouts.rf_detr import ROWS as OFFICIAL
from detrkit.config import DetectorConfig
from detrkit.necks.projector import NORM_EPS
from detrkit.presets import unchecked

EMBEDDINGS = f"{TRUNK}.embeddings"
BLOCK = {
    "ls1.gamma": "layer_scale1.lambda1",
    "ls2.gamma": "layer_scale2.lambda1",
    "mlp.linear1.*": "mlp.fc1.*",
    "mlp.linear2.*": "mlp.fc2.*",
    "norm1.*": "norm1.*",
    "norm2.*": "norm2.*",
}
ROWS: list[Row] = [
    ("backbone.cls_token", f"{EMBEDDINGS}.cls_token"),
    ("backbone.mask_token", f"{EMBEDDINGS}.mask_token"),
    ("backbone.pos_embed", f"{EMBEDDINGS}.position_embeddings"),
    ("backbone.patch_embed.*", f"{EMBEDDINGS}.patch_embeddings.projection.*"),
    ("backbone.blocks.#.attn.qkv.bias", tuple(f"{TRUNK}.encoder.layer.#.attention.{part}_proj.bias" for part in "qkv")),
    *block_rows(IN_MEMORY, BLOCK),
    ("backbone.norm.*", f"{TRUNK}.layernorm.*"),
    *projector_rows("neck.levels.0", PROJECTOR),
    *decoder_rows(),
]


@final
class RfDetr(VitHub):
    """RF-DETR (``RfDetrForObjectDetection``)."""

    kinds = ("rf_detr",)
    architecture = "RfDetrForObjectDetection"
    backbone = "dinov2"
    processor = "RfDetrImageProcessor"
    neck_fixed: ClassVar[dict[str, Any]] = {"norm": "layer", "scales": (1.0,)}
    trunk_kind = "rf_detr_dinov2"
    silent: ClassVar[dict[str, Any]] = {**VitHub.silent, "dropout": 0.1}
    trunk_silent: ClassVar[dict[str, Any]] = {
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "patch_size": 14,
        "image_size": 224,
        "num_windows": 4,
    }
    trunk_fixed: ClassVar[dict[str, Any]] = {
        "layer_norm_eps": 1e-6,
        "qkv_bias": True,
        "use_swiglu_ffn": False,
        "apply_layernorm": True,
        "reshape_hidden_states": True,
        "use_mask_token": True,
    }
    fixed: ClassVar[dict[str, Any]] = {**VitHub.fixed, "num_feature_levels": 1}
    spellings: ClassVar[dict[str, Renaming]] = {"v4 dinov2": Renaming(OFFICIAL), "v5 dinov2": Renaming(ROWS)}

    def base(self, spelling: str) -> DetectorConfig:
        """The preset."""
        return unchecked("rf_detr_base")

    def windows_in(self, told: Mapping[str, Any]) -> dict[str, Any]:
        """As the template."""
        return {"windows": told["num_windows"], "grid": told["image_size"] // told["patch_size"], "swapped": True}

    def told_of_windows(self, trunk: Mapping[str, Any]) -> dict[str, Any]:
        """As the template."""
        return {"num_windows": trunk["windows"], "image_size": trunk["grid"] * trunk["patch"]}

    def neck_in(self, told: Mapping[str, Any]) -> dict[str, Any]:
        """As the template; the class takes another epsilon than the published code where nothing is said."""
        eps = told.get("layer_norm_eps", 1e-5)
        return {"norm": "layer", "depth": told.get("c2f_num_blocks", 3), "eps": None if eps == NORM_EPS else eps}

    def told_of_neck(self, neck: Mapping[str, Any]) -> dict[str, Any]:
        """As the template."""
        return {"c2f_num_blocks": neck["depth"], "layer_norm_eps": NORM_EPS if neck["eps"] is None else neck["eps"]}


LAYOUT = RfDetr()
