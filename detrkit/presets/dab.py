"""DAB-DETR: Dynamic Anchor Boxes are Better Queries for DETR (Liu et al., ICLR 2022)."""

from __future__ import annotations

from detrkit.config import DetectorConfig, recipe
from detrkit.presets.conditional import conditional_detr_r50 as _conditional_r50
from detrkit.presets.conditional import conditional_detr_tiny as _conditional_tiny


def _dab(base: DetectorConfig) -> DetectorConfig:
    """What the paper changes: boxes as queries, refined and modulating the attention; temperature 20; PReLU."""
    return base.replace(
        queries="anchors",
        placement="modulated",
        refinement="look_twice",
        reference_eps=1e-3,
        positional="sine(temperature=20.0)",
        scale_positions=True,
        activation="prelu",
        dropout=0.0,
        cls_loss_coef=1.0,
        selection="topk(k=300)",
    )


@recipe(epochs=50, lr_drop=40)
def dab_detr_r50() -> DetectorConfig:
    """DAB-DETR with a ResNet-50 (table 2): 42.2 AP on COCO val2017 after 50 epochs, 44 M parameters."""
    return _dab(_conditional_r50())


@recipe(**_conditional_tiny.changes)
def dab_detr_tiny() -> DetectorConfig:
    """The parts of `dab_detr_r50` at the size of `detr_tiny`."""
    return _dab(_conditional_tiny()).replace(cls_loss_coef=2.0)
