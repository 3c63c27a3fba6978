"""Batches of a stream: images of one size together, made while the net works on the last ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from queue import SimpleQueue
from threading import Event, Semaphore, Thread
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from PIL import Image

from detrkit.preprocessing import PaddedImages, normalize, pad, resize

if TYPE_CHECKING:
    from detrkit.config import DetectorConfig

T = TypeVar("T")

PATIENCE = 4  # batches after which an image no longer waits for others of its size


class Waiting(NamedTuple):
    """An image as the net will see it, its place in the stream, and the (height, width) that it had."""

    image: Image.Image
    place: int
    size: tuple[int, int]


class Batch(NamedTuple):
    """Images that the net sees together.

    Attributes:
        places: of the images in their stream, from 0.
        sizes: (height, width) of each in pixels as it was given.
        inputs: what the net sees of them.
    """

    places: list[int]
    sizes: list[tuple[int, int]]
    inputs: PaddedImages


def batched(images: Iterable[Image.Image], config: DetectorConfig, batch_size: int) -> Iterator[Batch]:
    """A stream of RGB images as batches of one size each, so that none is padded.

    Nothing is computed on padding, and what a detector says of an image does not depend on its neighbours. An image
    waits for others of its size until `PATIENCE` batches have been read after it: so much is in memory at most.
    """
    groups: dict[tuple[int, int], list[Waiting]] = {}  # the one whose first image is the oldest stands first
    for place, image in enumerate(images):
        small = resize(image, config.short_side, config.long_side, config.square)
        group = groups.setdefault(small.size, [])
        group.append(Waiting(small, place, (image.height, image.width)))
        if len(group) == batch_size:
            yield _batch(groups.pop(small.size), config)
        if groups and place - next(iter(groups.values()))[0].place >= PATIENCE * batch_size - 1:
            yield _batch(groups.pop(next(iter(groups))), config)
    for group in groups.values():
        yield _batch(group, config)


def _batch(group: list[Waiting], config: DetectorConfig) -> Batch:
    inputs = pad([normalize(one.image, config.normalize) for one in group])
    return Batch([one.place for one in group], [one.size for one in group], inputs)


def read_ahead(stream: Iterable[T]) -> Iterator[T]:
    """The same items, the next one being made by a thread while the last one is worked on.

    An error of the stream is raised in its place. The thread ends with the stream, or when no more is wanted.
    """
    made: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
    wanted, left = Semaphore(), Event()
    maker = Thread(target=_make, args=(stream, made, wanted, left), daemon=True)
    maker.start()
    try:
        while True:
            item, error = made.get()
            wanted.release()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item
    finally:
        left.set()
        wanted.release()
        maker.join(timeout=1)  # not for ever: the source may be waiting for something that never comes


def _make(
    stream: Iterable[T], made: SimpleQueue[tuple[Any, BaseException | None]], wanted: Semaphore, left: Event
) -> None:
    """The thread: an item each time that one is wanted, until none is left or wanted any more."""
    source = iter(stream)
    try:
        while wanted.acquire() and not left.is_set():
            made.put((next(source), None))
    except BaseException as error:  # the end of the stream, too, is told to whoever waits for it
        made.put((None, error))
    finally:
        if left.is_set() and hasattr(source, "close"):
            source.close()
