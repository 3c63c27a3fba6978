"""RF-DETR: Neural Architecture Search for Real-Time Detection Transformers (Robinson et al., 2025)."""

from __future__ import annotations

from detrkit.config import DetectorConfig, recipe
from detrkit.presets.lw_detr import _rates
from detrkit.presets.lw_detr import lw_detr_small as _lw_detr_small
from detrkit.presets.lw_detr import lw_detr_small_tiny as _lw_detr_small_tiny


def _rf_detr(base: DetectorConfig) -> DetectorConfig:
    """What the paper changes beside the trunk: norms that do not depend on the batch."""
    return base.replace(neck="projector(norm='layer')")


_EMBEDDINGS = ("pos_embed", "cls_token", "patch_embed")
_RECIPE = {
    "epochs": 100,
    "lr_drop": 100,
    "batch_size": 16,
    "lr_backbone": 1.5e-4,
    "ema_decay": 0.993,
    "no_decay": ",".join(f"backbone.{name}" for name in ("*norm*", "*bias", "*gamma", *_EMBEDDINGS)),
}


@recipe(**_RECIPE, lr_factors=_rates(11, 12, *_EMBEDDINGS))
def rf_detr_base() -> DetectorConfig:
    """RF-DETR-base (official code), DINOv2 at 560 pixels: 32 M parameters; the recipe is its for fine-tuning."""
    return _rf_detr(_lw_detr_small()).replace(backbone="dinov2(swapped=True)", short_side=560, long_side=560)


@recipe(**_RECIPE, lr_factors=_rates(12, 13, *_EMBEDDINGS))
def rf_detr_nano() -> DetectorConfig:
    """RF-DETR-nano (official code), DINOv2 at 384 pixels: 48.4 AP on COCO val2017, 30 M parameters."""
    return rf_detr_base().replace(
        backbone="dinov2(patch=16, grid=24, windows=2, taken=(3, 6, 9, 12), swapped=True)",
        dec_layers=2,
        short_side=384,
        long_side=384,
    )


@recipe(**_lw_detr_small_tiny.changes)
def rf_detr_tiny() -> DetectorConfig:
    """The parts of `rf_detr_base` at the size of `detr_tiny`."""
    return _rf_detr(_lw_detr_small_tiny()).replace(
        backbone="dinov2(width=96, depth=4, heads=4, patch=8, grid=12, windows=2, taken=(2, 4))"
    )
