"""The format `onnx`: one file with the weights inside, and what a deployer must know in its metadata."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, final

import torch
from torch import Tensor

from detrkit.export import ExportError
from detrkit.export.program import OUTPUTS, Program, ProgramWriter, axes, description, trace, untraceable

if TYPE_CHECKING:
    from detrkit.model import Detector

OPSET = 18  # what PyTorch's exporter writes without converting; read by ONNX Runtime from 1.14 on
IR_VERSION = 8  # that of opset 18
LARGEST = 2**31 - 1  # bytes of one protobuf file


@final
class OnnxWriter(ProgramWriter):
    """ONNX, run on the CPU by ONNX Runtime to check it; `description` stands in the model's metadata."""

    packages = ("onnx", "onnxscript", "onnxruntime")

    def write(self, model: Detector, path: Path) -> None:
        """Trace, translate, and write one file.

        Raises:
            ExportError: a part that cannot be traced or translated, or weights beyond 2 GB.
        """
        size = sum(tensor.nbytes for tensor in model.state_dict().values())
        if size > LARGEST:
            raise ExportError(f"one ONNX file holds {LARGEST} bytes at most", value=size, hint="use torch-export")
        translated = translate(model)
        for node in translated.model.graph.all_nodes():
            node.metadata_props.clear()  # names the folders of this machine
        translated.model.metadata_props.update(description(model))
        translated.model.ir_version = IR_VERSION
        translated.save(path, external_data=False)

    def read(self, path: Path) -> Program:
        """A session of ONNX Runtime as a function of tensors."""
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

        names = [given.name for given in session.get_inputs()]

        def program(*inputs: Tensor) -> list[Tensor]:
            given = {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}
            return [torch.from_numpy(array) for array in session.run(list(OUTPUTS), given)]

        return program


def translate(model: Detector) -> torch.onnx.ONNXProgram:
    """The detector in ONNX's operators, its varying axes named.

    Raises:
        ExportError: a part that cannot be traced or translated.
    """
    program = trace(model)
    with quiet():
        try:
            translated = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=OPSET,
                input_names=list(axes(model)),
                output_names=OUTPUTS,
                dynamic_shapes=axes(model),
                custom_translation_table={torch.ops.aten.sort.stable: stable_sort},
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            raise untraceable(model, error) from error
    return cast(torch.onnx.ONNXProgram, translated)


def stable_sort(x: Any, stable: bool | None = None, dim: int = -1, descending: bool = False) -> Any:
    """A stable sort in ONNX, whose TopK ranks equal numbers by their place; PyTorch's exporter has none."""
    from onnxscript import opset18

    op: Any = opset18
    return op.TopK(x, op.Gather(op.Shape(x), op.Constant(value_ints=[dim])), axis=dim, largest=int(descending))


@contextmanager
def quiet() -> Iterator[None]:
    """Hold back what the exporter and its optimizer say about their own work."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(before)
