"""ResNets as trunks of foreign layouts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from detrkit.checkpoints.layouts._parts import Refusal
from detrkit.checkpoints.layouts._renaming import Row
from detrkit.config import DetectorConfig
from detrkit.specs import Spec


class Anatomy(NamedTuple):
    """Blocks of each stage of a ResNet (He et al. 2016, table 1), and whether they are bottlenecks of three layers."""

    blocks: tuple[int, ...]
    bottleneck: bool


RESNETS = {
    "resnet18": Anatomy((2, 2, 2, 2), False),
    "resnet34": Anatomy((3, 4, 6, 3), False),
    "resnet50": Anatomy((3, 4, 6, 3), True),
    "resnet101": Anatomy((3, 4, 23, 3), True),
    "resnet152": Anatomy((3, 8, 36, 3), True),
}


def resnet_rows(trunk: str) -> list[Row]:
    """A ResNet of transformers."""

    def layer(convolution: str, norm: str, theirs: str) -> list[Row]:
        ours = "backbone.body."
        return [
            (f"{ours}{convolution}.weight", f"{theirs}.convolution.weight"),
            (f"{ours}{norm}.*", f"{theirs}.normalization.*"),
        ]

    rows = layer("conv1", "bn1", f"{trunk}.embedder.embedder")
    for stage in range(4):
        ours, theirs = f"layer{stage + 1}.#", f"{trunk}.encoder.stages.{stage}.layers.#"
        rows += layer(f"{ours}.downsample.0", f"{ours}.downsample.1", f"{theirs}.shortcut")
        for n in range(3):
            rows += layer(f"{ours}.conv{n + 1}", f"{ours}.bn{n + 1}", f"{theirs}.layer.{n}")
    return rows


def trunk_rows(theirs: str) -> list[Row]:
    """Rows of a ResNet under torchvision's names, which timm has too, below a prefix."""
    return [(f"backbone.body.{unit}.*", f"{theirs}.{unit}.*") for unit in ("conv1", "bn1", "layer#")]


class Trunk(NamedTuple):
    """A ResNet as backbone: its name, the kind of its norms, and whether its last stage is dilated."""

    model: str
    norm: str = "frozen"
    dilation: bool = False

    def spec(self) -> str:
        """As `DetectorConfig.backbone`; with frozen norms, the stem and the first stage are frozen too, as in DETR."""
        settings: dict[str, Any] = {"model": self.model}
        settings |= {"trainable_levels": 3} if self.norm == "frozen" else {"norm": self.norm}
        return str(Spec("torchvision", settings | ({"dilation": True} if self.dilation else {})))


def trunk_of(backbone: str) -> Trunk | None:
    """The ResNet that a backbone's spec names; None where it is another network."""
    spec = Spec.parse(backbone)
    settings = {name: spec.settings[name] for name in Trunk._fields if name in spec.settings}
    trunk = Trunk(**{"model": "resnet50", **settings})
    return trunk if spec.name in ("torchvision", "timm") and trunk.model in RESNETS else None


def refused_trunk(config: DetectorConfig, *, norm: str) -> Iterator[Refusal]:
    """Trunks other than ResNets, and ResNets with other norms."""
    trunk = trunk_of(config.backbone)
    if trunk is None or trunk.norm != norm:
        expected = f"torchvision(model='resnet50', norm={norm!r}) or another plain ResNet"
        yield Refusal("backbone", config.backbone, expected)
