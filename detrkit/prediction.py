"""Prediction: images of any source -> `Detections`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from detrkit import boxes as geometry
from detrkit.detections import Detections
from detrkit.errors import DetrkitError, ShapeError
from detrkit.images import read_image, to_rgb
from detrkit.preprocessing import normalize, pad, resize

if TYPE_CHECKING:
    from detrkit.model import Detector, DetectorOutput


def predict(model: Detector, images: Sequence[Any], *, threshold: float = 0.5, batch_size: int = 8) -> list[Detections]:
    """Detect in images of any source; see `Detector.predict`."""
    if (
        not isinstance(images, Iterable)
        or isinstance(images, str | Path | Image.Image)
        or (getattr(images, "ndim", 4) == 3)
    ):
        raise DetrkitError(
            "predict takes a list of images", field="images", value=type(images).__name__, hint="write predict([image])"
        )
    if not 0 <= threshold <= 1:
        raise DetrkitError("threshold out of range", field="threshold", value=threshold, expected="0 to 1")
    if batch_size < 1:
        raise DetrkitError("batch size out of range", field="batch_size", value=batch_size, expected="at least 1")
    return [found.above(threshold) for found in detect(model, map(open_image, images), batch_size=batch_size)]


def detect(model: Detector, images: Iterator[Image.Image], *, batch_size: int) -> Iterator[Detections]:
    """All detections, one a query, of a stream of RGB images, a batch at a time; the model's mode is kept."""
    device = next(model.parameters()).device
    dtype = next(model.parameters()).dtype
    config = model.config
    while batch := list(islice(images, batch_size)):
        inputs = pad([normalize(resize(image, config.short_side, config.long_side)) for image in batch]).to(device)
        output = infer(model, inputs.images.to(dtype), inputs.mask)
        yield from results(model, output, [(image.height, image.width) for image in batch])


@torch.no_grad()
def infer(model: Detector, images: Tensor, mask: Tensor | None) -> DetectorOutput:
    """The model's outputs in evaluation mode, whatever mode it is in."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        return model(images, mask)
    finally:
        for module, training in modes.items():
            module.training = training


def results(model: Detector, output: DetectorOutput, sizes: Sequence[tuple[int, int]]) -> Iterator[Detections]:
    """Outputs -> detections in pixels of the original images of these (height, width); one a query, best first."""
    scores, labels = model.classification.scores(output.pred_logits.float())
    corners = geometry.cxcywh_to_xyxy(output.pred_boxes.float()).cpu().numpy()
    scores, order = scores.sort(dim=-1, descending=True, stable=True)
    labels = labels.gather(-1, order)
    for box, label, score, query, (height, width) in zip(
        corners, labels.cpu().numpy(), scores.cpu().numpy(), order.cpu().numpy(), sizes, strict=True
    ):
        scale = np.array([width, height, width, height], dtype=np.float32)
        yield Detections(box[query] * scale, label, score, (height, width), model.label_space, query)


def open_image(source: Any) -> Image.Image:
    """RGB image from a path, a PIL image, an array [H, W, 3] uint8 or a tensor [3, H, W] uint8.

    Raises:
        DataError: the file cannot be read.
        ShapeError: an array or tensor of another shape or dtype.
    """
    if isinstance(source, str | Path):
        return read_image(Path(source))
    if isinstance(source, Image.Image):
        return to_rgb(source)
    if isinstance(source, Tensor):
        if source.ndim != 3 or source.shape[0] != 3 or source.numel() == 0 or source.dtype != torch.uint8:
            raise ShapeError(
                "image tensor does not fit",
                field="images",
                value=f"({source.dtype}, {tuple(source.shape)})",
                expected="uint8 [3, H, W]",
            )
        return to_rgb(Image.fromarray(source.permute(1, 2, 0).cpu().numpy()))
    if isinstance(source, np.ndarray):
        if source.ndim != 3 or source.shape[2] != 3 or source.size == 0 or source.dtype != np.uint8:
            raise ShapeError(
                "image array does not fit",
                field="images",
                value=f"({source.dtype}, {source.shape})",
                expected="uint8 [H, W, 3]",
            )
        return to_rgb(Image.fromarray(source))
    raise ShapeError(
        "not an image",
        field="images",
        value=type(source).__name__,
        expected="a path, a PIL image, an array [H, W, 3] or a tensor [3, H, W]",
    )
