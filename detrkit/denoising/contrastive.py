"""Every object, and what is only near it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, final

import torch

from detrkit import boxes as geometry
from detrkit.denoising import Denoising, Noised, flip_labels, spread
from detrkit.fields import Positive, Probability, Rate
from detrkit.fitting import BOXES, LABELS
from detrkit.targets import Truth


@final
class ContrastiveDenoising(Denoising):
    """A slightly noised query an object, to become it, and a more noised one, to say nothing (DINO, section 3.3).

    Args:
        num_classes: number of classes.
        reference_eps: least width and height of a noised box, as the official code has it by way of logits.
        number: noised copies of the image with most objects, shared among groups: number // objects groups, at least 1.
        label_noise: half of this share of the labels is flipped, as in the official code.
        box_noise: largest shift of a corner, in half sides; that of the second query is between it and its double.
    """

    needs: ClassVar[frozenset[str]] = frozenset({LABELS, BOXES})

    def __init__(
        self,
        num_classes: Positive,
        reference_eps: Rate = 1e-5,
        *,
        number: Positive = 100,
        label_noise: Probability = 0.5,
        box_noise: Probability = 1.0,
    ) -> None:
        super().__init__()
        self.num_classes, self.reference_eps, self.number = num_classes, reference_eps, number
        self.label_noise, self.box_noise = label_noise, box_noise

    def noise(self, truth: Sequence[Truth]) -> Noised | None:
        """As the contract; the first half of each group is to become the objects, the second to say nothing."""
        if not any(len(t.labels) for t in truth):
            return None
        labels, boxes, empty = spread(truth)
        count = labels.shape[1]
        groups = max(1, self.number // count)
        labels, boxes, empty = (
            torch.cat([part, part], 1)[:, None].repeat_interleave(groups, 1) for part in (labels, boxes, empty)
        )
        far = torch.arange(2 * count, device=labels.device) >= count
        shift = torch.rand_like(boxes) + far[:, None].to(boxes.dtype)
        sign = torch.randint_like(boxes, 2) * 2 - 1
        reach = torch.cat([boxes[..., 2:], boxes[..., 2:]], dim=-1) / 2
        corners = geometry.cxcywh_to_xyxy(boxes) + shift * sign * reach * self.box_noise
        moved = geometry.xyxy_to_cxcywh(corners.clamp(0, 1))
        moved = moved.clamp(min=self.reference_eps)  # corners may have passed each other
        objects = torch.arange(2 * count, device=labels.device).expand_as(labels).masked_fill(empty | far, -1)
        return Noised(flip_labels(labels, self.label_noise / 2, self.num_classes), moved, objects, empty)
