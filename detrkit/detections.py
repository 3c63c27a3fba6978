"""Detections: results for people."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from detrkit.errors import DetrkitError
from detrkit.labels import LabelSpace

if TYPE_CHECKING:
    import supervision
    from matplotlib.axes import Axes


@dataclass(frozen=True, eq=False)  # == of arrays has no truth value
class Detections:
    """What was found in one image, best first.

    ``found[0]``, ``found[:5]``, ``found[found.labels == 3]`` and ``for one in found`` give `Detections`, too.

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

    def __getitem__(self, chosen: int | slice | NDArray[Any]) -> Detections:
        rows = np.atleast_1d(np.arange(len(self))[chosen])
        return replace(
            self,
            boxes=self.boxes[rows],
            labels=self.labels[rows],
            scores=self.scores[rows],
            queries=self.queries[rows],
        )

    def __str__(self) -> str:
        count = {0: "no detections", 1: "1 detection"}.get(len(self), f"{len(self)} detections")
        best = [f"{name} {score:.2f}" for name, score in zip(self.names[:5], self.scores, strict=False)]
        rest = [f"and {len(self) - len(best)} more"] if len(self) > len(best) else []
        listed = ", ".join(best + rest)
        return f"{count} in {self.size[0]}x{self.size[1]}" + (f": {listed}" if listed else "")

    def __repr__(self) -> str:
        return f"<{self}>"

    def above(self, threshold: float) -> Detections:
        """Those with at least this score."""
        return self[self.scores >= threshold]

    def in_space(self, other: LabelSpace) -> Detections:
        """The same with the labels of another label space, by name; those whose class it lacks are left out."""
        rows = np.array([-1 if row is None else row for row in self.label_space.rows_of(other)], dtype=np.int64)
        labels = rows[self.labels]
        return replace(self, labels=labels, label_space=other)[labels >= 0]

    def plot(self, image: Any = None, *, ax: Axes | None = None) -> Axes:
        """Draw boxes, names and scores over the image, for notebooks.

        Args:
            image: the image looked at, as anything that `Detector.predict` takes; white when not given.
            ax: matplotlib axes to draw in, in pixels of the image; new ones when not given.

        Raises:
            DetrkitError: an image of another size than the one looked at, or one that cannot be read.
        """
        from matplotlib import pyplot as plt
        from PIL import Image

        from detrkit.drawing import draw, of_detections
        from detrkit.prediction import open_image

        height, width = self.size
        picture = Image.new("RGB", (width, height), "white") if image is None else open_image(image)
        if picture.size != (width, height):
            raise DetrkitError(
                "another image than the one looked at",
                field="image",
                value=f"({picture.height} x {picture.width})",
                expected=f"height x width {height} x {width}",
            )
        if ax is None:
            ax = plt.subplots(figsize=(8, 8 * height / width), layout="constrained")[1]
        ax.imshow(draw(picture, of_detections(self), side=1000), extent=(0, width, height, 0))
        ax.set_axis_off()
        return ax

    def to_supervision(self) -> supervision.Detections:
        """As ``supervision.Detections``: xyxy, confidence, class_id, and the names under ``data["class_name"]``.

        Raises:
            DetrkitError: supervision is not installed.
        """
        try:
            from supervision import Detections as Supervised
        except ModuleNotFoundError as error:
            raise DetrkitError(f"{error.name} is not installed", hint="pip install 'detrkit[supervision]'") from None
        return Supervised(
            xyxy=self.boxes,
            confidence=self.scores,
            class_id=self.labels,
            data={"class_name": np.array(self.names, dtype=np.str_)},
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
