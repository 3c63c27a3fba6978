"""What each query has become a specialist of: where and how large its boxes are over a data set (DETR, figure 7)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from detrkit.prediction import look_at

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from detrkit.model import Detector

SMALL = 0.2  # square root of the share of the image, up to which a box is small
KINDS = ("small", "wide", "tall")  # kinds of boxes, by number
COLORS = ("#009E73", "#D55E00", "#0072B2")  # of the kinds (Okabe & Ito 2008)
MARKS = (".", "_", "|")


@dataclass(frozen=True, eq=False)
class Slots:
    """The boxes that each query gave, image by image, found or not.

    Attributes:
        boxes: float32 [I, Q, 4], (cx, cy, w, h) as fractions of the image.
        scores: float32 [I, Q], of the best class.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]

    @property
    def kinds(self) -> NDArray[np.int64]:
        """[I, Q], number in `KINDS`: small boxes, and larger ones wider than high or not."""
        width, height = self.boxes[..., 2], self.boxes[..., 3]
        return np.where(np.sqrt(width * height) <= SMALL, 0, np.where(width >= height, 1, 2))

    def found(self, threshold: float = 0.5) -> NDArray[np.float64]:
        """[Q], in which share of the images each query found something."""
        return (self.scores >= threshold).mean(0)

    def order(self) -> NDArray[np.int64]:
        """[Q], queries, those that find something most often first."""
        return np.lexsort((-self.scores.mean(0), -self.found()))

    def plot(self, *, most: int = 20, columns: int = 5) -> Figure:
        """A figure with a square for each of the busiest queries: a mark at the centre of each of its boxes."""
        from matplotlib import pyplot as plt

        chosen = self.order()[:most]
        rows = -(-len(chosen) // columns)
        size = (1.7 * columns, 1.85 * rows + 0.4)
        figure, axes = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
        for axis in axes.flat[len(chosen) :]:
            axis.set_axis_off()
        for axis, query in zip(axes.flat, chosen, strict=False):
            for kind, (color, mark) in enumerate(zip(COLORS, MARKS, strict=True)):
                x, y = self.boxes[self.kinds[:, query] == kind, query, :2].T
                axis.plot(x, y, mark, color=color, markersize=4, label=KINDS[kind])
            axis.set(xlim=(0, 1), ylim=(1, 0), xticks=[], yticks=[], aspect="equal")
            axis.set_title(f"query {query}: finds in {self.found()[query]:.0%}", fontsize=8)
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
        return figure


def slots(model: Detector, images: Iterable[Image.Image], *, batch_size: int = 8) -> Slots:
    """The last boxes of all queries in these RGB images, looked at a batch at a time."""
    boxes, scores, stream = [], [], iter(images)
    while batch := list(islice(stream, batch_size)):
        output = look_at(model, batch)
        boxes.append(output.pred_boxes.float().cpu().numpy())
        scores.append(model.classification.scores(output.pred_logits.float()).amax(-1).cpu().numpy())
    return Slots(np.concatenate(boxes), np.concatenate(scores))
