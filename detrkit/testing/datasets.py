"""The laws of the role `datasets`. A component that needs settings (a folder, say) is checked with them."""

from __future__ import annotations

import random
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from detrkit.datasets import Dataset, Target
from detrkit.testing.law import Draw, Make, law

_KEYS = {"boxes", "labels", "iscrowd", "image_id", "orig_size"}
_ROUNDING = 1e-6  # of fractions in float32


@law("datasets")
def items_keep_the_contract(make: Make, draw: Draw) -> None:
    """Images are PIL in mode RGB; targets have the keys, dtypes, shapes and ranges of `Target`."""
    data = make(split="train")
    data.epoch = draw(0, 3)
    index = draw(0, len(data) - 1)
    image, target = data[index]
    assert isinstance(image, Image.Image), f"image is a {type(image).__name__}, not a PIL image"
    assert image.mode == "RGB", f"image has mode {image.mode}, not RGB"
    check_target(target, (image.height, image.width), len(data.label_space))


@law("datasets")
def items_depend_on_nothing_that_was_read_before(make: Make, draw: Draw) -> None:
    """An item is the same after others were read, in another epoch even, and from a fresh instance."""
    data, epoch = make(split="train"), draw(0, 3)
    index = draw(0, len(data) - 1)
    data.epoch = epoch
    first = data[index]
    data.epoch = draw(0, 3)
    data[draw(0, len(data) - 1)]
    data.epoch = epoch
    assert_same(first, data[index], "after others were read")
    fresh = make(split="train")
    fresh.epoch = epoch
    assert_same(first, fresh[index], "from a fresh instance")


@law("datasets")
def copies_in_workers_give_the_same_items(make: Make, draw: Draw) -> None:
    """A copy as workers of a data loader get it gives the same item; reading leaves the global generators alone."""
    data = make(split="train")
    data.epoch = draw(0, 3)
    index = draw(0, len(data) - 1)
    copy: Dataset = ForkingPickler.loads(ForkingPickler.dumps(data))
    before = generator_states()
    assert_same(data[index], copy[index], "from a worker's copy")
    assert before == generator_states(), "reading moves a global random generator"


@law("datasets")
def index_has_bounds(make: Make, draw: Draw) -> None:
    """There is at least one image; an index behind the last raises IndexError, so that a loop over the data ends."""
    data = make(split="train")
    assert len(data) > 0, "no images"
    for index in (len(data), len(data) + draw(1, 1000), -len(data) - 1):
        try:
            data[index]
        except IndexError:
            continue
        raise AssertionError(f"index {index} of {len(data)} images raises no IndexError")


@law("datasets")
def image_ids_tell_images_apart(make: Make, draw: Draw) -> None:
    """Two indices have two image ids."""
    data = make(split="train")
    one, other = draw(0, len(data) - 1), draw(0, len(data) - 1)
    ids = data[one][1]["image_id"], data[other][1]["image_id"]
    assert (ids[0] == ids[1]) == (one == other), f"images {one} and {other} have the ids {ids[0]!r} and {ids[1]!r}"


@law("datasets")
def what_is_told_of_an_image_is_true_of_its_item(make: Make, draw: Draw) -> None:
    """`target` and `image_id` tell what the item holds; `path` names a file, if any."""
    data, epoch = make(split="train"), draw(0, 3)
    data.epoch = epoch
    index = draw(0, len(data) - 1)
    target, number, path = data.target(index), data.image_id(index), data.path(index)
    image, expected = data[index]
    assert_same((image, target), (image, expected), "told without the image")
    assert target.keys() == expected.keys(), f"the target alone has the keys {sorted(target)}, not {sorted(expected)}"
    assert number == expected["image_id"], f"image_id is {number!r}, but {expected['image_id']!r} in the target"
    if path is not None:
        assert Path(path).is_file(), f"image {index} has no file {path}"


@law("datasets")
def classes_have_names(make: Make, draw: Draw) -> None:
    """The label space has at least one class, names that are not blank, and is the same for a second instance."""
    space = make(split="train").label_space
    assert len(space) > 0, "no classes"
    assert all(name.strip() for name in space.names), f"a class has a blank name: {space.names}"
    assert space == make(split="train").label_space, "two instances have two label spaces"


def check_target(target: Target, size: tuple[int, int], num_classes: int) -> None:
    """Hold a target against `Target`.

    Args:
        target: of one image.
        size: (height, width) of the image.
        num_classes: K; labels are 0..K-1.

    Raises:
        AssertionError: it is not as `Target` says.
    """
    assert set(target) - {"area"} == _KEYS, f"keys are {sorted(target)}, not {sorted(_KEYS)}"
    count = len(target["labels"])
    assert target.get("area", target["labels"]).shape == (count,), f"area has not the shape {(count,)}"
    _check("boxes", target["boxes"], torch.float32, (count, 4))
    _check("labels", target["labels"], torch.int64, (count,))
    _check("iscrowd", target["iscrowd"], torch.bool, (count,))
    _check("orig_size", target["orig_size"], torch.int64, (2,))
    assert target["orig_size"].tolist() == list(size), f"orig_size {target['orig_size'].tolist()}, but image {size}"
    assert isinstance(target["image_id"], int | str), f"image_id is a {type(target['image_id']).__name__}"
    centre, sides = target["boxes"].double().split(2, dim=1)
    assert bool((sides > 0).all()), f"a box without area: {target['boxes'].tolist()}"
    inside = (centre - sides / 2 >= -_ROUNDING) & (centre + sides / 2 <= 1 + _ROUNDING)
    assert bool(inside.all()), f"a box outside the image: {target['boxes'].tolist()}"
    in_range = (target["labels"] >= 0) & (target["labels"] < num_classes)
    assert bool(in_range.all()), f"labels {target['labels'].tolist()} of {num_classes} classes"


def assert_same(one: tuple[Any, Target], other: tuple[Any, Target], when: str) -> None:
    """Hold two items to be equal, pixels and targets.

    Raises:
        AssertionError: they differ.
    """
    assert one[0].size == other[0].size, f"an image of another size {when}"
    assert one[0].tobytes() == other[0].tobytes(), f"other pixels {when}"
    for key, value in one[1].items():
        twin: Any = other[1][key]  # type: ignore[literal-required]
        same = torch.equal(value, twin) if isinstance(value, Tensor) else value == twin
        assert same, f"another {key} {when}: {value} and {twin}"


def _check(name: str, tensor: Tensor, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    assert isinstance(tensor, Tensor), f"{name} is a {type(tensor).__name__}, not a tensor"
    assert tensor.dtype == dtype, f"{name} is {tensor.dtype}, not {dtype}"
    assert tensor.shape == shape, f"{name} has shape {tuple(tensor.shape)}, not {shape}"


def generator_states() -> list[str]:
    """States of the global random generators of torch, NumPy and Python."""
    return [str(state) for state in (torch.get_rng_state().tolist(), np.random.get_state(), random.getstate())]  # noqa: NPY002
