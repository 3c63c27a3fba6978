"""RF-DETR: Neural Architecture Search for Real-Time Detection Transformers (Robinson et al., 2025)."""

from __future__ import annotations

from detrkit.config import DetectorConfig, recipe
from detrkit.presets.lw_detr import lw_detr_small as _lw_detr_small


@recipe(epochs=100, lr_drop=100, batch_size=16, lr_backbone=1.5e-4, ema_decay=0.993)
def rf_detr_base() -> DetectorConfig:
    """RF-DETR-base (official code): DINOv2 as trunk, 560 pixels; 32.2 M parameters."""
    return _lw_detr_small().replace(
        backbone="dinov2(swapped=True)", neck="projector(norm='layer')", short_side=560, long_side=560
    )


@recipe(epochs=100, lr_drop=100, batch_size=16, lr_backbone=1.5e-4, ema_decay=0.993)
def rf_detr_nano() -> DetectorConfig:
    """RF-DETR-nano (official code): 48.4 AP on COCO val2017 at 384 pixels, 30.5 M parameters."""
    return rf_detr_base().replace(
        backbone="dinov2(patch=16, grid=24, windows=2, taken=(3, 6, 9, 12), swapped=True)",
        dec_layers=2,
        short_side=384,
        long_side=384,
    )
