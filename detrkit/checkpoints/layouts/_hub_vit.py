"""What LW-DETR and RF-DETR share in folders of transformers: decoder, groups of queries, words, square images."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, NamedTuple

from torch import Tensor

from detrkit.checkpoints.foreign import Foreign
from detrkit.checkpoints.layouts._attentions import (
    Arguments,
    refused_attentions,
    settings_of,
    told_of_attentions,
    with_settings,
)
from detrkit.checkpoints.layouts._groups import cut, head_rows, joined, number_of_groups, table_rows
from detrkit.checkpoints.layouts._hub import WORDS, Hub, dense_rows
from detrkit.checkpoints.layouts._hub_config import (
    PREPROCESSING_AS_OURS,
    check_fixed,
    check_images,
    refuse,
    square_sides,
)
from detrkit.checkpoints.layouts._parts import Refusal
from detrkit.checkpoints.layouts._renaming import Row
from detrkit.checkpoints.layouts._sizes import Sizes
from detrkit.config import DetectorConfig
from detrkit.specs import Spec

TRUNK, PROJECTOR = "model.backbone.backbone", "model.backbone.projector"
SHOWN = {
    "d_model": "d_model",
    "num_queries": "num_queries",
    "decoder_layers": "dec_layers",
    "decoder_ffn_dim": "dim_feedforward",
    "group_detr": "group_detr",
}
"""Their field -> ours, where tensors show the value as well."""


class Names(NamedTuple):
    """What the attention of the trunk is called: in memory, or in files, which keep the names of before version 5."""

    query: str
    key: str
    value: str
    out: str


IN_MEMORY = Names("q_proj", "k_proj", "v_proj", "o_proj")
IN_FILES = Names("attention.query", "attention.key", "attention.value", "output")


def block_rows(names: Names, theirs: Mapping[str, str]) -> list[Row]:
    """Rows of the trunk's blocks, ours to theirs, whose queries, keys and values are ours joined."""
    ours, layer = "backbone.blocks.#", f"{TRUNK}.encoder.layer.#"
    weights = tuple(f"{layer}.attention.{part}.weight" for part in names[:3])
    return [
        *((f"{ours}.{name}", f"{layer}.{other}") for name, other in theirs.items()),
        (f"{ours}.attn.qkv.weight", weights),
        (f"{ours}.attn.proj.*", f"{layer}.attention.{names.out}.*"),
    ]


def projector_rows(ours: str, theirs: str) -> list[Row]:
    """Rows of a level of the projector."""
    block, layer = f"{ours}.block", f"{theirs}.projector_layer"
    return [
        (f"{block}.first.*", f"{layer}.conv1.*"),
        (f"{block}.last.*", f"{layer}.conv2.*"),
        *((f"{block}.blocks.#.{n}.*", f"{layer}.bottlenecks.#.conv{n + 1}.*") for n in range(2)),
        (f"{ours}.norm.*", f"{theirs}.layer_norm.*"),
    ]


def decoder_rows() -> list[Row]:
    """Rows of queries, decoder and heads."""
    ours, theirs = "decoder.layers.#", "model.decoder.layers.#"
    norms = {"self_attn": "self_attn_layer_norm", "cross_attn": "cross_attn_layer_norm", "ffn": "layer_norm"}
    return [
        *table_rows("model.reference_point_embed", "model.query_feat"),
        *dense_rows(f"{ours}.self_attn", f"{theirs}.self_attn", "o_proj"),
        (f"{ours}.cross_attn.*", f"{theirs}.cross_attn.*"),
        *((f"{ours}.{name}_residual.norm.*", f"{theirs}.{other}.*") for name, other in norms.items()),
        *((f"{ours}.ffn.linear{n}.*", f"{theirs}.mlp.fc{n}.*") for n in (1, 2)),
        ("decoder.norm.*", "model.decoder.layernorm.*"),
        ("decoder.placement.position_head.layers.#.*", "model.decoder.ref_point_head.layers.#.*"),
        *head_rows("model"),
        ("class_embed.*", "class_embed.*"),
        ("bbox_embed.layers.#.*", "bbox_embed.layers.#.*"),
    ]


class VitHub(Hub):
    """Template of a plain transformer, a projector and groups of queries.

    Attributes:
        backbone: the component of the trunk.
        neck_fixed: settings of the projector with the only value that is its function.
        trunk_kind: its ``model_type``.
        trunk: our settings of it -> fields of its ``backbone_config``.
        trunk_silent: what transformers takes where that says nothing.
        trunk_fixed: fields of it with the only value that is our function.
    """

    backbone: ClassVar[str]
    neck_fixed: ClassVar[Mapping[str, Any]]
    varies = Hub.varies | {"group_detr", "selection"}
    trunk_kind: ClassVar[str]
    trunk: ClassVar[Mapping[str, str]] = {
        "width": "hidden_size",
        "depth": "num_hidden_layers",
        "heads": "num_attention_heads",
        "patch": "patch_size",
    }
    trunk_silent: ClassVar[Mapping[str, Any]]
    trunk_fixed: ClassVar[Mapping[str, Any]]
    words: ClassVar[Mapping[str, str]] = {
        **{theirs: ours for theirs, ours in WORDS.items() if theirs != "activation_function"},
        "decoder_activation_function": "activation",
        "class_loss_coefficient": "cls_loss_coef",
        "auxiliary_loss": "aux_loss",
    }
    silent: ClassVar[dict[str, Any]] = {"decoder_n_points": 4}
    fixed: ClassVar[dict[str, Any]] = {
        "focal_alpha": 0.25,
        "activation_function": "silu",
        "hidden_expansion": 0.5,
        "attention_bias": True,
    }
    attentions: ClassVar[Arguments] = {
        "decoder_self_attention": {"heads": "decoder_self_attention_heads"},
        "decoder_cross_attention": {"heads": "decoder_cross_attention_heads", "points": "decoder_n_points"},
    }

    @abstractmethod
    def windows_in(self, told: Mapping[str, Any]) -> dict[str, Any]:
        """Settings of the trunk for its windows and the table of positions, of a whole ``backbone_config``."""

    @abstractmethod
    def neck_in(self, told: Mapping[str, Any]) -> dict[str, Any]:
        """Settings of the projector."""

    @abstractmethod
    def told_of_windows(self, trunk: Mapping[str, Any]) -> dict[str, Any]:
        """Fields of ``backbone_config``, the inverse of `windows_in`."""

    @abstractmethod
    def told_of_neck(self, neck: Mapping[str, Any]) -> dict[str, Any]:
        """Fields of ``config.json``, the inverse of `neck_in`."""

    def prepared(self, foreign: Foreign, spelling: str) -> Foreign:
        """As the template, with the tables of queries cut into groups."""
        return cut(super().prepared(foreign, spelling))

    def config(self, foreign: Foreign, spelling: str, sizes: Sizes) -> DetectorConfig:
        """As the contract."""
        neck = with_settings("projector", self.neck_in(foreign.told), "necks")
        return super().config(foreign, spelling, sizes).replace(neck=neck)

    def fields(self, foreign: Foreign, spelling: str, sizes: Sizes) -> dict[str, Any]:
        """As the contract."""
        told, base = foreign.told, self.base(spelling)
        shown = {**sizes.fields(base), "group_detr": number_of_groups(foreign)}
        check_fixed(foreign, {"num_channels": 3, **self.fixed})
        for field, ours in SHOWN.items():
            if told.get(field, shown[ours]) != shown[ours]:
                raise refuse(foreign, field, told[field], f"{shown[ours]}, which the weights show")
        return {
            **{ours: told[theirs] for theirs, ours in self.words.items() if theirs in told},
            **self.seen(foreign),
            **self.shown(foreign, sizes),
            "selection": with_settings("topk", {"k": shown["num_queries"]}, "selection"),
        }

    def seen(self, foreign: Foreign) -> dict[str, Any]:
        """As the template: squares."""
        check_images(foreign, PREPROCESSING_AS_OURS)
        return square_sides(foreign, self.base("").short_side)

    def shown(self, foreign: Foreign, sizes: Sizes) -> dict[str, Any]:
        """As the template: trunk and groups."""
        trunk = with_settings(self.backbone, self.trunk_in(foreign), "backbones")
        return {"backbone": trunk, "group_detr": number_of_groups(foreign)}

    def trunk_in(self, foreign: Foreign) -> dict[str, Any]:
        """Settings of the trunk, as ``backbone_config`` tells them.

        Raises:
            CheckpointError: another trunk, or another function of it.
        """
        nested = foreign.told.get("backbone_config")
        if not isinstance(nested, dict) or nested.get("model_type") != self.trunk_kind:
            raise refuse(foreign, "backbone_config", nested, f"one of model_type {self.trunk_kind}")
        told = {**self.trunk_silent, **nested}
        for field, value in {"num_channels": 3, "mlp_ratio": 4, "hidden_act": "gelu", **self.trunk_fixed}.items():
            if told.get(field, value) != value:
                raise refuse(foreign, f"backbone_config.{field}", told[field], str(value))
        settings = {ours: told[theirs] for ours, theirs in self.trunk.items()}
        return {**settings, "taken": maps_in(foreign, told), **self.windows_in(told)}

    def written(self, names: str, trunk: str) -> list[str]:
        """As the template; there is one kind of trunk."""
        return super().written(names, self.backbone)

    def completed(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """As the contract, the tables of queries whole."""
        return joined(tensors)

    def refused_parts(self, config: DetectorConfig, spelling: str) -> Iterator[Refusal]:
        """As the contract."""
        base, selection = self.base(spelling), with_settings("topk", {"k": config.num_queries}, "selection")
        yield from refused_attentions(config, base, self.attentions)
        for field, name in (("backbone", self.backbone), ("neck", "projector")):
            if Spec.parse(getattr(config, field)).name != name:
                yield Refusal(field, getattr(config, field), repr(getattr(base, field)))
                return
        neck = settings_of(config.neck, "necks")
        for field, fits, expected in (
            ("neck", all(neck[name] == value for name, value in self.neck_fixed.items()), repr(base.neck)),
            ("positional", config.positional is None, "None"),
            ("enc_layers", config.enc_layers == 0, "0"),
            ("group_detr", config.group_detr > 1, "at least 2"),
            ("selection", Spec.parse(config.selection) == Spec.parse(selection), repr(selection)),
            ("activation", config.activation in self.activations, " or ".join(self.activations)),
        ):
            if not fits:
                yield Refusal(field, getattr(config, field), expected)

    def told(self, config: DetectorConfig, spelling: str) -> dict[str, Any]:
        """As the contract."""
        return {
            "model_type": self.kinds[0],
            **{theirs: getattr(config, ours) for theirs, ours in {**SHOWN, **self.words}.items()},
            **told_of_attentions(config, self.attentions),
            **self.fixed,
            **self.told_of_neck(settings_of(config.neck, "necks")),
        }

    def told_of_trunk(self, config: DetectorConfig, trunk: str) -> dict[str, Any]:
        """As the template: a whole ``backbone_config``."""
        settings = settings_of(config.backbone, "backbones")
        nested = {
            "model_type": self.trunk_kind,
            "num_channels": 3,
            "mlp_ratio": 4,
            "hidden_act": "gelu",
            **self.trunk_fixed,
            **{theirs: settings[ours] for ours, theirs in self.trunk.items()},
            "out_features": [f"stage{number}" for number in settings["taken"]],
            **self.told_of_windows(settings),
        }
        return {"backbone_config": {"image_size": config.short_side, **nested}}

    def told_of_images(self, config: DetectorConfig) -> dict[str, Any]:
        """As the template."""
        size = {"height": config.short_side, "width": config.long_side}
        return {**PREPROCESSING_AS_OURS, "size": size, "do_pad": False}


def maps_in(foreign: Foreign, told: Mapping[str, Any]) -> tuple[int, ...]:
    """After which blocks a map is taken, as names of stages or as numbers."""
    named, numbered = told.get("out_features"), told.get("out_indices")
    maps = [str(name).removeprefix("stage") for name in named] if isinstance(named, list) else numbered
    if not isinstance(maps, list) or not all(str(number).isdecimal() for number in maps):
        raise refuse(foreign, "backbone_config.out_indices", maps, "numbers of blocks")
    return tuple(int(number) for number in maps)
