"""RT-DETR as the library transformers keeps it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from detrkit.backbones.resnet_vd import BOTTLENECKS, EXPANSION, STAGES, STEM, WIDTHS
from detrkit.checkpoints.foreign import Foreign
from detrkit.checkpoints.layouts._attentions import Arguments, refused_attentions
from detrkit.checkpoints.layouts._hub import IN_MEMORY, V5_TRUNK, WRITTEN, Hub, Names, layer_rows, spellings
from detrkit.checkpoints.layouts._hub_config import (
    PREPROCESSING_AS_OURS,
    RESNET_AS_OURS,
    check_images,
    refuse,
    square_sides,
)
from detrkit.checkpoints.layouts._parts import Refusal
from detrkit.checkpoints.layouts._renaming import Renaming, Row
from detrkit.checkpoints.layouts._rt_detr import (
    STAGE_NUMBERS,
    SUPERFLUOUS,
    classes,
    conv_rows,
    fusion_rows,
    parts_shown,
    refused_parts,
    told_of_encoder,
)
from detrkit.checkpoints.layouts._sizes import Sizes
from detrkit.config import DetectorConfig
from detrkit.labels import LabelSpace
from detrkit.presets import unchecked
from detrkit.specs import Spec

SIDE = 640
VERSIONS = [version._replace(trunk=V5_TRUNK) for version in (WRITTEN, IN_MEMORY)]
IMAGES = {name: value for name, value in PREPROCESSING_AS_OURS.items() if name != "do_normalize"}


def trunk_rows(prefix: str) -> list[Row]:
    """The trunk, a ResNet-D of its own; the first shortcut averages nothing."""
    names = ("convolution", "normalization")
    rows = conv_rows("backbone.body.stem.#", f"{prefix}.embedder.embedder.#", *names)
    for stage in STAGE_NUMBERS:
        ours, theirs = f"backbone.body.stages.{stage}.#", f"{prefix}.encoder.stages.{stage}.layers.#"
        rows += conv_rows(f"{ours}.shortcut.1", f"{theirs}.shortcut" + ".1" * (stage > 0), *names)
        rows += conv_rows(f"{ours}.branch.#", f"{theirs}.layer.#", *names)
    return rows


def rows(names: Names) -> list[Row]:
    """The table of a version, without the trunk."""
    intra = "aifi" if names.version == IN_MEMORY.version else "encoder"
    return [
        *conv_rows("neck.projections.#", "model.encoder_input_proj.#", "0", "1"),
        *layer_rows("encoder", {"self_attn": "self_attn"}, names, prefix=f"model.encoder.{intra}.0.layers"),
        *fusion_rows("model.encoder"),
        ("queries.labels.weight", "model.denoising_class_embed.weight"),
        ("queries.output.*", "model.enc_output.0.*"),
        ("queries.output_norm.*", "model.enc_output.1.*"),
        ("queries.class_embed.*", "model.enc_score_head.*"),
        ("queries.bbox_embed.layers.#.*", "model.enc_bbox_head.layers.#.*"),
        *conv_rows("encoder.output.#", "model.decoder_input_proj.#", "0", "1"),
        *layer_rows("decoder", {"self_attn": "self_attn", "cross_attn": "encoder_attn"}, names),
        ("decoder.placement.position_head.layers.#.*", "model.decoder.query_pos_head.layers.#.*"),
        ("class_embed.#.*", "model.decoder.class_embed.#.*"),
        ("bbox_embed.#.layers.#.*", "model.decoder.bbox_embed.#.layers.#.*"),
    ]


TRUNKS = {"resnet": trunk_rows}


class RtDetr(Hub):
    """RT-DETR with a ResNet-D (``RTDetrForObjectDetection``)."""

    kinds: ClassVar[tuple[str, ...]] = ("rt_detr",)
    architecture = "RTDetrForObjectDetection"
    processor = "RTDetrImageProcessor"
    preset: ClassVar[str] = "rt_detr_r50"
    words: ClassVar[dict[str, str]] = {
        "dropout": "dropout",
        "decoder_activation_function": "activation",
        "encoder_activation_function": "encoder_activation",
        **{f"matcher_{term}_cost": f"set_cost_{term}" for term in ("class", "bbox", "giou")},
        **{
            f"weight_loss_{theirs}": f"{o}_loss_coef"
            for theirs, o in (("vfl", "cls"), ("bbox", "bbox"), ("giou", "giou"))
        },
    }
    fixed: ClassVar[dict[str, Any]] = {
        "activation_function": "silu",
        "encode_proj_layers": [2],
        "num_feature_levels": 3,
        "positional_encoding_temperature": 10000,
        "normalize_before": False,
        "learn_initial_query": False,
        "with_box_refine": True,
        "use_focal_loss": True,
        "matcher_alpha": 0.25,
        "matcher_gamma": 2.0,
        "focal_loss_alpha": 0.75,
        "focal_loss_gamma": 2.0,
        "num_denoising": 100,
        "label_noise_ratio": 0.5,
        "box_noise_scale": 1.0,
        "layer_norm_eps": 1e-5,
        "batch_norm_eps": 1e-5,
    }
    silent: ClassVar[dict[str, Any]] = {"num_queries": 300}
    varies = Hub.varies | {"encoder", "encoder_activation", "normalize"}
    learned = False
    attentions: ClassVar[Arguments] = {
        "encoder_attention": {"heads": "encoder_attention_heads"},
        "decoder_self_attention": {"heads": "decoder_attention_heads"},
        "decoder_cross_attention": {"heads": "decoder_attention_heads", "points": "decoder_n_points"},
    }
    superfluous: ClassVar[dict[str, str]] = {**Hub.superfluous, **SUPERFLUOUS}
    spellings: ClassVar[dict[str, Renaming]] = spellings(rows, VERSIONS, TRUNKS)

    def base(self, spelling: str) -> DetectorConfig:
        """The preset."""
        return unchecked(self.preset)

    def written(self, names: str, trunk: str) -> list[str]:
        """As the template; there is one kind of trunk."""
        return super().written(names, "resnet")

    def fields(self, foreign: Foreign, spelling: str, sizes: Sizes) -> dict[str, Any]:
        """As the template."""
        fields = super().fields(foreign, spelling, sizes)
        if fields.get("encoder_activation", "gelu") == fields.get("activation", "relu"):
            fields["encoder_activation"] = None
        return {
            **fields,
            "num_queries": foreign.told["num_queries"],
            "aux_loss": foreign.told.get("auxiliary_loss", True),
        }

    def seen(self, foreign: Foreign) -> dict[str, Any]:
        """As the template: squares, most often not normalised."""
        check_images(foreign, IMAGES)
        normalize = bool(foreign.preprocessing.get("do_normalize", False))
        return {**square_sides(foreign, SIDE), "normalize": normalize}

    def shown(self, foreign: Foreign, sizes: Sizes) -> dict[str, Any]:
        """As the template: trunk and encoder."""
        nested = foreign.told.get("backbone_config", {})
        if not isinstance(nested, dict) or nested.get("model_type", "rt_detr_resnet") != "rt_detr_resnet":
            raise refuse(foreign, "backbone_config", nested, "the ResNet-D of RT-DETR")
        for field, value in RESNET_AS_OURS.items():
            if nested.get(field, value) != value:
                raise refuse(foreign, f"backbone_config.{field}", nested[field], str(value))
        return parts_shown(sizes, self.base(""))

    def label_space(self, foreign: Foreign, count: int) -> LabelSpace:
        """As the template; eighty nameless classes are COCO's."""
        return classes(count) if foreign.told.get("id2label") is None else super().label_space(foreign, count)

    def refused_parts(self, config: DetectorConfig, spelling: str) -> Iterator[Refusal]:
        """As the contract."""
        base = self.base(spelling)
        yield from refused_attentions(config, base, self.attentions)
        yield from refused_parts(config, base)
        if isinstance(Spec.parse(config.decoder_cross_attention).settings.get("points", 4), tuple):
            yield Refusal("decoder_cross_attention", config.decoder_cross_attention, "as many points on each level")
        if told_of_encoder(config)["depth"] != 3:
            yield Refusal("encoder", config.encoder, "depth=3")

    def told(self, config: DetectorConfig, spelling: str) -> dict[str, Any]:
        """As the template."""
        return {
            **super().told(config, spelling),
            "encoder_activation_function": config.encoder_activation or config.activation,
            "encoder_hidden_dim": config.d_model,
            "decoder_in_channels": [config.d_model] * 3,
            "hidden_expansion": told_of_encoder(config)["expansion"],
        }

    def told_of_images(self, config: DetectorConfig) -> dict[str, Any]:
        """As the template."""
        size = {"height": config.short_side, "width": config.long_side}
        return {**IMAGES, "do_normalize": config.normalize, "size": size, "do_pad": False}

    def told_of_trunk(self, config: DetectorConfig, trunk: str) -> dict[str, Any]:
        """As the template."""
        model = Spec.parse(config.backbone).settings.get("model", "r50")
        widths = [width * (EXPANSION if model in BOTTLENECKS else 1) for width in WIDTHS]
        nested = {
            "model_type": "rt_detr_resnet",
            **RESNET_AS_OURS,
            "embedding_size": STEM,
            "layer_type": "bottleneck" if model in BOTTLENECKS else "basic",
            "depths": list(STAGES[model]),
            "hidden_sizes": widths,
            "out_features": ["stage2", "stage3", "stage4"],
        }
        return {
            "backbone_config": nested,
            "encoder_in_channels": widths[1:],
            "freeze_backbone_batch_norms": "norm" not in config.backbone,
        }


LAYOUT = RtDetr()
