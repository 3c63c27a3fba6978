"""A small detector for a few hundred images: parts of RT-DETR on a trunk that a laptop trains."""

from __future__ import annotations

from detrkit.config import DetectorConfig, recipe
from detrkit.presets.rt_detr import rt_detr_r18 as _rt_detr_r18


@recipe(
    lr=5e-4,
    lr_backbone=1e-4,
    batch_size=8,
    epochs=None,
    steps=1300,
    schedule="cosine",
    warmup_steps=100,
    ema_decay=0.99,
    clip_max_norm=0.1,
    transforms="small",
)
def small_data() -> DetectorConfig:
    """RT-DETR with a ShuffleNetV2 x0.5, half as wide, for images of any shape: 2 M parameters."""
    return _rt_detr_r18().replace(
        backbone="torchvision(model='shufflenet_v2_x0_5')",
        positional="sine(normalize=False, offset=-1.0, interleave=False)",
        d_model=128,
        dim_feedforward=256,
        num_queries=80,
        square=False,
        normalize=True,
        short_side=336,
        long_side=448,
    )
