"""Detections: results for people."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detrkit.labels import LabelSpace


@dataclass(frozen=True)
class Detections:
    """What was found in one image, best first.

    Attributes:
        boxes: float32 [N, 4], (x1, y1, x2, y2) in pixels of the original image.
        labels: int64 [N], 0..K-1.
        scores: float32 [N], in [0, 1], falling.
        size: (height, width) of the original image.
        label_space: the classes.
        queries: int64 [N], the object query behind each detection.
    """

    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    scores: NDArray[np.float32]
    size: tuple[int, int]
    label_space: LabelSpace
    queries: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def names(self) -> list[str]:
        """Class name of each detection."""
        return [self.label_space.names[label] for label in self.labels]

    def above(self, threshold: float) -> Detections:
        """Those with at least this score."""
        keep = self.scores >= threshold
        return Detections(
            self.boxes[keep], self.labels[keep], self.scores[keep], self.size, self.label_space, self.queries[keep]
        )

    def to_coco(self, image_id: int | str) -> list[dict[str, Any]]:
        """COCO result entries with the data's own category ids and boxes (x, y, width, height)."""
        corners = self.boxes.astype(float)
        boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
        return [
            {
                "image_id": image_id,
                "category_id": self.label_space.ids[label],
                "bbox": [round(x, 3) for x in box],
                "score": round(float(score), 6),
            }
            for box, label, score in zip(boxes.tolist(), self.labels, self.scores, strict=True)
        ]

    def to_json(self) -> list[dict[str, Any]]:
        """Plain values: name, label, score, box (x1, y1, x2, y2 in pixels)."""
        return [
            {"name": name, "label": int(label), "score": round(float(score), 4), "box": [round(x, 1) for x in box]}
            for name, label, score, box in zip(self.names, self.labels, self.scores, self.boxes.tolist(), strict=True)
        ]
