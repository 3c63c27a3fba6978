"""What the formats that hold a program share: the program itself, and what a deployer must know."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int64
from PIL import Image
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

import detrkit
from detrkit.export import Difference, ExportError, Writer
from detrkit.export.comparison import Sample, compare, noise
from detrkit.folding import fold
from detrkit.outputs import LayerOutput
from detrkit.prediction import Found, detections
from detrkit.preprocessing import statistics

if TYPE_CHECKING:
    from detrkit.model import Detector

OUTPUTS = (*Found._fields, *LayerOutput._fields)

Program = Callable[..., Sequence[Tensor]]
"""Images, original sizes and, where images are padded, their mask -> what `OUTPUTS` names."""


class ProgramWriter(Writer):
    """Template of the formats that hold a program: a component fills `write` and `read`."""

    tolerance = 1e-4

    @abstractmethod
    def read(self, path: Path) -> Program:
        """The program in a file."""

    def differences(self, model: Detector, path: Path, photographs: Iterable[Image.Image]) -> Iterator[Difference]:
        """Run the program on batches of several sizes, and on the photographs."""
        return compare(model, self.read(path), photographs, self.tolerance)

    def interface(self, model: Detector) -> dict[str, dict[str, str]]:
        """What goes in and comes out, with names for what varies."""
        queries, logits, classes = model.config.num_queries, model.classification.num_logits, model.config.num_classes
        found = model.selection.select(torch.zeros(1, queries, classes)).scores.shape[1]
        side = model.config.short_side
        sides = f"{side}, {side}" if model.config.square else "height, width"
        inputs = {
            "images": f"float32 [batch, 3, {sides}], normalised",
            "orig_size": "int64 [batch, 2], height and width of the original images",
            "mask": "bool [batch, height, width], True = padding; all False when nothing is padded",
        }
        return {
            "inputs": {name: inputs[name] for name in axes(model)},
            "outputs": {
                "scores": f"float32 [batch, {found}], best first",
                "labels": f"int64 [batch, {found}], rows of class_names",
                "boxes": f"float32 [batch, {found}, 4], x1 y1 x2 y2 in pixels of the original image",
                "queries": f"int64 [batch, {found}], the query behind each",
                "pred_logits": f"float32 [batch, {queries}, {logits}]",
                "pred_boxes": f"float32 [batch, {queries}, 4], cxcywh in [0, 1] of the unpadded image",
            },
        }


class Deployed(nn.Module):
    """A detector as other programs see it: images in, detections out; folded, without what training alone asks for.

    Args:
        model: the detector; stays as it is.
    """

    def __init__(self, model: Detector) -> None:
        super().__init__()
        self.detector = deepcopy(model)
        fold(self.detector)

    def forward(
        self,
        images: Float[Tensor, "B 3 H W"],
        orig_size: Int64[Tensor, "B 2"],
        mask: Bool[Tensor, "B H W"] | None = None,
    ) -> tuple[Tensor, ...]:
        """What `OUTPUTS` names: the detections by the model's own selection, and what they were selected from."""
        output = self.detector(images, mask)
        last = LayerOutput(output.pred_logits, output.pred_boxes)
        return (*detections(self.detector, last, orig_size), *last)


def axes(model: Detector) -> dict[str, dict[int, str]]:
    """The inputs of a detector's program, in order, with their axes that vary.

    Where images become squares they are all of one size and never padded: there is no mask, and whatever depends on
    the size alone is a constant of the program.
    """
    batch = {0: "batch"}
    if model.config.square:
        return {"images": batch, "orig_size": batch}
    return {
        "images": {**batch, 2: "height", 3: "width"},
        "orig_size": batch,
        "mask": {**batch, 1: "height", 2: "width"},
    }


def trace(model: Detector) -> ExportedProgram:
    """The detector as a graph of PyTorch's operators, for any batch, and any size that the detector takes.

    Only images of a single cell a side at the coarsest stride are left out, since a size of one is a constant to the
    tracer.

    Raises:
        ExportError: a part that cannot be traced, or only for images of one size.
    """
    stride, side = model.backbone.strides[-1], model.config.short_side
    example = noise(model, 2, *((side, side) if model.config.square else (2 * stride + 1, 3 * stride)))
    try:
        program = traced(Deployed(model), axes(model), example.inputs)
    except Exception as error:  # whatever a part's code or the tracer raises, the export has failed
        raise untraceable(model, error, example) from error
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # names the folders of this machine
    return program


def traced(module: nn.Module, varying: dict[str, dict[int, str]], inputs: Sequence[Tensor]) -> ExportedProgram:
    """The graph of a module, axes of its inputs free to vary."""
    shapes = tuple(dict.fromkeys(named, Dim.DYNAMIC) for named in varying.values())
    return torch.export.export(module, tuple(inputs), dynamic_shapes=shapes)


def untraceable(model: Detector, error: Exception, example: Sample | None = None) -> ExportError:
    """The sentence about a detector that no exporter takes; names the part where it can be told."""
    config, blamed = model.config, ["encoder_attention", "decoder_self_attention", "decoder_cross_attention"]
    if example is not None:
        mask = torch.zeros_like(example.images[:, 0], dtype=torch.bool)
        images_vary = axes(model)["images"]
        mask_varies = {max(axis - 1, 0): name for axis, name in images_vary.items()}
        for name, part, given, varying in (
            ("backbone", model.backbone, example.images, images_vary),
            ("positional", model.positional, mask, mask_varies),
        ):
            try:
                _ = part is None or traced(part, {name: varying}, [given])
            except Exception:  # as above
                blamed = [name]
    return ExportError(
        "cannot be exported for images of any size",
        field=" or ".join(f"{name}={getattr(config, name)}" for name in blamed),
        value=f"({' '.join(str(error).split())})",
        hint="use detrkit's own tiny, a ResNet, sine or sdpa in its place",
    )


def description(model: Detector) -> dict[str, str]:
    """What a deployer must know and the graph does not tell; lists and tables in JSON."""
    config, labels = model.config, model.label_space
    mean, std = statistics(config.normalize)
    return {
        "detrkit_version": detrkit.__version__,
        "class_names": json.dumps(labels.names),
        "class_ids": json.dumps(labels.ids),
        "short_side": str(config.short_side),
        "long_side": str(config.long_side),
        "square": json.dumps(config.square),
        "mean": json.dumps(mean),
        "std": json.dumps(std),
        "config": json.dumps(config.to_dict()),
    }
