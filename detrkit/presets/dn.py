"""DN-DETR: Accelerate DETR Training by Introducing Query DeNoising (Li et al., CVPR 2022)."""

from __future__ import annotations

from detrkit.config import DetectorConfig, recipe
from detrkit.presets.dab import dab_detr_r50 as _dab_r50
from detrkit.presets.dab import dab_detr_tiny as _dab_tiny


@recipe(epochs=50, lr_drop=40)
def dn_detr_r50() -> DetectorConfig:
    """DN-DETR with a ResNet-50 (table 2): 44.4 AP on COCO val2017 after 50 epochs, 44 M parameters."""
    return _dab_r50().replace(queries="labelled", denoising="dn")


@recipe(**_dab_tiny.changes)
def dn_detr_tiny() -> DetectorConfig:
    """The parts of `dn_detr_r50` at the size of `detr_tiny`."""
    return _dab_tiny().replace(queries="labelled", denoising="dn")
