"""What ``config.json`` and ``preprocessor_config.json`` of transformers tell about a DETR, and how to tell it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from detrkit.checkpoints.foreign import CONFIG, PREPROCESSING, Foreign
from detrkit.checkpoints.layouts._parts import RESNETS, Sizes, Trunk
from detrkit.errors import CheckpointError
from detrkit.preprocessing import IMAGENET_MEAN, IMAGENET_STD

ACTIVATIONS = ("relu", "gelu", "silu")  # called the same, and computed the same, there and here
RESNET_AS_OURS = {
    "embedding_size": 64,
    "hidden_act": "relu",
    "downsample_in_first_stage": False,
    "downsample_in_bottleneck": False,
    "num_channels": 3,
}
PREPROCESSING_AS_OURS = {
    "do_resize": True,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": list(IMAGENET_MEAN),
    "image_std": list(IMAGENET_STD),
    "resample": 2,
}


def refuse(foreign: Foreign, field: str, value: Any, expected: str, *, file: str = CONFIG) -> CheckpointError:
    """The error for a field that detrkit cannot express."""
    shown = "None" if value is None else value
    return CheckpointError("not expressible", path=foreign.path / file, field=field, value=shown, expected=expected)


def check_told(foreign: Foreign) -> None:
    """Refuse what makes the network another one than ours.

    Raises:
        CheckpointError: names the field.
    """
    told = foreign.told
    if told.get("auxiliary_loss"):
        raise CheckpointError(
            "transformers computes another network with it: decoder layers read the normed state of the one before",
            path=foreign.path / CONFIG,
            field="auxiliary_loss",
            value=True,
            expected="false",
            hint="set it to false if the weights were not trained by transformers with it (published ones were not)",
        )
    if told.get("num_channels", 3) != 3:
        raise refuse(foreign, "num_channels", told["num_channels"], "3")
    if (activation := told.get("activation_function", "relu")) not in ACTIVATIONS:
        raise refuse(foreign, "activation_function", activation, " or ".join(ACTIVATIONS))


def positional_in(foreign: Foreign, sizes: Sizes) -> str:
    """The positional encoding that the fields tell and the tensors show."""
    shown = sizes.positional()
    told = foreign.told.get("position_embedding_type", "sine")
    if told not in ("sine", "learned"):
        raise refuse(foreign, "position_embedding_type", told, "sine or learned")
    if told != shown.partition("(")[0]:
        raise refuse(foreign, "position_embedding_type", told, f"{shown}, which the weights show")
    return shown


def trunk_in(foreign: Foreign, sizes: Sizes) -> Trunk:
    """The trunk that the fields tell, which must be the one that the tensors show."""
    told, model = foreign.told, sizes.resnet()
    nested = told.get("backbone_config")
    if nested is None:
        nested = {"model_type": "resnet"} if told.get("use_timm_backbone") is False else legacy_timm(foreign)
    kind = nested.get("model_type") if isinstance(nested, dict) else None
    if kind == "resnet":
        dilated = resnet_in(foreign, nested, model)
    elif kind == "timm_backbone":
        dilated = timm_in(foreign, nested, model)
    else:
        raise refuse(foreign, "backbone_config", nested, f"a ResNet or timm's: {', '.join(RESNETS)}")
    if told.get("dilation") and not dilated:
        raise refuse(foreign, "dilation", told["dilation"], "false: transformers does not dilate this backbone")
    return Trunk(model, dilation=dilated)


def legacy_timm(foreign: Foreign) -> dict[str, Any]:
    """The nested configuration that the flat fields of earlier versions stand for."""
    told = foreign.told
    options = told.get("backbone_kwargs") or {}
    if not isinstance(options, dict) or set(options) - {"out_indices", "output_stride", "in_chans", "num_channels"}:
        raise refuse(foreign, "backbone_kwargs", options, "out_indices and output_stride only")
    stride = 16 if told.get("dilation") and not options else 32
    name = told.get("backbone") or "resnet50"
    return {"model_type": "timm_backbone", "backbone": name, "output_stride": stride, **options}


def timm_in(foreign: Foreign, nested: Mapping[str, Any], model: str) -> bool:
    """Whether a trunk of timm is dilated; refuses all but the last map of the ResNet that the tensors show."""
    name = nested.get("backbone")
    if not isinstance(name, str) or name.partition(".")[0] != model:
        hint = f"{model}, which the weights show"
        raise refuse(foreign, "backbone", name, hint)
    outputs = nested.get("out_indices") or [4]
    if not isinstance(outputs, list) or outputs[-1] not in (4, -1):
        raise refuse(foreign, "backbone_config.out_indices", outputs, "the last of them 4")
    stride = nested.get("output_stride") or 32
    if stride not in (16, 32):
        raise refuse(foreign, "backbone_config.output_stride", stride, "16 or 32")
    return stride == 16


def resnet_in(foreign: Foreign, nested: Mapping[str, Any], model: str) -> bool:
    """Whether a ResNet of transformers is dilated, which it never is; refuses what differs from torchvision's."""
    anatomy = RESNETS[model]
    as_ours = {
        **RESNET_AS_OURS,
        "layer_type": "bottleneck" if anatomy.bottleneck else "basic",
        "depths": list(anatomy.blocks),
    }
    for field, value in as_ours.items():
        if nested.get(field, value) != value:
            raise refuse(foreign, f"backbone_config.{field}", nested[field], str(value))
    outputs = nested.get("out_features") or ["stage4"]
    if not isinstance(outputs, list) or outputs[-1] != "stage4":
        raise refuse(foreign, "backbone_config.out_features", outputs, "the last of them stage4")
    return False


def sides(foreign: Foreign) -> dict[str, Any]:
    """The sides to which images are resized, as the preprocessing tells; 800 and 1333 where nothing does."""
    told = foreign.preprocessing
    for field, value in PREPROCESSING_AS_OURS.items():
        if not _alike(told.get(field, value), value):
            raise refuse(foreign, field, told[field], str(value), file=PREPROCESSING)
    size = told.get("size", {"shortest_edge": 800, "longest_edge": 1333})
    if isinstance(size, int):
        size = {"shortest_edge": size, "longest_edge": told.get("max_size", 1333)}
    if not isinstance(size, dict) or set(size) != {"shortest_edge", "longest_edge"}:
        raise refuse(foreign, "size", size, "shortest_edge and longest_edge", file=PREPROCESSING)
    return {"short_side": size["shortest_edge"], "long_side": size["longest_edge"]}


def _alike(value: Any, other: Any) -> bool:
    """Equal, numbers up to rounding."""
    if isinstance(value, list) and isinstance(other, list):
        return len(value) == len(other) and all(map(_alike, value, other))
    numbers = isinstance(value, int | float) and isinstance(other, int | float)
    return -1e-6 < value - other < 1e-6 if numbers and abs(value) < 1e6 else value == other


def resnet_config(model: str) -> dict[str, Any]:
    """``backbone_config`` of a ResNet of transformers."""
    anatomy = RESNETS[model]
    widths = [256, 512, 1024, 2048] if anatomy.bottleneck else [64, 128, 256, 512]
    return {
        "model_type": "resnet",
        **RESNET_AS_OURS,
        "layer_type": "bottleneck" if anatomy.bottleneck else "basic",
        "depths": list(anatomy.blocks),
        "hidden_sizes": widths,
        "out_features": ["stage4"],
    }
