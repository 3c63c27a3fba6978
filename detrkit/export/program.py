"""What the formats that hold a program share: the program itself, what a deployer must know, and the comparison."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

import detrkit
from detrkit.export import Difference, ExportError, Writer
from detrkit.preprocessing import statistics

if TYPE_CHECKING:
    from detrkit.model import Detector

INPUTS = ("images", "mask")
OUTPUTS = ("pred_logits", "pred_boxes")
LONGEST_CHECKED_SIDE = 160
FARTHEST_PIXEL = 2.0

Program = Callable[[Tensor, Tensor], Sequence[Tensor]]


class ProgramWriter(Writer):
    """Template of the formats that hold a program: a component fills `write` and `read`."""

    tolerance = 1e-4

    @abstractmethod
    def read(self, path: Path) -> Program:
        """The program in a file: images and mask -> logits and boxes."""

    def differences(self, model: Detector, path: Path) -> Iterator[Difference]:
        """Run the program on batches of several sizes."""
        return compare(model, self.read(path))

    def interface(self, model: Detector) -> dict[str, dict[str, str]]:
        """What goes in and comes out, with names for what varies."""
        queries, logits = model.config.num_queries, model.classification.num_logits
        return {
            "inputs": {
                "images": "float32 [batch, 3, height, width], normalised",
                "mask": "bool [batch, height, width], True = padding; all False when nothing is padded",
            },
            "outputs": {
                "pred_logits": f"float32 [batch, {queries}, {logits}]",
                "pred_boxes": f"float32 [batch, {queries}, 4], cxcywh in [0, 1] of the unpadded image",
            },
        }


class LastLayer(nn.Module):
    """A detector as other programs see it: two tensors in, two tensors out."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(
        self, images: Float[Tensor, "B 3 H W"], mask: Bool[Tensor, "B H W"]
    ) -> tuple[Float[Tensor, "B Q C"], Float[Tensor, "B Q 4"]]:
        """Logits and boxes (cxcywh in [0, 1] of the unpadded image) of the last layer; mask is True at padding."""
        output = self.detector(images, mask)
        return output.pred_logits, output.pred_boxes


class Batch(NamedTuple):
    """Normalised images [B, 3, H, W], zero where padded, and their mask [B, H, W], True = padding."""

    images: Float[Tensor, "B 3 H W"]
    mask: Bool[Tensor, "B H W"]


def trace(model: Detector) -> ExportedProgram:
    """The detector as a graph of PyTorch's operators, for any batch and size that the detector takes.

    Only images of a single cell a side at the coarsest stride are left out, since a size of one is a constant to the
    tracer.

    Raises:
        ExportError: a part that cannot be traced, or only for images of one size.
    """
    stride = model.backbone.strides[-1]
    example = random_batch(2, 2 * stride + 1, 3 * stride)
    try:
        program = traced(LastLayer(model), *example)
    except Exception as error:  # whatever a part's code or the tracer raises, the export has failed
        raise untraceable(model, error, example) from error
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # names the folders of this machine
    return program


def traced(module: nn.Module, *example: Tensor) -> ExportedProgram:
    """The graph of a module whose inputs vary in every axis but that of the colours."""
    shapes = tuple({axis: Dim.DYNAMIC for axis in range(x.ndim) if x.ndim < 4 or axis != 1} for x in example)
    return torch.export.export(module, example, dynamic_shapes=shapes)


def untraceable(model: Detector, error: Exception, example: Batch | None = None) -> ExportError:
    """The sentence about a detector that no exporter takes; names the part where it can be told."""
    config, blamed = model.config, ["encoder_attention", "decoder_self_attention", "decoder_cross_attention"]
    if example is not None:
        for name, part, given in (
            ("backbone", model.backbone, example.images),
            ("positional", model.positional, example.mask),
        ):
            try:
                _ = part is None or traced(part, given)
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


def random_batch(batch: int, height: int, width: int) -> Batch:
    """Noise, the same at each call; the first image fills its place, the others leave ever more padding."""
    generator = torch.Generator().manual_seed(batch * height * width)
    images = torch.randn(batch, 3, height, width, generator=generator).clamp_(-FARTHEST_PIXEL, FARTHEST_PIXEL)
    mask = torch.zeros(batch, height, width, dtype=torch.bool)
    for index in range(batch):
        mask[index, height - index * height // (2 * batch) :] = True
        mask[index, :, width - index * width // (3 * batch) :] = True
    return Batch(images.masked_fill_(mask[:, None], 0), mask)


def shapes(model: Detector) -> list[tuple[int, int, int]]:
    """Batch, height and width of the comparisons: one image as large as it is meant to be, and small padded batches."""
    config, least = model.config, model.backbone.strides[-1] + 1  # two cells
    side = min(config.long_side, LONGEST_CHECKED_SIDE)
    sizes = [(config.short_side, config.long_side), (-(-3 * side // 4), side), (side, 2 * side // 3 + 1)]
    return [(batch, max(height, least), max(width, least)) for batch, (height, width) in enumerate(sizes, 1)]


@torch.inference_mode()
def compare(model: Detector, program: Program) -> Iterator[Difference]:
    """Largest difference of each output on batches of several sizes; infinite where the shapes differ.

    In units of the output's largest number where that is above 1, since float32 rounds large logits more coarsely.

    Where nothing is padded, the detector is given no mask and the program one that is False everywhere.
    """
    for shape in shapes(model):
        images, mask = random_batch(*shape)
        expected = model(images, mask if mask.any() else None)
        found = program(images, mask)
        for name, here, there in zip(OUTPUTS, (expected.pred_logits, expected.pred_boxes), found, strict=True):
            apart = (here - there).abs().max() if here.shape == there.shape else torch.tensor(float("inf"))
            amount = float(apart / here.abs().max().clamp(min=1))
            yield Difference(name, "batch {}, {} x {} pixels".format(*shape), amount)
