"""Deformable DETR: Deformable Transformers for End-to-End Object Detection (Zhu et al., ICLR 2021)."""

from __future__ import annotations

from detrkit.config import DetectorConfig, recipe
from detrkit.presets.detr import detr_r50 as _detr_r50
from detrkit.presets.detr import detr_tiny as _detr_tiny


def _deformable(base: DetectorConfig) -> DetectorConfig:
    """What the paper changes: a few points around each reference, several levels, focal loss, top-k."""
    return base.replace(
        neck="pyramid",
        positional="sine(offset=-0.5)",
        encoder_attention="deformable",
        decoder_cross_attention="deformable",
        queries="points",
        decoder_norm=False,
        classification="focal",
        set_cost_class=2.0,
        cls_loss_coef=2.0,
        selection="topk",
    )


@recipe(lr=2e-4, lr_backbone=2e-5, lr_factors="sampling_offsets=0.1,reference_points=0.1", epochs=50, lr_drop=40)
def deformable_detr_r50() -> DetectorConfig:
    """Deformable DETR with a ResNet-50 (table 1): 44.5 AP on COCO val2017 after 50 epochs, 40 M parameters."""
    return _deformable(_detr_r50()).replace(num_queries=300, dim_feedforward=1024)


@recipe(lr=2e-4, lr_backbone=2e-5, lr_factors="sampling_offsets=0.1,reference_points=0.1", epochs=50, lr_drop=40)
def deformable_detr_r50_single_scale() -> DetectorConfig:
    """Deformable DETR on the coarsest level alone (table 2): 39.4 AP on COCO val2017, 34 M parameters."""
    return deformable_detr_r50().replace(neck="pyramid(levels=1, extra=0)")


@recipe(lr=2e-4, lr_backbone=2e-5, lr_factors="sampling_offsets=0.1,reference_points=0.1", epochs=50, lr_drop=40)
def deformable_detr_r50_refine() -> DetectorConfig:
    """Deformable DETR with iterative refinement of boxes (table 1): 46.2 AP on COCO val2017, 41 M parameters."""
    return deformable_detr_r50().replace(refinement="iterative", share_heads=False)


@recipe(lr=2e-4, lr_backbone=2e-5, lr_factors="sampling_offsets=0.1", epochs=50, lr_drop=40)
def deformable_detr_r50_two_stage() -> DetectorConfig:
    """Deformable DETR with refinement, in two stages (table 1): 46.9 AP on COCO val2017, 41 M parameters."""
    return deformable_detr_r50_refine().replace(queries="two_stage")


@recipe(**_detr_tiny.changes)
def deformable_detr_tiny() -> DetectorConfig:
    """The parts of `deformable_detr_r50` at the size of `detr_tiny`, on two levels."""
    return _deformable(_detr_tiny()).replace(pre_norm=False, neck="pyramid(levels=2, extra=0)", dim_feedforward=256)


@recipe(**_detr_tiny.changes)
def deformable_detr_tiny_single_scale() -> DetectorConfig:
    """The parts of `deformable_detr_r50_single_scale` at the size of `detr_tiny`."""
    return deformable_detr_tiny().replace(neck="pyramid(levels=1, extra=0)")


@recipe(**_detr_tiny.changes)
def deformable_detr_tiny_refine() -> DetectorConfig:
    """The parts of `deformable_detr_r50_refine` at the size of `detr_tiny`, on two levels."""
    return deformable_detr_tiny().replace(refinement="iterative", share_heads=False)


@recipe(**_detr_tiny.changes)
def deformable_detr_tiny_two_stage() -> DetectorConfig:
    """The parts of `deformable_detr_r50_two_stage` at the size of `detr_tiny`, on two levels."""
    return deformable_detr_tiny_refine().replace(queries="two_stage")
