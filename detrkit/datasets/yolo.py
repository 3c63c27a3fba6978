"""YOLO: one text file an image, a line an object, as Darknet and its successors write them (Redmon et al. 2016)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, final

import numpy as np

from detrkit.datasets._files import Root, names_of, parts_of, read_text
from detrkit.datasets._reading import (
    ImageFiles,
    Record,
    class_name,
    clean_boxes,
    finite,
    label_space,
    usable,
)
from detrkit.datasets._report import Fault, Report
from detrkit.datasets._yaml import read_yaml
from detrkit.errors import DataError
from detrkit.images import SUFFIXES, image_header

Box = tuple[float, float, float, float]

CLASSES = "classes.txt"
FOLDERS = ("images/*", "*/images", "*.txt", "*")  # where a split is, if nothing says so; "*" is its name
FOLDER = "images"  # where all images are, if there are no splits
MAX_BYTES = 4 * 2**20  # of a file of labels, some 100,000 objects; and of a list of images
_NO_SPLITS = ("path", "names", "nc", "kpt_shape", "flip_idx", "download", "roboflow")
_LARGEST = 2**31  # number of a class
_FARTHEST = 0.5  # outside of the image, as a fraction of it; what is farther is in pixels


@final
class YoloDataset(ImageFiles):
    """Images with boxes in the layout of YOLO: data.yaml, images/SPLIT/ID.jpg, labels/SPLIT/ID.txt, or alike.

    - ``data.yaml`` gives ``names``, a list or a mapping from ids, and for each split a folder, a text file that lists
      images, or a list of these. They start from ``path``, or from the root where there is no such folder inside it;
      leading ``../`` are left out, as Roboflow writes them. ``val``, ``valid`` and ``validation`` are one split.
    - Without it, ``classes.txt`` gives the names, a line each, and the split is one of ``FOLDERS``, or all of
      ``images``.
    - The labels of ``.../images/.../ID.jpg`` are in ``.../labels/.../ID.txt``, else beside the image. Where there is no
      such file, or an empty one, the image is without objects.
    - A line reads ``class cx cy width height``, fractions of the image as it is shown, or ``class x1 y1 x2 y2 x3 y3``
      and on, a polygon, whose box is taken. Keypoints that ``kpt_shape`` announces are left out. ``#`` begins a line of
      comment. A box without area is dropped, one that leaves the image is clipped.
    - ``image_id`` is the path of the image from the root.

    What is wrong in the data costs as little as possible: an object or an image, each listed in ``findings``.

    Args:
        split: of the data, for example ``train`` or ``val``.
        root: folder that holds data.yaml or classes.txt, or else the YAML file itself; nothing outside the folder is
            read.
        strict: raise a DataError for the first thing that is wrong.

    Raises:
        DataError: no such folder or split, no names of classes, no usable image; or anything under ``strict``.
    """

    def __init__(self, split: str = "train", *, root: str, strict: bool = False) -> None:
        report, path = Report(strict), Path(root).expanduser()
        if not path.exists():
            raise DataError("no such file or folder", path=path, field="root")
        about = _About.read(path, report)
        reader = _Reader(about, report)
        records = usable(reader.records(split), about.path, report)
        self.fill(records, reader.label_space, report)


class Object(NamedTuple):
    """One object as it is written."""

    line: int  # in its file, from 1
    label: int
    box: Box


class _About(NamedTuple):
    """What the files at the root tell: where things are, the names of the classes by id, columns of keypoints."""

    path: Path
    root: Path
    content: dict[str, Any]
    names: dict[int, str]
    keypoints: int = 0

    @classmethod
    def read(cls, path: Path, report: Report) -> _About:
        """From a YAML file, the one in a folder, or classes.txt."""
        root = path if path.is_dir() else path.parent
        file = _description(path)
        try:
            Root(root).contained(file)
        except Fault as fault:
            raise DataError(fault.what, path=file, field="root") from None
        if file.name == CLASSES:
            lines = [line for line in read_text(file, MAX_BYTES).splitlines() if line.strip()]
            return cls(file, root, {}, _names(dict(enumerate(lines)), file))
        content = read_yaml(file)
        if not isinstance(content, dict):
            raise DataError("not a description of data", path=file, expected="a mapping with names, train and val")
        names = content.get("names")
        given = dict(enumerate(names)) if isinstance(names, list) else names
        if not isinstance(given, dict) or not given:
            raise DataError(
                "no names of classes", path=file, field="names", value=names, expected="a list or a mapping"
            )
        found = _names(given, file)
        if (count := content.get("nc")) is not None and count != str(len(found)):
            report.add(Fault("not the number of names", field="nc", value=count), file, action="names counted")
        return cls(file, root, content, found, _keypoints(content, file))


def _description(path: Path) -> Path:
    """The file that describes the data."""
    if not path.is_dir():
        return path
    for name in ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml"):
        if (path / name).is_file():
            return path / name
    found = sorted(file for suffix in ("*.yaml", "*.yml") for file in path.glob(suffix) if file.name[0] != ".")
    if len(found) == 1:
        return found[0]
    if not found and (path / CLASSES).is_file():
        return path / CLASSES
    below = sorted(str(file.parent) for file in path.glob("*/data.yaml"))
    hint = f"there are {', '.join(file.name for file in found)}: name one of them" if found else None
    raise DataError(
        f"no data.yaml and no {CLASSES}",
        path=path,
        field="root",
        expected=f"data.yaml with names, train and val; or {CLASSES} with a name a line",
        hint=hint or (f"did you mean {' or '.join(below)}?" if below else None),
    )


def _names(given: dict[Any, Any], path: Path) -> dict[int, str]:
    """Names of the classes by id."""
    names: dict[int, str] = {}
    for key, name in given.items():
        try:
            names[_class_id(str(key))] = class_name(name)
        except Fault as fault:
            raise DataError(
                fault.what, path=path, field=f"names[{key}]", value=fault.value, expected=fault.expected
            ) from None
    if len(names) < len(given):
        raise DataError("two names of one class", path=path, field="names", value=list(given))
    if not names:
        raise DataError("no names of classes", path=path, field="names", expected="a name a line")
    return names


def _keypoints(content: dict[str, Any], path: Path) -> int:
    """Columns that keypoints take in each line."""
    if (shape := content.get("kpt_shape")) is None:
        return 0
    try:
        count, columns = (_class_id(side) for side in shape)
    except (Fault, TypeError, ValueError, AttributeError):
        raise DataError(
            "not a shape of keypoints", path=path, field="kpt_shape", value=shape, expected="[count, 2 or 3]"
        ) from None
    return count * columns


class _Reader:
    """Reads the images of a split and their labels under the policy of a report."""

    def __init__(self, about: _About, report: Report) -> None:
        self.about, self.report, self.root = about, report, Root(about.root)

        def tell(number: int, fault: Fault, action: str) -> None:
            report.add(fault, about.path, within=f"names[{number}]", action=action)

        self.label_space, self.label_of = label_space(about.names, tell)

    def records(self, split: str) -> Iterator[Record]:
        """The usable images, in the order of the entries."""
        labels_of: dict[Path, Path | None] = {}
        for entry in self._entries(split):
            for path in self._images(entry):
                if path in labels_of:
                    self._tell(Fault("image is listed twice"), entry, path, action="counted once")
                    continue
                labels_of[path] = next(filter(os.path.lexists, self._labels(path)), None)
                if record := self._record(path, labels_of[path]):
                    yield record
            self._report_unused(entry, set(labels_of.values()))
        if labels_of and not any(labels_of.values()):
            fault = Fault("no image has a file of labels", expected=str(self._labels(min(labels_of))[0]))
            self.report.add(fault, self.about.path, action="images are without objects")

    def _entries(self, split: str) -> list[Path]:
        """Folders and lists of images that make up a split."""
        about = self.about
        if not about.content:
            return [self._usual(split)]
        name = next((name for name in names_of(split) if about.content.get(name)), None)
        if name is None:
            known = ", ".join(key for key, value in about.content.items() if key not in _NO_SPLITS and value)
            raise DataError("no such split", path=about.path, field=split, hint=f"known: {known or 'none'}")
        entries = about.content[name]
        return [self._entry(entry, name) for entry in (entries if isinstance(entries, list) else [entries])]

    def _usual(self, split: str) -> Path:
        """The first usual place of a split."""
        for place in FOLDERS:
            for name in names_of(split):
                if (path := self.root.folder / place.replace("*", name)).exists():
                    return path
        path = self.root.folder / FOLDER
        if path.is_dir() and not any(below.is_dir() for below in path.iterdir()):
            self.report.add(
                Fault("folder is the same for every split", expected=f"{FOLDER}/{split}"), path, action="read"
            )
            return path
        expected = " or ".join(place.replace("*", split) for place in FOLDERS)
        raise DataError(f"no images of the split {split!r}", path=self.root.folder, field="root", expected=expected)

    def _entry(self, entry: Any, field: str) -> Path:
        """The folder or list that an entry of data.yaml means."""
        try:
            below = [part for part in _parts(self.about.content.get("path", "")) if part]
        except Fault:  # where the data lay when the file was written
            below = []
        try:
            parts = _parts(entry)
            places = [self.root.folder.joinpath(*start, *parts) for start in (below, ())]
            path = next((place for place in places if place.exists()), places[-1])
            if not path.is_dir():
                return self.root.contained(path)
            if not path.resolve().is_relative_to(self.root.real):
                raise Fault("folder leads out of the data set; refused", value=str(path))
        except (Fault, OSError) as problem:
            fault = problem if isinstance(problem, Fault) else Fault("not a path", value=entry)
            expected = fault.expected or "a folder of images, or a text file that lists them"
            raise DataError(
                fault.what, path=self.about.path, field=field, value=fault.value, expected=expected
            ) from None
        return path

    def _images(self, entry: Path) -> Iterator[Path]:
        """The images of an entry: all in a folder and below it, sorted, or those that are listed."""
        if entry.is_dir():
            yield from (path for path in _files(entry) if path.suffix.lower() in SUFFIXES)
            return
        for number, line in enumerate(read_text(entry, MAX_BYTES).splitlines(), 1):
            if line.strip():
                try:
                    yield self.root.named(line.strip(), [self.root.folder, entry.parent])
                except Fault as fault:
                    self.report.add(fault, entry, within=f"line {number}", action="image skipped")

    def _labels(self, path: Path) -> list[Path]:
        """Where the labels of an image may be."""
        mirrored = self._mirrored(path)
        return [place.with_suffix(".txt") for place in ([mirrored] if mirrored else []) + [path]]

    def _mirrored(self, path: Path) -> Path | None:
        """The same path below `labels` instead of `images`."""
        parts = list(path.relative_to(self.root.folder).parts)
        if "images" not in parts:
            return None
        last = len(parts) - 1 - parts[::-1].index("images")
        return self.root.folder.joinpath(*parts[:last], "labels", *parts[last + 1 :])

    def _report_unused(self, entry: Path, used: set[Path | None]) -> None:
        """Report files of labels in the folder beside one of images that no image has."""
        folder = self._mirrored(entry) if entry.is_dir() else None
        for path in _files(folder) if folder and folder.is_dir() else ():
            if path.suffix == ".txt" and path.name != CLASSES and path not in used:
                self.report.add(Fault("file of labels without an image"), path)

    def _record(self, path: Path, labels: Path | None) -> Record | None:
        """One image with its objects, or None where it cannot be used."""
        try:
            header = image_header(self.root.contained(path))
            lines = read_text(self.root.contained(labels), MAX_BYTES).splitlines() if labels else []
        except (Fault, DataError) as fault:
            place = path if isinstance(fault, Fault) else Path(fault.path or path)
            self._tell(fault, place, path, action="image skipped")
            return None
        objects = list(self._objects(lines, labels or path, path))

        def tell(i: int, fault: Fault, action: str) -> None:
            self._tell(fault, labels or path, path, f"line {objects[i].line}", action)

        height, width = header.size
        boxes = np.array([found.box for found in objects], dtype=np.float64).reshape(-1, 4)
        boxes, keep = clean_boxes(boxes * [width, height, width, height], header.size, tell)
        classes = np.array([found.label for found in objects], dtype=np.int64)
        return Record(path, self._id(path), header.size, boxes[keep], classes[keep], np.zeros(keep.sum(), dtype=bool))

    def _objects(self, lines: list[str], labels: Path, path: Path) -> Iterator[Object]:
        """The objects that can be read."""
        for number, line in enumerate(lines, 1):
            columns = line.split()
            if not columns or line.lstrip().startswith("#"):
                continue
            try:
                if (number_of_class := _class_id(columns[0])) not in self.label_of:
                    expected = f"one of {len(self.about.names)} that have names"
                    raise Fault("unknown class", value=number_of_class, expected=expected)
                if len(columns) == 6 and not self.about.keypoints:
                    surplus = Fault("line has a sixth column, as detections do", value=columns[5], expected="five")
                    self._tell(surplus, labels, path, f"line {number}", "sixth column left out")
                box = _box(columns[1:], self.about.keypoints)
            except Fault as fault:
                self._tell(fault, labels, path, f"line {number}")
                continue
            yield Object(number, self.label_of[number_of_class], box)

    def _id(self, path: Path) -> str:
        return path.relative_to(self.root.folder).as_posix()

    def _tell(
        self, fault: Fault | DataError, place: Path, image: Path, within: str | None = None, action: str = "dropped"
    ) -> None:
        self.report.add(fault, place, image_id=self._id(image), within=within, action=action)


def _parts(entry: Any) -> list[str]:
    """Folders of a path in data.yaml, without leading ``../``."""
    if not isinstance(entry, str) or not entry.strip():
        raise Fault("not a path", value=entry, expected="a folder of images, or a text file that lists them")
    words = entry.strip().replace("\\", "/")
    while words.startswith("../"):
        words = words[3:]
    return parts_of(words)


def _files(folder: Path) -> list[Path]:
    """Files in a folder and below it, sorted; without hidden ones."""
    return sorted(path for path in folder.rglob("*") if path.name[0] != "." and not path.is_dir())


def _class_id(words: str) -> int:
    """The number of a class; some tools write it as a decimal."""
    value = finite(words)
    if value < 0 or value != int(value) or value > _LARGEST:
        raise Fault("not the number of a class", value=words, expected="0, 1, ...")
    return int(value)


def _box(columns: Sequence[str], keypoints: int) -> Box:
    """(x0, y0, x1, y1) as fractions, of a box or around a polygon."""
    count = len(columns)
    polygon = count >= 6 and count % 2 == 0 and not keypoints
    if not polygon and count not in (4, 4 + keypoints, 5 if not keypoints else 4):
        expected = "class cx cy width height, or class x1 y1 x2 y2 x3 y3 ..."
        raise Fault(f"line has {count + 1} columns", value=" ".join(columns), expected=expected)
    numbers = [finite(words) for words in (columns if polygon else columns[:4])]
    for number in numbers:
        if not -_FARTHEST <= number <= 1 + _FARTHEST:
            raise Fault("not a fraction of the image; looks like pixels", value=number, expected="0 to 1")
    if polygon:
        x, y = numbers[::2], numbers[1::2]
        return min(x), min(y), max(x), max(y)
    cx, cy, width, height = numbers
    return cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2
