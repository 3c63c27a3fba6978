"""Frames of video files, by PyAV (the libraries of FFmpeg)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from detrkit.errors import DataError
from detrkit.images import Picture

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream

SUFFIXES = (
    ".mp4",
    ".m4v",
    ".mov",
    ".avi",
    ".mkv",
    ".webm",
    ".mpg",
    ".mpeg",
    ".mts",
    ".m2ts",
    ".wmv",
    ".flv",
    ".ogv",
    ".3gp",
)


def read_video(path: str | Path, every: int = 1) -> Iterator[Picture]:
    """All frames of a video file, one by one, turned as players show them; pixels that are not square stay so.

    Args:
        path: the file.
        every: give only each so-manyth, beginning with the first.

    Raises:
        DataError: PyAV is not installed, or the file is no video; in the middle, where it is damaged or cut off.
    """
    with _opened(path) as container:
        stream = next(iter(container.streams.video), None)
        if stream is None:
            raise DataError("no video in it", path=path)
        stream.thread_type = "AUTO"
        count, index = _count(container, stream), -1
        for index, frame in enumerate(container.decode(stream)):
            if index % every == 0:
                yield Picture(_upright(frame), index, count, None if frame.time is None else round(frame.time, 6))
        if index + 1 < stream.frames:
            raise DataError("video ends early", path=path, value=f"({index + 1} frames)", expected=str(stream.frames))


@contextmanager
def _opened(path: str | Path) -> Iterator[InputContainer]:
    """The video; whatever goes wrong inside the block names the path."""
    try:
        import av
    except ModuleNotFoundError as error:
        hint = "pip install 'detrkit[video]'"
        raise DataError(f"videos need {error.name}, which is not installed", path=path, hint=hint) from None
    try:  # as a file and nothing else: no name and no playlist makes FFmpeg open a connection
        with av.open(f"file:{path}", options={"protocol_whitelist": "file"}) as container:
            yield container
    except DataError:
        raise
    except Exception as error:  # on damaged files, decoders raise nearly anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise DataError("not a video, or a damaged one", path=path, value=f"({reason})") from None


def _count(container: InputContainer, stream: VideoStream) -> int | None:
    """Frames as the file tells, or as they follow from its length; None where it tells neither."""
    if stream.frames or not container.duration or not stream.average_rate:
        return stream.frames or None
    return max(1, round(container.duration / 1e6 * float(stream.average_rate)))


def _upright(frame: VideoFrame) -> Image.Image:
    """RGB, turned as the file says: cameras store what they filmed upright as lying."""
    image = frame.to_image()
    return image.rotate(frame.rotation, expand=True) if frame.rotation % 360 else image
