"""DETR as the library transformers keeps it."""

from __future__ import annotations

from typing import ClassVar

from detrkit.checkpoints.layouts._hub import WORDS, Hub, Names, layer_rows, positional_rows, spellings
from detrkit.checkpoints.layouts._renaming import Renaming, Row
from detrkit.config import DetectorConfig

AROUND: list[Row] = [
    ("neck.projection.*", "model.input_projection.*"),
    ("queries.positions.weight", "model.query_position_embeddings.weight"),
    ("decoder.norm.*", "model.decoder.layernorm.*"),
    ("class_embed.*", "class_labels_classifier.*"),
    ("bbox_embed.layers.#.*", "bbox_predictor.layers.#.*"),
]
"""What stands around the layers."""


def rows(names: Names) -> list[Row]:
    """The table of a version, without the trunk."""
    return [
        *positional_rows(names),
        *layer_rows("encoder", {"self_attn": "self_attn"}, names),
        ("encoder.norm.*", "model.encoder.layernorm.*"),
        *layer_rows("decoder", {"self_attn": "self_attn", "cross_attn": "encoder_attn"}, names, DENSE),
        *AROUND,
    ]


DENSE = ("self_attn", "cross_attn")


class Detr(Hub):
    """DETR with a ResNet (``DetrForObjectDetection``)."""

    kinds = ("detr",)
    architecture = "DetrForObjectDetection"
    words: ClassVar[dict[str, str]] = {**WORDS, "eos_coefficient": "eos_coef"}
    varies = Hub.varies | {"eos_coef"}
    aux_is_another = True
    spellings: ClassVar[dict[str, Renaming]] = spellings(rows)

    def base(self, spelling: str) -> DetectorConfig:
        """The preset."""
        return DetectorConfig()


LAYOUT = Detr()
