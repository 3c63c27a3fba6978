"""RT-DETRv2 as the library transformers keeps it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, final

from detrkit.checkpoints.foreign import Foreign
from detrkit.checkpoints.layouts._attentions import Arguments
from detrkit.checkpoints.layouts._hub import IN_MEMORY, Names, spellings
from detrkit.checkpoints.layouts._renaming import Renaming, Row
from detrkit.checkpoints.layouts.transformers_rt_detr import TRUNKS, VERSIONS, RtDetr
from detrkit.checkpoints.layouts.transformers_rt_detr import rows as rows_of_first
from detrkit.config import DetectorConfig

METHODS = {"default": "bilinear", "discrete": "discrete"}
"""Their word for how values are sampled -> ours."""


def rows(names: Names) -> list[Row]:
    """As of RT-DETR; in memory, version 5 has the heads twice."""
    heads = [(head, head) for head in ("class_embed.#.*", "bbox_embed.#.layers.#.*")]
    return [*rows_of_first(names), *(heads if names.version == IN_MEMORY.version else [])]


@final
class RtDetrV2(RtDetr):
    """RT-DETRv2 with a ResNet-D (``RTDetrV2ForObjectDetection``)."""

    kinds: ClassVar[tuple[str, ...]] = ("rt_detr_v2",)
    architecture = "RTDetrV2ForObjectDetection"
    preset: ClassVar[str] = "rt_detr_v2_r50"
    fixed: ClassVar[dict[str, Any]] = {**RtDetr.fixed, "decoder_n_levels": 3}
    attentions: ClassVar[Arguments] = {
        **RtDetr.attentions,
        "decoder_cross_attention": {
            **RtDetr.attentions["decoder_cross_attention"],
            "offset_scale": "decoder_offset_scale",
            "method": "decoder_method",
        },
    }

    spellings: ClassVar[dict[str, Renaming]] = spellings(rows, VERSIONS, TRUNKS)

    def prepared(self, foreign: Foreign, spelling: str) -> Foreign:
        """As the template; methods by our names."""
        foreign, method = super().prepared(foreign, spelling), foreign.told.get("decoder_method", "default")
        return replace(foreign, told={**foreign.told, "decoder_method": METHODS.get(method, method)})

    def told(self, config: DetectorConfig, spelling: str) -> dict[str, Any]:
        """As the template; methods by their names."""
        told, words = super().told(config, spelling), {ours: theirs for theirs, ours in METHODS.items()}
        return {**told, "decoder_method": words[told["decoder_method"]]}


LAYOUT = RtDetrV2()
