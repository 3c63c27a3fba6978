"""The log of a run for TensorBoard, beside its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detrkit.errors import DetrkitError

FOLDER = "tensorboard"


class TensorBoardLog:
    """Writes every number of the log as a curve ``kind/name``; events after the step resumed from are hidden.

    Args:
        folder: of the run.
        step: where the run stands.

    Raises:
        DetrkitError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path, step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise DetrkitError(
                "TensorBoard is not installed", field="tensorboard", hint="pip install detrkit[tensorboard]"
            ) from None
        self.writer = SummaryWriter(folder / FOLDER, purge_step=step + 1)

    def write(self, kind: str, values: Mapping[str, Any]) -> None:
        """Add the numbers of one step."""
        for name, value in values.items():
            if name != "step":
                self.writer.add_scalar(f"{kind}/{name}", value, values["step"])
        self.writer.flush()
