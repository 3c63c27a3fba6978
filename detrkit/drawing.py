"""Boxes on pictures: what was found, what is there, and sheets of both."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from detrkit.datasets import Target
from detrkit.detections import Detections
from detrkit.labels import LabelSpace

# Okabe & Ito (2008): distinguishable with any colour vision; orange first, black left out
COLORS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")

Rectangle = tuple[float, float, float, float]


class Labelled(NamedTuple):
    """A box (x1, y1, x2, y2) in pixels with its class and what to write beside it."""

    box: Rectangle
    label: int
    text: str


def of_detections(found: Detections) -> list[Labelled]:
    """Boxes with class and score."""
    return [
        Labelled(tuple(box), int(label), f"{name} {score:.2f}")
        for box, label, name, score in zip(found.boxes.tolist(), found.labels, found.names, found.scores, strict=True)
    ]


def of_target(target: Target, label_space: LabelSpace) -> list[Labelled]:
    """True boxes with their class."""
    height, width = target["orig_size"].tolist()
    return [
        Labelled(
            ((cx - w / 2) * width, (cy - h / 2) * height, (cx + w / 2) * width, (cy + h / 2) * height),
            label,
            label_space.names[label],
        )
        for (cx, cy, w, h), label in zip(target["boxes"].tolist(), target["labels"].tolist(), strict=True)
    ]


def draw(image: Image.Image, boxes: Iterable[Labelled], *, side: int | None = None) -> Image.Image:
    """A copy of the image with boxes, enlarged or shrunk so that its longer side has ``side`` pixels.

    The first of the boxes lie on top, and their tags nearest to their corners.
    """
    factor = 1.0 if side is None else side / max(image.size)
    canvas = image.convert("RGB").resize(
        (max(1, round(image.width * factor)), max(1, round(image.height * factor))), Image.Resampling.LANCZOS
    )
    pen = ImageDraw.Draw(canvas)
    line = max(2, round(max(canvas.size) / 250))
    font = ImageFont.load_default(max(11, round(max(canvas.size) / 40)))
    placed = [([x * factor for x in box], COLORS[label % len(COLORS)], text) for box, label, text in boxes]
    for (x1, y1, x2, y2), color, _ in reversed(placed):
        pen.rectangle((x1, y1, max(x1, x2), max(y1, y2)), outline=color, width=line)
    tags: list[Rectangle] = []
    for (x1, y1, _, _), color, text in placed:
        left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
        tags.append(tag := _place((x1, y1), (right - left + 6, bottom - top + 5), canvas.size, tags))
        pen.rectangle(tag, fill=color)
        pen.text((tag[0] + 3 - left, tag[1] + 2 - top), text, fill="black", font=font)
    return canvas


def _place(
    corner: tuple[float, float], tag: tuple[float, float], canvas: tuple[int, int], taken: Sequence[Rectangle]
) -> Rectangle:
    """Where a tag of this (width, height) goes: nearest to above the corner, inside the canvas, on no other tag."""
    width, height = tag
    x = max(0, min(corner[0], canvas[0] - width - 1))
    lowest = max(0, canvas[1] - height - 1)
    wish = max(0, min(corner[1] - height, lowest))
    rows = sorted([wish, *np.arange(0, lowest, height / 4).tolist()], key=lambda y: abs(y - wish))
    places = [(x, y, x + width, y + height) for y in rows]
    return next((place for place in places if not any(_overlap(place, other) for other in taken)), places[0])


def _overlap(a: Rectangle, b: Rectangle) -> bool:
    return a[0] <= b[2] and b[0] <= a[2] and a[1] <= b[3] and b[1] <= a[3]


def sheet(rows: Sequence[Sequence[Image.Image]], titles: Sequence[str] = (), *, gap: int = 8) -> Image.Image:
    """Pictures in rows and columns on white; titles above the columns."""
    widths = [max(row[c].width for row in rows if c < len(row)) for c in range(max(map(len, rows)))]
    heights = [max(picture.height for picture in row) for row in rows]
    font = ImageFont.load_default(15)
    head = 26 if titles else 0
    canvas = Image.new(
        "RGB", (sum(widths) + gap * (len(widths) + 1), sum(heights) + gap * (len(heights) + 1) + head), "white"
    )
    pen = ImageDraw.Draw(canvas)
    y = gap + head
    for row, height in zip(rows, heights, strict=True):
        x = gap
        for picture, width in zip(row, widths, strict=False):
            canvas.paste(picture, (x, y))
            x += width + gap
        y += height + gap
    x = gap
    for title, width in zip(titles, widths, strict=False):
        pen.text((x, gap), title, fill="black", font=font)
        x += width + gap
    return canvas
