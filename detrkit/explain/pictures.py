"""Predictions as pictures in a folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image
from tqdm import tqdm

from detrkit.checkpoints.storage import replace_text
from detrkit.drawing import draw, of_detections
from detrkit.errors import DetrkitError
from detrkit.explain.overlay import attention_sheet
from detrkit.prediction import open_image, predict

if TYPE_CHECKING:
    from detrkit.model import Detector


def predict_to_folder(
    model: Detector,
    sources: Sequence[Path | tuple[str, Image.Image]],
    out: Path,
    *,
    threshold: float = 0.5,
    batch_size: int = 8,
) -> dict[str, list[dict[str, Any]]]:
    """Detect, and write for each image ``NAME.png`` (boxes) and ``NAME.attention.png`` (where each query looked).

    Args:
        sources: paths, or pairs of name and RGB image.
        out: folder, made where it is missing; also gets ``detections.json``.

    Returns:
        Detections of each image by name, as in `Detections.to_json`.
    """
    if not 0 <= threshold <= 1:
        raise DetrkitError("threshold out of range", field="threshold", value=threshold, expected="0 to 1")
    out.mkdir(parents=True, exist_ok=True)
    found: dict[str, list[dict[str, Any]]] = {}
    for first in tqdm(range(0, len(sources), batch_size), desc="predict", unit="batch", leave=False):
        batch = [_named(source) for source in sources[first : first + batch_size]]
        for (name, image), detections in zip(
            batch, predict(model, [image for _, image in batch], threshold=threshold), strict=True
        ):
            name = _unused(name, found)
            found[name] = detections.to_json()
            draw(image, of_detections(detections), side=max(480, *image.size)).save(out / f"{name}.png")
            if len(detections):
                attention_sheet(model, [image], threshold=threshold, side=320).save(out / f"{name}.attention.png")
    replace_text(out / "detections.json", json.dumps(found, indent=1) + "\n")
    return found


def _named(source: Path | tuple[str, Image.Image]) -> tuple[str, Image.Image]:
    return (source.stem, open_image(source)) if isinstance(source, Path) else source


def _unused(name: str, taken: dict[str, Any]) -> str:
    """The name, numbered where two files share it."""
    candidates = (name if i == 1 else f"{name}-{i}" for i in range(1, len(taken) + 3))
    return next(candidate for candidate in candidates if candidate not in taken)
