"""Coloured shapes on a textured background, drawn on the fly."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal, NamedTuple, final, get_args

import numpy as np
from PIL.Image import Image

from detrkit.datasets import Dataset, Target
from detrkit.datasets._drawing import OUTLINES, Array, paint, plain, texture
from detrkit.datasets._reading import make_target
from detrkit.errors import ConfigError
from detrkit.fields import NonNegative, Positive, Range
from detrkit.labels import LabelSpace

Split = Literal["train", "val", "test"]
Side = Annotated[int, Range(min=32, max=8192)]

SMALLEST, LARGEST = 0.14, 0.5  # of the shorter side of the image
LARGEST_OVERLAP = 0.2  # of the smaller of two boxes
STEEPEST = np.deg2rad(15)
_TRIES = 40


class Scene(NamedTuple):
    """Where the shapes of an image lie; its generator goes on to colours, light and texture."""

    image_id: int
    rng: np.random.Generator
    labels: list[int]
    outlines: list[Array]


@final
class ToyDataset(Dataset):
    """Coloured shapes on a textured background: a detection task that needs no files and trains in minutes.

    The class is the shape; colour, place, size, proportions and tilt are drawn at random and tell nothing about it.
    A box encloses the whole shape, also where a later shape covers a part of it (at most a fifth of the smaller
    box). The training split gives new images each epoch; the others stay the same. ``image_id`` is the index.

    Args:
        split: part of the data; their random streams are disjoint.
        size: side of the images in pixels, or (height, width).
        classes: number of shapes, the first of circle, square, triangle, star, cross, ring, diamond, heart.
        objects: fewest and most objects in an image; where no free place is left, an image holds fewer.
        length: number of training images an epoch.
        held_out: number of images of the other splits.
        seed: another seed, other images.
        background: ``plain`` draws flat shapes without shadow on one grey, for tests.
    """

    def __init__(
        self,
        split: Split = "train",
        *,
        size: Side | tuple[Side, Side] = 96,
        classes: Annotated[int, Range(min=1, max=8)] = 3,
        objects: tuple[NonNegative, NonNegative] = (1, 5),
        length: Positive = 3200,
        held_out: Positive = 256,
        seed: NonNegative = 0,
        background: Literal["textured", "plain"] = "textured",
    ) -> None:
        if found := list(self.problems(split, classes, objects)):
            raise ConfigError(f"{type(self).__name__}: {line}" for line in found)
        self.split, self.seed, self.background = split, seed, background
        self.length = length if split == "train" else held_out
        self.height, self.width = (size, size) if isinstance(size, int) else size
        self.fewest, self.most = objects
        self.label_space = LabelSpace(tuple(OUTLINES)[:classes])
        self.findings = []

    @staticmethod
    def problems(split: str, classes: int, objects: tuple[int, int]) -> Iterator[str]:
        """Refuse an unknown split, more classes than there are shapes, and a range that runs backwards."""
        if split not in get_args(Split):
            yield f"split: got {split!r}; expected one of {', '.join(get_args(Split))}"
        if not 1 <= classes <= len(OUTLINES):
            yield f"classes: got {classes}; expected 1 to {len(OUTLINES)}"
        if not 0 <= objects[0] <= objects[1]:
            yield f"objects: got {objects}; expected (fewest, most)"

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Image, Target]:
        """Image (PIL, mode RGB) and target.

        Raises:
            IndexError: the index is out of range.
        """
        scene = self._scene(index)
        size, textured = (self.height, self.width), self.background == "textured"
        image = texture(scene.rng, *size) if textured else plain(*size)
        light = _light(scene.rng) if textured else None
        for label, corners in zip(scene.labels, scene.outlines, strict=True):
            paint(image, self.label_space.names[label], corners, scene.rng, light)
        return image, self._target(scene)

    def target(self, index: int) -> Target:
        """What is to be found in an image, without drawing it."""
        return self._target(self._scene(index))

    def image_id(self, index: int) -> int:
        """The index."""
        return range(self.length)[index]

    def _scene(self, index: int) -> Scene:
        index = self.image_id(index)
        epoch = self.epoch if self.split == "train" else 0
        rng = np.random.default_rng([self.seed, get_args(Split).index(self.split), epoch, index])
        count = int(rng.integers(self.fewest, self.most + 1))
        return Scene(index, rng, *_place(rng, count, self.label_space.names, (self.height, self.width)))

    def _target(self, scene: Scene) -> Target:
        boxes = np.array([(*corners.min(axis=0), *corners.max(axis=0)) for corners in scene.outlines])
        return make_target(boxes, scene.labels, (self.height, self.width), image_id=scene.image_id)


def _place(
    rng: np.random.Generator, count: int, names: tuple[str, ...], size: tuple[int, int]
) -> tuple[list[int], list[Array]]:
    """Labels and outlines [corners, 2] in pixels of up to ``count`` shapes that overlap little."""
    labels: list[int] = []
    outlines: list[Array] = []
    boxes: list[list[float]] = []
    for _ in range(count):
        label = int(rng.integers(len(names)))
        for attempt in range(_TRIES):
            corners = _outline(rng, names[label], size, largest=max(SMALLEST, LARGEST * 0.95**attempt))
            box = [*corners.min(axis=0).tolist(), *corners.max(axis=0).tolist()]
            if all(_overlap(box, other) <= LARGEST_OVERLAP for other in boxes):
                labels.append(label)
                outlines.append(corners)
                boxes.append(box)
                break
    return labels, outlines


def _outline(rng: np.random.Generator, name: str, size: tuple[int, int], largest: float) -> Array:
    """A shape's corners [corners, 2], (x, y) in pixels, of random size, proportions, tilt and place in the image."""
    scale, proportion, tilt, x, y = rng.random(5).tolist()
    half = min(size) / 2 * SMALLEST * (largest / SMALLEST) ** scale
    stretch = 1.35 ** (proportion - 0.5)
    c, s = np.cos(STEEPEST * (2 * tilt - 1)), np.sin(STEEPEST * (2 * tilt - 1))
    corners = OUTLINES[name] * (half * stretch, half / stretch) @ np.array([[c, s], [-s, c]])
    low, high = corners.min(axis=0), corners.max(axis=0)
    room = np.array([size[1], size[0]]) - (high - low) - 2
    return corners - low + 1 + room * (x, y)


def _overlap(a: list[float], b: list[float]) -> float:
    """Share of the smaller of two boxes (x0, y0, x1, y1) that lies in the other."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    smaller = min((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return max(width, 0) * max(height, 0) / smaller


def _light(rng: np.random.Generator) -> Array:
    """Direction (x, y) to a light somewhere above."""
    angle = rng.uniform(-0.85, -0.15) * np.pi
    return np.array([np.cos(angle), np.sin(angle)])
