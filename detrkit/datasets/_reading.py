"""What the readers of annotation files share: numbers, names of classes, clean boxes, compact storage."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from detrkit.datasets import Dataset, Target
from detrkit.datasets._report import Fault, Report
from detrkit.errors import DataError
from detrkit.images import Header, read_image, turned_boxes
from detrkit.labels import LabelSpace

Boxes = NDArray[np.float64]
Size = tuple[int, int]

SMALLEST_SIDE = 1e-3  # in pixels; what is less has no extent
ROUNDING = 0.05  # in pixels; what reaches out of the image by less does so by rounding of written decimals


def finite(words: str) -> float:
    """The number that a text is: decimal, finite.

    Raises:
        Fault: it is none.
    """
    try:
        value = float(words) if words.isascii() and "_" not in words else float("nan")
    except ValueError:
        value = float("nan")
    if not abs(value) < float("inf"):
        raise Fault("not a number", value=words, expected="a finite number")
    return value


def class_name(value: object) -> str:
    """The name of a class, with single blanks.

    Raises:
        Fault: it is no text, or an empty one, or holds what cannot be shown.
    """
    name = " ".join(value.split()) if isinstance(value, str) else ""
    if not name or not name.isprintable():
        raise Fault("not the name of a class", value=value, expected="a text")
    return name


def label_space(names: Mapping[int, str], tell: Callable[[int, Fault, str], None]) -> tuple[LabelSpace, dict[int, int]]:
    """The label space of classes with ids, in the order of their ids, and the label of each id.

    Args:
        names: id -> name.
        tell: called with an id whose name an earlier one has already; they are one class.
    """
    label_of_name: dict[str, int] = {}
    label_of_id, ids = {}, []
    for number in sorted(names):
        name = names[number]
        if name in label_of_name:
            tell(number, Fault("another class has this name", field="name", value=name), "taken as one class")
        else:
            ids.append(number)
        label_of_id[number] = label_of_name.setdefault(name, len(label_of_name))
    return LabelSpace(tuple(label_of_name), tuple(ids)), label_of_id


def clean_boxes(boxes: Boxes, size: Size, tell: Callable[[int, Fault, str], None]) -> tuple[Boxes, NDArray[np.bool_]]:
    """Clip boxes to the image and find those that are none.

    Args:
        boxes: [N, 4], (x0, y0, x1, y1) in pixels, edges of pixels, so that a box of one pixel has side 1.
        size: (height, width) of the image.
        tell: called with the index of a box, its fault, and what is done about it; not where it reaches out of the
            image by less than `ROUNDING`.

    Returns:
        The clipped boxes [N, 4] and which of them remain [N].
    """
    height, width = size
    inside = boxes.clip(0, [width, height, width, height])
    with np.errstate(over="ignore"):
        keep, extent = (np.all(b[:, 2:] - b[:, :2] >= SMALLEST_SIDE, axis=1) for b in (inside, boxes))
        moved = (np.abs(inside - boxes) > ROUNDING).any(axis=1)
    for i in np.flatnonzero(~keep | moved):
        fault = "box reaches out of the image" if keep[i] else "box lies outside the image"
        tell(
            int(i),
            Fault(
                fault if extent[i] else "box has no area",
                value=boxes[i].tolist(),
                expected=f"0 to {width} and 0 to {height}",
            ),
            "clipped" if keep[i] else "dropped",
        )
    return inside, keep


def boxes_as_shown(boxes: Boxes, header: Header, written: Size | None, tell: Callable[[Fault, str], None]) -> Boxes:
    """Boxes in the image as it is shown, where they may have been written for the pixels as they are stored.

    The size that is written beside the boxes tells: where EXIF orientation turns an image by a quarter and the size is
    that of the stored pixels, so are the boxes, and they are turned with the image. Any other boxes are as shown.

    Args:
        boxes: [N, 4], (x0, y0, x1, y1) in pixels.
        header: of the image.
        written: (height, width) beside the boxes, None where there is none.
        tell: called with a fault of the size and what is done about it.
    """
    if written in (None, header.size):
        return boxes
    if header.orientation >= 5 and written == header.size[::-1]:
        fault = Fault("size is that of the pixels as stored, before EXIF orientation", value=written)
        tell(fault, "boxes turned with the image")
        return turned_boxes(boxes, header)
    fault = Fault("size is not that of the image as shown", value=written, expected=f"(height, width) {header.size}")
    tell(fault, "size taken from the image")
    return boxes


def make_target(
    boxes: Boxes,
    labels: Sequence[int] | NDArray[np.int64],
    size: Size,
    *,
    image_id: int | str,
    iscrowd: NDArray[np.bool_] | None = None,
    area: NDArray[np.float64] | None = None,
) -> Target:
    """A `Target` from clean boxes (x0, y0, x1, y1) in pixels [T, 4] of an image of size (height, width)."""
    scale = np.array([size[1], size[0]])
    corners = np.asarray(boxes, dtype=np.float64).reshape(-1, 2, 2) / scale
    fractions = np.concatenate([corners.mean(axis=1), corners[:, 1] - corners[:, 0]], axis=1)
    crowd = np.zeros(len(fractions), dtype=bool) if iscrowd is None else iscrowd
    target = Target(
        boxes=torch.from_numpy(fractions.astype(np.float32)),
        labels=torch.from_numpy(np.array(labels, dtype=np.int64)),
        iscrowd=torch.from_numpy(np.array(crowd, dtype=bool)),
        image_id=image_id,
        orig_size=torch.tensor(size, dtype=torch.int64),
    )
    if area is not None:
        target["area"] = torch.from_numpy(np.array(area, dtype=np.float64))
    return target


@dataclass
class Record:
    """One image file and what is annotated in it: clean boxes [T, 4] in pixels, labels [T], crowds [T], areas [T].

    Areas are of masks, in pixels; None where the data tell none.
    """

    path: Path
    image_id: int | str
    size: Size
    boxes: Boxes
    labels: NDArray[np.int64]
    iscrowd: NDArray[np.bool_]
    area: NDArray[np.float64] | None = None


def usable(records: Iterable[Record], listing: Path, report: Report) -> list[Record]:
    """The records of a split, of which there is at least one.

    Raises:
        DataError: there is none.
    """
    records = list(records)
    if not records:
        first = f"{len(report.findings)} findings, the first: {report.findings[0]}" if report.findings else None
        raise DataError("the split has no usable image", path=listing, hint=first)
    return records


class ImageFiles(Dataset):
    """Template of data sets whose images are files: a reader fills it once, all boxes lie in a few arrays."""

    def fill(self, records: Sequence[Record], label_space: LabelSpace, report: Report) -> None:
        """Take over what a reader has read.

        Args:
            records: one for each image, in the order of the data set.
            label_space: the classes; labels are 0..K-1 of them.
            report: what was wrong.
        """
        self.label_space, self.findings = label_space, report.findings
        self._paths = [str(record.path) for record in records]
        self._ids: list[Any] = [record.image_id for record in records]
        self._sizes = np.array([record.size for record in records], dtype=np.int64).reshape(-1, 2)
        self._ends = np.cumsum([0, *(len(record.labels) for record in records)])
        self._boxes = np.concatenate([np.zeros((0, 4)), *(record.boxes for record in records)])
        self._labels = np.concatenate([np.zeros(0, np.int64), *(record.labels for record in records)])
        self._iscrowd = np.concatenate([np.zeros(0, bool), *(record.iscrowd for record in records)])
        areas = [record.area for record in records if record.area is not None]
        self._area = np.concatenate(areas) if areas and len(areas) == len(records) else None

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> tuple[Image.Image, Target]:
        """Image (PIL, mode RGB) and target.

        Raises:
            IndexError: the index is out of range.
            DataError: the image cannot be read, or its size is no longer what it was.
        """
        path, target = self.path(index), self.target(index)
        image, size = read_image(path), tuple(target["orig_size"].tolist())
        if (image.height, image.width) != size:
            raise DataError(
                "image has changed since its header was read",
                path=path,
                image_id=target["image_id"],
                value=(image.height, image.width),
                expected=f"(height, width) {size}",
            )
        return image, target

    def target(self, index: int) -> Target:
        """What is to be found in an image, from the annotations alone.

        Raises:
            IndexError: the index is out of range.
        """
        index = range(len(self))[index]
        rows = slice(self._ends[index], self._ends[index + 1])
        return make_target(
            self._boxes[rows],
            self._labels[rows],
            (int(self._sizes[index, 0]), int(self._sizes[index, 1])),
            image_id=self._ids[index],
            iscrowd=self._iscrowd[rows],
            area=None if self._area is None else self._area[rows],
        )

    def image_id(self, index: int) -> int | str:
        """The data set's own id of an image."""
        return self._ids[index]

    def path(self, index: int) -> str:
        """The file of an image."""
        return self._paths[index]
