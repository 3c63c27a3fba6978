"""LW-DETR as the library transformers keeps it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, final

from detrkit.checkpoints.layouts._attentions import settings_of
from detrkit.checkpoints.layouts._hub_vit import (
    IN_FILES,
    IN_MEMORY,
    PROJECTOR,
    TRUNK,
    Names,
    VitHub,
    block_rows,
    decoder_rows,
    projector_rows,
)
from detrkit.checkpoints.layouts._parts import Refusal
from detrkit.checkpoints.layouts._renaming import Renaming, Row
from detrkit.config import DetectorConfig
from detrkit.presets import unchecked

LEVEL = f"{PROJECTOR}.scale_layers.#"


def rows(names: Names) -> list[Row]:
    """The table of a version."""
    block = {
        "ls1.gamma": "gamma_1",
        "ls2.gamma": "gamma_2",
        "attn.q_bias": f"attention.{names.query}.bias",
        "attn.v_bias": f"attention.{names.value}.bias",
        "mlp.linear1.*": "intermediate.fc1.*",
        "mlp.linear2.*": "intermediate.fc2.*",
        "norm1.*": "layernorm_before.*",
        "norm2.*": "layernorm_after.*",
    }
    return [
        ("backbone.pos_embed", f"{TRUNK}.embeddings.position_embeddings"),
        ("backbone.patch_embed.*", f"{TRUNK}.embeddings.projection.*"),
        *block_rows(names, block),
        ("neck.levels.#.samplings.#.*", f"{LEVEL}.sampling_layers.#.layers.0.*"),
        *projector_rows("neck.levels.#", LEVEL),
        *decoder_rows(),
    ]


@final
class LwDetr(VitHub):
    """LW-DETR (``LwDetrForObjectDetection``)."""

    kinds = ("lw_detr",)
    architecture = "LwDetrForObjectDetection"
    backbone = "vit"
    processor = "DeformableDetrImageProcessor"
    neck_fixed: ClassVar[dict[str, Any]] = {"norm": "batch", "eps": None}
    trunk_kind = "lw_detr_vit"
    trunk_silent: ClassVar[dict[str, Any]] = {
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "patch_size": 16,
        "pretrain_image_size": 224,
        "num_windows": 16,
        "window_block_indices": (),
    }
    trunk_fixed: ClassVar[dict[str, Any]] = {
        "layer_norm_eps": 1e-6,
        "qkv_bias": True,
        "use_absolute_position_embeddings": True,
    }
    fixed: ClassVar[dict[str, Any]] = {**VitHub.fixed, "batch_norm_eps": 1e-5}
    spellings: ClassVar[dict[str, Renaming]] = {"v4 vit": Renaming(rows(IN_FILES)), "v5 vit": Renaming(rows(IN_MEMORY))}

    def base(self, spelling: str) -> DetectorConfig:
        """The preset."""
        return unchecked("lw_detr_small")

    def refused_parts(self, config: DetectorConfig, spelling: str) -> Iterator[Refusal]:
        """As the template; transformers asks for sides that its windows divide in a way of its own."""
        yield from super().refused_parts(config, spelling)
        cut = settings_of(config.backbone, "backbones").get("windows", 1) ** 3
        if config.short_side % cut:
            yield Refusal("short_side", config.short_side, f"a multiple of {cut}, which transformers asks for")

    def windows_in(self, told: Mapping[str, Any]) -> dict[str, Any]:
        """As the template."""
        return {
            "windows": math.isqrt(told["num_windows"]),
            "windowed": tuple(told["window_block_indices"]),
            "grid": told["pretrain_image_size"] // told["patch_size"],
        }

    def told_of_windows(self, trunk: Mapping[str, Any]) -> dict[str, Any]:
        """As the template."""
        return {
            "num_windows": trunk["windows"] ** 2,
            "window_block_indices": list(trunk["windowed"]),
            "pretrain_image_size": trunk["grid"] * trunk["patch"],
        }

    def neck_in(self, told: Mapping[str, Any]) -> dict[str, Any]:
        """As the template."""
        return {"scales": tuple(told.get("projector_scale_factors", ())), "depth": told.get("c2f_num_blocks", 3)}

    def told_of_neck(self, neck: Mapping[str, Any]) -> dict[str, Any]:
        """As the template."""
        return {"projector_scale_factors": list(neck["scales"]), "c2f_num_blocks": neck["depth"]}


LAYOUT = LwDetr()
