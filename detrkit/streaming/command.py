"""``detrkit predict``: a stream of images through a detector; results and pictures into a folder."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain, islice, repeat
from pathlib import Path

from PIL import Image

from detrkit.commands import fast, run_data
from detrkit.detections import Detections
from detrkit.errors import DataError, DetrkitError
from detrkit.model import Detector
from detrkit.progress import ProgressBar, say
from detrkit.streaming.frames import Files, Frame, Items, Source
from detrkit.streaming.pictures import draw_attention, draw_boxes
from detrkit.streaming.results import FOUND, ResultFiles

FEW = 20  # images of which attention is drawn where nothing is asked for
NOTHING = Image.new("RGB", (1, 1))  # in the place of images that nobody will draw

Tell = Callable[[str, Detections], object]


def predict(options: argparse.Namespace) -> None:
    """Do what the command asks for.

    Raises:
        DetrkitError: options that contradict each other, a run or an image that cannot be read, no image at all.
        WriteError: something cannot be written.
    """
    if options.images and (options.data or options.split):
        raise DetrkitError("give either images, or --data and --split", field="images")
    run = Path(options.run)
    out = Path(options.out) if options.out else (run if run.is_dir() else run.parent) / "predictions"
    if out.is_file():
        raise DetrkitError("is a file, not a folder", path=out, hint="choose another --out")
    model, source = fast(options), source_of(options, every=options.every, apart=out)
    drawn = options.draw or default_drawing(source, options.limit)
    if drawn != "none" and source.lies_in(out):
        raise DetrkitError("pictures would lie among the images", path=out, hint="choose another --out")
    stream = looked_at(model, source, options, keep=drawn != "none")
    began, first = time.monotonic(), next(stream, None)
    if first is None:
        raise DataError("no image to look at", field="images")
    label_space = source.data.label_space if isinstance(source, Items) else model.label_space
    with ResultFiles(out, label_space) as results, telling(as_json=options.json) as tell, ProgressBar("predict") as bar:
        try:
            for frame, found in chain([first], stream):
                results.add(frame, found)
                draw(model, frame, found, out, drawn, options.threshold)
                tell(frame.name, found)
                bar.expect(expected(source, options.limit))
                bar.advance()
        finally:
            say(summary(bar.done, time.monotonic() - began, source, results))
            say(f"results: {out / FOUND}" + ("" if drawn == "none" else f"; pictures: {out}"))


def looked_at(
    model: Detector, source: Source, options: argparse.Namespace, *, keep: bool
) -> Iterator[tuple[Frame, Detections]]:
    """Each frame with what was found in it; without its image, unless that is to be kept until then."""
    waiting = deque[Frame]()

    def images() -> Iterator[Image.Image]:
        for frame in islice(source, options.limit):
            waiting.append(frame if keep else frame._replace(image=NOTHING))
            yield frame.image

    for found in model.stream(images(), threshold=options.threshold, batch_size=options.batch_size):
        yield waiting.popleft(), found


def source_of(options: argparse.Namespace, *, every: int = 1, apart: Path | None = None) -> Source:
    """The files that a command names, else the images of its data.

    Raises:
        DetrkitError: there is nothing.
    """
    return Files(options.images, every=every, apart=apart) if options.images else Items(run_data(options))


def expected(source: Source, limit: int | None) -> int | None:
    """Frames that there will be, as far as it is known."""
    return source.total if limit is None or source.total is None else min(source.total, limit)


def default_drawing(source: Source, limit: int | None) -> str:
    """Attention for a look at some images; boxes alone where there are many, which it would slow down."""
    total = expected(source, limit)
    return "attention" if source.still and total is not None and total <= FEW else "boxes"


def draw(model: Detector, frame: Frame, found: Detections, out: Path, drawn: str, threshold: float) -> None:
    """The pictures of a frame that were asked for."""
    if drawn != "none":
        draw_boxes(frame, found, out)
    if drawn == "attention":
        draw_attention(model, frame, out, threshold=threshold)


@contextmanager
def telling(*, as_json: bool) -> Iterator[Tell]:
    """What tells each frame's detections on stdout: a line, or an entry of one JSON object."""
    if not as_json:
        yield lambda name, found: sys.stdout.write(f"{name}: {listed(found)}\n")
        return
    separators = chain(["{\n"], repeat(",\n"))

    def tell(name: str, found: Detections) -> None:
        sys.stdout.write(f"{next(separators)}{json.dumps(name)}: {json.dumps(found.to_json())}")

    try:
        yield tell
    finally:
        sys.stdout.write("\n}\n")


def listed(found: Detections) -> str:
    """Names and scores in a line."""
    return ", ".join(f"{name} {score:.2f}" for name, score in zip(found.names, found.scores, strict=True)) or "nothing"


def summary(done: int, seconds: float, source: Source, results: ResultFiles) -> str:
    """What was done, how fast, and what was left out."""
    parts = [f"predict: {done} image{'s' * (done != 1)} in {seconds:.1f} s, {done / max(seconds, 1e-9):.3g} a second"]
    if source.left_out:
        parts.append(f"{source.left_out} file{'s' * (source.left_out != 1)} left out or not read to the end")
    if results.left_out:
        parts.append(f"{results.left_out} of {results.seen} detections left out: the data do not have their classes")
    return "; ".join(parts)
