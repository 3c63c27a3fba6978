"""Prediction: images of any source -> `Detections`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Sized
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64
from PIL import Image
from torch import Tensor

from detrkit import boxes as geometry
from detrkit.batches import batched, read_ahead
from detrkit.detections import Detections
from detrkit.errors import DataError, DetrkitError, ShapeError
from detrkit.images import read_image, to_rgb
from detrkit.outputs import DetectorOutput, LayerOutput
from detrkit.preprocessing import PaddedImages, pad, prepared
from detrkit.progress import watched

if TYPE_CHECKING:
    from detrkit.model import Detector


def predict(
    model: Detector,
    images: Iterable[Any],
    *,
    threshold: float = 0.5,
    batch_size: int = 8,
    progress: bool | None = None,
) -> list[Detections]:
    """Detect in images of any source; see `Detector.predict`.

    Raises:
        DataError: a file that cannot be read; names its path.
        ShapeError: something else that is no image; names its place in ``images``.
        DetrkitError: an option out of range.
    """
    check_options(images, threshold, batch_size)
    total = len(images) if isinstance(images, Sized) else None
    if progress is None and total is not None and total <= batch_size:
        progress = False
    found = detect(model, opened(images), batch_size=batch_size)
    return [one.above(threshold) for one in watched(found, "predict", total, show=progress)]


def stream(
    model: Detector, images: Iterable[Any], *, threshold: float = 0.5, batch_size: int = 8
) -> Iterator[Detections]:
    """Detect in a stream of images; see `Detector.stream`.

    Raises:
        DetrkitError: an option out of range, at once; what `predict` raises when its turn comes.
    """
    check_options(images, threshold, batch_size)
    return (one.above(threshold) for one in detect(model, opened(images), batch_size=batch_size, ahead=True))


def check_options(images: Any, threshold: float, batch_size: int) -> None:
    """Refuse what `predict` cannot work with.

    Raises:
        DetrkitError: no list or stream of images, or an option out of range.
    """
    if (
        not isinstance(images, Iterable)
        or isinstance(images, str | bytes | Path | Image.Image)
        or getattr(images, "ndim", 4) in (2, 3)
    ):
        raise DetrkitError(
            "predict takes a list of images", field="images", value=type(images).__name__, hint="write predict([image])"
        )
    if not (isinstance(threshold, Real) and 0 <= threshold <= 1):
        raise DetrkitError("threshold out of range", field="threshold", value=threshold, expected="0 to 1")
    if not (isinstance(batch_size, Integral) and batch_size >= 1):
        raise DetrkitError("batch size out of range", field="batch_size", value=batch_size, expected="at least 1")


def opened(images: Iterable[Any]) -> Iterator[Image.Image]:
    """RGB images, each opened when it is asked for."""
    return (open_image(source, field=f"images[{index}]") for index, source in enumerate(images))


def detect(
    model: Detector, images: Iterable[Image.Image], *, batch_size: int, ahead: bool = False
) -> Iterator[Detections]:
    """All detections, one a query, of a stream of RGB images, in their order; the model's mode is kept.

    Args:
        batch_size: most images at a time; those of a batch come to one size, see `detrkit.batches`.
        ahead: read the next batch by a thread while the net works on the last one.
    """
    batches, found, place = batched(images, model.config, batch_size), dict[int, Detections](), 0
    for batch in read_ahead(batches) if ahead else batches:
        found.update(zip(batch.places, results(model, look(model, batch.inputs), batch.sizes), strict=True))
        while place in found:
            yield found.pop(place)
            place += 1


def look_at(model: Detector, images: Sequence[Image.Image]) -> DetectorOutput:
    """The model's outputs for RGB images, which it sees as one batch with its padding."""
    return look(model, pad([prepared(image, model.config) for image in images]))


def look(model: Detector, inputs: PaddedImages) -> DetectorOutput:
    """The model's outputs for a batch, brought to its device and number format."""
    like = next(model.parameters())
    inputs = inputs.to(like.device)
    return infer(model, inputs.images.to(like.dtype), inputs.mask)


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


class Found(NamedTuple):
    """Detections of a batch as tensors, best first: score, label 0..K-1, box and query of each.

    Boxes are (x1, y1, x2, y2) in pixels of the original images, not clipped.
    """

    scores: Float[Tensor, "B N"]
    labels: Int64[Tensor, "B N"]
    boxes: Float[Tensor, "B N 4"]
    queries: Int64[Tensor, "B N"]


def detections(model: Detector, output: LayerOutput, sizes: Int64[Tensor, "B 2"]) -> Found:
    """What a layer's output comes to in original images of these (height, width)."""
    scores, labels, queries = model.selection.select(model.classification.scores(output.pred_logits.float()))
    boxes = in_pixels(output.pred_boxes.float(), sizes).gather(1, queries[..., None].expand(-1, -1, 4))
    return Found(scores, labels, boxes, queries)


def in_pixels(boxes: Float[Tensor, "B Q 4"], sizes: Int64[Tensor, "B 2"]) -> Float[Tensor, "B Q 4"]:
    """Boxes cxcywh in [0, 1] -> corners in pixels of images of these (height, width)."""
    return geometry.cxcywh_to_xyxy(boxes) * sizes.flip(-1).repeat(1, 2)[:, None]


def results(model: Detector, output: DetectorOutput, sizes: Sequence[tuple[int, int]]) -> Iterator[Detections]:
    """Outputs -> detections in original images of these (height, width)."""
    told = torch.tensor(sizes, device=output.boxes.device)
    found = detections(model, LayerOutput(output.pred_logits, output.pred_boxes), told)
    for score, label, box, query, size in zip(*(part.cpu().numpy() for part in found), sizes, strict=True):
        yield Detections(box, label, score, size, model.label_space, query)


def open_image(source: Any, *, field: str = "images") -> Image.Image:
    """RGB image from a path, a PIL image, or pixels: uint8, an array [H, W, C] or [H, W], a tensor [C, H, W] or [H, W].

    C is 1 (grey), 3 (RGB) or 4 (RGBA, laid on white). Pixels do not tell BGR from RGB: those that OpenCV read
    must be turned first, ``image[..., ::-1]``.

    Args:
        field: what errors call an image that has no path.

    Raises:
        DataError: the file cannot be read; names the path.
        ShapeError: an array or tensor of another shape or dtype, or something else; says what is expected.
    """
    if isinstance(source, str) and source.startswith(("http://", "https://")):
        raise DataError("URLs are not fetched; download the file", path=source)
    if isinstance(source, str | Path):
        if Path(source).is_dir():
            raise DataError("is a folder, not an image", path=source, hint="list the images in it")
        return read_image(source)
    if isinstance(source, Image.Image):
        return to_rgb(source)
    if isinstance(source, Tensor | np.ndarray):
        return _of_pixels(source, field)
    raise ShapeError(
        "not an image", field=field, value=type(source).__name__, expected="a path, a PIL image, an array or a tensor"
    )


def _of_pixels(source: Tensor | np.ndarray, field: str) -> Image.Image:
    """RGB image from an array or tensor as `open_image` describes."""
    tensor, kind = isinstance(source, Tensor), str(source.dtype).removeprefix("torch.")
    pixels: Any = source.movedim(0, -1) if isinstance(source, Tensor) and source.ndim == 3 else source
    fits = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (1, 3, 4))
    if not fits or 0 in pixels.shape or kind != "uint8":
        scaled = "(255 * image).round()" + (".byte()" if tensor else ".astype(np.uint8)")
        raise ShapeError(
            f"image {'tensor' if tensor else 'array'} does not fit",
            field=field,
            value=f"({source.dtype}, {tuple(source.shape)})",
            expected=f"uint8 {'[3, H, W]' if tensor else '[H, W, 3]'}",
            hint=f"values in [0, 1] become uint8 by {scaled}" if "float" in kind else None,
        )
    pixels = np.asarray(pixels.cpu() if tensor else pixels)
    return to_rgb(Image.fromarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels))
