"""Whether a program says what the detector says: on noise, and on photographs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from PIL import Image
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from detrkit.export import Difference
from detrkit.outputs import LayerOutput
from detrkit.prediction import Found, detections, in_pixels
from detrkit.preprocessing import pad, prepared

if TYPE_CHECKING:
    from detrkit.model import Detector

LONGEST_CHECKED_SIDE = 160
FARTHEST_PIXEL = 2.0
ROUNDING, TRIES = 3e-6, 4  # share by which pixels are moved to see what rounding may do, and how often


class Sample(NamedTuple):
    """Images as a detector takes them.

    Attributes:
        images: [B, 3, H, W] normalised, zero where padded.
        orig_size: [B, 2] int64, height and width of the original images.
        mask: [B, H, W], True = padding; None where a detector's images are never padded.
    """

    images: Float[Tensor, "B 3 H W"]
    orig_size: Int64[Tensor, "B 2"]
    mask: Bool[Tensor, "B H W"] | None

    @property
    def inputs(self) -> list[Tensor]:
        """Those that there are, in order."""
        return [x for x in self if x is not None]


def noise(model: Detector, batch: int, height: int, width: int) -> Sample:
    """Noise, the same at each call; the first image fills its place, the others leave ever more padding."""
    generator = torch.Generator().manual_seed(batch * height * width)
    images = torch.randn(batch, 3, height, width, generator=generator).clamp_(-FARTHEST_PIXEL, FARTHEST_PIXEL)
    sizes = torch.randint(100, 1000, (batch, 2), generator=generator)
    if model.config.square:
        return Sample(images, sizes, None)
    mask = torch.zeros(batch, height, width, dtype=torch.bool)
    for index in range(batch):
        mask[index, height - index * height // (2 * batch) :] = True
        mask[index, :, width - index * width // (3 * batch) :] = True
    return Sample(images.masked_fill_(mask[:, None], 0), sizes, mask)


def seen(model: Detector, photographs: Sequence[Image.Image]) -> Sample:
    """Photographs as one batch."""
    images, mask = pad([prepared(image, model.config) for image in photographs])
    if mask is None and not model.config.square:
        mask = torch.zeros_like(images[:, 0], dtype=torch.bool)
    return Sample(images, torch.tensor([(image.height, image.width) for image in photographs]), mask)


def shapes(model: Detector) -> list[tuple[int, int, int]]:
    """Batch, height and width of the comparisons: one image as large as it is meant to be, and small padded batches."""
    config, least = model.config, model.backbone.strides[-1] + 1  # two cells
    if config.square:
        return [(batch, config.short_side, config.short_side) for batch in (1, 2)]
    side = min(config.long_side, LONGEST_CHECKED_SIDE)
    sizes = [(config.short_side, config.long_side), (-(-3 * side // 4), side), (side, 2 * side // 3 + 1)]
    return [(batch, max(height, least), max(width, least)) for batch, (height, width) in enumerate(sizes, 1)]


@torch.inference_mode()
def compare(
    model: Detector, program: Callable[..., Sequence[Tensor]], photographs: Iterable[Image.Image], tolerance: float
) -> Iterator[Difference]:
    """Largest difference of each output on each image of several batches; infinite where shapes differ.

    In units of the output's largest number where that is above 1, since float32 rounds large logits more coarsely.
    Two-stage detectors rank tokens, and those that are as good as equal may change places by rounding. Queries are
    therefore compared as a set; and an image is left out of which the detector itself says something else when its
    pixels move by as little as rounding does. One at least must be left.

    Detections are compared with those that the detector selects of the program's own logits and boxes, see `selected`.
    """
    samples = [(f"batch {batch}, {h} x {w} pixels", noise(model, batch, h, w)) for batch, h, w in shapes(model)]
    if photographs := list(photographs):
        samples.append((f"batch of {len(photographs)} photographs", seen(model, photographs)))
    compared = 0
    for where, sample in samples:
        found = program(*sample.inputs)
        last, chosen = LayerOutput(*found[len(Found._fields) :]), Found(*found[: len(Found._fields)])
        expected = answer(model, sample)
        of_detections = selected(model, last, chosen, sample.orig_size)
        for index in range(len(sample.images)):
            amounts = apart(image(expected, index), image(last, index), tolerance)
            if max(amounts.values()) > tolerance and undecided(model, sample, index, expected, tolerance):
                continue
            compared += 1
            for what, amount in {**of_detections[index], **amounts}.items():
                yield Difference(what, where, amount)
    if not compared:
        yield Difference("pred_logits", "every image: rounding alone changes what the detector says", float("inf"))


def answer(model: Detector, sample: Sample) -> LayerOutput:
    """What the detector says; it is given no mask where nothing is padded."""
    output = model(sample.images, sample.mask if sample.mask is not None and sample.mask.any() else None)
    return LayerOutput(output.pred_logits, output.pred_boxes)


def image(output: LayerOutput, index: int) -> LayerOutput:
    """One image's part, [Q, C] and [Q, 4]."""
    return LayerOutput(*(part[index] for part in output))


def difference(here: Tensor, there: Tensor) -> float:
    """The largest, in units of the largest number where that is above 1; infinite for NaN and for other shapes."""
    if here.shape != there.shape:
        return float("inf")
    return float(((here - there).abs().max() / here.abs().max().clamp(min=1)).nan_to_num(nan=torch.inf))


def apart(here: LayerOutput, there: LayerOutput, tolerance: float) -> dict[str, float]:
    """Differences of an image's logits and boxes; where they are large, of queries put in the order that fits best."""
    amounts = [difference(*parts) for parts in zip(here, there, strict=True)]
    if tolerance < max(amounts) < float("inf"):
        scales = [part.abs().max().clamp(min=1) for part in here]
        costs = [torch.cdist(a, b, p=torch.inf) / s for a, b, s in zip(here, there, scales, strict=True)]
        order = torch.from_numpy(linear_sum_assignment(torch.maximum(*costs))[1])
        amounts = [difference(a, b[order]) for a, b in zip(here, there, strict=True)]
    return dict(zip(LayerOutput._fields, amounts, strict=True))


def undecided(model: Detector, sample: Sample, index: int, expected: LayerOutput, tolerance: float) -> bool:
    """Whether the detector itself says something else of an image whose pixels move by as little as rounding does."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(TRIES):
        moved = sample.images * (1 + ROUNDING * torch.randn(sample.images.shape, generator=generator))
        other = answer(model, sample._replace(images=moved))
        if max(apart(image(expected, index), image(other, index), tolerance).values()) > tolerance:
            return True
    return False


def selected(
    model: Detector, last: LayerOutput, chosen: Found, orig_size: Int64[Tensor, "B 2"]
) -> list[dict[str, float]]:
    """Differences of detections from those that the detector selects of the same logits and boxes, an image each.

    Equal scores may come in another order. So the sorted scores must be those of the detector's own selection, each
    score that of its query and label, each box that of its query, and no pair of query and label occur twice.
    """
    scores, boxes = model.classification.scores(last.pred_logits), in_pixels(last.pred_boxes, orig_size)
    ranked = detections(model, last, orig_size).scores
    found = []
    for index, (score, label, box, query) in enumerate(zip(*chosen, strict=True)):
        pairs = torch.stack([query, label], dim=1)
        once = len(pairs.unique(dim=0)) == len(pairs)
        amounts = [difference(ranked[index], score), difference(scores[index][query, label], score)]
        found.append({"scores": max(amounts) if once else float("inf"), "boxes": difference(boxes[index][query], box)})
    return found
