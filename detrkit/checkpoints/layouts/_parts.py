"""What a configuration's parts are to a foreign layout: ResNets, numbers of heads, sizes that tensors show."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from detrkit.checkpoints.layouts._renaming import Renaming, Row
from detrkit.config import DetectorConfig
from detrkit.errors import CheckpointError, DetrkitError
from detrkit.registry import REGISTRY
from detrkit.specs import Spec

ATTENTIONS = ("encoder_attention", "decoder_self_attention", "decoder_cross_attention")


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


def heads_of(attention: str | None) -> int | None:
    """Number of heads of an attention's spec; None where there is none, or one that computes another function."""
    if attention is None:
        return None
    spec = Spec.parse(attention)
    component = REGISTRY.get("attention", spec.name)
    if getattr(component, "function", None) != "dense":
        return None
    return int(spec.settings.get("heads", 8))


def attention_of(heads: Any) -> str:
    """The default attention with so many heads; what is no number is left to the configuration's own check."""
    return str(Spec("sdpa", {} if heads == 8 else {"heads": heads}))


class Sizes:
    """Sizes that the tensors of a state dict in our names show.

    Args:
        weights: the state dict.
        renaming: the table that gave it our names, for errors.
        path: the file, for errors.
    """

    def __init__(self, weights: Mapping[str, Tensor], renaming: Renaming, path: Path) -> None:
        self.weights, self.renaming, self.path = weights, renaming, path

    def fields(self, table: str | None, class_embed: str = "class_embed", background: int = 1) -> dict[str, Any]:
        """The sizes by field of `DetectorConfig`.

        Args:
            table: the learned table that has a row a query; None: there is none.
            class_embed: the head for classes.
            background: logits of that head beyond the classes.

        Raises:
            CheckpointError: an entry that is needed for them is missing.
        """
        ffn, d_model = self.shape("decoder.layers.0.ffn.linear1.weight")
        return {
            "d_model": d_model,
            **({} if table is None else {"num_queries": self.shape(table)[0]}),
            "num_classes": self.shape(f"{class_embed}.weight")[0] - background,
            "enc_layers": self.count(r"encoder\.layers\.(\d+)\."),
            "dec_layers": self.count(r"decoder\.layers\.(\d+)\."),
            "dim_feedforward": ffn,
        }

    def shape(self, name: str) -> tuple[int, int]:
        """Rows and columns of a matrix."""
        if name not in self.weights:
            missing = " + ".join(self.renaming.theirs(name)) or name
            raise CheckpointError("an entry is missing", path=self.path, field=missing)
        shape = tuple(self.weights[name].shape)
        if len(shape) != 2:
            field = " + ".join(self.renaming.theirs(name))
            raise CheckpointError("has the wrong shape", path=self.path, field=field, value=shape, expected="a matrix")
        return shape

    def count(self, pattern: str) -> int:
        """How many different numbers the pattern finds in the names."""
        return len({found[1] for name in self.weights if (found := re.match(pattern, name))})

    def resnet(self) -> str:
        """Name of the ResNet whose stages have as many blocks as the tensors show."""
        stages = tuple(self.count(rf"backbone\.body\.layer{stage}\.(\d+)\.") for stage in range(1, 5))
        anatomy = Anatomy(stages, "backbone.body.layer1.0.conv3.weight" in self.weights)
        for name, known in RESNETS.items():
            if anatomy == known:
                return name
        raise CheckpointError(
            "the trunk is no ResNet that is known",
            path=self.path,
            value=f"({', '.join(map(str, stages))} blocks)",
            expected=", ".join(RESNETS),
        )

    def positional(self) -> str:
        """``sine``, or ``learned`` with the size of its table."""
        if "positional.row_embed.weight" not in self.weights:
            return "sine"
        cells = self.shape("positional.row_embed.weight")[0]
        return "learned" if cells == 50 else f"learned(size={cells})"


class Refusal(NamedTuple):
    """A field of a configuration that a layout cannot express, with what it could."""

    field: str
    value: Any
    expected: str


def refused_parts(config: DetectorConfig, *, norm: str, same_heads: tuple[str, ...]) -> Iterator[Refusal]:
    """Attentions that are not dense or whose heads differ among `same_heads`, and trunks other than ResNets."""
    heads = {field: heads_of(getattr(config, field)) for field in ATTENTIONS}
    for field, number in heads.items():
        if number is None:
            yield Refusal(field, getattr(config, field), "a dense attention such as 'sdpa'")
        elif field in same_heads and number != heads[same_heads[0]]:
            yield Refusal(field, getattr(config, field), f"as many heads as {same_heads[0]}: {heads[same_heads[0]]}")
    trunk = trunk_of(config.backbone)
    if trunk is None or trunk.norm != norm:
        expected = f"torchvision(model='resnet50', norm={norm!r}) or another plain ResNet"
        yield Refusal("backbone", config.backbone, expected)


def refused_positional(config: DetectorConfig, *, kinds: tuple[str, ...]) -> Iterator[Refusal]:
    """Positional encodings of other kinds, or with settings that change their function."""
    spec = None if config.positional is None else Spec.parse(config.positional)
    free = {"size"} if spec and spec.name == "learned" else set()
    if spec is None or spec.name not in kinds or set(spec.settings) - free:
        yield Refusal("positional", config.positional, " or ".join(kinds))


def one_line(error: DetrkitError) -> str:
    """An error's sentences in one line."""
    return "; ".join(str(error).splitlines())
