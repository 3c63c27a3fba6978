"""What a run leaves to look at: curves of every loss term, predictions beside truth, attention overlays."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL.Image import Image

from detrkit.datasets import Dataset, Target
from detrkit.drawing import draw, of_detections, of_target, sheet
from detrkit.errors import DataError
from detrkit.explain import attention_sheet
from detrkit.explain.attention import NoWeightsError
from detrkit.model import Detector
from detrkit.prediction import predict
from detrkit.training.log import read_log

TERMS = {"loss_ce": "classification (cross-entropy)", "loss_bbox": "boxes (L1)", "loss_giou": "boxes (1 - GIoU)"}


def save_pictures(folder: Path, model: Detector, data: Dataset, *, threshold: float = 0.5) -> list[Path]:
    """Write ``curves.png``, ``predictions.png`` and ``attention.png`` into a run's folder."""
    paths = [folder / name for name in ("curves.png", "predictions.png", "attention.png")]
    save_curves(folder / "metrics.jsonl", paths[0])
    chosen = some_of(data, 8)
    images = [image for image, _ in chosen]
    truth = [draw(image, of_target(target, data.label_space), side=280) for image, target in chosen]
    found = predict(model, images, threshold=threshold)
    ours = [draw(image, of_detections(f), side=280) for image, f in zip(images, found, strict=True)]
    half = (len(chosen) + 1) // 2
    pairs = list(zip(truth, ours, strict=True))
    rows = [[picture for pair in pairs[row::half] for picture in pair] for row in range(half)]
    sheet(rows, ["truth", f"found (score at least {threshold:g})"] * 2).save(paths[1])
    try:
        attention_sheet(model, images[:5], threshold=threshold).save(paths[2])
    except NoWeightsError:
        paths.pop()
    return paths


def some_of(data: Dataset, count: int) -> list[tuple[Image, Target]]:
    """Images and targets from all over a data set, those that cannot be read left out."""
    chosen = []
    for index in np.linspace(0, len(data) - 1, min(count, len(data))).astype(int):
        with suppress(DataError):  # named in the run's findings
            chosen.append(data[index])
    return chosen


def save_curves(log: Path, path: Path) -> None:
    """Curves of every loss term, layer by layer, of the metrics, and of AP on the validation split."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    steps, scores = read_log(log, "train"), read_log(log, "eval")
    figure, axes = plt.subplots(2, 3, figsize=(15, 8), layout="constrained")
    for axis, (term, title) in zip(axes[0], TERMS.items(), strict=True):
        _plot_layers(axis, steps, term)
        axis.set(title=title, xlabel="step", yscale=_scale(axis))
    _plot(axes[1, 0], steps, "loss", "total")
    axes[1, 0].set(title="weighted sum of all terms and layers", xlabel="step", yscale=_scale(axes[1, 0]))
    _plot(axes[1, 1], steps, "class_error", "class error of matched queries, %")
    _plot(axes[1, 1], steps, "cardinality_error", "error in the number of objects")
    axes[1, 1].set(title="metrics of the last layer", xlabel="step", ylim=(0, None))
    axes[1, 1].legend(frameon=False)
    for name in ("AP", "AP50", "AP75"):
        points = [(entry["step"], entry[name]) for entry in scores if entry.get(name) is not None]
        axes[1, 2].plot(*zip(*points, strict=True) if points else ([], []), marker="o", markersize=3, label=name)
    axes[1, 2].set(title="average precision on the validation split", xlabel="step", ylim=(0, 1))
    axes[1, 2].legend(frameon=False)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _scale(axis: Any) -> str:
    """Logarithmic, where there is a positive value to show."""
    return "log" if any((line.get_ydata() > 0).any() for line in axis.lines) else "linear"


def _plot_layers(axis: Any, steps: list[dict[str, Any]], term: str) -> None:
    layers = sorted(name for name in (steps[0] if steps else {}) if name.startswith(f"{term}_"))
    for index, name in enumerate(layers):
        _plot(axis, steps, name, f"decoder layer {index + 1}", alpha=0.55)
    _plot(axis, steps, term, f"decoder layer {len(layers) + 1}, the answer")
    axis.legend(frameon=False, fontsize=8)


def _plot(axis: Any, steps: list[dict[str, Any]], name: str, label: str, alpha: float = 1.0) -> None:
    values = np.array([entry.get(name, np.nan) for entry in steps], dtype=float)
    numbers = np.array([entry["step"] for entry in steps])
    width = max(1, len(values) // 100)
    smooth = np.convolve(values, np.ones(width) / width, mode="valid")
    axis.plot(numbers[width - 1 :], smooth, label=label, alpha=alpha, linewidth=1.3)
