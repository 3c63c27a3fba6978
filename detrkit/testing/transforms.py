"""The laws of the role `transforms`."""

from __future__ import annotations

from multiprocessing.reduction import ForkingPickler
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from detrkit.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh
from detrkit.datasets import Target
from detrkit.testing.datasets import assert_same, check_target, generator_states
from detrkit.testing.law import Draw, Make, law
from detrkit.transforms import Transforms

FAINT = 16  # of 255; black and white that are nearer than this are told apart by rounding alone
BOTH = 0.25  # of the way from black to white; a picture that spans less shows the rectangle alone, or no part of it
TOLERANCE = 2.0  # pixels between an edge in the picture and that of its box; a recipe may enlarge blurred edges
MOST_OBJECTS = 5


class Case(NamedTuple):
    """Transforms, an item (one object is a rectangle in the picture), its size as the network sees it, and a seed."""

    transforms: Transforms
    image: Image.Image
    target: Target
    sides: tuple[int, int]
    drawn: int
    bright: bool
    seed: int

    def __call__(self) -> tuple[Image.Image, Target]:
        """The changed item."""
        return self.transforms(self.image, self.target, self.seed)


@law("transforms")
def rectangle_is_found_where_its_box_says(make: Make, draw: Draw) -> None:
    """A drawn rectangle lies in the changed picture where its box says; only cut or hardly visible ones vanish."""
    case = draw_case(make, draw, fewest=1)
    image, target = case()
    painted = _painted(case, image)
    rows, columns = (np.flatnonzero(painted.any(axis=axis)) for axis in (1, 0))
    found = [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1] if painted.any() else None
    row = (target["labels"] == case.drawn).nonzero().flatten().tolist()
    if row:
        box = cxcywh_to_xyxy(target["boxes"][row[0]]).double() * torch.tensor([image.width, image.height] * 2)
        if found is None:
            assert (box[2:] - box[:2]).min() <= TOLERANCE, f"a box {box.tolist()} where nothing is"
        else:
            apart = (box - torch.tensor(found)).abs().max()
            assert apart <= TOLERANCE, f"the box is {box.tolist()}, the rectangle lies at {found}"
    elif found is not None:
        beside = [*found[:2], image.width - found[2], image.height - found[3]]
        sides = [found[2] - found[0], found[3] - found[1]]
        assert min(beside + sides) <= TOLERANCE, f"the rectangle lies whole at {found}, but its object is dropped"


@law("transforms")
def items_keep_the_contract(make: Make, draw: Draw) -> None:
    """The image is PIL in mode RGB and fits the network's sides; the target has the dtypes and ranges of `Target`."""
    case = draw_case(make, draw)
    image, target = case()
    assert isinstance(image, Image.Image), f"image is a {type(image).__name__}, not a PIL image"
    assert image.mode == "RGB", f"image has mode {image.mode}, not RGB"
    check_target(target, (image.height, image.width), MOST_OBJECTS)
    check_size(image, case.sides)


@law("transforms")
def objects_keep_what_belongs_to_them(make: Make, draw: Draw) -> None:
    """The number of objects never rises, their order stays, crowds stay crowds, and the image keeps its id."""
    case = draw_case(make, draw)
    target = case()[1]
    labels = target["labels"].tolist()
    assert labels == sorted(set(labels)), f"objects 0 to {len(case.target['labels']) - 1} have become {labels}"
    assert target["iscrowd"].tolist() == case.target["iscrowd"][labels].tolist(), "crowds have changed places"
    assert target["image_id"] == case.target["image_id"], f"the image is now {target['image_id']!r}"


@law("transforms")
def an_item_depends_on_its_seed_alone(make: Make, draw: Draw) -> None:
    """The same again after other items, from a worker's copy, and whatever the global generators have drawn."""
    case = draw_case(make, draw)
    expected, copy = case(), ForkingPickler.loads(ForkingPickler.dumps(case.transforms))
    case._replace(seed=draw(0, 2**32 - 1))()
    assert_same(expected, case(), "after another item")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(draw(0, 99))
        assert_same(expected, case._replace(transforms=copy)(), "from a worker's copy, under another global seed")


@law("transforms")
def nothing_else_changes(make: Make, draw: Draw) -> None:
    """The global random generators stay where they are, and the item that is given is left as it was."""
    case = draw_case(make, draw)
    item = (case.image.copy(), Target(**{k: v.clone() if torch.is_tensor(v) else v for k, v in case.target.items()}))  # type: ignore[typeddict-item]
    before = generator_states()
    case()
    assert before == generator_states(), "a global random generator moves"
    assert_same(item, (case.image, case.target), "of the item that was given")


@law("transforms")
def any_image_can_be_changed(make: Make, draw: Draw) -> None:
    """Images of one pixel, very thin ones, and ones without objects keep the contract too."""
    size = ((1, 1), (1, draw(2, 3000)), (draw(2, 3000), 1), (2, draw(2, 300)))[draw(0, 3)]
    case = draw_case(make, draw, size=size)
    image, target = case()
    check_target(target, (image.height, image.width), MOST_OBJECTS)
    check_size(image, case.sides)


def draw_case(make: Make, draw: Draw, *, size: tuple[int, int] | None = None, fewest: int = 0) -> Case:
    """Transforms for small networks and an item; label k is the k-th object.

    Args:
        make: of the component.
        draw: of shapes.
        size: (height, width) of the image; drawn if None.
        fewest: number of objects at least.
    """
    short_side = draw(16, 64)
    sides = (short_side, draw(short_side, 2 * short_side))
    height, width = size or (draw(20, 90), draw(20, 90))
    count, rng = draw(fewest, MOST_OBJECTS), np.random.default_rng(draw(0, 2**31 - 1))
    extent = rng.uniform(0.3, 0.8, (count, 2))
    corner = rng.uniform(0, 1 - extent)
    pixels = np.round(np.concatenate([corner, corner + extent], axis=1) * ([width, height] * 2))
    pixels[:, 2:] = np.maximum(pixels[:, 2:], pixels[:, :2] + 1)  # rectangles fill whole pixels
    drawn, bright = draw(0, max(0, count - 1)), bool(draw(0, 1))
    target = Target(
        boxes=xyxy_to_cxcywh(torch.from_numpy(pixels / ([width, height] * 2))).float(),
        labels=torch.arange(count),
        iscrowd=torch.from_numpy(rng.random(count) < 0.3),
        image_id="one",
        orig_size=torch.tensor([height, width]),
    )
    picture = np.full((height, width, 3), 0 if bright else 255, np.uint8)
    if count:
        x0, y0, x1, y1 = pixels[drawn].astype(int)
        picture[y0:y1, x0:x1] = 255 if bright else 0
    transforms = make(short_side=sides[0], long_side=sides[1])
    return Case(transforms, Image.fromarray(picture), target, sides, drawn, bright, draw(0, 2**32 - 1))


def check_size(image: Image.Image, sides: tuple[int, int]) -> None:
    """Hold an image against the network's (short side, long side).

    Raises:
        AssertionError: it is too large; the long side may exceed its limit by the rounding of the short one.
    """
    low, high = sorted(image.size)
    assert low <= sides[0], f"the short side of an image {image.size} is above {sides[0]}"
    assert high <= sides[1] + high / low, f"the long side of an image {image.size} is above {sides[1]}"


def _painted(case: Case, image: Image.Image) -> NDArray[np.bool_]:
    """Where the changed picture [H, W] shows the rectangle rather than what is around it.

    Both lie between what the seed makes of black and of white, and a recipe that changes the contrast moves both: their
    edge is halfway between them where the picture shows both, and halfway between black and white where it shows one.
    """
    plain = [case._replace(image=Image.new("RGB", case.image.size, color))()[0] for color in ("black", "white")]
    assert {image.size} == {p.size for p in plain}, "the colours of an image change the size that it gets"
    grey, dark, light = (np.asarray(picture.convert("L")).astype(float) for picture in (image, *plain))
    shown = abs(light - dark) >= FAINT  # the rest is canvas around the image, and what resizing has mixed with it
    lightness = np.divide(grey - dark, light - dark, out=np.full_like(grey, np.nan), where=shown)
    seen = lightness[shown]
    both = seen.size > 0 and np.ptp(seen) >= BOTH
    edge = (seen.min() + seen.max()) / 2 if both else 0.5
    return shown & ((lightness > edge) == case.bright)
