"""Explanations as matplotlib figures, for notebooks and papers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.patches import Rectangle

from detrkit.explanation.overlay import overlay
from detrkit.explanation.sight import Sight

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from detrkit.explanation.explanation import Explanation

WIDE = 2.6  # inches of a picture
LARGEST_POINT = 90  # area of the point of the largest weight


def heads(found: Explanation, query: int, layer: int) -> Figure:
    """See `Explanation.plot_heads`."""
    sight = found.cross[layer]
    shown = [None, *range(sight.heads)]
    figure, axes = pictures(found, len(shown))
    for axis, head in zip(axes, shown, strict=True):
        paint(axis, found, sight, query, head)
        frame(axis, found, query, layer)
        axis.set_title("mean of all heads" if head is None else f"head {head + 1}", fontsize=9)
    return figure


def layers(found: Explanation, query: int) -> Figure:
    """See `Explanation.plot_layers`."""
    names, depth = found.detections.label_space.names, len(found.cross)
    figure, axes = pictures(found, depth)
    for layer, axis in enumerate(axes):
        paint(axis, found, found.cross[layer], query, None)
        told = layer - depth + len(found.scores)
        title = f"layer {layer + 1}"
        if told >= 0:
            frame(axis, found, query, told)
            label = int(found.scores[told, query].argmax())
            title += f": {names[label]} {found.scores[told, query, label]:.2f}"
        axis.set_title(title, fontsize=9)
    return figure


def encoder(found: Explanation, cell: int, point: tuple[float, float]) -> Figure:
    """See `Explanation.plot_encoder`."""
    figure, axes = pictures(found, len(found.encoder))
    for layer, axis in enumerate(axes):
        paint(axis, found, found.encoder[layer], cell, None)
        axis.plot(*point, marker="+", markersize=14, color="white", markeredgewidth=2)
        axis.set_title(f"encoder layer {layer + 1}", fontsize=9)
    return figure


def queries(found: Explanation, layer: int, most: int) -> Figure:
    """See `Explanation.plot_queries`."""
    figure, axis = plt.subplots(figsize=(6, 5), layout="constrained")
    best = np.argsort(-found.scores[-1].max(-1), kind="stable")[:most]
    weights = np.zeros((0, 0)) if found.queries is None else found.queries[layer].mean(0)[np.ix_(best, best)]
    drawn = axis.imshow(weights, cmap="viridis", vmin=0)
    axis.set_xticks(range(len(weights)), best[: len(weights)], fontsize=7, rotation=90)
    axis.set_yticks(range(len(weights)), best[: len(weights)], fontsize=7)
    axis.set(
        xlabel="is read by the query of the row",
        ylabel="query, best first",
        title=f"layer {range(len(found.cross))[layer] + 1}",
    )
    figure.colorbar(drawn, label="weight, mean of all heads")
    return figure


def pictures(found: Explanation, count: int) -> tuple[Figure, list[Any]]:
    """A figure with so many pictures of the image."""
    columns = min(5, max(1, count))
    rows = -(-max(1, count) // columns)
    high = WIDE * found.image.height / found.image.width + 0.3
    figure, grid = plt.subplots(
        rows, columns, figsize=(WIDE * columns, high * rows), layout="constrained", squeeze=False
    )
    for axis in grid.flat:
        axis.set_axis_off()
    return figure, list(grid.flat)[:count]


def paint(axis: Axes, found: Explanation, sight: Sight, query: int, head: int | None) -> None:
    """The image with what a query looked at; its points, where it looked at points."""
    width, height = found.image.size
    axis.imshow(overlay(found.image, sight.grid(query, head)), extent=(0, width, height, 0))
    if sight.points is not None:
        chosen = slice(None) if head is None else slice(head, head + 1)
        x, y = sight.points[query, chosen].reshape(-1, 2).T * np.array([[width], [height]])
        weights = sight.weights[query, chosen].reshape(-1)
        axis.scatter(
            x, y, s=LARGEST_POINT * weights / weights.max(), facecolors="none", edgecolors="white", linewidths=1
        )
    axis.set(xlim=(0, width), ylim=(height, 0))


def frame(axis: Axes, found: Explanation, query: int, layer: int) -> None:
    """The box of a query."""
    x1, y1, x2, y2 = found.boxes[max(-len(found.boxes), min(layer, len(found.boxes) - 1)), query]
    axis.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, color="white", linewidth=1.6))
