"""What the readers of annotation files share: the policy for faults, contained paths, clean boxes, compact storage."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from detrkit.datasets import Dataset, Finding, Target
from detrkit.errors import DataError
from detrkit.images import read_image
from detrkit.labels import LabelSpace

Boxes = NDArray[np.float64]
Size = tuple[int, int]

SMALLEST_SIDE = 1e-3  # in pixels; what is less has no extent

_BOMS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


class Fault(Exception):
    """Something wrong in the data; `Report` makes it a finding or an error."""

    def __init__(
        self, what: str, *, field: str | None = None, value: object = None, expected: str | None = None
    ) -> None:
        super().__init__(what)
        self.what, self.field, self.value, self.expected = what, field, value, expected


class Report:
    """The policy for faults: gather them as findings, or raise the first one.

    Args:
        strict: raise instead of gathering.
    """

    def __init__(self, strict: bool) -> None:
        self.strict = strict
        self.findings: list[Finding] = []

    def add(
        self,
        fault: Fault | DataError,
        path: str | Path,
        *,
        image_id: int | str | None = None,
        within: str | None = None,
        action: str = "dropped",
    ) -> None:
        """Report a fault and what is done about it.

        Args:
            fault: what is wrong; a DataError is kept word by word.
            path: the file concerned.
            image_id: the image concerned.
            within: the part of the file that holds the fault's field, for example ``object[3]``.
            action: what was done about it.

        Raises:
            DataError: the policy is strict.
        """
        if isinstance(fault, DataError):
            if self.strict:
                raise fault
            what = str(fault).removeprefix(f"{path}: ")
            self.findings.append(Finding(what, str(path), image_id, action=action))
            return
        field = ".".join(part for part in (within, fault.field) if part) or None
        if self.strict:
            value = fault.value if isinstance(fault.value, str) else _shown(fault.value)
            raise DataError(fault.what, path=path, image_id=image_id, field=field, value=value, expected=fault.expected)
        self.findings.append(Finding(fault.what, str(path), image_id, field, _shown(fault.value), action))


def _shown(value: object, limit: int = 80) -> str | None:
    """A value on one line and not too long: texts in quotes, unless they are explanations in brackets already."""
    if value is None:
        return None
    text = repr(value) if isinstance(value, str) and value[:1] not in "(<" else " ".join(str(value).split())
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def contained(path: Path, root: Path) -> Path:
    """The path, if it leads to a file inside the root when all links are followed.

    Raises:
        Fault: it leads elsewhere, or to something that is no file.
    """
    try:
        real = path.resolve()
    except (OSError, RuntimeError) as error:  # links that go in circles
        raise Fault("path leads nowhere", value=f"({error})") from None
    if not real.is_relative_to(root.resolve()):
        raise Fault("path leads out of the data set; refused", value=str(path), expected=f"a file under {root}")
    if not real.is_file():
        raise Fault("no such file", value=str(path))
    return path


class Files:
    """The files of a folder by stem; hidden ones are left out.

    Args:
        folder: where to look; not in folders below it.
        suffixes: which files count, in any case; of files with one stem, the earlier suffix comes first.
    """

    def __init__(self, folder: Path, suffixes: Sequence[str]) -> None:
        names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
        paths = [folder / name for name in names if name[0] != "." and Path(name).suffix.lower() in suffixes]
        self.paths = sorted(paths, key=lambda path: suffixes.index(path.suffix.lower()))
        self._exact: dict[str, list[Path]] = {}
        self._folded: dict[str, list[Path]] = {}
        for path in self.paths:
            self._exact.setdefault(path.stem, []).append(path)
            self._folded.setdefault(path.stem.casefold(), []).append(path)

    def stems(self) -> list[str]:
        """All stems, sorted."""
        return sorted(self._exact)

    def find(self, stem: str) -> list[Path]:
        """Files of that stem, or else those whose stem differs from it in case only."""
        return self._exact.get(stem) or self._folded.get(stem.casefold(), [])


def read_text(path: Path) -> str:
    """A text file in UTF-8, or in what its byte order mark says.

    Raises:
        DataError: it cannot be read or decoded; names the byte.
    """
    try:
        data = path.read_bytes()
        return data.decode(next((name for bom, name in _BOMS.items() if data.startswith(bom)), "utf-8"))
    except UnicodeDecodeError as error:
        raise DataError(
            "not a text file", path=path, value=f"({error.reason} at byte {error.start})", expected="UTF-8"
        ) from None
    except OSError as error:
        raise DataError("file cannot be read", path=path, value=f"({error.strerror})") from None


def clean_boxes(boxes: Boxes, size: Size, tell: Callable[[int, Fault, str], None]) -> tuple[Boxes, NDArray[np.bool_]]:
    """Clip boxes to the image and find those that are none.

    Args:
        boxes: [N, 4], (x0, y0, x1, y1) in pixels, edges of pixels, so that a box of one pixel has side 1.
        size: (height, width) of the image.
        tell: called with the index of a box, its fault, and what is done about it.

    Returns:
        The clipped boxes [N, 4] and which of them remain [N].
    """
    height, width = size
    inside = boxes.clip(0, [width, height, width, height])
    keep, extent = (np.all(b[:, 2:] - b[:, :2] >= SMALLEST_SIDE, axis=1) for b in (inside, boxes))
    for i in np.flatnonzero(~keep | (inside != boxes).any(axis=1)):
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


def make_target(
    boxes: Boxes,
    labels: Sequence[int] | NDArray[np.int64],
    size: Size,
    *,
    image_id: int | str,
    iscrowd: NDArray[np.bool_] | None = None,
) -> Target:
    """A `Target` from clean boxes (x0, y0, x1, y1) in pixels [T, 4] of an image of size (height, width)."""
    scale = np.array([size[1], size[0]])
    corners = np.asarray(boxes, dtype=np.float64).reshape(-1, 2, 2) / scale
    fractions = np.concatenate([corners.mean(axis=1), corners[:, 1] - corners[:, 0]], axis=1)
    crowd = np.zeros(len(fractions), dtype=bool) if iscrowd is None else iscrowd
    return Target(
        boxes=torch.from_numpy(fractions.astype(np.float32)),
        labels=torch.from_numpy(np.array(labels, dtype=np.int64)),
        iscrowd=torch.from_numpy(np.array(crowd, dtype=bool)),
        image_id=image_id,
        orig_size=torch.tensor(size, dtype=torch.int64),
    )


@dataclass
class Record:
    """One image file and what is annotated in it: clean boxes [T, 4] in pixels, labels [T], crowds [T]."""

    path: Path
    image_id: int | str
    size: Size
    boxes: Boxes
    labels: NDArray[np.int64]
    iscrowd: NDArray[np.bool_]


class ImageFiles(Dataset):
    """Template of data sets whose images are files: a reader fills it once, all boxes lie in a few arrays."""

    def fill(self, records: Iterable[Record], label_space: LabelSpace, report: Report) -> None:
        """Take over what a reader has read.

        Args:
            records: one for each image, in the order of the data set.
            label_space: the classes; labels are 0..K-1 of them.
            report: what was wrong.
        """
        records = list(records)
        self.label_space, self.findings = label_space, report.findings
        self._paths = [str(record.path) for record in records]
        self._ids: list[Any] = [record.image_id for record in records]
        self._sizes = np.array([record.size for record in records], dtype=np.int64).reshape(-1, 2)
        self._ends = np.cumsum([0, *(len(record.labels) for record in records)])
        self._boxes = np.concatenate([np.zeros((0, 4)), *(record.boxes for record in records)])
        self._labels = np.concatenate([np.zeros(0, np.int64), *(record.labels for record in records)])
        self._iscrowd = np.concatenate([np.zeros(0, bool), *(record.iscrowd for record in records)])

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> tuple[Image.Image, Target]:
        """Image (PIL, mode RGB) and target.

        Raises:
            IndexError: the index is out of range.
            DataError: the image cannot be read, or its size is no longer what it was.
        """
        index = range(len(self))[index]
        path, size = self._paths[index], (int(self._sizes[index, 0]), int(self._sizes[index, 1]))
        image = read_image(path)
        if (image.height, image.width) != size:
            raise DataError(
                "image has changed since its header was read",
                path=path,
                image_id=self._ids[index],
                value=(image.height, image.width),
                expected=f"(height, width) {size}",
            )
        rows = slice(self._ends[index], self._ends[index + 1])
        return image, make_target(
            self._boxes[rows], self._labels[rows], size, image_id=self._ids[index], iscrowd=self._iscrowd[rows]
        )
