"""A detector for a few hundred images and a laptop: parts of RT-DETR on a light trunk, fitted to the data."""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil, sqrt
from typing import TYPE_CHECKING

from detrkit.changes import Configs
from detrkit.config import DetectorConfig, recipe
from detrkit.presets.rt_detr import rt_detr_r18 as _rt_detr_r18
from detrkit.tailoring import Choice, tailored

if TYPE_CHECKING:
    from detrkit.checks.survey import Survey

_MODEL = "shufflenet_v2_x0_5"
_TRUNK = f"torchvision(model='{_MODEL}')"

_STEP = 32  # pixels, the stride of the coarsest level; sides are multiples of it
_SMALL, _USUAL = 0.05, 0.95  # shares of the objects that are called small, of the images whose shape counts
_IN_BATCH = 0.92  # quantile of the images that the largest of a batch of 8 is at
_WANTED_SIDE = 32.0  # pixels, of the small objects: four cells of the finest level
_LEAST_PIXELS, _MOST_PIXELS = 128 * 128, 384 * 512  # of an image; of what a batch is padded to
_LARGEST_MAGNIFICATION = 2.5
_LONGEST_SHAPE = 2.0  # of the sides of an image; one that is longer is shrunk
_QUERIES_PER_OBJECT = 2.5
_LEAST_EPOCHS = 12
_EVALUATIONS = 10
_HANDED = {"left", "right"}


def _trunk(_: Survey, configs: Configs) -> Iterator[Choice]:
    """The trunk's published weights where they are at hand; one that starts from random weights must learn more."""
    from detrkit.backbones.torchvision import has_published_weights

    if configs[0].backbone != _TRUNK or configs[1].init_from is not None:
        return
    if has_published_weights(_MODEL):
        yield Choice("backbone.weights", "imagenet", "torch's cache holds them")
        return
    why = "the trunk starts from random weights, which costs accuracy; backbone.weights=FILE gives it others"
    yield Choice("backbone.norm", "batch", why)
    yield Choice("lr_backbone", configs[1].lr, "as the rest, which starts from random weights too")


def _queries(seen: Survey, _: Configs) -> Iterator[Choice]:
    """More queries than the fullest image has objects, so that each object has some to choose from."""
    if most := int(seen.per_image.max(initial=0)):
        queries = min(300, max(20, 10 * ceil(_QUERIES_PER_OBJECT * most / 10)))
        yield Choice(
            "num_queries", queries, f"{_QUERIES_PER_OBJECT:g} for each of the {most} objects in the fullest image"
        )


def _short_side(seen: Survey, _: Configs) -> Iterator[Choice]:
    """Large enough for the small objects, as far as pixels can be afforded: wide beside upright ones are padded."""
    if not len(seen.sizes):
        return
    (height, width), small = seen.usual_size, seen.side_of_objects(_SMALL)
    short = min(height, width)
    padded = [min(ratio, _LONGEST_SHAPE) for ratio in seen.room_for_images(_IN_BATCH)]
    wanted = short * (min(_WANTED_SIDE / small, _LARGEST_MAGNIFICATION) if small == small else 1.0)
    least, most = short * sqrt(_LEAST_PIXELS / (height * width)), sqrt(_MOST_PIXELS / (padded[0] * padded[1]))
    affordable = min(max(wanted, least), most)
    side = max(_STEP, _STEP * round(affordable / _STEP))
    limits = {least: ", made large enough to learn from", most: ", as many pixels as a laptop affords"}
    becomes = f", their small objects {small:.0f}, which become {small * side / short:.0f}"
    sizes = f"images are {width:.0f} x {height:.0f} pixels" + (becomes if small == small else ", without objects")
    yield Choice("short_side", side, sizes + limits.get(affordable, ""))


def _long_side(seen: Survey, configs: Configs) -> Iterator[Choice]:
    """Room for the usual shapes."""
    if len(seen.sizes):
        shape = min(seen.shape_of_images(_USUAL), _LONGEST_SHAPE)
        side = _STEP * ceil(shape * configs[0].short_side / _STEP - 1e-9)
        yield Choice("long_side", side, f"{_USUAL:.0%} of the images are at most {shape:.2f} times as long as short")


def _length(seen: Survey, configs: Configs) -> Iterator[Choice]:
    """Enough steps for few images, enough epochs for many."""
    _, train = configs
    window = train.batch_size * train.accumulate
    per_epoch = ceil(len(seen.data) / window)
    epochs = max(_LEAST_EPOCHS, ceil((train.steps or 0) / per_epoch))
    why = f"{len(seen.data)} images are {per_epoch} steps of {window}; {epochs * per_epoch} steps in all"
    yield Choice("epochs", epochs, why)


def _evaluations(seen: Survey, configs: Configs) -> Iterator[Choice]:
    """Some, whose time is little beside that of the training."""
    epochs = configs[1].epochs
    if epochs is not None and configs[1].eval_every:
        yield Choice("eval_every", max(1, epochs // _EVALUATIONS), f"about {_EVALUATIONS} evaluations")


def _flip(seen: Survey, _: Configs) -> Iterator[Choice]:
    """A mirror image is another object where classes tell sides apart."""
    handed = [name for name in seen.data.label_space.names if _HANDED & set(name.lower().replace("_", " ").split())]
    if handed:
        yield Choice("transforms.flip", 0.0, f"a mirrored image would be wrong for the class {handed[0]!r}")


@tailored(_trunk, _queries, _short_side, _long_side, _length, _evaluations, _flip)
@recipe(
    lr=1e-3,
    lr_backbone=5e-4,
    batch_size=8,
    steps=2000,
    schedule="cosine",
    warmup_steps=100,
    ema_decay=0.99,
    transforms="small",
)
def small_data() -> DetectorConfig:
    """RT-DETR for a few hundred images: a ShuffleNetV2 x0.5, half the width, sizes from the data; 2 M parameters.

    Every denial counts fully in the class loss. A focal loss spares those that are nearly right, for the sake of
    thousands of anchors; here some tens of queries answer for some tens of objects, and in a short training those that
    answer for an object a second time are then not silenced.
    """
    return _rt_detr_r18().replace(
        backbone=_TRUNK,
        d_model=128,
        dim_feedforward=256,
        num_queries=80,
        classification="varifocal(alpha=1.0, gamma=0.0)",
        cls_loss_coef=2.0,
        square=False,
        normalize=True,
        short_side=352,
        long_side=480,
    )
