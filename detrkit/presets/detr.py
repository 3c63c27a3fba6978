"""End-to-End Object Detection with Transformers (Carion et al., ECCV 2020)."""

from __future__ import annotations

from detrkit.config import DetectorConfig, recipe


@recipe(lr_drop=200)
def detr_r50() -> DetectorConfig:
    """DETR with a ResNet-50 (table 1): 42.0 AP on COCO val2017 after 500 epochs, 41 M parameters."""
    return DetectorConfig()


@recipe(
    lr=5e-4,
    lr_backbone=5e-4,
    batch_size=32,
    steps=2000,
    schedule="cosine",
    warmup_steps=100,
    flip=0.0,
    data="toy",
    eval_every=4,
)
def detr_tiny() -> DetectorConfig:
    """DETR for toys and tests: the same parts, pre-norm (appendix A.4), under two million parameters, 96 pixels."""
    return DetectorConfig(
        backbone="tiny",
        d_model=128,
        num_queries=20,
        num_classes=3,
        enc_layers=2,
        dec_layers=3,
        dim_feedforward=256,
        dropout=0.0,
        pre_norm=True,
        short_side=96,
        long_side=96,
    )
