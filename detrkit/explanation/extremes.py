"""Explorer pages of the images that a detector gets best and worst."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from detrkit.datasets import Dataset
from detrkit.evaluation.images import Judged, Mistakes
from detrkit.explanation.explorer import Named, save_explorer

if TYPE_CHECKING:
    from detrkit.model import Detector

FOLDER = "explorer"
EACH = 8  # images of a page


def save_extremes(
    folder: Path, model: Detector, data: Dataset, judged: Judged, *, threshold: float = 0.5, of: str | None = None
) -> dict[str, Path]:
    """Write ``explorer/worst.html`` and ``explorer/best.html`` into a folder, of the images as `judge` ranks them.

    Args:
        folder: of the run.
        model: the run's detector.
        data: that it was judged on.
        judged: how it did.
        threshold: least score of a detection.
        of: what the titles call the detector; by default the folder's name.

    Returns:
        The pages by ``worst`` and ``best``; one is left out where there is no such image.

    Raises:
        WriteError: a file cannot be written.
    """
    ranked = {"worst": judged.worst(EACH), "best": judged.best(EACH)}
    return {
        name: save_explorer(
            model,
            _images(data, chosen),
            folder / FOLDER / f"{name}.html",
            title=f"The {name} images of {of or folder.resolve().name}",
            threshold=threshold,
        )
        for name, chosen in ranked.items()
        if chosen
    }


def _images(data: Dataset, chosen: Sequence[Mistakes]) -> list[Named]:
    """Name and image of each."""
    pairs = (data[one.place] for one in chosen)
    return [(str(target["image_id"]), image) for image, target in pairs]
