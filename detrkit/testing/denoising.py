"""The laws of the role `denoising`."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from detrkit.denoising import Noised
from detrkit.targets import Truth
from detrkit.testing.criterion import draw_target
from detrkit.testing.law import Draw, Make, concern, law
from detrkit.testing.tensors import check_close

CLASSES = 4  # those that `draw_target` draws


@law("denoising")
def noised_is_as_declared(make: Make, draw: Draw) -> None:
    """Labels and objects are int64 [B, G, n] in their ranges, empty places bool, boxes [B, G, n, 4] in [0, 1]
    with a width and a height."""
    truth = draw_truth(draw)
    noised = noise(make, draw, truth)
    shape = noised.labels.shape
    assert len(shape) == 3, f"labels have shape {tuple(shape)}, not [B, G, n]"
    assert shape[0] == len(truth), f"{shape[0]} images of {len(truth)}"
    for name, dtype in (("labels", torch.int64), ("objects", torch.int64), ("empty", torch.bool)):
        part = getattr(noised, name)
        assert part.dtype == dtype, f"{name} are {part.dtype}"
        assert part.shape == shape, f"{name} have shape {tuple(part.shape)}, not {tuple(shape)}"
    assert noised.boxes.shape == (*shape, 4), f"boxes have shape {tuple(noised.boxes.shape)}"
    assert ((noised.boxes >= 0) & (noised.boxes <= 1)).all(), "boxes leave [0, 1]"
    assert (noised.boxes[..., 2:] > 0).all(), "a box has no width or no height"
    assert ((noised.labels >= 0) & (noised.labels < CLASSES)).all(), f"labels leave 0..{CLASSES - 1}"


@law("denoising")
def every_object_has_one_query_in_each_group(make: Make, draw: Draw) -> None:
    """In each group of an image, each of its objects is what just one query is to become."""
    truth = draw_truth(draw)
    noised = noise(make, draw, truth)
    for image, (groups, own) in enumerate(zip(noised.objects.tolist(), truth, strict=True)):
        for group in groups:
            found = sorted(number for number in group if number != -1)
            assert found == list(range(len(own.labels))), f"image {image} has a group of the objects {found}"


@law("denoising")
def empty_places_become_nothing(make: Make, draw: Draw) -> None:
    """A place that no object fills is to become none; every group of an image has as many of them."""
    noised = noise(make, draw, draw_truth(draw))
    assert (noised.objects[noised.empty] == -1).all(), "an empty place is to become an object"
    counts = noised.empty.sum(-1)
    assert (counts == counts[:, :1]).all(), "groups of an image differ in their empty places"


@law("denoising")
def without_noise_objects_come_back(make: Make, draw: Draw) -> None:
    """Without noise on labels and boxes, a query that is to become an object is that object."""
    truth = draw_truth(draw)
    torch.manual_seed(draw(0, 2**31 - 1))
    denoising = make(num_classes=CLASSES, label_noise=0.0, box_noise=0.0)
    wanted = {"label_noise", "box_noise"} <= set(vars(denoising))
    concern(wanted and denoising.label_noise == denoising.box_noise == 0, "its noise cannot be set to zero")
    noised = denoising.noise(truth)
    for image, own in enumerate(truth):
        restored = noised.objects[image] >= 0
        objects = noised.objects[image][restored]
        check_close(noised.boxes[image][restored], own.boxes[objects], "without noise")
        assert torch.equal(noised.labels[image][restored], own.labels[objects]), "labels change without noise"


@law("denoising")
def batch_without_objects_is_left_alone(make: Make, draw: Draw) -> None:
    """Where no image holds an object there is nothing to restore."""
    truth = [Truth(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), image) for image in range(draw(1, 3))]
    assert make(num_classes=CLASSES).noise(truth) is None, "queries are made of no objects"


def noise(make: Make, draw: Draw, truth: Sequence[Truth]) -> Noised:
    """What the component makes of a batch that holds an object."""
    torch.manual_seed(draw(0, 2**31 - 1))
    noised = make(num_classes=CLASSES).noise(truth)
    assert isinstance(noised, Noised), f"gives {type(noised).__name__}, not Noised"
    return noised


def draw_truth(draw: Draw) -> list[Truth]:
    """Images of which the first holds an object at least."""
    targets = [draw_target(draw, draw(least, 6)) for least in (1, *[0] * draw(0, 2))]
    return [Truth(target["boxes"], target["labels"], image) for image, target in enumerate(targets)]
