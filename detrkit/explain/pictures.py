"""Predictions as pictures in a folder."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image
from torch import Tensor

from detrkit.checkpoints.storage import replace_text
from detrkit.detections import Detections
from detrkit.drawing import draw, of_detections
from detrkit.errors import DetrkitError
from detrkit.explain.attention import NoWeightsError, cross_attention
from detrkit.explain.overlay import attention_row, sheet_of
from detrkit.prediction import predict
from detrkit.progress import ProgressBar

if TYPE_CHECKING:
    from detrkit.model import Detector

Named = tuple[str, Image.Image]


def predict_to_folder(
    model: Detector,
    images: Iterable[Named],
    out: Path,
    *,
    threshold: float = 0.5,
    batch_size: int = 8,
) -> dict[str, list[dict[str, Any]]]:
    """Detect, and write for each image ``NAME.png`` (boxes) and ``NAME.attention.png`` (where each query looked).

    Args:
        images: pairs of name and RGB image; read a batch at a time.
        out: folder, made where it is missing; also gets ``detections.json``.

    Returns:
        Detections of each image by name, as in `Detections.to_json`.
    """
    if not 0 <= threshold <= 1:
        raise DetrkitError("threshold out of range", field="threshold", value=threshold, expected="0 to 1")
    if out.is_file():
        raise DetrkitError("is a file, not a folder", path=out, hint="choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    found: dict[str, list[dict[str, Any]]] = {}
    stream = iter(images)
    with ProgressBar("predict") as bar:
        while batch := list(islice(stream, batch_size)):
            for (name, image), (detections, maps) in zip(batch, _look(model, batch), strict=True):
                name, best = _unused(name, found), detections.above(threshold)
                found[name] = best.to_json()
                draw(image, of_detections(best), side=max(480, *image.size)).save(out / f"{name}.png")
                if maps is not None and len(best):
                    sheet_of([attention_row(image, best, maps, 5, 320)]).save(out / f"{name}.attention.png")
            bar.advance(len(batch))
    replace_text(out / "detections.json", json.dumps(found, indent=1) + "\n")
    return found


def _look(model: Detector, batch: Sequence[Named]) -> Iterator[tuple[Detections, Tensor | None]]:
    """Detections, and where their queries looked, unless the attention tells no weights."""
    images = [image for _, image in batch]
    try:
        yield from cross_attention(model, images)
    except NoWeightsError:
        yield from ((found, None) for found in predict(model, images, threshold=0.0, batch_size=len(images)))


def _unused(name: str, taken: dict[str, Any]) -> str:
    """A file name without separators, numbered where two images share it."""
    name = re.sub(r"[^\w.\- ]", "_", name).strip(". ") or "image"
    candidates = (name if i == 1 else f"{name}-{i}" for i in range(1, len(taken) + 3))
    return next(candidate for candidate in candidates if candidate not in taken)
