"""The role `denoising`: noised objects that the decoder is to restore, in training only."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from detrkit.targets import Truth


class Noised(NamedTuple):
    """Queries made of the truth, in groups that do not see each other; all images have as many, some of them empty.

    Attributes:
        labels: [B, G, n] int64, the (perhaps wrong) class that each query starts from.
        boxes: [B, G, n, 4], the noised boxes, cxcywh in [0, 1].
        objects: [B, G, n] int64, the object of the image that a query is to become; -1 where it is to say nothing.
        empty: [B, G, n] bool, places that no object of the image fills.
    """

    labels: Int64[Tensor, "B G n"]
    boxes: Float[Tensor, "B G n 4"]
    objects: Int64[Tensor, "B G n"]
    empty: Bool[Tensor, "B G n"]


class Denoising(nn.Module, ABC):
    """Contract of the role. Keep it by defining `noise`.

    Laws: noised boxes lie in [0, 1] and have a width and a height; every object has a query in each group; a batch
    without objects is left alone.

    Attributes:
        needs: names of `detrkit.fitting`: what it must be given by other parts.
    """

    needs: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def noise(self, truth: Sequence[Truth]) -> Noised | None:
        """Noised queries of a batch; None where no image holds an object."""


def spread(truth: Sequence[Truth]) -> tuple[Tensor, Tensor, Tensor]:
    """Objects of all images side by side: labels [B, n], boxes [B, n, 4], and which places are empty [B, n]."""
    widest = max(len(t.labels) for t in truth)
    boxes = truth[0].boxes.new_full((len(truth), widest, 4), 0.5)
    labels = torch.zeros((len(truth), widest), dtype=torch.int64, device=boxes.device)
    empty = torch.ones((len(truth), widest), dtype=torch.bool, device=boxes.device)
    for image, t in enumerate(truth):
        labels[image, : len(t.labels)], boxes[image, : len(t.labels)] = t.labels, t.boxes
        empty[image, : len(t.labels)] = False
    return labels, boxes, empty


def flip_labels(labels: Int64[Tensor, "*B"], share: float, num_classes: int) -> Int64[Tensor, "*B"]:
    """A share of the labels replaced by random ones."""
    wrong = torch.rand(labels.shape, device=labels.device) < share
    return torch.where(wrong, torch.randint_like(labels, num_classes), labels)
