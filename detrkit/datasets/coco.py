"""COCO: one JSON file a split (Lin et al. 2014, "Microsoft COCO: Common Objects in Context")."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator
from math import isfinite, nan
from pathlib import Path
from typing import Any, Generic, TypeVar, final

import numpy as np
from numpy.typing import NDArray

from detrkit.datasets._files import Root, names_of
from detrkit.datasets._json import fields_of, read_lists
from detrkit.datasets._reading import (
    ImageFiles,
    Record,
    Size,
    boxes_as_shown,
    class_name,
    clean_boxes,
    label_space,
    usable,
)
from detrkit.datasets._report import Fault, Report
from detrkit.errors import DataError
from detrkit.images import Header, image_header
from detrkit.labels import LabelSpace

Id = int | str
Rows = NDArray[np.int64]
K = TypeVar("K")
V = TypeVar("V")

# where the annotations of a split are looked for, in this order; "*" is the name of the split
ANNOTATIONS = (
    "annotations/instances_*2017.json",
    "annotations/instances_*.json",
    "annotations/instances_*2014.json",
    "annotations/*.json",
    "*/_annotations.coco.json",
    "*/annotations.json",
    "*/labels.json",
    "instances_*.json",
    "*.json",
)
_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,18}")  # as integers are written: "007" is a text
_LONGEST_ID = 200
_ONE_FILE = "file of annotations is the same for every split"


@final
class CocoDataset(ImageFiles):
    """Images with boxes in the layout of COCO: annotations/instances_SPLIT2017.json and SPLIT2017/*.jpg, or alike.

    - Layouts known by themselves: COCO's; ``annotations/instances_SPLIT.json`` or ``annotations/SPLIT.json`` with the
      images in SPLIT, images/SPLIT or images; ``SPLIT/_annotations.coco.json`` beside the images (Roboflow); see
      ``ANNOTATIONS``. ``val``, ``valid`` and ``validation`` are one split. The settings name any other layout.
    - The classes are the file's categories by ascending id, with their ids; categories of one name are one class.
    - Boxes: (x, y, width, height), edges in pixels. One without area is dropped, one that leaves the image is clipped.
    - ``width`` and ``height`` are compared with the image as it is shown. Where EXIF orientation turns the image by a
      quarter and they are those of the stored pixels, the boxes are taken as such, and turned with the image.
    - Ids are integers or texts; "12" and 12.0 are 12. An id of two different images or categories means neither.
    - ``iscrowd`` may be missing; crowds are marked, not left out. ``area`` is that of the mask, by which an evaluator
      calls objects small or large; where it is missing, that of the box. ``segmentation`` is not read.

    What is wrong in the data costs as little as possible: an object, a category or an image, each in ``findings``.

    Args:
        split: of the data, for example ``train`` or ``val``.
        root: folder that holds the data; nothing outside it is read, unless the settings below say so.
        annotations: the JSON file, from the root; ``*`` stands for the split.
        images: folder that file names start from, from the root; ``*`` stands for the split.
        strict: raise a DataError for the first thing that is wrong.

    Raises:
        DataError: no such folder or split, a file that is no JSON or not COCO's, no categories, no usable image; or
            anything under ``strict``.
    """

    def __init__(
        self,
        split: str = "train",
        *,
        root: str,
        annotations: str | None = None,
        images: str | None = None,
        strict: bool = False,
    ) -> None:
        report, folder = Report(strict), Path(root).expanduser()
        if not folder.is_dir():
            raise DataError("no such folder", path=folder, field="root")
        listing = _listing(folder, split, annotations)
        if annotations and "*" not in annotations:
            report.add(Fault(_ONE_FILE, value=annotations, expected="'*' for the split"), listing, action="read")
        table = _Table(listing, report)
        space, label_of = table.label_space()
        folders = _folders(folder, split, listing) if images is None else [folder / images.replace("*", split)]
        inside = images is None or folders[0].resolve().is_relative_to(folder.resolve())
        records = table.records(Root(folder if inside else folders[0]), folders, label_of)
        self.fill(usable(records, listing, report), space, report)


def _listing(root: Path, split: str, given: str | None) -> Path:
    """The file with the annotations of a split."""
    if "/" in split or "\\" in split:
        raise DataError("not the name of a split", path=root, field="split", value=split)
    patterns = ANNOTATIONS if given is None else (given,)
    names = (split,) if given else names_of(split)
    found = next((p for name in names for at in patterns if (p := root / at.replace("*", name)).is_file()), None)
    if found is None:
        known = sorted({str(path.relative_to(root)) for at in patterns for path in root.glob(at.lstrip("/"))})
        below = sorted({str(path) for path in root.glob("*") if (path / "annotations").is_dir()})
        raise DataError(
            f"no annotations of the split {split!r}",
            path=root,
            field="annotations" if given else "root",
            value=given,
            expected=" or ".join(at.replace("*", split) for at in patterns[:5]),
            hint=f"there are: {', '.join(known)}"
            if known
            else f"did you mean {' or '.join(below)}?"
            if below
            else None,
        )
    try:
        return found if given else Root(root).contained(found)
    except Fault as fault:
        raise DataError(fault.what, path=found, field="annotations") from None


def _folders(root: Path, split: str, listing: Path) -> list[Path]:
    """Where the images of a file of annotations may be."""
    names = [listing.stem.removeprefix("instances_"), *names_of(split)]
    places = [root / place / name for name in names for place in ("", "images")]
    beside = [listing.parent, listing.parent / "images", listing.parent / "data"]
    return [folder for folder in dict.fromkeys([*places, *beside, root / "images", root]) if folder.is_dir()]


class _Entries(Generic[K, V]):
    """What stands under ids, in the order of the file. An id that is given two meanings has none."""

    def __init__(self) -> None:
        self._entries: dict[K, V] = {}
        self._refused: set[K] = set()

    def __contains__(self, key: K) -> bool:
        return key in self._entries or key in self._refused

    def add(self, key: K, entry: V) -> str | None:
        """Add an entry; tells what is done where the id is there already."""
        if key not in self:
            self._entries[key] = entry
            return None
        if self._entries.get(key) == entry:
            return "counted once"
        self.refuse(key)
        return "all entries of this id dropped"

    def refuse(self, key: K) -> None:
        """Let an id mean nothing."""
        self._refused.add(key)

    def settled(self) -> dict[K, V]:
        """Those with a meaning."""
        return {key: entry for key, entry in self._entries.items() if key not in self._refused}


class _Table:
    """A file of annotations in columns, so that it takes little memory; single faults go to the report.

    Raises:
        DataError: the file is no JSON or not COCO's.
    """

    def __init__(self, path: Path, report: Report) -> None:
        self.path, self.report = path, report
        self.images: _Entries[Id, tuple[str, Size | None]] = _Entries()
        self.categories: _Entries[int, str] = _Entries()
        self.numbers: dict[Id, int] = {}  # of the images that annotations name
        self.names: list[int | str] = []  # of the annotations, in findings; then their columns
        self.image_of, self.category_of, self.boxes, self.crowds = array("q"), array("q"), array("d"), array("b")
        self.areas = array("d")  # NaN where none is told
        self.ids: set[Id] = set()
        read_lists(path, {"images": self._image, "annotations": self._annotation, "categories": self._category})
        if not self.names:
            fault = Fault("no object is annotated", expected="objects in some images")
            self._tell(fault, None, "annotations", "images are without objects")

    def label_space(self) -> tuple[LabelSpace, dict[int, int]]:
        """The classes, and the label of each category.

        Raises:
            DataError: there are none.
        """

        def tell(number: int, fault: Fault, action: str) -> None:
            self._tell(fault, None, f"category {number}", action)

        space, label_of = label_space(self.categories.settled(), tell)
        if not len(space):
            raise DataError("no categories", path=self.path, field="categories", expected="a list of id and name")
        return space, label_of

    def records(self, root: Root, folders: list[Path], label_of: dict[int, int]) -> Iterator[Record]:
        """The usable images with their objects, in the order of the file."""
        labels, image_of = self._labels(label_of), np.asarray(self.image_of)
        rows = np.flatnonzero(labels >= 0)
        rows = rows[np.argsort(image_of[rows], kind="stable")]
        starts = np.searchsorted(image_of[rows], np.arange(len(self.numbers) + 1))
        read: set[Path] = set()
        for image_id, (name, written) in self.images.settled().items():
            number = self.numbers.get(image_id)
            own = rows[:0] if number is None else rows[starts[number] : starts[number + 1]]
            try:
                path = root.named(name, folders)
                header = image_header(path)
            except (Fault, DataError) as fault:
                self._tell(fault, image_id, "file_name", "image skipped")
                continue
            if path in read:
                self._tell(
                    Fault("file is listed under two ids", value=name), image_id, "file_name", "kept as two images"
                )
            read.add(path)
            yield self._record(path, image_id, header, written, own, labels[own])

    def _record(
        self, path: Path, image_id: Id, header: Header, written: Size | None, rows: Rows, labels: Rows
    ) -> Record:
        """An image with the annotations in these rows."""

        def tell_of_size(fault: Fault, action: str) -> None:
            self._tell(fault, image_id, "width, height", action)

        def tell(i: int, fault: Fault, action: str) -> None:
            self._tell(fault, image_id, f"{_within(self.names[rows[i]])}.bbox", action)

        boxes = np.asarray(self.boxes).reshape(-1, 4)[rows]
        boxes = boxes_as_shown(boxes, header, written, tell_of_size)
        boxes, keep = clean_boxes(boxes, header.size, tell)
        iscrowd, told = np.asarray(self.crowds)[rows].astype(bool), np.asarray(self.areas)[rows]
        area = np.where(np.isnan(told), (boxes[:, 2:] - boxes[:, :2]).prod(axis=1), told)
        return Record(path, image_id, header.size, boxes[keep], labels[keep], iscrowd[keep], area[keep])

    def _labels(self, label_of: dict[int, int]) -> Rows:
        """Label of each annotation; -1 where its category or image is not listed."""
        ids = list(self.numbers)
        listed = np.array([image_id in self.images for image_id in ids], dtype=bool)[np.asarray(self.image_of)]
        labels = np.array([label_of.get(number, -1) for number in self.category_of], dtype=np.int64)
        for row in np.flatnonzero(~listed | (labels < 0)).tolist():
            fault = Fault("no such category is listed", field="category_id", value=self.category_of[row])
            if not listed[row]:
                fault = Fault("no such image is listed", field="image_id", value=ids[self.image_of[row]])
            self._tell(fault, ids[self.image_of[row]], _within(self.names[row]))
        return np.where(listed, labels, -1)

    def _image(self, position: int, entry: object) -> None:
        image_id, within = None, f"images[{position}]"
        try:
            fields = fields_of(entry)
            image_id = _id(fields, "id")
            name = _field(fields, "file_name")
            if not isinstance(name, str) or not name.strip():
                raise Fault("not a file name", field="file_name", value=name)
        except Fault as fault:
            if image_id is not None:
                self.images.refuse(image_id)
            self._tell(fault, image_id, within, "image skipped")
            return
        if action := self.images.add(image_id, (name, self._written(fields, image_id))):
            self._tell(Fault("id is given twice", field="id", value=image_id), image_id, within, action)

    def _written(self, fields: dict[str, Any], image_id: Id) -> Size | None:
        """(height, width) as it is written."""
        try:
            height, width = (_finite(_field(fields, name), name) for name in ("height", "width"))
        except Fault as fault:
            self._tell(fault, image_id, None, "size taken from the image")
            return None
        return height, width  # type: ignore[return-value]

    def _category(self, position: int, entry: object) -> None:
        within = f"categories[{position}]"
        try:
            fields = fields_of(entry)
            number, name = _category_id(fields, "id"), class_name(_field(fields, "name"))
        except Fault as fault:
            self._tell(fault, None, within)
            return
        if action := self.categories.add(number, name):
            self._tell(Fault("id is given twice", field="id", value=number), None, within, action)

    def _annotation(self, position: int, entry: object) -> None:
        image_id: Id | None = None
        place = f"annotations[{position}]"
        name: int | str = place
        try:
            fields = fields_of(entry)
            name = self._name(fields, place)
            image_id = _id(fields, "image_id")
            category, box = _category_id(fields, "category_id"), _box(fields)
        except Fault as fault:
            self._tell(fault, image_id, _within(name))
            return
        crowd = fields.get("iscrowd", 0)
        if crowd not in (0, 1):
            no_mark = Fault("not a mark", field="iscrowd", value=_shown(crowd), expected="0 or 1")
            self._tell(no_mark, image_id, _within(name), "taken as no crowd")
        self.names.append(name)
        self.image_of.append(self.numbers.setdefault(image_id, len(self.numbers)))
        self.category_of.append(category)
        self.boxes.extend(box)
        self.crowds.append(crowd == 1)
        self.areas.append(self._area(fields, image_id, name))

    def _area(self, fields: dict[str, Any], image_id: Id, name: int | str) -> float:
        """The area that an annotation tells; NaN where it tells none."""
        if fields.get("area") is None:
            return nan
        try:
            if (area := _finite(fields["area"], "area")) >= 0:
                return area
            raise Fault("no area", field="area", value=area, expected="0 or more")
        except Fault as fault:
            self._tell(fault, image_id, _within(name), "taken from the box")
        return nan

    def _name(self, fields: dict[str, Any], otherwise: str) -> int | str:
        """What an annotation is called in findings: its id, or its position where that is none."""
        try:
            number = _id(fields, "id")
        except Fault:  # no reader needs it
            return otherwise
        if number in self.ids:
            self._tell(Fault("id is given twice", field="id", value=number), None, otherwise, "both kept")
        self.ids.add(number)
        return number if isinstance(number, int) else f"annotation {number!r}"

    def _tell(self, fault: Fault | DataError, image_id: Id | None, within: str | None, action: str = "dropped") -> None:
        path = self.path if isinstance(fault, Fault) else fault.path or self.path
        self.report.add(fault, path, image_id=image_id, within=within, action=action)


def _within(name: int | str) -> str:
    return f"annotation {name}" if isinstance(name, int) else name


def _shown(value: object) -> object:
    return "(null)" if value is None else value


def _field(fields: dict[str, Any], name: str) -> Any:
    """The value of a field that must be there."""
    if name not in fields:
        raise Fault("field is missing", field=name)
    return fields[name]


def _id(fields: dict[str, Any], name: str) -> Id:
    """An id: an integer, or a text that writes none."""
    value = _field(fields, name)
    if type(value) is int:
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and (text := value.strip()) and len(text) <= _LONGEST_ID:
        return int(text) if _INTEGER.fullmatch(text) else text
    raise Fault("not an id", field=name, value=_shown(value), expected="an integer or a text")


def _category_id(fields: dict[str, Any], name: str) -> int:
    """The id of a category: an integer of 64 bits."""
    value = _id(fields, name)
    if isinstance(value, str) or not -(2**63) <= value < 2**63:
        raise Fault("not the id of a category", field=name, value=value, expected="an integer")
    return value


def _finite(value: object, name: str) -> float:
    """A finite number."""
    try:
        number = float(value) if type(value) in (int, float) else nan  # type: ignore[arg-type]
    except OverflowError:
        number = nan
    if not isfinite(number):
        raise Fault("not a number", field=name, value=_shown(value), expected="a finite number")
    return number


def _box(fields: dict[str, Any]) -> tuple[float, float, float, float]:
    """(x0, y0, x1, y1) in pixels."""
    value = _field(fields, "bbox")
    if not isinstance(value, list) or len(value) != 4:
        raise Fault("not a box", field="bbox", value=_shown(value), expected="[x, y, width, height]")
    x, y, width, height = (_finite(number, "bbox") for number in value)
    return x, y, x + width, y + height
