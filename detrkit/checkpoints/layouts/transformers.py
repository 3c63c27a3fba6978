"""DETR as the library transformers keeps it: names of its versions 4 and 5, trunks of timm and of its own ResNet.

In memory, version 5 calls some entries otherwise than version 4; what its ``save_pretrained`` writes has the names of
version 4 still (seen in 5.23), and it reads both. ``table-transformer`` is the pre-norm DETR.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, NamedTuple, final

from detrkit.checkpoints.foreign import CONFIG, PREPROCESSING, Foreign
from detrkit.checkpoints.layouts import SIZES, Layout
from detrkit.checkpoints.layouts._hub_config import (
    PREPROCESSING_AS_OURS,
    check_told,
    positional_in,
    refuse,
    resnet_config,
    sides,
    trunk_in,
)
from detrkit.checkpoints.layouts._parts import (
    ATTENTIONS,
    Refusal,
    Sizes,
    attention_of,
    heads_of,
    refused_parts,
    refused_positional,
    trunk_of,
    trunk_rows,
)
from detrkit.checkpoints.layouts._renaming import Renaming, Row
from detrkit.checkpoints.report import Entry
from detrkit.config import DetectorConfig
from detrkit.errors import CheckpointError, nearest
from detrkit.labels import COCO, COCO_RAW, LabelSpace


class Names(NamedTuple):
    """What differs between versions: where the trunk and the positional tables are, and names within a layer."""

    trunk: str
    positional: str
    out: str
    ffn: str


VERSIONS = {
    "v4": Names("model.backbone.conv_encoder.model", "model.position_embedding", "out_proj", "fc"),
    "v4 itself": Names("model.backbone.conv_encoder.model", "model.backbone.position_embedding", "out_proj", "fc"),
    "v5": Names("model.backbone.model", "model.position_embedding", "o_proj", "mlp.fc"),
}
"""``v4`` is what version 5 writes; they differ where positions are learned."""

POST_NORM, PRE_NORM = "detr", "table-transformer"


def resnet_rows(trunk: str) -> list[Row]:
    """A ResNet of transformers."""

    def layer(convolution: str, norm: str, theirs: str) -> list[Row]:
        ours = "backbone.body."
        return [
            (f"{ours}{convolution}.weight", f"{theirs}.convolution.weight"),
            (f"{ours}{norm}.*", f"{theirs}.normalization.*"),
        ]

    rows = layer("conv1", "bn1", f"{trunk}.embedder.embedder")
    for stage in range(4):
        ours, theirs = f"layer{stage + 1}.#", f"{trunk}.encoder.stages.{stage}.layers.#"
        rows += layer(f"{ours}.downsample.0", f"{ours}.downsample.1", f"{theirs}.shortcut")
        for n in range(3):
            rows += layer(f"{ours}.conv{n + 1}", f"{ours}.bn{n + 1}", f"{theirs}.layer.{n}")
    return rows


TRUNKS = {"timm": trunk_rows, "resnet": resnet_rows}


def layer_rows(side: str, attentions: dict[str, str], names: Names) -> list[Row]:
    """Rows of one side's layers; their queries, keys and values are ours joined."""
    ours, theirs = f"{side}.layers.#", f"model.{side}.layers.#"
    rows: list[Row] = []
    for name, other in attentions.items():
        parts = tuple(f"{theirs}.{other}.{part}_proj.*" for part in "qkv")
        rows += [
            (f"{ours}.{name}.in_proj_*", parts),
            (f"{ours}.{name}.out_proj.*", f"{theirs}.{other}.{names.out}.*"),
            (f"{ours}.{name}_residual.norm.*", f"{theirs}.{other}_layer_norm.*"),
        ]
    rows += [(f"{ours}.ffn.linear{n}.*", f"{theirs}.{names.ffn}{n}.*") for n in (1, 2)]
    return [*rows, (f"{ours}.ffn_residual.norm.*", f"{theirs}.final_layer_norm.*")]


def table(version: str, trunk: str) -> Renaming:
    """The table of one spelling."""
    names = VERSIONS[version]
    return Renaming(
        [
            *TRUNKS[trunk](names.trunk),
            ("positional.row_embed.weight", f"{names.positional}.row_embeddings.weight"),
            ("positional.col_embed.weight", f"{names.positional}.column_embeddings.weight"),
            ("queries.positions.weight", "model.query_position_embeddings.weight"),
            ("neck.projection.*", "model.input_projection.*"),
            *layer_rows("encoder", {"self_attn": "self_attn"}, names),
            ("encoder.norm.*", "model.encoder.layernorm.*"),
            *layer_rows("decoder", {"self_attn": "self_attn", "cross_attn": "encoder_attn"}, names),
            ("decoder.norm.*", "model.decoder.layernorm.*"),
            ("class_embed.*", "class_labels_classifier.*"),
            ("bbox_embed.layers.#.*", "bbox_predictor.layers.#.*"),
        ]
    )


SHOWN = {
    "d_model": "d_model",
    "num_queries": "num_queries",
    "encoder_layers": "enc_layers",
    "decoder_layers": "dec_layers",
    "encoder_ffn_dim": "dim_feedforward",
    "decoder_ffn_dim": "dim_feedforward",
}
"""Their field -> ours, where tensors show the value as well."""
TOLD = {
    "dropout": "dropout",
    "activation_function": "activation",
    "class_cost": "set_cost_class",
    "bbox_cost": "set_cost_bbox",
    "giou_cost": "set_cost_giou",
    "bbox_loss_coefficient": "bbox_loss_coef",
    "giou_loss_coefficient": "giou_loss_coef",
    "eos_coefficient": "eos_coef",
}
"""Their field -> ours, where only ``config.json`` tells it."""
WHOLE = ("class_cost", "bbox_cost", "giou_cost", "bbox_loss_coefficient", "giou_loss_coefficient")
"""Fields in which transformers takes whole numbers only."""
OURS_ONLY = ("aux_loss", "cls_loss_coef")
"""Fields of training for which transformers has no like; kept under the key `OUR_KEY`, which it passes over."""
OUR_KEY = "detrkit_only"
TRAINING_ONLY = ("attention_dropout", "activation_dropout", "encoder_layerdrop", "decoder_layerdrop")
HEADS = dict(zip(ATTENTIONS, ("encoder_attention_heads", *["decoder_attention_heads"] * 2), strict=True))


@final
class Transformers(Layout):
    """DETR of transformers, post-norm (``detr``) or pre-norm (``table-transformer``), with a ResNet as trunk."""

    kinds = (POST_NORM, PRE_NORM)
    varies = SIZES | frozenset({*TOLD.values(), *OURS_ONLY, "pre_norm", "short_side", "long_side"})
    spellings: ClassVar[dict[str, Renaming]] = {
        f"{version} {trunk}": table(version, trunk) for version in VERSIONS for trunk in TRUNKS
    }
    superfluous: ClassVar[dict[str, str]] = {
        "mask_head.*": "mask head of a panoptic DETR",
        "bbox_attention.*": "mask head of a panoptic DETR",
        "*.num_batches_tracked": "frozen norms count no batches",
    }

    def config(self, foreign: Foreign, spelling: str, sizes: Sizes) -> DetectorConfig:
        """As the contract."""
        told, shown = foreign.told, sizes.fields("queries.positions.weight")
        check_told(foreign)
        for field, ours in SHOWN.items():
            if told.get(field, shown[ours]) != shown[ours]:
                raise refuse(foreign, field, told[field], f"{shown[ours]}, which the weights show")
        kept = kept_here(foreign)
        attentions = {ours: attention_of(told.get(theirs, 8)) for ours, theirs in HEADS.items()}
        return self.base(spelling).replace(
            **shown,
            **{ours: told[theirs] for theirs, ours in TOLD.items() if theirs in told},
            **{name: kept[name] for name in OURS_ONLY if name in kept},
            **sides(foreign),
            **attentions,
            backbone=trunk_in(foreign, sizes).spec(),
            positional=positional_in(foreign, sizes),
            pre_norm=foreign.kind == PRE_NORM,
        )

    def label_space(self, foreign: Foreign, count: int) -> LabelSpace:
        """Names of ``id2label``; COCO's raw ids where they are these. ``N/A`` marks an id that is not used.

        Raises:
            CheckpointError: keys other than 0..K-1, another number than the classifier has, or names that repeat.
        """
        names = foreign.told.get("id2label")
        if names is None:
            return super().label_space(foreign, count)
        if not isinstance(names, dict) or {str(key) for key in names} != {str(k) for k in range(count)}:
            keys = len(names) if isinstance(names, dict) else type(names).__name__
            raise refuse(foreign, "id2label", keys, f"names of 0..{count - 1}, as many as the classifier has")
        listed = [names[str(k)] for k in range(count)]
        if wrong := [name for name in listed if not isinstance(name, str)]:
            raise refuse(foreign, "id2label", wrong[0], "names")
        if count == len(COCO_RAW) and all(listed[i] == COCO_RAW.names[i] for i in COCO.ids):
            return COCO_RAW
        listed = [f"unused {k}" if name == "N/A" else name for k, name in enumerate(listed)]
        if repeated := [name for name in listed if listed.count(name) > 1]:
            raise refuse(foreign, "id2label", repeated[0], "each name once")
        return LabelSpace(tuple(listed), tuple(kept_here(foreign).get("label_ids", ())))

    def ignored(self, foreign: Foreign) -> Iterator[Entry]:
        """Dropouts that have no like here; they matter in training only."""
        for field in TRAINING_ONLY:
            value = foreign.told.get(field, 0)
            if value not in (0, foreign.told.get("dropout")):
                yield Entry("unused", source=f"{CONFIG}: {field}={value}", note="matters in training only")

    def refused_parts(self, config: DetectorConfig, spelling: str) -> Iterator[Refusal]:
        """As the contract."""
        yield from refused_parts(config, norm="frozen", same_heads=ATTENTIONS[1:])
        yield from refused_positional(config, kinds=("sine", "learned"))
        if config.positional not in ("sine", "learned"):
            yield Refusal("positional", config.positional, "'sine' or 'learned', a table of 50 cells")
        trunk = trunk_of(config.backbone)
        if trunk and trunk.dilation and spelling.endswith("resnet"):
            yield Refusal(
                "backbone", config.backbone, "no dilation, which the ResNet of transformers has not; trunk='timm'"
            )
        for field in WHOLE:
            if (value := getattr(config, TOLD[field])) != int(value):
                yield Refusal(TOLD[field], value, "a whole number")

    def told(self, config: DetectorConfig) -> dict[str, Any]:
        """As the contract; the fields of ``config.json`` that depend on the configuration."""
        told = {theirs: getattr(config, ours) for theirs, ours in (SHOWN | TOLD).items()}
        trunk = trunk_of(config.backbone)
        return {
            "model_type": PRE_NORM if config.pre_norm else POST_NORM,
            **told,
            **{field: int(told[field]) for field in WHOLE},
            **{theirs: heads_of(getattr(config, ours)) for ours, theirs in HEADS.items()},
            "position_embedding_type": config.positional,
            "auxiliary_loss": False,
            "dilation": trunk is not None and trunk.dilation,
            OUR_KEY: {name: getattr(config, name) for name in OURS_ONLY},
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


def spelling(config: DetectorConfig, names: str, trunk: str) -> str:
    """The spelling in which a detector is written.

    Raises:
        CheckpointError: unknown names or trunk.
    """
    for field, value, known in (("names", names, ("v4", "v5")), ("trunk", trunk, tuple(TRUNKS))):
        if value not in known:
            raise CheckpointError("unknown spelling", field=field, value=value, hint=nearest(value, known))
    return f"{'v4 itself' if config.pre_norm else names} {trunk}"


def files(model: Any, told: Mapping[str, Any], trunk: str) -> dict[str, dict[str, Any]]:
    """Content of ``config.json`` and ``preprocessor_config.json`` for a detector whose fields are `told`."""
    resnet, space = trunk_of(model.config.backbone), model.label_space
    model_name = resnet.model if resnet else None
    nested = resnet_config(str(model_name)) if trunk == "resnet" else None
    names = list(space.names)
    head = "TableTransformerForObjectDetection" if told["model_type"] == PRE_NORM else "DetrForObjectDetection"
    config = {
        "architectures": [head],
        **told,
        "is_encoder_decoder": True,
        "num_channels": 3,
        "use_timm_backbone": nested is None,
        "backbone": model_name if nested is None else None,
        "backbone_config": nested,
        "use_pretrained_backbone": False,
        "id2label": {str(k): name for k, name in enumerate(names)},
        "label2id": {name: k for k, name in enumerate(names)},
    }
    if space.ids != tuple(range(len(names))):
        config[OUR_KEY] = {**config[OUR_KEY], "label_ids": list(space.ids)}
    size = {"shortest_edge": model.config.short_side, "longest_edge": model.config.long_side}
    preprocessing = {
        "image_processor_type": "DetrImageProcessor",
        **PREPROCESSING_AS_OURS,
        "size": size,
        "do_pad": True,
    }
    return {CONFIG: config, PREPROCESSING: {**preprocessing, "format": "coco_detection"}}


LAYOUT = Transformers()
