"""What ``config.json`` and ``preprocessor_config.json`` of transformers tell about a DETR, and how to tell it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from detrkit.checkpoints.foreign import CONFIG, PREPROCESSING, Foreign
from detrkit.checkpoints.layouts._parts import PYRAMID_TAKES
from detrkit.checkpoints.layouts._sizes import Sizes
from detrkit.checkpoints.layouts._trunks import RESNETS, Trunk
from detrkit.errors import CheckpointError
from detrkit.labels import COCO, COCO_RAW, LabelSpace
from detrkit.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from detrkit.specs import Spec

STAGES = (1, 2, 3, 4)
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


def check_fixed(foreign: Foreign, fixed: Mapping[str, Any]) -> None:
    """Refuse fields that have another value than the one that makes the network ours.

    Raises:
        CheckpointError: names the field.
    """
    for field, value in fixed.items():
        if foreign.told.get(field, value) != value:
            raise refuse(foreign, field, foreign.told[field], str(value))


def check_positional(foreign: Foreign, shown: str | None) -> None:
    """Refuse a kind of positional encoding that is unknown, or not the one that the tensors show."""
    kinds, shown = ("sine", "learned"), str(shown).partition("(")[0]
    told = foreign.told.get("position_embedding_type", shown)
    if told not in kinds:
        raise refuse(foreign, "position_embedding_type", told, " or ".join(kinds))
    if told != shown:
        raise refuse(foreign, "position_embedding_type", told, f"{shown}, which the weights show")


def names_in(foreign: Foreign, count: int, ids: Sequence[int]) -> LabelSpace:
    """The classes that ``id2label`` names; COCO's raw ids where they are these. ``N/A`` marks an id that is not used.

    Raises:
        CheckpointError: keys other than 0..K-1, another number than `count`, or names that repeat.
    """
    names = foreign.told["id2label"]
    if not isinstance(names, dict) or {str(key) for key in names} != {str(k) for k in range(count)}:
        keys = len(names) if isinstance(names, dict) else type(names).__name__
        raise refuse(foreign, "id2label", keys, f"names of 0..{count - 1}, as many as the classifier has")
    listed = [names[str(k)] for k in range(count)]
    if wrong := [name for name in listed if not isinstance(name, str)]:
        raise refuse(foreign, "id2label", wrong[0], "names")
    if count == len(COCO_RAW) and all(listed[i] == COCO_RAW.names[i] for i in COCO.ids):
        return COCO_RAW
    listed = [f"unused {k}" if name == "N/A" else name for k, name in enumerate(listed)]
    if repeated := [name for name in listed if listed.count(name) > 1]:
        raise refuse(foreign, "id2label", repeated[0], "each name once")
    return LabelSpace(tuple(listed), tuple(ids))


def trunk_in(foreign: Foreign, sizes: Sizes) -> Trunk:
    """The trunk that the fields tell, which must be the one that the tensors show."""
    told, model, levels = foreign.told, sizes.resnet(), sizes.levels()
    taken = None if levels is None else levels.taken
    nested = told.get("backbone_config")
    if nested is None:
        nested = {"model_type": "resnet"} if told.get("use_timm_backbone") is False else legacy_timm(foreign, taken)
    kind = nested.get("model_type") if isinstance(nested, dict) else None
    if kind == "resnet":
        dilated = resnet_in(foreign, nested, model, taken)
    elif kind == "timm_backbone":
        dilated = timm_in(foreign, nested, model, taken)
    else:
        raise refuse(foreign, "backbone_config", nested, f"a ResNet or timm's: {', '.join(RESNETS)}")
    if told.get("dilation") and not dilated:
        raise refuse(foreign, "dilation", told["dilation"], "false: transformers does not dilate this backbone")
    return Trunk(model, dilation=dilated)


def check_maps(foreign: Foreign, field: str, maps: Any, stages: Sequence[Any], taken: int | None) -> None:
    """Refuse maps of the trunk other than the last ones, as many as are taken; the last is enough where one is read."""
    listed = maps if isinstance(maps, list) else []
    listed = [stages[-1] if stage == -1 else stage for stage in listed]
    if listed[-1:] != [stages[-1]]:
        raise refuse(foreign, field, maps, f"the last of them {stages[-1]}")
    if taken is not None and listed != list(stages[len(stages) - taken :]):
        raise refuse(foreign, field, maps, f"{list(stages[len(stages) - taken :])}, which the weights show")


def legacy_timm(foreign: Foreign, taken: int | None) -> dict[str, Any]:
    """The nested configuration that the flat fields of earlier versions stand for."""
    told = foreign.told
    options = told.get("backbone_kwargs") or {}
    if not isinstance(options, dict) or set(options) - {"out_indices", "output_stride", "in_chans", "num_channels"}:
        raise refuse(foreign, "backbone_kwargs", options, "out_indices and output_stride only")
    stride = 16 if told.get("dilation") and not options else 32
    name = told.get("backbone") or "resnet50"
    maps = [4] if taken in (None, 1) else [2, 3, 4]
    return {"model_type": "timm_backbone", "backbone": name, "output_stride": stride, "out_indices": maps, **options}


def timm_in(foreign: Foreign, nested: Mapping[str, Any], model: str, taken: int | None) -> bool:
    """Whether a trunk of timm is dilated; refuses other maps than those of the ResNet that the tensors show."""
    name = nested.get("backbone")
    if not isinstance(name, str) or name.partition(".")[0] != model:
        hint = f"{model}, which the weights show"
        raise refuse(foreign, "backbone", name, hint)
    check_maps(foreign, "backbone_config.out_indices", nested.get("out_indices") or [4], STAGES, taken)
    stride = nested.get("output_stride") or 32
    if stride not in (16, 32):
        raise refuse(foreign, "backbone_config.output_stride", stride, "16 or 32")
    return stride == 16


def resnet_in(foreign: Foreign, nested: Mapping[str, Any], model: str, taken: int | None) -> bool:
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
    stages = [f"stage{number}" for number in STAGES]
    check_maps(foreign, "backbone_config.out_features", nested.get("out_features") or stages[-1:], stages, taken)
    return False


def sides(foreign: Foreign) -> dict[str, Any]:
    """The sides to which images are resized, as the preprocessing tells; 800 and 1333 where nothing does."""
    told = foreign.preprocessing
    check_images(foreign, PREPROCESSING_AS_OURS)
    size = told.get("size", {"shortest_edge": 800, "longest_edge": 1333})
    if isinstance(size, int):
        size = {"shortest_edge": size, "longest_edge": told.get("max_size", 1333)}
    if not isinstance(size, dict) or set(size) != {"shortest_edge", "longest_edge"}:
        raise refuse(foreign, "size", size, "shortest_edge and longest_edge", file=PREPROCESSING)
    return {"short_side": size["shortest_edge"], "long_side": size["longest_edge"]}


def square_sides(foreign: Foreign, usual: int) -> dict[str, Any]:
    """The sides of the squares that images become, as the preprocessing tells, or the usual one where nothing does."""
    size = foreign.preprocessing.get("size", {"height": usual, "width": usual})
    side = size.get("height") if isinstance(size, dict) else None
    if side is None or size != {"height": side, "width": side}:
        raise refuse(foreign, "size", size, "as much height as width", file=PREPROCESSING)
    return {"short_side": side, "long_side": side}


def check_images(foreign: Foreign, expected: Mapping[str, Any]) -> None:
    """Refuse an image processor that says otherwise.

    Raises:
        CheckpointError: names the field.
    """
    for field, value in expected.items():
        if not _alike(foreign.preprocessing.get(field, value), value):
            raise refuse(foreign, field, foreign.preprocessing[field], str(value), file=PREPROCESSING)


def _alike(value: Any, other: Any) -> bool:
    """Equal, numbers up to rounding."""
    if isinstance(value, list) and isinstance(other, list):
        return len(value) == len(other) and all(map(_alike, value, other))
    numbers = isinstance(value, int | float) and isinstance(other, int | float)
    return -1e-6 < value - other < 1e-6 if numbers and abs(value) < 1e6 else value == other


def resnet_config(model: str, neck: str) -> dict[str, Any]:
    """``backbone_config`` of a ResNet of transformers, with the maps that a neck takes."""
    pyramid = Spec.parse(neck).name == "pyramid" and Spec.parse(neck).settings.get("levels") != 1
    anatomy = RESNETS[model]
    widths = [256, 512, 1024, 2048] if anatomy.bottleneck else [64, 128, 256, 512]
    return {
        "model_type": "resnet",
        **RESNET_AS_OURS,
        "layer_type": "bottleneck" if anatomy.bottleneck else "basic",
        "depths": list(anatomy.blocks),
        "hidden_sizes": widths,
        "out_features": [f"stage{number}" for number in (STAGES[-PYRAMID_TAKES:] if pyramid else STAGES[-1:])],
    }
