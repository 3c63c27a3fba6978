"""The formats `official` and `transformers`: the weights for other libraries, without a program."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, final

from detrkit.checkpoints import load
from detrkit.checkpoints.interchange import save_official, save_transformers
from detrkit.export import Difference, Writer

if TYPE_CHECKING:
    from PIL.Image import Image

    from detrkit.model import Detector


class CheckpointWriter(Writer):
    """Template of the formats that `detrkit.load` reads: the weights must come back bit by bit."""

    def differences(self, model: Detector, path: Path, photographs: Iterable[Image]) -> Iterator[Difference]:
        """Load the detector and compare every entry of both state dicts; infinite where one has no counterpart."""
        here, there = model.state_dict(), load(path).state_dict()
        for name in sorted({*here, *there}):
            same = name in here and name in there and here[name].shape == there[name].shape
            amount = (here[name] - there[name]).abs().max().item() if same and here[name].numel() else 0.0
            yield Difference("weights", name, amount if same else float("inf"))


@final
class OfficialWriter(CheckpointWriter):
    """The official DETR's checkpoint."""

    def write(self, model: Detector, path: Path) -> None:
        """One ``.pth`` file."""
        save_official(model, path)


@final
class TransformersWriter(CheckpointWriter):
    """What ``from_pretrained`` of transformers reads."""

    def write(self, model: Detector, path: Path) -> None:
        """A folder."""
        save_transformers(model, path)
