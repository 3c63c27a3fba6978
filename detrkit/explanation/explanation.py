"""What a detector saw in an image, and how it came to its boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from detrkit.boxes import cxcywh_to_xyxy, pairwise_iou
from detrkit.detections import Detections
from detrkit.explanation.sight import Floats, Sight, sight_of
from detrkit.explanation.watching import Seen, Watched, watching_model
from detrkit.prediction import look_at, open_image, results

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from detrkit.model import Detector, DetectorOutput

SAME = 0.5  # intersection over union from which two queries want one object


@dataclass(frozen=True, eq=False)
class Explanation:
    """What a detector saw in one image. Layers are those of the decoder unless said otherwise, first to last.

    Attributes:
        image: RGB, as it was given.
        detections: all of them, best first.
        boxes: float32 [B, Q, 4] of the last B layers, (x1, y1, x2, y2) in pixels of the image; B is the number of
            layers, or 1 for a detector without `aux_loss`.
        scores: float32 [B, Q, K] of each query and class, background left out.
        cross: where each query looked in the image, a `Sight` a layer; empty where attentions tell no weights.
        encoder: where each cell looked in the image, a `Sight` for each layer of the encoder.
        queries: float32 [L, H, Q, Q], how much each query (row) looked at each; None where queries do not.
        winners: int64 [Q], which query of a higher score wants the same object as this one, the best of those whose
            last box overlaps its own by half or more; -1: none.
    """

    image: Image.Image
    detections: Detections
    boxes: Floats
    scores: Floats
    cross: tuple[Sight, ...]
    encoder: tuple[Sight, ...]
    queries: Floats | None
    winners: NDArray[np.int64]

    def cell_at(self, x: float, y: float, *, layer: int = -1, level: int = 0) -> int:
        """Which cell, as a query of an encoder layer, a point in pixels of the image lies in."""
        shapes = self.encoder[layer].shapes
        height, width = shapes[level]
        row = min(max(int(y / self.image.height * height), 0), height - 1)
        column = min(max(int(x / self.image.width * width), 0), width - 1)
        return sum(h * w for h, w in shapes[:level]) + row * width + column

    def losers(self, winner: int) -> list[int]:
        """Queries that lost to this one, best first."""
        lost = np.flatnonzero(self.winners == winner)
        return lost[np.argsort(-self.scores[-1, lost].max(-1), kind="stable")].tolist()

    def plot_heads(self, query: int, *, layer: int = -1) -> Figure:
        """A figure of what a query looked at: all heads together, and each alone."""
        from detrkit.explanation import figures

        return figures.heads(self, query, layer)

    def plot_layers(self, query: int) -> Figure:
        """A figure of a query from layer to layer: its box, its score, and what it looked at."""
        from detrkit.explanation import figures

        return figures.layers(self, query)

    def plot_encoder(self, x: float, y: float, *, level: int = 0) -> Figure:
        """A figure of what a point of the image, in pixels, looked at in each layer of the encoder."""
        from detrkit.explanation import figures

        return figures.encoder(self, self.cell_at(x, y, level=level), (x, y))

    def plot_queries(self, *, layer: int = -1, most: int = 30) -> Figure:
        """A figure of how much the best queries looked at each other."""
        from detrkit.explanation import figures

        return figures.queries(self, layer, most)


def explain(model: Detector, image: Any) -> Explanation:
    """What a detector sees in an image: boxes layer by layer, and all attentions, as the model computed them.

    Args:
        model: any detector of the family; its mode is kept.
        image: anything that `Detector.predict` takes.

    Raises:
        DetrkitError: no image, or one that cannot be read.
    """
    return explain_batch(model, [open_image(image, field="image")])[0]


def explain_batch(model: Detector, images: Sequence[Image.Image]) -> list[Explanation]:
    """As `explain`, for RGB images that the model sees as one batch, with its padding."""
    with watching_model(model) as watched:
        output = look_at(model, images)
    found = results(model, output, [(image.height, image.width) for image in images])
    return [
        _explanation(model, image, f, output, watched, i)
        for i, (image, f) in enumerate(zip(images, found, strict=True))
    ]


def _explanation(
    model: Detector, image: Image.Image, found: Detections, output: DetectorOutput, watched: Watched, index: int
) -> Explanation:
    scores = model.classification.scores(output.logits[:, index].float())
    fractions = cxcywh_to_xyxy(output.boxes[:, index].float())
    boxes = (fractions * fractions.new_tensor([image.width, image.height] * 2)).cpu()
    return Explanation(
        image,
        found,
        boxes.numpy(),
        scores.cpu().numpy(),
        _sights(watched.cross, watched, index, of_cells=False),
        _sights(watched.encoder, watched, index, of_cells=True),
        _between(watched.queries, index),
        _winners(boxes[-1], scores[-1].amax(-1).cpu()),
    )


def _sights(layers: Sequence[Seen], watched: Watched, index: int, *, of_cells: bool) -> tuple[Sight, ...]:
    return tuple(sight_of(seen[0], watched.memory[0], index, of_cells=of_cells) for seen in layers if seen)


def _between(layers: Sequence[Seen], index: int) -> Floats | None:
    """Weights of queries over queries, of all layers."""
    if not all(layers):
        return None
    return torch.stack([seen[0].weights[index] for seen in layers]).float().cpu().numpy()


def _winners(boxes: torch.Tensor, scores: torch.Tensor) -> NDArray[np.int64]:
    """For each query, the best of those that score higher and want the same object."""
    beaten = (pairwise_iou(boxes, boxes) >= SAME) & (scores[None] > scores[:, None])
    best = torch.where(beaten, scores[None], -1).argmax(-1)
    return torch.where(beaten.any(-1), best, -1).numpy()
