"""Checking of training targets: what cannot be right is refused with image, box and value, before any loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from detrkit.errors import TargetError

LOOKS_LIKE_PIXELS = 1.5


class Truth(NamedTuple):
    """The checked objects of one image, crowds left out: boxes cxcywh [T, 4], labels [T], the image's id."""

    boxes: Float[Tensor, "T 4"]
    labels: Int64[Tensor, T]
    image_id: int | str


def check_targets(
    targets: Sequence[Any], num_classes: int, *, images: int | None = None, like: Tensor | None = None
) -> list[Truth]:
    """Check the targets of a batch.

    Args:
        targets: a dict an image with ``boxes`` and ``labels``, and where known ``iscrowd`` and ``image_id``.
        num_classes: K; labels are 0..K-1.
        images: how many there must be.
        like: gives the dtype and device of the boxes returned.

    Raises:
        TargetError: the first thing that is wrong, naming image, box index and value.
    """
    if isinstance(targets, Mapping):
        raise TargetError("one target an image", field="targets", value="a mapping", expected="a list of them")
    if images is not None and len(targets) != images:
        raise TargetError("one target an image", field="targets", value=len(targets), expected=f"{images}")
    return [_check(target, index, num_classes, like) for index, target in enumerate(targets)]


def _check(target: Any, index: int, num_classes: int, like: Tensor | None) -> Truth:
    if not isinstance(target, Mapping):
        raise TargetError("not a target", image_id=index, value=type(target).__name__, expected="a dict")
    image_id: Any = target.get("image_id", index)
    if isinstance(image_id, Tensor):
        image_id = image_id.tolist()[0] if image_id.shape == (1,) else image_id.tolist()
    boxes, labels = (_tensor(target, name, image_id) for name in ("boxes", "labels"))
    boxes = boxes.reshape(0, 4).float() if boxes.shape in ((0,), (0, 4)) else boxes
    labels = labels.long() if labels.numel() == 0 else labels
    _check_shapes(boxes, labels, image_id)
    _check_values(boxes.detach().cpu(), labels.detach().cpu(), image_id, num_classes)
    like = boxes if like is None else like
    boxes, labels = boxes.to(like), labels.to(like.device, torch.int64)
    if "iscrowd" in target:
        crowd = _tensor(target, "iscrowd", image_id)
        if crowd.shape != labels.shape or crowd.is_floating_point():
            raise TargetError(
                f"{len(boxes)} boxes but iscrowd of shape {tuple(crowd.shape)}",
                image_id=image_id,
                field="iscrowd",
                value=str(crowd.dtype),
                expected="one bool a box",
            )
        alone = ~crowd.to(like.device).bool()
        boxes, labels = boxes[alone], labels[alone]
    return Truth(boxes, labels, image_id)


def _tensor(target: Mapping[str, Any], name: str, image_id: Any) -> Tensor:
    if name not in target:
        raise TargetError(
            "missing", image_id=image_id, field=name, value=str(sorted(target)), expected="boxes and labels"
        )
    try:
        return torch.as_tensor(target[name])
    except (TypeError, ValueError, RuntimeError) as error:
        raise TargetError("cannot be a tensor", image_id=image_id, field=name, value=f"({error})") from None


def _check_shapes(boxes: Tensor, labels: Tensor, image_id: Any) -> None:
    if labels.dtype not in (torch.int64, torch.int32):
        raise TargetError(
            "labels have the wrong dtype",
            image_id=image_id,
            field="labels",
            value=str(labels.dtype),
            expected="int64 (int32 is accepted)",
        )
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise TargetError(
            "boxes have the wrong shape", image_id=image_id, field="boxes", value=tuple(boxes.shape), expected="[T, 4]"
        )
    if not boxes.is_floating_point():
        raise TargetError(
            "boxes have the wrong dtype",
            image_id=image_id,
            field="boxes",
            value=str(boxes.dtype),
            expected="floating point, fractions of the image",
        )
    if labels.ndim != 1 or len(labels) != len(boxes):
        raise TargetError(
            f"{len(boxes)} boxes but labels of shape {tuple(labels.shape)}",
            image_id=image_id,
            field="labels",
            expected="one label a box",
        )


def _check_values(boxes: Tensor, labels: Tensor, image_id: Any, num_classes: int) -> None:
    def refuse(what: str, row_is_bad: Tensor, field: str, values: Tensor, **clauses: str) -> None:
        if row_is_bad.any():
            index = int(row_is_bad.nonzero()[0, 0])
            raise TargetError(
                f"box {index}: {what}", image_id=image_id, field=field, value=values[index].tolist(), **clauses
            )

    refuse(
        "label out of range",
        (labels < 0) | (labels >= num_classes),
        "labels",
        labels,
        expected=f"0..{num_classes - 1}",
        hint="labels are 0-based and the background is none of them",
    )
    refuse("coordinates are not finite", ~boxes.isfinite().all(1), "boxes", boxes)
    refuse(
        "looks like pixels",
        (boxes.abs() > LOOKS_LIKE_PIXELS).any(1),
        "boxes",
        boxes,
        expected="cxcywh as fractions of the image",
    )
    refuse("no width or height", (boxes[:, 2:] <= 0).any(1), "boxes", boxes, expected="w > 0 and h > 0 (cxcywh)")
