"""What the layouts in folders of transformers share: names by version, ``config.json``, and the image processor.

In memory, version 5 calls some entries otherwise than version 4; what its ``save_pretrained`` writes has the names of
version 4 still (seen in 5.23), and it reads both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar, NamedTuple

from detrkit.checkpoints.foreign import CONFIG, PREPROCESSING, Foreign
from detrkit.checkpoints.layouts import SIZES, Layout
from detrkit.checkpoints.layouts._attentions import Arguments, told_of_attentions
from detrkit.checkpoints.layouts._hub_config import (
    PREPROCESSING_AS_OURS,
    check_fixed,
    check_positional,
    names_in,
    refuse,
    resnet_config,
    sides,
    trunk_in,
)
from detrkit.checkpoints.layouts._parts import Refusal
from detrkit.checkpoints.layouts._renaming import Renaming, Row
from detrkit.checkpoints.layouts._sizes import Sizes
from detrkit.checkpoints.layouts._trunks import resnet_rows, trunk_of, trunk_rows
from detrkit.checkpoints.report import Entry
from detrkit.config import DetectorConfig
from detrkit.errors import CheckpointError
from detrkit.labels import LabelSpace
from detrkit.specs import Spec


class Names(NamedTuple):
    """What differs between versions: where the trunk and the positional tables are, and names within a layer."""

    version: str
    trunk: str
    positional: str
    out: str
    ffn: str


V4_TRUNK, V5_TRUNK = "model.backbone.conv_encoder.model", "model.backbone.model"
WRITTEN = Names("v4", V4_TRUNK, "model.position_embedding", "out_proj", "fc")
ITSELF = Names("v4-itself", V4_TRUNK, "model.backbone.position_embedding", "out_proj", "fc")
IN_MEMORY = Names("v5", V5_TRUNK, "model.position_embedding", "o_proj", "mlp.fc")
VERSIONS = (WRITTEN, ITSELF, IN_MEMORY)
"""What version 5 writes, what version 4 wrote (they differ where positions are learned), and version 5 in memory."""

TRUNKS: dict[str, Callable[[str], list[Row]]] = {"timm": trunk_rows, "resnet": resnet_rows}


def spellings(
    rows: Callable[[Names], Iterable[Row]],
    versions: Iterable[Names] = VERSIONS,
    trunks: Mapping[str, Callable[[str], list[Row]]] = TRUNKS,
    variant: str = "",
) -> dict[str, Renaming]:
    """The tables of a model for every version and trunk, called ``version trunk variant``."""
    return {
        f"{names.version} {trunk} {variant}".strip(): Renaming([*trunk_table(names.trunk), *rows(names)])
        for names in versions
        for trunk, trunk_table in trunks.items()
    }


def dense_rows(ours: str, theirs: str, out: str) -> Iterator[Row]:
    """A dense attention; its queries, keys and values are ours joined."""
    yield f"{ours}.in_proj_*", tuple(f"{theirs}.{part}_proj.*" for part in "qkv")
    yield f"{ours}.out_proj.*", f"{theirs}.{out}.*"


def layer_rows(
    side: str, attentions: Mapping[str, str], names: Names, dense: Iterable[str] = ("self_attn",), prefix: str = ""
) -> list[Row]:
    """Rows of one side's layers.

    Args:
        side: encoder or decoder.
        attentions: in the order of the layer, ours to theirs.
        names: of the version.
        dense: those of ours that are dense; of others, all entries have one name on both sides.
        prefix: of their layers, where it is not as that of ours.
    """
    ours, theirs = f"{side}.layers.#", f"{prefix or f'model.{side}.layers'}.#"
    rows: list[Row] = []
    for name, other in attentions.items():
        if name in dense:
            rows += dense_rows(f"{ours}.{name}", f"{theirs}.{other}", names.out)
        else:
            rows += [(f"{ours}.{name}.*", f"{theirs}.{other}.*")]
        rows += [(f"{ours}.{name}_residual.norm.*", f"{theirs}.{other}_layer_norm.*")]
    rows += [(f"{ours}.ffn.linear{n}.*", f"{theirs}.{names.ffn}{n}.*") for n in (1, 2)]
    return [*rows, (f"{ours}.ffn_residual.norm.*", f"{theirs}.final_layer_norm.*")]


def positional_rows(names: Names) -> list[Row]:
    """Rows of learned positions."""
    axes = (("row", "row"), ("col", "column"))
    return [(f"positional.{o}_embed.weight", f"{names.positional}.{t}_embeddings.weight") for o, t in axes]


SHOWN = {
    "d_model": "d_model",
    "hidden_size": "d_model",
    "num_queries": "num_queries",
    "encoder_layers": "enc_layers",
    "decoder_layers": "dec_layers",
    "encoder_ffn_dim": "dim_feedforward",
    "decoder_ffn_dim": "dim_feedforward",
}
"""Their field -> ours, where tensors show the value as well."""
WORDS = {
    "dropout": "dropout",
    "activation_function": "activation",
    "class_cost": "set_cost_class",
    "bbox_cost": "set_cost_bbox",
    "giou_cost": "set_cost_giou",
    "bbox_loss_coefficient": "bbox_loss_coef",
    "giou_loss_coefficient": "giou_loss_coef",
}
"""Their field -> ours, where only ``config.json`` tells it."""
WHOLE = (
    *(f"{part}_cost" for part in ("class", "bbox", "giou")),
    *(f"{x}_loss_coefficient" for x in ("cls", "bbox", "giou")),
)
"""Fields in which transformers takes whole numbers only."""
OURS_ONLY = ("aux_loss", "cls_loss_coef")
"""Fields of training that some models of transformers have no like for; kept under the key `OUR_KEY`."""
OUR_KEY = "detrkit_only"  # which transformers passes over
TRAINING_ONLY = ("attention_dropout", "activation_dropout", "encoder_layerdrop", "decoder_layerdrop")


class Hub(Layout):
    """Template of the layouts in folders of transformers.

    Attributes:
        architecture: its class for detection.
        processor: its class for images.
        width: its field for `d_model`.
        words: its fields that only ``config.json`` tells, with ours.
        silent: what it takes where ``config.json`` says nothing, where that is not as in `base`.
        fixed: fields that must have one value for it to compute what we compute.
        activations: those that it computes as we do.
        aux_is_another: whether it computes another network with ``auxiliary_loss``.
    """

    architecture: ClassVar[str]
    processor: ClassVar[str] = "DetrImageProcessor"
    width: ClassVar[str] = "d_model"
    words: ClassVar[Mapping[str, str]] = WORDS
    silent: ClassVar[Mapping[str, Any]] = {}
    fixed: ClassVar[Mapping[str, Any]] = {}
    activations: ClassVar[tuple[str, ...]] = ("relu", "gelu", "silu")
    aux_is_another: ClassVar[bool] = False
    varies = SIZES | frozenset({*WORDS.values(), *OURS_ONLY, "short_side", "long_side"})
    learned = True
    attentions: ClassVar[Arguments] = {
        "encoder_attention": {"heads": "encoder_attention_heads"},
        "decoder_self_attention": {"heads": "decoder_attention_heads"},
        "decoder_cross_attention": {"heads": "decoder_attention_heads"},
    }
    superfluous: ClassVar[dict[str, str]] = {
        "mask_head.*": "mask head of a panoptic DETR",
        "bbox_attention.*": "mask head of a panoptic DETR",
        "*.num_batches_tracked": "frozen norms count no batches",
    }

    def written(self, names: str, trunk: str) -> list[str]:
        """Spellings of this version and trunk; where the versions have the same names, of this trunk."""
        fitting = [spelling for spelling in self.spellings if spelling.split()[1] == trunk]
        return [spelling for spelling in fitting if spelling.split()[0] == names] or fitting

    def prepared(self, foreign: Foreign, spelling: str) -> Foreign:
        """As the contract."""
        return replace(foreign, told={**self.silent, **foreign.told})

    def fields(self, foreign: Foreign, spelling: str, sizes: Sizes) -> dict[str, Any]:
        """As the contract."""
        told, shown = foreign.told, sizes.fields(self.base(spelling))
        self.check(foreign)
        check_positional(foreign, sizes.positional(self.base(spelling)))
        for field, ours in SHOWN.items():
            if ours in shown and told.get(field, shown[ours]) != shown[ours]:
                raise refuse(foreign, field, told[field], f"{shown[ours]}, which the weights show")
        kept = kept_here(foreign)
        return {
            **{name: kept[name] for name in OURS_ONLY if name in kept},
            **{ours: told[theirs] for theirs, ours in self.words.items() if theirs in told},
            **self.seen(foreign),
            **self.shown(foreign, sizes),
        }

    def seen(self, foreign: Foreign) -> dict[str, Any]:
        """What the image processor makes of images, by field."""
        return sides(foreign)

    def shown(self, foreign: Foreign, sizes: Sizes) -> dict[str, Any]:
        """The trunk, and other parts that tensors show."""
        return {"backbone": trunk_in(foreign, sizes).spec()}

    def check(self, foreign: Foreign) -> None:
        """Refuse what makes the network another one than ours.

        Raises:
            CheckpointError: names the field.
        """
        if self.aux_is_another and foreign.told.get("auxiliary_loss"):
            raise CheckpointError(
                "transformers computes another network with it: decoder layers read the normed state of the one before",
                path=foreign.path / CONFIG,
                field="auxiliary_loss",
                value=True,
                expected="false",
                hint="set it to false if transformers did not train the weights with it, as those published",
            )
        check_fixed(foreign, {"num_channels": 3, **self.fixed})
        if (activation := foreign.told.get("activation_function", self.activations[0])) not in self.activations:
            raise refuse(foreign, "activation_function", activation, " or ".join(self.activations))

    def label_space(self, foreign: Foreign, count: int) -> LabelSpace:
        """As the contract; names of ``id2label``.

        Raises:
            CheckpointError: keys other than 0..K-1, another number than the classifier has, or names that repeat.
        """
        if foreign.told.get("id2label") is None:
            return super().label_space(foreign, count)
        return names_in(foreign, count, kept_here(foreign).get("label_ids", ()))

    def ignored(self, foreign: Foreign) -> Iterator[Entry]:
        """Dropouts that have no like here; they matter in training only."""
        for field in TRAINING_ONLY:
            value = foreign.told.get(field, 0)
            if value not in (0, foreign.told.get("dropout")):
                yield Entry("unused", source=f"{CONFIG}: {field}={value}", note="matters in training only")

    def refused_parts(self, config: DetectorConfig, spelling: str) -> Iterator[Refusal]:
        """As the contract."""
        yield from super().refused_parts(config, spelling)
        positional, trunk = Spec.parse(config.positional or "none"), trunk_of(config.backbone)
        if positional.name == "learned" and positional.settings.get("size", 50) != 50:
            yield Refusal("positional", config.positional, "a table of 50 cells")
        if trunk and trunk.dilation and spelling.split()[1] == "resnet":
            expected = "no dilation, which the ResNet of transformers has not; trunk='timm'"
            yield Refusal("backbone", config.backbone, expected)
        if config.activation not in self.activations:
            yield Refusal("activation", config.activation, " or ".join(self.activations))
        for field in WHOLE:
            if (ours := self.words.get(field)) and (value := getattr(config, ours)) != int(value):
                yield Refusal(ours, value, "a whole number")

    def told(self, config: DetectorConfig, spelling: str) -> dict[str, Any]:
        """As the contract; the fields of ``config.json`` that depend on the configuration."""
        shown = {theirs: ours for theirs, ours in SHOWN.items() if ours != "d_model"}
        told = {
            theirs: getattr(config, ours) for theirs, ours in {self.width: "d_model", **shown, **self.words}.items()
        }
        trunk = trunk_of(config.backbone)
        return {
            "model_type": self.kinds[0],
            **told,
            **{field: int(told[field]) for field in WHOLE if field in told},
            **told_of_attentions(config, self.attentions),
            **({"position_embedding_type": Spec.parse(config.positional or "").name} if self.learned else {}),
            **self.fixed,
            "auxiliary_loss": config.aux_loss and not self.aux_is_another,
            "dilation": trunk is not None and trunk.dilation,
            OUR_KEY: {name: getattr(config, name) for name in OURS_ONLY if name not in self.words.values()},
        }

    def files(self, model: Any, told: Mapping[str, Any], spelling: str) -> dict[str, dict[str, Any]]:
        """Content of ``config.json`` and ``preprocessor_config.json`` for a detector whose fields are `told`."""
        names, ids = model.label_space.names, model.label_space.ids
        config = {
            "architectures": [self.architecture],
            **told,
            "is_encoder_decoder": True,
            **self.told_of_trunk(model.config, spelling.split()[1]),
            "id2label": {str(k): name for k, name in enumerate(names)},
            "label2id": {name: k for k, name in enumerate(names)},
        }
        if ids != tuple(range(len(names))):
            config[OUR_KEY] = {**config[OUR_KEY], "label_ids": list(ids)}
        preprocessing = {"image_processor_type": self.processor, **self.told_of_images(model.config)}
        return {CONFIG: config, PREPROCESSING: {**preprocessing, "format": "coco_detection"}}

    def told_of_images(self, config: DetectorConfig) -> dict[str, Any]:
        """Fields of ``preprocessor_config.json``, the inverse of `seen`."""
        size = {"shortest_edge": config.short_side, "longest_edge": config.long_side}
        return {**PREPROCESSING_AS_OURS, "size": size, "do_pad": True}

    def told_of_trunk(self, config: DetectorConfig, trunk: str) -> dict[str, Any]:
        """Fields of ``config.json`` for the trunk, one of timm or the ResNet of transformers."""
        resnet = trunk_of(config.backbone)
        name = resnet.model if resnet else None
        nested = resnet_config(str(name), config.neck) if trunk == "resnet" else None
        return {
            "num_channels": 3,
            "use_timm_backbone": nested is None,
            "backbone": name if nested is None else None,
            "backbone_config": nested,
            "use_pretrained_backbone": False,
        }


def kept_here(foreign: Foreign) -> dict[str, Any]:
    """What `save_transformers` wrote for ourselves alone.

    Raises:
        CheckpointError: not as it was written.
    """
    kept = foreign.told.get(OUR_KEY, {})
    ids = kept.get("label_ids", []) if isinstance(kept, dict) else None
    if not isinstance(ids, list) or not all(isinstance(i, int) for i in ids):
        raise refuse(foreign, OUR_KEY, kept, "{'aux_loss': ..., 'label_ids': [numbers]}")
    return kept
