"""Where images come from: files, folders, animations and videos, or the items of a data set."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from detrkit import images
from detrkit.datasets import Dataset
from detrkit.errors import DataError, DetrkitError
from detrkit.images import Picture, read_frames
from detrkit.progress import say
from detrkit.streaming import videos
from detrkit.streaming.videos import read_video


class Frame(NamedTuple):
    """An image of a stream and where it is from.

    Attributes:
        image: RGB.
        name: a name of its own in the stream, fit for files: that of its file without the ending; of a frame, that and
            its number, ``clip/000012``.
        image_id: the data set's own id; of files, the number in the stream, from 1.
        path: the file; None where there is none.
        number: of the frame in an animation or a video, from 0; None for an image by itself.
        time: seconds from the beginning of the video; None where there is none.
    """

    image: Image.Image
    name: str
    image_id: int | str
    path: str | None = None
    number: int | None = None
    time: float | None = None


class Source(ABC):
    """A stream of frames, each opened when it is asked for.

    Attributes:
        total: frames that it will give, going by what has been opened; None where a file does not tell.
        left_out: files that could not be read, or not to their end.
        still: whether each file is a single image, going by the endings.
    """

    total: int | None
    left_out: int = 0
    still: bool = True

    @abstractmethod
    def __iter__(self) -> Iterator[Frame]:
        """The frames in their order."""

    def lies_in(self, folder: Path) -> bool:
        """Whether one of the files lies in this folder."""
        return False


class Files(Source):
    """Images, animations and videos: each picture of each file, those in folders, at any depth, in the order of names.

    A file that the caller named must be readable. One of a folder that is not is left out; of a damaged animation or
    video, the frames before the damage are given. Both are said in a line on stderr, and counted.

    Args:
        names: files and folders.
        every: of animations and videos, give only each so-manyth frame.
        apart: a folder whose files do not count, since results are written there.

    Raises:
        DetrkitError: nothing there, or a folder without images; reading raises DataError.
    """

    def __init__(self, names: Sequence[str | Path], *, every: int = 1, apart: Path | None = None) -> None:
        self.named, self.every = set(map(Path, names)), every
        self.paths = [path for name in names for path in files_of(Path(name), apart)]
        self.total = len(self.paths)
        self.still = all(path.suffix.lower() not in (".gif", *videos.SUFFIXES) for path in self.paths)

    def lies_in(self, folder: Path) -> bool:
        """As the contract."""
        return any(path.resolve().parent == folder.resolve() for path in self.paths)

    def __iter__(self) -> Iterator[Frame]:
        names, number = Names(), 0
        self.total, self.left_out = len(self.paths), 0
        for path in self.paths:
            name, seen = names.give(path.stem), 0
            try:
                for picture in read(path, self.every):
                    if not seen:
                        self._expect(picture.total)
                    seen, number = seen + 1, number + 1
                    yield frame_of(picture, path, name, number)
            except DataError as error:
                self._leave_out(path, error, seen)

    def _expect(self, pictures: int | None) -> None:
        """A file has so many, where one was expected."""
        if self.total is not None:
            self.total = None if pictures is None else self.total + (pictures - 1) // self.every

    def _leave_out(self, path: Path, error: DataError, seen: int) -> None:
        if path in self.named and not seen:
            raise error
        self.left_out += 1
        say(f"detrkit: {error}; " + (f"kept the {seen} frames before it" if seen else "left out"))


class Items(Source):
    """The images of a data set, under its own ids."""

    def __init__(self, data: Dataset) -> None:
        self.data, self.total = data, len(data)

    def __iter__(self) -> Iterator[Frame]:
        names = Names()
        for index in range(len(self.data)):
            image, target = self.data[index]
            yield Frame(image, names.give(str(target["image_id"])), target["image_id"], self.data.path(index))


class Names:
    """Gives names that are fit for files, each once: without separators, numbered where two are alike."""

    def __init__(self) -> None:
        self._given: dict[str, int] = {}

    def give(self, wish: str) -> str:
        """The name wished for, or one near it."""
        name = wish = re.sub(r"[^\w.\- ]", "_", wish).strip(". ") or "image"
        while name in self._given:
            self._given[wish] += 1
            name = f"{wish}-{self._given[wish]}"
        self._given[name] = 1
        return name


def files_of(path: Path, apart: Path | None = None) -> list[Path]:
    """A file, or those of a folder that are images or videos by their endings, at any depth; hidden ones are not.

    Raises:
        DataError: no such file.
        DetrkitError: the folder holds no images.
    """
    if not path.is_dir():
        if not path.is_file():
            raise DataError("no such image file", path=path)
        return [path]
    known = (*images.SUFFIXES, *videos.SUFFIXES)
    inside = (p for p in path.rglob("*") if p.suffix.lower() in known and p.is_file())
    found = [p for p in inside if not any(part.startswith(".") for part in p.relative_to(path).parts)]
    if apart is not None and apart.resolve() != path.resolve():
        found = [p for p in found if not p.resolve().is_relative_to(apart.resolve())]
    if not found:
        raise DetrkitError("the folder holds no images", path=path, expected=", ".join(sorted(known)))
    return sorted(found)


def read(path: Path, every: int = 1) -> Iterator[Picture]:
    """The pictures of an image or a video, told apart by the ending."""
    return (read_video if path.suffix.lower() in videos.SUFFIXES else read_frames)(path, every)


def frame_of(picture: Picture, path: Path, name: str, number: int) -> Frame:
    """A picture of a file as the frame with this number of a stream."""
    if picture.total == 1:
        return Frame(picture.image, name, number, str(path))
    name = f"{name}/{picture.number:06d}"
    return Frame(picture.image, name, number, str(path), picture.number, picture.time)
