"""Pictures of what was found: boxes, and what each was found by looking at."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from detrkit.detections import Detections
from detrkit.drawing import draw, of_detections
from detrkit.errors import WriteError
from detrkit.explanation.explanation import explain
from detrkit.explanation.overlay import attention_row, sheet_of
from detrkit.streaming.frames import Frame

if TYPE_CHECKING:
    from PIL.Image import Image

    from detrkit.model import Detector

SIDE, MOST, CELL = 480, 5, 320  # least longer side of a picture; detections of a sheet; side of each picture in it


def draw_boxes(frame: Frame, found: Detections, out: Path) -> None:
    """Write ``NAME.png``, the image with its boxes; of a frame ``NAME/NUMBER.jpg``, which takes a tenth of the time.

    Raises:
        WriteError: it cannot be written.
    """
    ending = "png" if frame.number is None else "jpg"
    _save(draw(frame.image, of_detections(found), side=max(SIDE, *frame.image.size)), out / f"{frame.name}.{ending}")


def draw_attention(model: Detector, frame: Frame, out: Path, *, threshold: float) -> None:
    """Write ``NAME.attention.png``, where the query of each of the best detections looked; nothing without any.

    Raises:
        WriteError: it cannot be written.
    """
    seen = explain(model, frame.image)
    if seen.cross and len(seen.detections.above(threshold)):
        _save(sheet_of([attention_row(seen, threshold, MOST, CELL)]), out / f"{frame.name}.attention.png")


def _save(picture: Image, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path, quality=90)  # of JPEG; PNG knows none
    except OSError as error:
        raise WriteError("cannot be written", path=path, value=f"({error.strerror or error})") from None
