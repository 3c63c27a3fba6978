"""Conditional DETR as the library transformers keeps it."""

from __future__ import annotations

from typing import ClassVar, final

from detrkit.checkpoints.layouts._hub import IN_MEMORY, WORDS, Hub, Names, layer_rows, positional_rows, spellings
from detrkit.checkpoints.layouts._renaming import Renaming, Row
from detrkit.checkpoints.layouts.conditional import PROJECTIONS
from detrkit.checkpoints.layouts.transformers import AROUND
from detrkit.config import DetectorConfig
from detrkit.presets import unchecked

SIDES = {"self_attn": "self_attn", "cross_attn": "encoder_attn"}
WORDS_OF_PROJECTIONS = {"query": "q", "key": "k", "value": "v", "position": "pos", "sine": "pos_sine"}


def projection(ours: str, names: Names) -> str:
    """Their name for a projection: of the official code, until version 5 moved them into the attentions."""
    if names is not IN_MEMORY:
        return PROJECTIONS[ours]
    side, _, what = ours.partition(".")
    words = (WORDS_OF_PROJECTIONS.get(word, word) for word in what.split("_"))
    return f"{SIDES[side]}.{'_'.join(words)}_proj"


def rows(names: Names) -> list[Row]:
    """The table of a version, without the trunk."""
    ours, theirs = "decoder.layers.#", "model.decoder.layers.#"
    return [
        *positional_rows(names),
        *layer_rows("encoder", {"self_attn": "self_attn"}, names),
        *((f"{ours}.{name}.*", f"{theirs}.{projection(name, names)}.*") for name in PROJECTIONS),
        *((f"{ours}.{name}.out_proj.*", f"{theirs}.{other}.{names.out}.*") for name, other in SIDES.items()),
        *((f"{ours}.{name}_residual.norm.*", f"{theirs}.{other}_layer_norm.*") for name, other in SIDES.items()),
        *layer_rows("decoder", {}, names),
        ("decoder.placement.query_scale.layers.#.*", "model.decoder.query_scale.layers.#.*"),
        ("decoder.placement.reference_head.layers.#.*", "model.decoder.ref_point_head.layers.#.*"),
        *AROUND,
    ]


@final
class Conditional(Hub):
    """Conditional DETR with a ResNet (``ConditionalDetrForObjectDetection``)."""

    kinds = ("conditional_detr",)
    architecture = "ConditionalDetrForObjectDetection"
    processor = "ConditionalDetrImageProcessor"
    words: ClassVar[dict[str, str]] = {**WORDS, "cls_loss_coefficient": "cls_loss_coef"}
    fixed: ClassVar[dict[str, float]] = {"focal_alpha": 0.25}
    aux_is_another = True
    spellings: ClassVar[dict[str, Renaming]] = spellings(rows)

    def base(self, spelling: str) -> DetectorConfig:
        """The preset."""
        return unchecked("conditional_detr_r50")


LAYOUT = Conditional()
