"""What the toy images are drawn with: outlines of shapes, a background like an unsharp photograph, light and shadow."""

from __future__ import annotations

from colorsys import hsv_to_rgb

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

Array = NDArray[np.floating]

_FINER = 4  # outlines are filled on a grid so much finer, for smooth edges
_HOLE = 0.55  # of the ring
_SHADOW = 110  # of 255
_GREY = (128, 128, 128)
_SLOPE = np.linspace(-1, 1, 4)


def _polar(radii: list[float], start: float = -90) -> Array:
    """Corners at even angles with these radii, the first at the top."""
    angles = np.deg2rad(start + 360 * np.arange(len(radii)) / len(radii))
    return np.stack([np.cos(angles), np.sin(angles)], axis=1) * np.array(radii)[:, None]


def _cross(arm: float = 0.36) -> Array:
    quarter = [(-arm, -1.0), (arm, -1.0), (arm, -arm)]
    turns = [quarter, [(-y, x) for x, y in quarter], [(-x, -y) for x, y in quarter], [(y, -x) for x, y in quarter]]
    return np.array([corner for turn in turns for corner in turn])


def _heart(tip: float = 0.4) -> Array:
    t = np.linspace(tip - np.pi, np.pi - tip, 48)
    down = 5 * np.cos(2 * t) + 2 * np.cos(3 * t) + np.cos(4 * t) - 13 * np.cos(t)
    return np.stack([16 * np.sin(t) ** 3, down], axis=1) / 16


def _rounded(corners: Array, radius: float) -> Array:
    """Each corner as a small arc: a tip thinner than a pixel would be in the box but not in the picture."""
    before, after = np.roll(corners, 1, axis=0) - corners, np.roll(corners, -1, axis=0) - corners
    start, end = (corners + side * radius / np.linalg.norm(side, axis=1, keepdims=True) for side in (before, after))
    t = np.linspace(0, 1, 6)[:, None, None]
    return ((1 - t) ** 2 * start + 2 * t * (1 - t) * corners + t**2 * end).transpose(1, 0, 2).reshape(-1, 2)


def _outline(corners: Array) -> Array:
    """Moved and stretched to fill [-1, 1] x [-1, 1]."""
    low, high = corners.min(axis=0), corners.max(axis=0)
    return (2 * corners - low - high) / (high - low)


OUTLINES: dict[str, Array] = {
    "circle": _outline(_polar([1.0] * 48)),
    "square": _outline(_rounded(_polar([1.0] * 4, start=-45), 0.1)),
    "triangle": _outline(_rounded(_polar([1.0] * 3), 0.32)),
    "star": _outline(_rounded(_polar([1.0, 0.45] * 5), 0.26)),
    "cross": _outline(_rounded(_cross(), 0.1)),
    "ring": _outline(_polar([1.0] * 48)),
    "diamond": _outline(_rounded(_polar([1.0] * 4), 0.25)) * (0.75, 1),
    "heart": _outline(_heart()),
}


def plain(height: int, width: int) -> Image.Image:
    """One grey."""
    return Image.new("RGB", (width, height), _GREY)


def texture(rng: np.random.Generator, height: int, width: int) -> Image.Image:
    """Muted colours that run into each other, under noise of every scale, stretched one way or the other."""
    grid = rng.integers(2, 5, size=2)
    hue = rng.random()
    tones = np.array([_muted(rng, hue + offset) for offset in (-0.06, 0, 0.06, 0.3)])
    colours = tones[rng.integers(len(tones), size=grid)]
    smooth = Image.fromarray(_to_bytes(colours)).resize((width, height), Image.Resampling.BICUBIC)
    light = 1 + rng.uniform(0.05, 0.14) * _noise(rng, height, width)
    return Image.fromarray(_to_bytes(np.asarray(smooth) * (light * _vignette(height, width))[..., None]))


def paint(image: Image.Image, name: str, corners: Array, rng: np.random.Generator, light: Array | None) -> None:
    """Draw a shape into the image.

    Args:
        image: RGB, changed in place.
        name: of the shape; a ring gets its hole.
        corners: of the outline, (x, y) in pixels, inside the image.
        rng: gives the colour.
        light: direction (x, y) that the light comes from, or None for a flat shape without shadow.
    """
    (left, top), (right, bottom) = np.floor(corners.min(axis=0)), np.ceil(corners.max(axis=0))
    place, size = (int(left), int(top)), (int(right - left), int(bottom - top))
    mask = _filled(corners - place, size, hole=name == "ring")
    behind = image.resize((1, 1), Image.Resampling.BOX, box=(left, top, right, bottom))
    colour = _colour(rng, np.array(behind.getpixel((0, 0))))
    if light is not None:
        _cast_shadow(image, mask, place, light)
    image.paste(_lit(colour, size, light), place, mask)


def _filled(corners: Array, size: tuple[int, int], hole: bool) -> Image.Image:
    """Coverage of each pixel, mode L."""
    fine = Image.new("L", (size[0] * _FINER, size[1] * _FINER))
    draw = ImageDraw.Draw(fine)
    draw.polygon((corners * _FINER - 0.5).ravel().tolist(), fill=255)
    if hole:
        middle = (corners.min(axis=0) + corners.max(axis=0)) / 2
        draw.polygon(((middle + (corners - middle) * _HOLE) * _FINER - 0.5).ravel().tolist(), fill=0)
    return fine.reduce(_FINER)


def _cast_shadow(image: Image.Image, mask: Image.Image, place: tuple[int, int], light: Array) -> None:
    reach = max(mask.size) * 0.06 + 1
    blur = max(1, round(reach))
    room = Image.new("L", (mask.width + 4 * blur, mask.height + 4 * blur))
    room.paste(_SHADOW, (2 * blur, 2 * blur), mask)
    shift = np.rint(place - light * reach * 1.6).astype(int) - 2 * blur
    image.paste((12, 10, 20), (int(shift[0]), int(shift[1])), room.filter(ImageFilter.BoxBlur(blur)))


def _lit(colour: Array, size: tuple[int, int], light: Array | None) -> Image.Image:
    """A patch of the colour, brighter towards the light."""
    shade = np.ones((4, 4)) if light is None else 1 + 0.2 * (_SLOPE * light[0] + _SLOPE[:, None] * light[1])
    return Image.fromarray(_to_bytes(colour * shade[..., None])).resize(size, Image.Resampling.BILINEAR)


def _muted(rng: np.random.Generator, hue: float) -> Array:
    return 255 * np.array(hsv_to_rgb(hue % 1, rng.uniform(0.08, 0.38), rng.uniform(0.3, 0.9)))


def _colour(rng: np.random.Generator, behind: Array) -> Array:
    """Of three colours drawn at random, the one that differs most from what lies behind."""
    drawn = [255 * np.array(hsv_to_rgb(h, 0.55 + 0.4 * s, 0.5 + 0.5 * v)) for h, s, v in rng.random((3, 3))]
    return max(drawn, key=lambda colour: float(np.abs(colour - behind).sum()))


def _noise(rng: np.random.Generator, height: int, width: int) -> Array:
    """Noise [H, W] of deviation about one, each octave half as strong as the one before it."""
    rows, columns = rng.integers(2, 12, size=2).tolist()
    field, strength = rng.standard_normal((rows, columns), dtype=np.float32), 1.0
    while max(rows, columns) < max(height, width) // 2:
        rows, columns, strength = min(2 * rows, height), min(2 * columns, width), strength * 0.55
        field = _resized(field, rows, columns)
        field = field + strength * rng.standard_normal((rows, columns), dtype=np.float32)
    return _resized(field, height, width)


def _resized(field: Array, height: int, width: int) -> Array:
    return np.asarray(Image.fromarray(field).resize((width, height), Image.Resampling.BICUBIC))


def _vignette(height: int, width: int) -> Array:
    y, x = np.linspace(-1, 1, height, dtype=np.float32), np.linspace(-1, 1, width, dtype=np.float32)
    return 1.04 - 0.12 * (y[:, None] ** 2 + x**2)


def _to_bytes(values: Array) -> NDArray[np.uint8]:
    return values.clip(0, 255).astype(np.uint8)
