"""The format `torch-export`: a ``.pt2`` file that ``torch.export.load`` reads without detrkit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, final

import torch

from detrkit.export.program import Program, ProgramWriter, description, trace

if TYPE_CHECKING:
    from detrkit.model import Detector


@final
class TorchExportWriter(ProgramWriter):
    """PyTorch's own format; each entry of `description` is an extra file of that name."""

    def write(self, model: Detector, path: Path) -> None:
        """Trace and save."""
        torch.export.save(trace(model), path, extra_files=description(model))

    def read(self, path: Path) -> Program:
        """What ``torch.export.load`` gives."""
        return torch.export.load(path).module()
