"""Pascal VOC: one XML file an image (Everingham et al. 2010, "The Pascal Visual Object Classes Challenge")."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple, final
from xml.etree.ElementTree import Element

import numpy as np

from detrkit.datasets._files import Files, Root, parts_of, read_text
from detrkit.datasets._reading import ImageFiles, Record, Size, boxes_as_shown, clean_boxes, usable
from detrkit.datasets._report import Fault, Report
from detrkit.datasets._xml import child, number, read_xml, text
from detrkit.errors import DataError, nearest
from detrkit.images import SUFFIXES, image_header
from detrkit.labels import LabelSpace

Box = tuple[float, float, float, float]

ANNOTATIONS, IMAGES, SPLITS = "Annotations", "JPEGImages", "ImageSets/Main"


class Object(NamedTuple):
    """One object as it is written."""

    position: int  # in its file, from 0
    name: str
    box: Box
    difficult: bool


@final
class VocDataset(ImageFiles):
    """Images with boxes in the layout of Pascal VOC: Annotations/ID.xml, JPEGImages/ID.*, ImageSets/Main/SPLIT.txt.

    - The classes are the sorted names in *all* annotation files, so that every split has the same; or ``names``.
    - Boxes: VOC counts pixels from 1 and includes both ends, so a box reads (xmin - 1, ymin - 1, xmax, ymax) as edges
      in pixels. A box written with xmax <= xmin or ymax <= ymin is dropped; one that leaves the image is clipped.
    - The image of an ID is found by its name, with any usual suffix; ``<filename>`` and ``<path>`` are never followed.
      The size is the image's own as it is shown; ``<size>`` is compared with it, and tells by its order where boxes
      are those of the stored pixels of an image that its EXIF orientation turns: they are turned with it.
    - ``image_id`` is the ID. Hidden files (``._ID.xml``) are no annotations.

    What is wrong in the data costs as little as possible: a box, an object or an image, each listed in ``findings``.

    Args:
        split: name of a file in ImageSets/Main, without ".txt".
        root: folder that holds Annotations, JPEGImages and ImageSets; nothing outside it is read.
        strict: raise a DataError for the first thing that is wrong.
        names: the classes, in the order of their labels; objects of other names are dropped and reported.
        difficult: what becomes of objects marked as difficult: ``ignore`` marks them ``iscrowd``, so that neither
            matching nor evaluation counts them, as in the challenge; ``keep`` treats them as any other; ``drop``
            leaves them out.
        origin: coordinate of the first pixel: 1 is VOC's; 0 is for files whose coordinates are edges counted from 0.

    Raises:
        DataError: no such folder or split, a split without any usable image, no classes; or anything under ``strict``.
    """

    def __init__(
        self,
        split: str = "train",
        *,
        root: str,
        strict: bool = False,
        names: tuple[str, ...] | None = None,
        difficult: Literal["ignore", "keep", "drop"] = "ignore",
        origin: Literal[0, 1] = 1,
    ) -> None:
        report = Report(strict)
        folder = _checked(Path(root).expanduser())
        listing = _listing(folder, split)
        reader = _Reader(folder, report, names, difficult, origin)
        records = usable(reader.read(listing), listing, report)
        self.fill(records, reader.label_space(records), report)


def _checked(root: Path) -> Path:
    """The root, if it has the three folders and none of them is elsewhere."""
    if not root.is_dir():
        raise DataError("no such folder", path=root, field="root")
    for name in (ANNOTATIONS, IMAGES, SPLITS):
        folder = root / name
        if not folder.is_dir():
            below = sorted(str(path.parent) for path in root.glob(f"*/{ANNOTATIONS}"))
            hint = f"did you mean {' or '.join(below)}?" if below else None
            raise DataError(
                f"no folder {name!r}",
                path=root,
                field="root",
                hint=hint,
                expected=(f"a folder with {ANNOTATIONS}, {IMAGES} and {SPLITS}"),
            )
        if not folder.resolve().is_relative_to(root.resolve()):
            raise DataError("folder leads out of the data set; refused", path=folder, field="root")
    return root


def _listing(root: Path, split: str) -> Path:
    """The file that lists the images of a split."""
    known = Files(root / SPLITS, (".txt",))
    if split not in known.stems():
        hint = nearest(split, known.stems())
        raise DataError("no such split", path=root / SPLITS, field="split", value=split, hint=hint)
    try:
        return Root(root).contained(known.find(split)[0])
    except Fault as fault:
        raise DataError(fault.what, path=known.find(split)[0], field="split") from None


class _Reader:
    """Reads annotation files under the policy of a report; numbers the classes as they come."""

    def __init__(self, root: Path, report: Report, names: tuple[str, ...] | None, difficult: str, origin: int) -> None:
        self.root, self.report, self.names, self.difficult, self.origin = Root(root), report, names, difficult, origin
        self.annotations, self.images = Files(root / ANNOTATIONS, (".xml",)), Files(root / IMAGES, SUFFIXES)
        self.labels = {name: k for k, name in enumerate(names or ())}

    def read(self, listing: Path) -> list[Record]:
        """The usable images that a split file lists, in its order."""
        wanted = self._wanted(listing)
        records: dict[Path, Record] = {}
        for path in self.annotations.paths if self.names is None else wanted:
            image_id = wanted.get(path)
            try:
                root = self._root(path)
            except Fault as fault:
                action = "its classes stay unknown" if image_id is None else "image skipped"
                self.report.add(fault, path, image_id=image_id, action=action)
                continue
            if image_id is not None and (record := self._record(image_id, path, root)):
                records[path] = record
        return [records[path] for path in wanted if path in records]

    def label_space(self, records: list[Record]) -> LabelSpace:
        """The classes: those given, or those seen, sorted; labels of the records are renumbered to fit."""
        space = LabelSpace(tuple(sorted(self.labels)) if self.names is None else tuple(self.names))
        if not space.names:
            raise DataError(
                "no annotation names a class",
                path=self.root.folder / ANNOTATIONS,
                field="object.name",
                hint="the setting names=(...) tells the classes",
            )
        renumbered = np.array([space.names.index(name) for name in self.labels], dtype=np.int64)
        for record in records:
            record.labels = renumbered[record.labels]
        return space

    def _wanted(self, listing: Path) -> dict[Path, str]:
        """Annotation file -> image id, for the lines of a split file."""
        wanted: dict[Path, str] = {}
        for image_id in filter(None, map(str.strip, read_text(listing).splitlines())):
            found = self.annotations.find(image_id)
            if found and found[0] not in wanted:
                wanted[found[0]] = image_id
            elif found:
                self.report.add(Fault("image is listed twice"), listing, image_id=image_id, action="counted once")
            elif {"/", "\\", "\0"} & set(image_id):
                fault = Fault("image id is no plain file name; refused", expected=f"the stem of a file in {IMAGES}")
                self.report.add(fault, listing, image_id=image_id, action="image skipped")
            else:
                fault = Fault("no annotation file", expected=f"{ANNOTATIONS}/{image_id}.xml")
                self.report.add(fault, listing, image_id=image_id, action="image skipped")
        return wanted

    def _root(self, path: Path) -> Element:
        """The root element of an annotation file, its class names learned."""
        root = read_xml(self.root.contained(path))
        if root.tag != "annotation":
            raise Fault("not an annotation of Pascal VOC", value=f"<{root.tag}>", expected="<annotation>")
        for node in root.findall("object") if self.names is None else ():
            with suppress(Fault):  # reported with the object
                self.labels.setdefault(text(node, "name"), len(self.labels))
        return root

    def _record(self, image_id: str, path: Path, root: Element) -> Record | None:
        """One image with its annotations, or None where it cannot be used."""
        try:
            image = self._image(image_id, path, root)
            header = image_header(image)
        except (Fault, DataError) as fault:
            place = path if isinstance(fault, Fault) else fault.path or path
            self.report.add(fault, place, image_id=image_id, action="image skipped")
            return None
        objects = list(self._objects(root, path, image_id))

        def tell_of_size(fault: Fault, action: str) -> None:
            self.report.add(fault, path, image_id=image_id, within="size", action=action)

        def tell(i: int, fault: Fault, action: str) -> None:
            within = f"object[{objects[i].position}].bndbox"
            self.report.add(fault, path, image_id=image_id, within=within, action=action)

        boxes = np.array([found.box for found in objects], dtype=np.float64).reshape(-1, 4)
        boxes -= [self.origin, self.origin, 0, 0]
        boxes = boxes_as_shown(boxes, header, self._size(root, path, image_id), tell_of_size)
        boxes, keep = clean_boxes(boxes, header.size, tell)
        labels = np.array([self.labels[found.name] for found in objects], dtype=np.int64)
        iscrowd = np.array([found.difficult and self.difficult == "ignore" for found in objects], dtype=bool)
        return Record(image, image_id, header.size, boxes[keep], labels[keep], iscrowd[keep])

    def _image(self, image_id: str, path: Path, root: Element) -> Path:
        """The image file of an id; what the annotation says about it is looked at, but not followed."""
        filename = " ".join((root.findtext("filename") or "").split())
        try:
            parts_of(filename)
        except Fault as fault:
            self.report.add(fault, path, image_id=image_id, within="filename", action="image found by its id")
        found = self.images.find(image_id)
        if not found:
            raise Fault("no image file", expected=f"{IMAGES}/{image_id}.jpg, or another usual suffix")
        if len(found) > 1:
            several = Fault("several images of one id", value=[image.name for image in found])
            self.report.add(several, path, image_id=image_id, action=f"{found[0].name} used")
        return self.root.contained(found[0])

    def _size(self, root: Element, path: Path, image_id: str) -> Size | None:
        """(height, width) as it is written."""
        try:
            node = child(root, "size")
            return number(node, "height"), number(node, "width")  # type: ignore[return-value]
        except Fault as fault:
            self.report.add(fault, path, image_id=image_id, action="size taken from the image")
            return None

    def _objects(self, root: Element, path: Path, image_id: str) -> Iterator[Object]:
        """The objects that can be read."""
        for node in root:
            if node.tag != "object" and any(inner.tag.lower() in ("object", "bndbox") for inner in node.iter()):
                fault = Fault("object is not where objects are", field=node.tag, expected="<annotation><object>")
                self.report.add(fault, path, image_id=image_id)
        for position, node in enumerate(root.findall("object")):
            within = f"object[{position}]"
            try:
                name, box = self._name(node), _box(node)
            except Fault as fault:
                self.report.add(fault, path, image_id=image_id, within=within)
                continue
            try:
                difficult = _difficult(node)
            except Fault as fault:
                self.report.add(fault, path, image_id=image_id, within=within, action="taken as not difficult")
                difficult = False
            if not (difficult and self.difficult == "drop"):
                yield Object(position, name, box, difficult)

    def _name(self, node: Element) -> str:
        name = text(node, "name")
        if name not in self.labels:
            raise Fault("unknown class", field="name", value=name, expected=nearest(name, self.labels))
        return name


def _box(node: Element) -> Box:
    """xmin, ymin, xmax, ymax as written."""
    bndbox = child(node, "bndbox")
    x0, y0, x1, y1 = (number(bndbox, name) for name in ("xmin", "ymin", "xmax", "ymax"))
    if x1 <= x0 or y1 <= y0:
        what = "box is inside out" if x1 < x0 or y1 < y0 else "box has no area"
        raise Fault(what, field="bndbox", value=[x0, y0, x1, y1], expected="xmin < xmax and ymin < ymax")
    return x0, y0, x1, y1


def _difficult(node: Element) -> bool:
    """Whether the object is marked as difficult; without a mark it is not."""
    if node.find("difficult") is None:
        return False
    marks = {"0": False, "1": True}
    if (mark := text(node, "difficult")) not in marks:
        raise Fault("not a mark", field="difficult", value=mark, expected="0 or 1")
    return marks[mark]
