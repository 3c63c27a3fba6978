"""How well a detector does image by image: which images it gets best, and which worst."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from PIL import Image

from detrkit.boxes import cxcywh_to_xyxy, pairwise_iou
from detrkit.datasets import Dataset, Target
from detrkit.detections import Detections
from detrkit.prediction import predict

if TYPE_CHECKING:
    from detrkit.model import Detector

LOOKED_AT = 200  # images of a data set that are judged
FITS = 0.5  # intersection over union from which a detection is right


class Mistakes(NamedTuple):
    """How well the detections of an image fit it, crowds left out.

    Attributes:
        place: index of the image.
        right: objects that were found.
        missed: objects that were not.
        wrong: detections of nothing, of another class, or of an object already found.
    """

    place: int
    right: int
    missed: int
    wrong: int

    @property
    def share(self) -> float:
        """Of what is there or was found, how much is not right; 0 where there is nothing at all."""
        return (self.missed + self.wrong) / max(1, self.right + self.missed + self.wrong)


def mistakes(target: Target, found: Detections, place: int = 0) -> Mistakes:
    """Hold detections against the truth, best first: each takes the free object of its class that it overlaps most."""
    height, width = target["orig_size"].tolist()
    truth = cxcywh_to_xyxy(target["boxes"].double()) * torch.tensor([width, height, width, height])
    fits = pairwise_iou(torch.from_numpy(found.boxes).double(), truth).numpy()
    crowd, labels = target["iscrowd"].numpy(), target["labels"].numpy()
    free, wrong = ~crowd, 0
    for overlap, label in zip(fits, found.labels, strict=True):
        near = (overlap >= FITS) & (labels == label)
        if (near & free).any():
            free[np.argmax(overlap * (near & free))] = False
        elif not (near & crowd).any():
            wrong += 1
    missed = int(free.sum())
    return Mistakes(place, int((~crowd).sum()) - missed, missed, wrong)


class Judged(NamedTuple):
    """Images of a data set, judged.

    Attributes:
        mistakes: of every image that was looked at, in their order.
        found: detections by index of the image.
    """

    mistakes: list[Mistakes]
    found: dict[int, Detections]

    def total(self, name: str) -> int:
        """Sum of ``right``, ``missed`` or ``wrong`` over all images."""
        return sum(getattr(one, name) for one in self.mistakes)

    def worst(self, most: int) -> list[Mistakes]:
        """Images with mistakes, the worst first."""
        wrong = [one for one in self.mistakes if one.share > 0]
        return sorted(wrong, key=lambda one: (-one.share, -one.missed - one.wrong))[:most]

    def best(self, most: int) -> list[Mistakes]:
        """Images with objects, those with the smallest share of mistakes and then the most objects first."""
        right = [one for one in self.mistakes if one.right]
        return sorted(right, key=lambda one: (one.share, -one.right))[:most]


def judge(model: Detector, data: Dataset, *, threshold: float, batch_size: int) -> Judged:
    """Look at images from all over a data set, at most `LOOKED_AT`, and hold what is found against the truth."""
    places = np.unique(np.linspace(0, len(data) - 1, min(LOOKED_AT, len(data))).astype(int)).tolist()
    targets: list[Target] = []
    seen = predict(model, _images(data, places, targets), threshold=threshold, batch_size=batch_size)
    found = {place: one.in_space(data.label_space) for place, one in zip(places, seen, strict=True)}
    return Judged([mistakes(t, found[place], place) for place, t in zip(places, targets, strict=True)], found)


def _images(data: Dataset, places: Sequence[int], targets: list[Target]) -> Iterator[Image.Image]:
    """Images of these indices; their targets are appended."""
    for place in places:
        image, target = data[place]
        targets.append(target)
        yield image
