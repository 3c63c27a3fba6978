"""Sizes that the tensors of a foreign file show."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from detrkit.checkpoints.layouts._attentions import with_settings
from detrkit.checkpoints.layouts._renaming import Renaming
from detrkit.checkpoints.layouts._trunks import RESNETS, Anatomy
from detrkit.config import DetectorConfig
from detrkit.errors import CheckpointError

TABLES = {
    "positions": "queries.positions.weight",
    "content": "queries.content.weight",
    "anchors": "queries.anchors.weight",
    "labelled": "queries.anchors.weight",
    "points": "queries.both.weight",
    "mixed": "queries.content.weight",
    "shifted": "queries.groups.0.content.weight",
}
"""Kind of queries -> our entry that has a row a query."""


class Levels(NamedTuple):
    """Levels of a pyramid neck, and how many of them are made beyond the backbone's."""

    levels: int
    extra: int

    @property
    def taken(self) -> int:
        """How many maps of the backbone are read, the coarsest ones."""
        return self.levels - self.extra


class Sizes:
    """Sizes that the tensors of a state dict in our names show.

    Args:
        weights: the state dict.
        renaming: the table that gave it our names, for errors.
        path: the file, for errors.
    """

    def __init__(self, weights: Mapping[str, Tensor], renaming: Renaming, path: Path) -> None:
        self.weights, self.renaming, self.path = weights, renaming, path

    def fields(self, base: DetectorConfig) -> dict[str, Any]:
        """The sizes by field of `DetectorConfig`, but for `num_queries` where no learned table has a row a query.

        Args:
            base: tells the kind of queries and heads.

        Raises:
            CheckpointError: an entry that is needed for them is missing.
        """
        ffn, d_model = self.shape("decoder.layers.0.ffn.linear1.weight")
        table = TABLES.get(base.queries)
        head = "class_embed" if base.share_heads else "class_embed.0"
        return {
            "d_model": d_model,
            **({} if table is None else {"num_queries": self.shape(table)[0]}),
            "num_classes": self.shape(f"{head}.weight")[0] - (base.classification == "softmax"),
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

    def levels(self) -> Levels | None:
        """The levels of a neck that has several; None for a single map."""
        kernels = {
            int(found[1]): tuple(tensor.shape[2:])
            for name, tensor in self.weights.items()
            if (found := re.match(r"neck\.projections\.(\d+)\.0\.weight", name))
        }
        return Levels(len(kernels), sum(kernel != (1, 1) for kernel in kernels.values())) if kernels else None

    def neck(self, base: DetectorConfig) -> str:
        """The neck: the base's, or a pyramid of as many levels as the tensors show."""
        levels = self.levels()
        return base.neck if levels is None else with_settings("pyramid", levels._asdict(), "necks")

    def positional(self, base: DetectorConfig) -> str | None:
        """The positional encoding: the base's, or ``learned`` with the size of its table."""
        if "positional.row_embed.weight" not in self.weights:
            return base.positional
        return with_settings("learned", {"size": self.shape("positional.row_embed.weight")[0]}, "positional")
