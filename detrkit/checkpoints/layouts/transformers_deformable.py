"""Deformable DETR as the library transformers keeps it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, final

from detrkit.checkpoints.foreign import CONFIG, Foreign
from detrkit.checkpoints.layouts._attentions import Arguments
from detrkit.checkpoints.layouts._hub import Hub, Names, layer_rows, positional_rows, spellings
from detrkit.checkpoints.layouts._hub_config import refuse
from detrkit.checkpoints.layouts._renaming import Renaming, Row
from detrkit.checkpoints.layouts._sizes import Sizes
from detrkit.checkpoints.layouts.deformable import (
    POINTS,
    PRESETS,
    TWO_STAGE,
    heads_of_proposals,
    own_boxes,
    own_classes,
    shared_heads,
)
from detrkit.checkpoints.report import Entry
from detrkit.config import DetectorConfig
from detrkit.presets import unchecked
from detrkit.specs import Spec

IN_DECODER = "model.decoder."
TABLE: list[Row] = [("queries.both.weight", "model.query_position_embeddings.weight")]
VARIANTS: dict[str, list[Row]] = {
    "plain": [*POINTS, *TABLE, *shared_heads("")],
    "refine": [*POINTS, *TABLE, *own_classes(""), *own_boxes(""), *own_boxes(IN_DECODER)],
    "two_stage": [
        *TWO_STAGE,
        *(row for prefix in ("", IN_DECODER) for row in (*own_classes(prefix), *own_boxes(prefix))),
        *(row for prefix in ("", IN_DECODER) for row in heads_of_proposals(prefix)),
    ],
}


def rows(variant: str, names: Names) -> list[Row]:
    """The table of a version, without the trunk."""
    return [
        *positional_rows(names),
        ("neck.level_embed", "model.level_embed"),
        ("neck.projections.#.#.*", "model.input_proj.#.#.*"),
        *layer_rows("encoder", {"self_attn": "self_attn"}, names, dense=()),
        *layer_rows("decoder", {"self_attn": "self_attn", "cross_attn": "encoder_attn"}, names),
        *((ours, str(theirs).replace("transformer.", "model.")) for ours, theirs in VARIANTS[variant]),
    ]


def variant_of(spelling: str) -> str:
    """Which of `VARIANTS` a spelling is of."""
    return spelling.split()[-1]


@final
class Deformable(Hub):
    """Deformable DETR with a ResNet (``DeformableDetrForObjectDetection``).

    With ``with_box_refine`` and ``tie_word_embeddings``, its layers share one head for classes but not those for boxes;
    here each layer then gets a copy.
    """

    kinds = ("deformable_detr",)
    architecture = "DeformableDetrForObjectDetection"
    processor = "DeformableDetrImageProcessor"
    silent: ClassVar[dict[str, Any]] = {"class_cost": 1, "two_stage_num_proposals": 300, "tie_word_embeddings": True}
    fixed: ClassVar[dict[str, Any]] = {"focal_alpha": 0.25}
    attentions: ClassVar[Arguments] = {
        "encoder_attention": {"heads": "encoder_attention_heads", "points": "encoder_n_points"},
        "decoder_self_attention": {"heads": "decoder_attention_heads"},
        "decoder_cross_attention": {"heads": "decoder_attention_heads", "points": "decoder_n_points"},
    }
    spellings: ClassVar[dict[str, Renaming]] = {
        spelling: table
        for variant in VARIANTS
        for spelling, table in spellings(partial(rows, variant), variant=variant).items()
    }

    def base(self, spelling: str) -> DetectorConfig:
        """The preset; levels are varied."""
        return unchecked(PRESETS[variant_of(spelling)])

    def allows(self, foreign: Foreign, spelling: str) -> bool:
        """As the contract: refinement and stages are as told."""
        return variant_of(spelling) == variant_told(foreign)

    def prepared(self, foreign: Foreign, spelling: str) -> Foreign:
        """As the template, with a copy of the tied head for classes for each layer."""
        foreign = super().prepared(foreign, spelling)
        layers = foreign.told.get("decoder_layers")
        tied = variant_of(spelling) == "refine" and foreign.told["tie_word_embeddings"]
        if not tied or not isinstance(layers, int):
            return foreign
        copies = {
            f"class_embed.{layer}.{part}": f"class_embed.0.{part}"
            for layer in range(min(layers, len(foreign.tensors)))
            for part in ("weight", "bias")
            if f"class_embed.0.{part}" in foreign.tensors
        }
        return replace(
            foreign,
            tensors={**{name: foreign.tensors[first] for name, first in copies.items()}, **foreign.tensors},
            sources={**{name: foreign.sources[first] for name, first in copies.items()}, **foreign.sources},
        )

    def fields(self, foreign: Foreign, spelling: str, sizes: Sizes) -> dict[str, Any]:
        """As the template."""
        levels, fields = sizes.levels(), super().fields(foreign, spelling, sizes)
        if levels and foreign.told.get("num_feature_levels", 4) != levels.levels:
            shown = f"{levels.levels}, which the weights show"
            raise refuse(foreign, "num_feature_levels", foreign.told.get("num_feature_levels", 4), shown)
        return {**fields, "num_queries": foreign.told["two_stage_num_proposals"]}

    def ignored(self, foreign: Foreign) -> Iterator[Entry]:
        """As the template, and that heads are tied."""
        yield from super().ignored(foreign)
        first, second = (foreign.sources.get(f"class_embed.{layer}.weight") for layer in (0, 1))
        if first is not None and first == second and variant_told(foreign) == "refine":
            note = "each layer has a copy of the head for classes, which training lets differ"
            yield Entry("unused", source=f"{CONFIG}: tie_word_embeddings=True", note=note)

    def told(self, config: DetectorConfig, spelling: str) -> dict[str, Any]:
        """As the template."""
        variant, neck = variant_of(spelling), Spec.parse(config.neck)
        return {
            **super().told(config, spelling),
            "num_feature_levels": neck.settings.get("levels", 4),
            "with_box_refine": variant != "plain",
            "two_stage": variant == "two_stage",
            "two_stage_num_proposals": config.num_queries,
            "tie_word_embeddings": variant == "plain",
        }


def variant_told(foreign: Foreign) -> str:
    """Which of `VARIANTS` the words of a file mean."""
    two_stage, refine = (bool(foreign.told.get(name, False)) for name in ("two_stage", "with_box_refine"))
    return "two_stage" if two_stage else "refine" if refine else "plain"


LAYOUT = Deformable()
