"""What is found in a stream, as files in COCO's formats that are whole at every moment."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from errno import ENOSPC
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from detrkit.detections import Detections
from detrkit.errors import WriteError
from detrkit.labels import LabelSpace
from detrkit.streaming.frames import Frame

_NEXT = ",\n"
FOUND, IMAGES = "detections.json", "images.json"


class GrowingJson:
    """A JSON file with a list that grows. It is whole after each addition, whatever ends the program then.

    Args:
        path: of the file; an old one is replaced.
        head: what stands before the list's first item, its bracket included.
        tail: what stands behind the last.

    Raises:
        WriteError: it cannot be written; so do the methods.
    """

    def __init__(self, path: Path, head: str = "[", tail: str = "]\n") -> None:
        self.path, self.tail, self.separator = path, tail, "\n"
        try:
            self.file = path.open("wb", buffering=0)  # an addition is one call of the system: done, or not begun
        except OSError as error:
            raise self._failure(error) from None
        self.end = 0
        self._put(head)

    def add(self, items: Iterable[Any]) -> None:
        """Some more items at the end of the list."""
        text = "".join(f"{self.separator if i == 0 else _NEXT}{json.dumps(item)}" for i, item in enumerate(items))
        if text:
            self._put(text)
            self.separator = _NEXT

    def close(self, tail: str | None = None) -> None:
        """No more items; a last word instead of the tail."""
        self.tail = self.tail if tail is None else tail
        self._put("")
        self.file.close()

    def _put(self, text: str) -> None:
        """Text in the place of the tail, and the tail behind it."""
        data = (text + self.tail).encode()
        try:
            self.file.seek(self.end)
            if self.file.write(data) < len(data):
                raise OSError(ENOSPC, os.strerror(ENOSPC))
            self.file.truncate()
        except OSError as error:
            raise self._failure(error) from None
        self.end += len(text.encode())

    def _failure(self, error: OSError) -> WriteError:
        return WriteError("cannot be written", path=self.path, value=f"({error.strerror or error})")


class ResultFiles:
    """``detections.json``, COCO's list of results, and ``images.json``, the COCO file that tells what its ids mean.

    ``COCO("images.json").loadRes("detections.json")`` reads both; so does the data's own file of annotations with
    the results of a data set. ``images.json`` has the categories and each image with its id, file and size, of frames
    also their number and their time in seconds; it names an image when what was found there has been written.
    ``info.complete`` is false until the stream has ended.

    Args:
        folder: made where it is missing.
        label_space: the classes; the data's own, where there are data.

    Attributes:
        left_out: detections of classes that the label space does not have.

    Raises:
        WriteError: the files cannot be written.
    """

    def __init__(self, folder: Path, label_space: LabelSpace) -> None:
        self.label_space, self.left_out, self.seen = label_space, 0, 0
        categories = [{"id": i, "name": name} for i, name in zip(label_space.ids, label_space.names, strict=True)]
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WriteError("cannot be made", path=folder, value=f"({error.strerror or error})") from None
        head = f'{{"categories": {json.dumps(categories)},\n"images": ['
        self.images = GrowingJson(folder / IMAGES, head, _tail(complete=False))
        self.found = GrowingJson(folder / FOUND)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.found.close()
        self.images.close(_tail(complete=kind is None))

    def add(self, frame: Frame, found: Detections) -> None:
        """What was found in the next frame."""
        known = found.in_space(self.label_space)
        self.seen, self.left_out = self.seen + len(found), self.left_out + len(found) - len(known)
        self.found.add(known.to_coco(frame.image_id))
        self.images.add([_entry(frame, found.size)])


def _tail(*, complete: bool) -> str:
    return f'],\n"annotations": [],\n"info": {json.dumps({"complete": complete})}}}\n'


def _entry(frame: Frame, size: tuple[int, int]) -> dict[str, Any]:
    """An image as COCO describes it."""
    entry = {"id": frame.image_id, "file_name": frame.path or frame.name, "width": size[1], "height": size[0]}
    return entry | {name: value for name, value in (("frame", frame.number), ("time", frame.time)) if value is not None}
