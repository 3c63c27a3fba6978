"""Cross-attention painted over the image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image

from detrkit.drawing import draw, of_detections, sheet
from detrkit.explanation.explanation import Explanation, explain_batch

if TYPE_CHECKING:
    from detrkit.model import Detector


EVEN = 4  # a map that nowhere exceeds its mean by this factor looked nowhere in particular, and is painted faintly


def overlay(image: Image.Image, weights: NDArray[np.floating], *, strength: float = 0.75) -> Image.Image:
    """Paint weights [h, w] over an image: bright where the query looked, the image in grey elsewhere.

    A cell is painted over the pixels of its square. Trunks of strided 3x3 convolutions centre what a cell sees on the
    square's upper left corner, so that over coarse maps the bright spot lies up to half a cell right of and below it.

    Args:
        image: RGB image.
        weights: non-negative, any scale; stretched smoothly over the image. Even maps are painted faintly.
        strength: opacity of the colours where the weight is largest, in [0, 1].
    """
    scaled = weights / max(float(weights.max()), EVEN * float(weights.mean()), 1e-12)
    heat = Image.fromarray(np.uint8(scaled * 255)).resize(image.size, Image.Resampling.BICUBIC)
    level = np.asarray(heat, dtype=np.float32)[..., None] / 255
    color = colormaps["inferno"](level[..., 0])[..., :3] * 255
    grey = np.asarray(image.convert("L").convert("RGB"), dtype=np.float32)
    opacity = strength * np.sqrt(level)
    return Image.fromarray(np.uint8(np.clip(grey * (1 - opacity) + color * opacity, 0, 255)))


def attention_sheet(
    model: Detector, images: Sequence[Image.Image], *, threshold: float = 0.5, most: int = 5, side: int = 220
) -> Image.Image:
    """A row an image: its detections, then where each of the best ones looked: last decoder layer, mean of heads."""
    return sheet_of([attention_row(seen, threshold, most, side) for seen in explain_batch(model, images)])


def attention_row(seen: Explanation, threshold: float, most: int, side: int) -> list[Image.Image]:
    """An image with its detections, then one picture for each of the best: where its query looked."""
    found = seen.detections.above(threshold)
    boxes = of_detections(found)
    row = [draw(seen.image, boxes, side=side)]
    if seen.cross:
        for box, query in zip(boxes[:most], found.queries, strict=False):
            row.append(draw(overlay(seen.image, seen.cross[-1].grid(int(query))), [box], side=side))
    return row


def sheet_of(rows: Sequence[Sequence[Image.Image]]) -> Image.Image:
    """Rows of `attention_row` with a title."""
    return sheet(rows, ["detections", "what each of them looked at (cross-attention of the last decoder layer)"])
