"""DINO: DETR with Improved DeNoising Anchor Boxes for End-to-End Object Detection (Zhang et al., ICLR 2023)."""

from __future__ import annotations

from detrkit.config import DetectorConfig, recipe
from detrkit.presets.deformable import deformable_detr_r50_two_stage as _two_stage_r50
from detrkit.presets.deformable import deformable_detr_tiny_two_stage as _two_stage_tiny


def _dino(base: DetectorConfig) -> DetectorConfig:
    """What the paper changes: learned content at proposed boxes, contrastive denoising, gradients that look twice."""
    return base.replace(
        positional="sine(temperature=20.0)",
        queries="mixed",
        placement="sine",
        denoising="contrastive",
        refinement="look_twice",
        reference_eps=1e-3,
        share_heads=True,
        decoder_norm=True,
        dropout=0.0,
        cls_loss_coef=1.0,
        giou_eps=1e-6,
        selection="topk(k=300)",
    )


@recipe(epochs=12, lr_drop=11)
def dino_4scale_r50() -> DetectorConfig:
    """DINO with a ResNet-50 on four levels (table 1): 49.0 AP on COCO val2017 after 12 epochs, 47 M parameters."""
    return _dino(_two_stage_r50()).replace(num_queries=900, dim_feedforward=2048)


@recipe(**_two_stage_tiny.changes)
def dino_tiny() -> DetectorConfig:
    """The parts of `dino_4scale_r50` at the size of `detr_tiny`, on two levels."""
    return _dino(_two_stage_tiny()).replace(cls_loss_coef=2.0)
