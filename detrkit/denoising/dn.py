"""Every object, noised."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, final

import torch

from detrkit.denoising import Denoising, Noised, flip_labels, spread
from detrkit.fields import Positive, Probability
from detrkit.fitting import BOXES, LABELS
from detrkit.targets import Truth


@final
class DnDenoising(Denoising):
    """Labels flipped, centres shifted by up to half a side and sides scaled, of every object (DN-DETR, section 3.3).

    Args:
        num_classes: number of classes.
        groups: noised copies of all objects.
        label_noise: share of the labels that are flipped.
        box_noise: largest shift, in half sides, and largest change of a side, in sides.
    """

    needs: ClassVar[frozenset[str]] = frozenset({LABELS, BOXES})

    def __init__(
        self,
        num_classes: Positive,
        *,
        groups: Positive = 5,
        label_noise: Probability = 0.2,
        box_noise: Probability = 0.4,
    ) -> None:
        super().__init__()
        self.num_classes, self.groups = num_classes, groups
        self.label_noise, self.box_noise = label_noise, box_noise

    def noise(self, truth: Sequence[Truth]) -> Noised | None:
        """As the contract; every query is to become its object."""
        if not any(len(t.labels) for t in truth):
            return None
        labels, boxes, empty = (part[:, None].repeat_interleave(self.groups, 1) for part in spread(truth))
        reach = torch.cat([boxes[..., 2:] / 2, boxes[..., 2:]], dim=-1)
        moved = boxes + (2 * torch.rand_like(boxes) - 1) * reach * self.box_noise
        objects = torch.arange(labels.shape[-1], device=labels.device).expand_as(labels)
        return Noised(
            flip_labels(labels, self.label_noise, self.num_classes),
            moved.clamp(0, 1),
            objects.masked_fill(empty, -1),
            empty,
        )
