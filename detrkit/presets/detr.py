"""End-to-End Object Detection with Transformers (Carion et al., ECCV 2020)."""

from __future__ import annotations

from detrkit.config import DetectorConfig, recipe


@recipe(lr_drop=200)
def detr_r50() -> DetectorConfig:
    """DETR with a ResNet-50 (table 1): 42.0 AP on COCO val2017 after 500 epochs, 41 M parameters."""
    return DetectorConfig()


@recipe(lr_drop=200)
def detr_r50_dc5() -> DetectorConfig:
    """DETR with a ResNet-50 whose last stage is dilated (table 1): 43.3 AP on COCO val2017, 41 M parameters."""
    return DetectorConfig(backbone="torchvision(model='resnet50', trainable_levels=3, dilation=True)")


@recipe(lr_drop=200)
def detr_r101() -> DetectorConfig:
    """DETR with a ResNet-101 (table 1): 43.5 AP on COCO val2017 after 500 epochs, 60 M parameters."""
    return DetectorConfig(backbone="torchvision(model='resnet101', trainable_levels=3)")


@recipe(lr_drop=200)
def detr_r101_dc5() -> DetectorConfig:
    """DETR with a ResNet-101 whose last stage is dilated (table 1): 44.9 AP on COCO val2017, 60 M parameters."""
    return DetectorConfig(backbone="torchvision(model='resnet101', trainable_levels=3, dilation=True)")


@recipe(lr_drop=200)
def detr_demo() -> DetectorConfig:
    """The listing of appendix A.6: positions and queries given once, at the input; 41 M parameters.

    Where the listing takes one image at a time, this takes batches with their padding. The authors' public notebook
    multiplies the features by a tenth, ``feature_scale=0.1``, and reports 40 AP.
    """
    return DetectorConfig(
        backbone="torchvision(model='resnet50', norm='batch')",
        positional="learned",
        queries="content",
        position_at="input",
        encoder_norm=True,
        bbox_layers=1,
        aux_loss=False,
    )


@recipe(
    data="toy",
    lr=2e-4,
    lr_backbone=1e-3,
    clip_max_norm=1.0,
    batch_size=16,
    steps=4800,
    warmup_steps=200,
    schedule="cosine",
    transforms=None,
    eval_every=4,
)
def detr_tiny() -> DetectorConfig:
    """DETR for toys and tests: the same parts, pre-norm (appendix A.4), under two million parameters, 96 pixels.

    Its rates and the double weight of the class are chosen for `toy`: a trunk that starts from random weights needs a
    higher rate than the transformer, which at a rate of 5e-4 was never seen to leave the mean box.
    """
    return DetectorConfig(
        backbone="tiny(depth=2, stride=16)",
        d_model=128,
        num_queries=20,
        num_classes=3,
        enc_layers=2,
        dec_layers=3,
        dim_feedforward=384,
        dropout=0.0,
        pre_norm=True,
        set_cost_class=2.0,
        cls_loss_coef=2.0,
        short_side=96,
        long_side=96,
    )
