"""What the layouts of RT-DETR share: a trunk and an encoder that tensors show, and COCO's eighty classes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from detrkit.backbones.resnet_vd import BOTTLENECKS, STAGES
from detrkit.checkpoints.layouts._attentions import with_settings
from detrkit.checkpoints.layouts._parts import Refusal
from detrkit.checkpoints.layouts._renaming import Row
from detrkit.checkpoints.layouts._sizes import Sizes
from detrkit.config import DetectorConfig
from detrkit.errors import CheckpointError
from detrkit.labels import COCO, LabelSpace
from detrkit.specs import Spec

STAGE_NUMBERS = range(4)
SUPERFLUOUS = {
    "*.anchors": "anchors are computed",
    "*.valid_mask": "anchors are computed",
    "*_points_scale": "the number of points of each level",
}


def conv_rows(ours: str, theirs: str, conv: str = "conv", norm: str = "norm") -> list[Row]:
    """A convolution and its norm."""
    return [(f"{ours}.conv.*", f"{theirs}.{conv}.*"), (f"{ours}.norm.*", f"{theirs}.{norm}.*")]


def fusion_rows(prefix: str) -> list[Row]:
    """The convolutions of the hybrid encoder, named alike in all codes."""
    inner = {"first": "conv1", "second": "conv2", "last": "conv3"}
    inner |= {"blocks.#.wide": "bottlenecks.#.conv1", "blocks.#.narrow": "bottlenecks.#.conv2"}
    stages = {"lateral": "lateral_convs", "top_down": "fpn_blocks"}
    stages |= {"downsample": "downsample_convs", "bottom_up": "pan_blocks"}
    rows: list[Row] = []
    for ours, theirs in stages.items():
        parts = inner if theirs.endswith("blocks") else {"": ""}
        for part, other in parts.items():
            rows += conv_rows(f"encoder.{ours}.#.{part}".rstrip("."), f"{prefix}.{theirs}.#.{other}".rstrip("."))
    return rows


def parts_shown(sizes: Sizes, base: DetectorConfig) -> dict[str, str]:
    """The trunk and the encoder by field of `DetectorConfig`.

    Raises:
        CheckpointError: a trunk of other stages, or an encoder without fusion.
    """
    narrow, width = (rows_of(sizes, f"encoder.{part}.conv.weight") for part in ("top_down.0.first", "output.0"))
    expansion, depth = narrow / width, sizes.count(r"encoder\.top_down\.0\.blocks\.(\d+)\.")
    return {
        "backbone": trunk(sizes),
        "encoder": with_settings(base.encoder, {"expansion": expansion, "depth": depth}, "encoders"),
    }


def rows_of(sizes: Sizes, name: str) -> int:
    """How many channels a convolution gives."""
    if name not in sizes.weights:
        raise CheckpointError("an entry is missing", path=sizes.path, field=" + ".join(sizes.renaming.theirs(name)))
    return int(sizes.weights[name].shape[0])


def trunk(sizes: Sizes) -> str:
    """The trunk; its norms are frozen where the file does not say how many batches they have seen."""
    blocks = tuple(sizes.count(rf"backbone\.body\.stages\.{stage}\.(\d+)\.") for stage in STAGE_NUMBERS)
    bottleneck = "backbone.body.stages.0.0.branch.2.conv.weight" in sizes.weights
    known: dict[tuple[tuple[int, ...], bool], str] = {(STAGES[name], name in BOTTLENECKS): name for name in STAGES}
    if (blocks, bottleneck) not in known:
        raise CheckpointError(
            "the trunk is no ResNet-D that is known",
            path=sizes.path,
            value=f"({blocks} blocks)",
            expected=", ".join(STAGES),
        )
    counted = any(name.startswith("backbone.") and name.endswith("num_batches_tracked") for name in sizes.weights)
    return str(Spec("resnet_vd", {"model": known[blocks, bottleneck], **({"norm": "batch"} if counted else {})}))


def refused_parts(config: DetectorConfig, base: DetectorConfig) -> Iterator[Refusal]:
    """Trunks, encoders and necks of other kinds."""
    for field in ("backbone", "encoder"):
        if Spec.parse(getattr(config, field)).name != Spec.parse(getattr(base, field)).name:
            yield Refusal(field, getattr(config, field), repr(getattr(base, field)))
    for field in ("neck", "positional"):
        value, only = getattr(config, field), getattr(base, field)
        if value is None or Spec.parse(value) != Spec.parse(only):
            yield Refusal(field, value, repr(only))


def classes(count: int) -> LabelSpace:
    """COCO's where there are as many, else nameless ones."""
    return COCO if count == len(COCO) else LabelSpace.numbered(count)


def told_of_encoder(config: DetectorConfig) -> dict[str, Any]:
    """Settings of the encoder, defaults included."""
    return {"expansion": 1.0, "depth": 3, **Spec.parse(config.encoder).settings}
