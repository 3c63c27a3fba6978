"""A split of a data set looked at once, image by image: its images and boxes as columns of numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from detrkit.config import DetectorConfig
from detrkit.datasets import Dataset, Finding, Target
from detrkit.errors import DataError
from detrkit.preprocessing import resized_size
from detrkit.progress import watched
from detrkit.registry import REGISTRY

UNREADABLE = "training would stop here"  # unless it is told to leave such images out

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Viewer:
    """The detector for which data are judged: what it sees of an image.

    Attributes:
        short_side: wished short side of images, in pixels.
        long_side: limit of the long one.
        stride: pixels of a cell of the coarsest feature map.
        num_queries: objects that can be found in an image.
        square: whether images become squares.
    """

    short_side: int
    long_side: int
    stride: int
    num_queries: int
    square: bool = False

    @classmethod
    def of(cls, config: DetectorConfig) -> Viewer:
        """As a configuration says."""
        from detrkit.checkpoints.detector import without_weights

        stride = REGISTRY.make("backbones", without_weights(config.backbone)).strides[-1]
        return cls(config.short_side, config.long_side, stride, config.num_queries, config.square)


@dataclass(frozen=True)
class Survey:
    """What a split holds. Rows of images are those that could be read.

    Attributes:
        split: name of the part.
        data: the data set.
        quick: images were not decoded, where the data set can tell their targets without.
        unreadable: images that cannot be decoded.
        index: int64 [I], index of each image in the data.
        ids: the data's own id of each image.
        sizes: int64 [I, 2], (height, width).
        pixels: hash of the pixels of each image; none where images were not decoded.
        image: int64 [M], row of the image of each box.
        boxes: float64 [M, 4], (cx, cy, w, h) as fractions of the image.
        labels: int64 [M].
        crowd: bool [M].
    """

    split: str
    data: Dataset
    quick: bool
    unreadable: tuple[Finding, ...]
    index: Ints
    ids: tuple[int | str, ...]
    sizes: Ints
    pixels: tuple[str, ...]
    image: Ints
    boxes: Floats
    labels: Ints
    crowd: NDArray[np.bool_]

    @cached_property
    def per_image(self) -> Ints:
        """Objects in each image, crowds not counted: int64 [I]."""
        return np.bincount(self.image[~self.crowd], minlength=len(self.index))

    @cached_property
    def per_class(self) -> Ints:
        """Objects of each class, crowds not counted: int64 [K]."""
        return np.bincount(self.labels[~self.crowd], minlength=len(self.data.label_space))

    @cached_property
    def sides(self) -> Floats:
        """Width and height of each box in pixels of the image: float64 [M, 2]."""
        return self.boxes[:, 2:] * self.sizes[self.image][:, ::-1]

    def sides_seen(self, viewer: Viewer) -> Floats:
        """Width and height of each box in pixels of the image as a detector sees it: float64 [M, 2]."""
        seen = [resized_size(int(h), int(w), viewer.short_side, viewer.long_side, viewer.square) for h, w in self.sizes]
        return self.boxes[:, 2:] * np.array(seen, dtype=float).reshape(-1, 2)[self.image][:, ::-1]

    @cached_property
    def usual_size(self) -> tuple[float, float]:
        """Median (height, width) of the images, of which there are some."""
        height, width = np.median(self.sizes, axis=0)
        return float(height), float(width)

    def side_of_objects(self, share: float) -> float:
        """Pixels of an object's side, the root of its area, that this share of the objects stay below; else NaN."""
        areas = self.sides[~self.crowd].prod(axis=1)
        return float(np.quantile(areas, share)) ** 0.5 if len(areas) else float("nan")

    def shape_of_images(self, share: float) -> float:
        """Long side by short side that this share of the images, of which there are some, stay below."""
        return float(np.quantile(self.sizes.max(axis=1) / self.sizes.min(axis=1), share))

    def room_for_images(self, share: float) -> tuple[float, float]:
        """Height and width, in short sides, that this share of the images, of which there are some, stay below."""
        height, width = np.quantile(self.sizes / self.sizes.min(axis=1, keepdims=True), share, axis=0)
        return float(height), float(width)

    def file_of(self, row: int) -> str:
        """The file of an image, where the data have files; else the split."""
        return self.data.path(int(self.index[row])) or self.split


def survey(data: Dataset, split: str, *, quick: bool = False) -> Survey:
    """Look at every image of a split; progress on stderr.

    Args:
        data: the split.
        split: its name.
        quick: decode no image of data sets that know their targets without; damaged and doubled images stay unknown.
    """
    unreadable: list[Finding] = []
    kept: list[tuple[int, str, Target]] = []
    items = watched(_items(data, quick), f"check {split}", len(data))
    for index, seen in enumerate(items):
        if isinstance(seen, Finding):
            unreadable.append(seen)
        else:
            kept.append((index, seen[0], seen[1]))
    targets = [target for _, _, target in kept]
    return Survey(
        split,
        data,
        quick,
        tuple(unreadable),
        index=np.array([index for index, _, _ in kept], dtype=np.int64),
        ids=tuple(target["image_id"] for target in targets),
        sizes=np.array([target["orig_size"].tolist() for target in targets], dtype=np.int64).reshape(-1, 2),
        pixels=tuple(digest for _, digest, _ in kept if digest),
        image=np.repeat(np.arange(len(targets)), [len(target["labels"]) for target in targets]),
        boxes=_column(targets, "boxes", np.float64).reshape(-1, 4),
        labels=_column(targets, "labels", np.int64),
        crowd=_column(targets, "iscrowd", np.bool_),
    )


def _items(data: Dataset, quick: bool) -> Iterator[Finding | tuple[str, Target]]:
    """Of each image the hash of its pixels and its target, or why it cannot be read."""
    for index in range(len(data)):
        try:
            if quick:
                yield "", data.target(index)
            else:
                image, target = data[index]
                yield digest(image), target
        except DataError as error:
            path = str(error.path or data.path(index) or f"image {index}")
            what = str(error).removeprefix(f"{path}: ")
            yield Finding(what, path, error.image_id, action=UNREADABLE)


def digest(image: Image.Image) -> str:
    """The same for the same pixels, whatever file they come from."""
    return hashlib.blake2b(image.tobytes(), key=str(image.size).encode(), digest_size=16).hexdigest()


def _column(targets: list[Target], key: str, dtype: Any) -> NDArray[Any]:
    parts = [target[key].numpy() for target in targets]  # type: ignore[literal-required]
    return np.concatenate([np.zeros((0, 4) if key == "boxes" else 0), *parts]).astype(dtype)
