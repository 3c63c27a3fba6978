"""The explorer: one page that stands alone, on which people ask a detector what it looked at."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib import colormaps, colors
from PIL import Image

from detrkit import html
from detrkit.checkpoints.storage import replace_text
from detrkit.drawing import COLORS
from detrkit.errors import DetrkitError
from detrkit.explanation.explanation import Explanation, explain
from detrkit.explanation.packing import fitting, packed_slots
from detrkit.explanation.slots import Slots

if TYPE_CHECKING:
    from detrkit.model import Detector

LARGEST = 2_900_000  # bytes of a page
MOST = 12  # images of a page
RAMP = 128  # colours from none to much
PAGE = Path(__file__).parent / "page"
SCRIPTS = ("state", "arrays", "drawing", "showing", "matrix", "slots", "answering")

Named = tuple[str, Image.Image]


def save_explorer(
    model: Detector,
    images: Iterable[Named],
    path: Path,
    *,
    title: str,
    threshold: float = 0.5,
    found: Slots | None = None,
) -> Path:
    """Explain images, and write the page to explore that.

    Args:
        model: a detector.
        images: pairs of name and RGB image, at least one and at most `MOST`.
        path: of the page; its folder is made where it is missing.
        title: of the page.
        threshold: least score of a detection, in [0, 1].
        found: what each query is a specialist of, see `slots`; None: not shown.

    Raises:
        DetrkitError: an option out of range, no image, or more than fit on a page.
        WriteError: the file cannot be written.
    """
    if not 0 <= threshold <= 1:
        raise DetrkitError("threshold out of range", field="threshold", value=threshold, expected="0 to 1")
    named = list(islice(images, MOST + 1))
    if not 1 <= len(named) <= MOST:
        got = f"more than {MOST}" if named else 0
        raise DetrkitError("images do not make a page", field="images", value=got, expected=f"1 to {MOST}")
    explained = [(name, explain(model, image)) for name, image in named]
    replace_text(path, explorer_page(explained, title=title, threshold=threshold, found=found))
    return path


def explorer_page(
    explained: Sequence[tuple[str, Explanation]], *, title: str, threshold: float = 0.5, found: Slots | None = None
) -> str:
    """The page of some explained images, each with its name; see `save_explorer`."""
    script = "\n".join(_part(f"{name}.js") for name in SCRIPTS)
    skeleton, style = html.Markup(_part("explorer.html")), _part("explorer.css")
    common = json.dumps(
        {
            "threshold": threshold,
            "classes": explained[0][1].detections.label_space.names,
            "colors": COLORS,
            "ramp": [colors.to_hex(color) for color in colormaps["viridis"](np.linspace(0, 1, RAMP))],
            "slots": None if found is None else packed_slots(found, threshold),
        },
        separators=(",", ":"),
    )
    frame = html.page(title, skeleton, html.data("common", common), style=style, script=script)
    budget = (LARGEST - len(frame)) // len(explained)
    side = 900 if len(explained) <= 2 else 640 if len(explained) <= 6 else 480
    packed = [fitting(name, seen, threshold=threshold, side=side, budget=budget) for name, seen in explained]
    blocks = [html.data("common", common), *(html.data(f"image-{i}", text) for i, text in enumerate(packed))]
    page = html.page(title, skeleton, *blocks, style=style, script=script)
    if len(page) > LARGEST:
        raise DetrkitError("the page would be too large", value=f"{len(page):,} bytes", hint="explain fewer images")
    return page


def _part(name: str) -> str:
    return (PAGE / name).read_text(encoding="utf-8")
