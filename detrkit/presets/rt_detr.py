"""DETRs Beat YOLOs on Real-time Object Detection (Zhao et al., CVPR 2024), and RT-DETRv2 (Lv et al., 2024)."""

from __future__ import annotations

from detrkit.config import DetectorConfig, recipe
from detrkit.presets.dino import dino_4scale_r50 as _dino_r50
from detrkit.presets.dino import dino_tiny as _dino_tiny

_RECIPE = {
    "transforms": "rt_detr",
    "multi_scale": 0.25,
    "epochs": 72,
    "lr_drop": 72,
    "batch_size": 16,
    "ema_decay": 0.9999,
    "no_decay": "*norm,*bias",
}
_RECIPE_V2 = {**_RECIPE, "no_decay": "*norm", "warmup_steps": 2000, "amp": "bf16", "plain_epochs": 1}
_RECIPE_V2_R18 = {"epochs": 120, "lr_drop": 120, "lr_backbone": 1e-4, "multi_scale": 0.0, "plain_epochs": 3}


def _rt_detr(base: DetectorConfig) -> DetectorConfig:
    """What the paper changes: attention on the coarsest level only, fusion by convolutions, content from the encoder,
    classes that tell the overlap, square images."""
    return base.replace(
        neck="pyramid(levels=3, extra=0, norm='batch', level_embed=False)",
        positional="sine(normalize=False, offset=-1.0, interleave=False)",
        encoder="hybrid",
        encoder_attention="sdpa",
        enc_layers=1,
        encoder_activation="gelu",
        queries="selected",
        placement="mlp",
        decoder_norm=False,
        share_heads=False,
        reference_eps=1e-5,
        classification="varifocal",
        giou_eps=0.0,
        square=True,
        normalize=False,
    )


@recipe(**_RECIPE, freeze="backbone.body.stem")
def rt_detr_r50() -> DetectorConfig:
    """RT-DETR with a ResNet-50-D (table 2): 53.1 AP on COCO val2017 at 640 pixels after 72 epochs, 42 M parameters."""
    return _rt_detr(_dino_r50()).replace(
        backbone="resnet_vd(model='r50')",
        num_queries=300,
        num_classes=80,
        dim_feedforward=1024,
        short_side=640,
        long_side=640,
    )


def _small(base: DetectorConfig) -> DetectorConfig:
    """The small trunk, with norms that are trained, half the width in the fusion, and half the decoder."""
    return base.replace(backbone="resnet_vd(model='r18', norm='batch')", encoder="hybrid(expansion=0.5)", dec_layers=3)


@recipe(**_RECIPE)
def rt_detr_r18() -> DetectorConfig:
    """RT-DETR with a ResNet-18-D (official code): 46.5 AP on COCO val2017 after 72 epochs, 20 M parameters."""
    return _small(rt_detr_r50())


@recipe(**_RECIPE_V2, freeze="backbone.body.stem")
def rt_detr_v2_r50() -> DetectorConfig:
    """RT-DETRv2 with a ResNet-50-D (table 2): 53.4 AP on COCO val2017 after 72 epochs, 42 M parameters.

    The network of RT-DETR, trained otherwise. Its decoder may have other numbers of points on each level, and read
    single cells instead of between them: ``decoder_cross_attention="deformable(method='discrete')"``.
    """
    return rt_detr_r50()


@recipe(**{**_RECIPE_V2, **_RECIPE_V2_R18})
def rt_detr_v2_r18() -> DetectorConfig:
    """RT-DETRv2 with a ResNet-18-D (table 2): 48.1 AP on COCO val2017 after 120 epochs, 20 M parameters."""
    return rt_detr_r18()


@recipe(**_dino_tiny.changes)
def rt_detr_tiny() -> DetectorConfig:
    """The parts of `rt_detr_r50` at the size of `detr_tiny`, on two levels."""
    return _rt_detr(_dino_tiny()).replace(
        neck="pyramid(levels=2, extra=0, norm='batch', level_embed=False)",
        encoder="hybrid(expansion=0.25, depth=1)",
        dim_feedforward=128,
    )


@recipe(**_dino_tiny.changes)
def rt_detr_v2_tiny() -> DetectorConfig:
    """The parts of `rt_detr_v2_r50` at the size of `detr_tiny`, on two levels."""
    return rt_detr_tiny()
