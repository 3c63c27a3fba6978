"""Detectors for other programs: written, read back, and compared with the detector before the file gets its name.

Importing this imports no torch; each format is a file of this folder, imported when it is used.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from detrkit.errors import DetrkitError, nearest

if TYPE_CHECKING:
    from PIL.Image import Image

    from detrkit.model import Detector


class ExportError(DetrkitError):
    """A detector that cannot be written in a format, or whose written form does not say what the detector says."""

    exit_code = 1


class Format(NamedTuple):
    """A format.

    Attributes:
        writer: where its `Writer` is, as ``file:class``.
        suffix: of the file; empty for a folder.
        about: what it is, in a few words.
    """

    writer: str
    suffix: str
    about: str


FORMATS = {
    "onnx": Format("onnx:OnnxWriter", ".onnx", "program for ONNX Runtime and the like"),
    "torch-export": Format("torch_export:TorchExportWriter", ".pt2", "program for torch.export.load, without detrkit"),
    "official": Format("checkpoints:OfficialWriter", ".pth", "checkpoint for the official DETR"),
    "transformers": Format("checkpoints:TransformersWriter", "", "folder for transformers' from_pretrained"),
}


class Difference(NamedTuple):
    """How far what was written is from the detector: in what, where, and by how much at most.

    Outputs of programs in units of their largest number where that is above 1; weights as they are.
    """

    what: str
    where: str
    amount: float


class Writer(ABC):
    """Contract of a format.

    Attributes:
        tolerance: the largest difference allowed.
        packages: what must be installed; the extra of the format's name brings it.
    """

    tolerance: ClassVar[float] = 0.0
    packages: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def write(self, model: Detector, path: Path) -> None:
        """Write the detector to a path that does not exist yet."""

    @abstractmethod
    def differences(self, model: Detector, path: Path, photographs: Iterable[Image]) -> Iterable[Difference]:
        """Read what was written and compare it with the detector; programs on these photographs too."""

    def interface(self, model: Detector) -> dict[str, dict[str, str]]:
        """Type and shape of each of the ``inputs`` and ``outputs``; empty where the format holds no program."""
        return {"inputs": {}, "outputs": {}}


@dataclass(frozen=True)
class Export:
    """What was written, and how well it was checked.

    Attributes:
        path: the file, or the folder.
        format: one of `FORMATS`.
        inputs: type and shape of each input of a program.
        outputs: the same of the outputs.
        differences: the largest difference found of each thing that was compared.
        tolerance: the largest that was allowed.
        comparisons: number of comparisons of each thing.
    """

    path: Path
    format: str
    inputs: dict[str, str]
    outputs: dict[str, str]
    differences: dict[str, float]
    tolerance: float
    comparisons: int


def export(
    model: Detector,
    path: str | Path,
    format: str = "onnx",
    *,
    photographs: Iterable[Image] = (),
    say: Callable[[str], object] = lambda line: None,
) -> Export:
    """Write a detector in a format of `FORMATS`, and keep the file only if it says what the detector says.

    Programs are folded. They take ``images`` [B, 3, H, W] float32 normalised, ``orig_size`` [B, 2] int64 (height,
    width), and ``mask`` [B, H, W] bool, True = padding (all False when nothing is padded), for any B, H and W. Where
    images become squares, H and W are their sides and there is no mask. They give detections as
    `detrkit.prediction.Found`, and the ``pred_logits`` [B, Q, C] and ``pred_boxes`` [B, Q, 4] behind them.

    Args:
        model: in evaluation mode, on the CPU, in float32.
        path: the file to write; the one that is there is replaced in one step, at the end.
        format: a name of `FORMATS`.
        photographs: RGB images on which programs are compared, beside noise.
        say: is told what is being done, a line each.

    Raises:
        DetrkitError: an unknown format, a package that is not installed, a place that cannot be written, or a model in
            another state.
        ExportError: a part that cannot be exported, or a difference beyond the format's tolerance.
    """
    if format not in FORMATS:
        raise DetrkitError("unknown format", field="format", value=format, hint=nearest(format, FORMATS))
    kind, path = FORMATS[format], Path(path)
    file, _, name = kind.writer.partition(":")
    writer: Writer = getattr(importlib.import_module(f"detrkit.export.{file}"), name)()
    if missing := [package for package in writer.packages if find_spec(package) is None]:
        raise DetrkitError(
            f"the format needs {', '.join(missing)}, which cannot be imported",
            field=format,
            hint=f"pip install 'detrkit[{format}]'",
        )
    refuse_unready(model)
    with replacing(path, kind.suffix) as temporary:
        say(f"writing {format}: {path}")
        writer.write(model, temporary)
        say("comparing it with the detector")
        found = checked(path, lambda: writer.differences(model, temporary, photographs), writer.tolerance)
    worst = {what: max(d.amount for d in found if d.what == what) for what in dict.fromkeys(d.what for d in found)}
    return Export(
        path,
        format,
        **writer.interface(model),
        differences=worst,
        tolerance=writer.tolerance,
        comparisons=len(found) // len(worst),
    )


def checked(path: Path, differences: Callable[[], Iterable[Difference]], tolerance: float) -> list[Difference]:
    """The differences, if none is beyond the tolerance.

    Raises:
        ExportError: what was written cannot be run; or the worst difference, NaN being worse than any number.
    """
    try:
        found = list(differences())
    except Exception as error:  # a runtime or a program of another project raises whatever it likes
        reason = f"({' '.join(str(error).split())})"
        raise ExportError("what was written cannot be used; it is not kept", path=path, value=reason) from error
    worst = max(found, key=lambda d: math.inf if math.isnan(d.amount) else d.amount)
    if not worst.amount <= tolerance:
        raise ExportError(
            f"what was written differs from the detector in {worst.what}, {worst.where}; it is not kept",
            path=path,
            value=f"({worst.amount:.3g})",
            expected=f"at most {tolerance:g}",
        )
    return found


def refuse_unready(model: Detector) -> None:
    """Refuse a detector that would be written otherwise than it is used.

    Raises:
        DetrkitError: training mode, another device, or another dtype.
    """
    parameter = next(model.parameters())
    state = (parameter.device.type, str(parameter.dtype), "training" if model.training else "evaluation")
    if state != ("cpu", "torch.float32", "evaluation"):
        raise DetrkitError(
            "the detector cannot be exported in this state",
            value=f"({', '.join(state)} mode)",
            expected="cpu, torch.float32, evaluation mode",
            hint="call model.eval().float().cpu() first",
        )


@contextlib.contextmanager
def replacing(path: Path, suffix: str) -> Iterator[Path]:
    """A temporary place beside ``path`` that becomes ``path`` when the block ends well; else nothing is left of it.

    Args:
        path: a file, which is then replaced in one step; or a folder, which must not exist.
        suffix: of the file; empty for a folder.

    Raises:
        DetrkitError: the place cannot be written, which is seen before the block starts.
        ExportError: it could not be written in the end.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}{suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir() or (not suffix and path.exists()):
            raise FileExistsError("there is a folder" if path.is_dir() else "there is a file")
        temporary.touch()
        temporary.unlink()
    except OSError as error:
        reason = f"({error.strerror or error})"
        raise DetrkitError("cannot write there", path=path, value=reason, hint="choose another --out") from None
    try:
        yield temporary
        temporary.replace(path)
    except DetrkitError as error:
        error.args = (str(error).replace(str(temporary), str(path)),)  # what the user asked for
        raise
    except OSError as error:
        raise ExportError("could not be written", path=path, value=f"({error.strerror or error})") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.unlink(missing_ok=True)
