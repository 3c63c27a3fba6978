"""LW-DETR: A Transformer Replacement to YOLO for Real-Time Detection (Chen et al., 2024)."""

from __future__ import annotations

from detrkit.config import DetectorConfig, recipe
from detrkit.presets.rt_detr import rt_detr_r50 as _rt_detr_r50
from detrkit.presets.rt_detr import rt_detr_tiny as _rt_detr_tiny


def _lw_detr(base: DetectorConfig) -> DetectorConfig:
    """What the paper changes: a plain transformer as trunk and no encoder, groups of queries instead of denoising,
    boxes told from the proposals by every layer, classes that tell probability and overlap."""
    return base.replace(
        neck="projector",
        positional=None,
        encoder="stack",
        enc_layers=0,
        encoder_activation=None,
        queries="shifted",
        group_detr=13,
        placement="sine",
        denoising=None,
        refinement="none",
        box_coder="delta",
        share_heads=True,
        decoder_norm=True,
        classification="iou_aware",
        normalize=True,
    )


def _rates(depth: int, layers: int, *embeddings: str) -> str:
    """Rates by part, as the official codes: blocks of the trunk a fifth below the next, of so many layers in all."""
    decays = {"": 0, **dict.fromkeys((f".{name}" for name in embeddings), layers + 1)}
    decays |= {f".blocks.{number}": layers - number for number in range(depth)}
    return ",".join(["decoder=0.7", *(f"backbone{name}={0.7**2 * 0.8**decay:.4f}" for name, decay in decays.items())])


_RECIPE = {
    "epochs": 60,
    "lr_drop": 60,
    "batch_size": 32,
    "lr_backbone": 1.5e-4,
    "ema_decay": 0.9997,
    "no_decay": "backbone.*norm*,backbone.*bias,backbone.*gamma,backbone.pos_embed",
}


@recipe(**_RECIPE, lr_factors=_rates(10, 10, "pos_embed", "patch_embed"))
def lw_detr_small() -> DetectorConfig:
    """LW-DETR-small (table 2): 48.0 AP on COCO val2017 after Objects365 and 60 epochs, 15 M parameters."""
    return _lw_detr(_rt_detr_r50()).replace(
        backbone="vit",
        decoder_cross_attention="deformable(heads=16, points=2)",
        dec_layers=3,
        num_classes=91,
        dim_feedforward=2048,
    )


@recipe(**_RECIPE, lr_factors=_rates(6, 6, "pos_embed", "patch_embed"))
def lw_detr_tiny() -> DetectorConfig:
    """LW-DETR-tiny (table 2): 42.6 AP on COCO val2017 after Objects365 and 60 epochs, 12 M parameters."""
    return lw_detr_small().replace(
        backbone="vit(depth=6, windowed=(0, 2, 4), taken=(2, 4, 6))", num_queries=100, selection="topk"
    )


@recipe(**_rt_detr_tiny.changes)
def lw_detr_small_tiny() -> DetectorConfig:
    """The parts of `lw_detr_small` at the size of `detr_tiny`; `lw_detr_tiny` is a published model."""
    return _lw_detr(_rt_detr_tiny()).replace(
        backbone="vit(width=96, depth=4, heads=4, patch=8, grid=12, windows=2, windowed=(0, 2), taken=(2, 4))",
        decoder_cross_attention="deformable(heads=16, points=2)",
        group_detr=5,
    )
