"""Transforms: the laws for every registered one, and the official recipe against its definition."""

from collections import Counter

import numpy as np
import pytest
import torch
from conftest import draws
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from torchvision.tv_tensors import BoundingBoxes
from twins import TWINS

import detrkit
from detrkit.boxes import cxcywh_to_xyxy
from detrkit.config import TrainConfig
from detrkit.errors import ConfigError
from detrkit.preprocessing import normalize, resize, resized_size
from detrkit.presets import from_pairs, presets, training_recipe
from detrkit.registry import REGISTRY
from detrkit.testing import laws_of
from detrkit.testing.law import Maker
from detrkit.training.data import Samples
from detrkit.transforms._steps import Crop, DropSmall, IoUCrop, Zoom, multi_scale, scaled

pytestmark = pytest.mark.fast

VARIANTS = [
    *((name, {}) for name in REGISTRY.names("transforms")),
    ("flip", {"p": 1.0}),
    ("detr", {"crop": 1.0}),
    ("small", {"zoom": 1.0, "smallest": 0.2, "visible": 0.0}),
    ("rt_detr", {"distort": 1.0, "zoom_out": 0.0, "crop": 1.0}),
    ("rt_detr", {"zoom_out": 1.0}),
]


def name_of(case):
    """Of a component, with what differs from its defaults."""
    return case if isinstance(case, str) else ",".join(f"{name}={value}" for name, value in case.items())


def transforms(spec, short_side=800, long_side=1333):
    return detrkit.make("transforms", spec, short_side=short_side, long_side=long_side)


def noise(height, width, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def a_target(*boxes, size=(480, 640)):
    """Objects with boxes (x0, y0, x1, y1) in pixels; label k is the k-th."""
    corners = torch.tensor(boxes, dtype=torch.float64).reshape(-1, 2, 2) / torch.tensor([size[1], size[0]])
    return {
        "boxes": torch.cat([corners.mean(1), corners[:, 1] - corners[:, 0]], dim=1).float(),
        "labels": torch.arange(len(boxes)),
        "iscrowd": torch.zeros(len(boxes), dtype=torch.bool),
        "image_id": 7,
        "orig_size": torch.tensor(size),
    }


@pytest.mark.parametrize("law", laws_of("transforms"))
@pytest.mark.parametrize(
    ("name", "set_to"), [pytest.param(*v, id="-".join(filter(None, map(name_of, v)))) for v in VARIANTS]
)
@settings(deadline=None, max_examples=30, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_law(name, set_to, law, data):
    laws_of("transforms")[law](Maker(REGISTRY.get("transforms", name), set_to), draws(data))


# --- flip and resize --------------------------------------------------------------------------------------------------


@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 2**32 - 1))
def test_flipping_twice_gives_the_item_back(height, width, seed):
    item = noise(height, width), a_target((0, 0, 1, 1), (width / 2, height / 3, width, height), size=(height, width))
    mirror = transforms("flip(p=1)", min(height, width), max(height, width))
    once = mirror(*item, seed)
    assert once[0].tobytes() == ImageOps.mirror(item[0]).tobytes()
    image, target = mirror(*once, seed)
    assert image.tobytes() == item[0].tobytes()
    torch.testing.assert_close(target["boxes"], item[1]["boxes"], rtol=0, atol=1e-7)


@settings(max_examples=50)
@given(st.integers(1, 200), st.integers(1, 200), st.integers(1, 99), st.integers(0, 99))
@example(height=1, width=200, short_side=1, more=0)
def test_nothing_left_to_chance_is_the_resize_of_evaluation(height, width, short_side, more):
    image, target = noise(height, width), a_target((0, 0, width, height), size=(height, width))
    found, changed = transforms("flip(p=0)", short_side, short_side + more)(image, target, 0)
    expected = resize(image, short_side, short_side + more)
    assert (found.size, found.tobytes()) == (expected.size, expected.tobytes())
    assert changed["boxes"][0].tolist() == pytest.approx([0.5, 0.5, 1, 1], abs=1e-6)
    assert changed["orig_size"].tolist() == [expected.height, expected.width]


# --- the official recipe ----------------------------------------------------------------------------------------------


def test_numbers_of_the_official_recipe():
    assert list(multi_scale(800, 1333, square=False).short_sides) == [
        480,
        512,
        544,
        576,
        608,
        640,
        672,
        704,
        736,
        768,
        800,
    ]
    assert scaled((400, 500, 600), 800) == [400, 500, 600]
    assert scaled((400, 500, 600), 96) == [48, 60, 72]
    assert scaled((384, 600), 96) == [46, 72]
    assert scaled((384, 600), 1) == [1, 1]


class Official:
    """The recipe as its authors define it, written down without torchvision; draws in the order of `DetrTransforms`."""

    def __init__(self, seed):
        self.generator = torch.Generator().manual_seed(seed)

    def chance(self):
        return float(torch.rand(1, generator=self.generator)) < 0.5

    def integer(self, low, high):
        return int(torch.randint(low, high + 1, (), generator=self.generator))

    def resize(self, image, boxes, sides, most):
        side = sides[self.integer(0, len(sides) - 1)]
        height, width = resized_size(image.height, image.width, side, most)
        ratio = np.array([width / image.width, height / image.height] * 2)
        return image.resize((width, height), Image.Resampling.BILINEAR), boxes * ratio

    def crop(self, image, boxes):
        height, width = (self.integer(384, min(600, side)) for side in (image.height, image.width))
        top, left = self.integer(0, image.height - height), self.integer(0, image.width - width)
        boxes = np.clip(boxes - [left, top, left, top], 0, [width, height, width, height])
        return image.crop((left, top, left + width, top + height)), boxes

    def __call__(self, image, boxes):
        if self.chance():
            ends = np.array([image.width, 0, image.width, 0])
            image, boxes = ImageOps.mirror(image), np.abs(ends - boxes[:, [2, 1, 0, 3]])
        if self.chance():
            image, boxes = self.crop(*self.resize(image, boxes, (400, 500, 600), 10**6))
        image, boxes = self.resize(image, boxes, range(480, 801, 32), 1333)
        kept = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        return image, boxes[kept], np.flatnonzero(kept)


def test_official_recipe_step_by_step():
    corners = [(3, 4, 100, 90), (600, 10, 639, 470), (250, 200, 420, 333), (0, 470, 640, 480)]
    image, target, dropped = noise(480, 640), a_target(*corners), 0
    for seed in range(24):
        found, changed = transforms("detr")(image, target, seed)
        expected, boxes, labels = Official(seed)(image, np.array(corners, dtype=float))
        assert found.size == expected.size
        assert found.tobytes() == expected.tobytes()
        assert changed["labels"].tolist() == labels.tolist()
        pixels = cxcywh_to_xyxy(changed["boxes"].double()) * torch.tensor([*found.size] * 2)
        np.testing.assert_allclose(pixels, boxes, atol=1e-3)
        dropped += len(corners) - len(labels)
    assert dropped > 0


def test_half_are_flipped_half_are_cropped_and_scales_are_equally_likely():
    """By sizes: of an image of 40 x 64, what was not cropped is one of eleven; by pixels: its left half is white."""
    image = Image.fromarray(np.repeat([255, 0], 32).astype(np.uint8)[None].repeat(40, 0)).convert("RGB")
    detr, target, count = transforms("detr", 80, 800), a_target(size=(40, 64)), 4400
    plain = {resized_size(40, 64, side, 800)[::-1]: side for side in scaled(range(480, 801, 32), 80)}
    assert len(plain) == 11
    sizes, flipped = Counter(), 0
    for seed in range(count):
        found, _ = detr(image, target, seed)
        sizes[plain.get(found.size, "cropped")] += 1
        if found.size in plain:
            flipped += found.getpixel((0, 0)) == (0, 0, 0)
    assert sizes["cropped"] / count == pytest.approx(0.5, abs=0.03)
    whole = count - sizes.pop("cropped")
    assert flipped / whole == pytest.approx(0.5, abs=0.04)
    squared = sum((sizes[side] - whole / 11) ** 2 / (whole / 11) for side in plain.values())
    assert squared < 29.6, sizes  # chi-squared of 10 degrees of freedom: 0.1 %


def test_crops_have_every_size_and_place():
    torch.manual_seed(0)
    image = Image.new("RGB", (700, 500))
    windows = [Crop(384, 600).make_params([image]) for _ in range(3000)]
    heights, widths = ([window[side] for window in windows] for side in ("height", "width"))
    assert (min(heights), max(heights), min(widths), max(widths)) == (384, 500, 384, 600)
    assert np.mean(heights) == pytest.approx(442, abs=3)
    assert np.mean(widths) == pytest.approx(492, abs=5)
    assert abs(np.corrcoef(heights, widths)[0, 1]) < 0.06
    places = np.array([(w["top"] / (500 - w["height"] + 1e-9), w["left"] / (700 - w["width"])) for w in windows])
    assert places.mean(axis=0) == pytest.approx([0.5, 0.5], abs=0.02)
    assert (places.min(), places.max()) == (0, pytest.approx(1))


def test_an_image_shorter_than_the_crop_stays_whole():
    window = Crop(384, 600).make_params([noise(3, 5000)])
    assert (window["top"], window["height"]) == (0, 3)
    assert 384 <= window["width"] <= 600


def test_a_strip_does_not_fill_the_memory():
    """A short side of 400 pixels would make 1 x 5000 pixels into 800 million."""
    image, _ = transforms("detr(crop=1)")(noise(1, 5000), a_target(size=(1, 5000)), 0)
    assert max(image.size) <= 1333


# --- the small recipe -------------------------------------------------------------------------------------------------


def test_zoom_drops_what_is_hardly_seen():
    """In windows of at least half the side, just those objects are kept of which at least 0.6 lie inside."""
    image, corners = noise(100, 120), [(0, 0, 60, 50), (60, 50, 120, 100), (0, 20, 120, 30)]
    boxes = BoundingBoxes(torch.tensor(corners, dtype=torch.float64), format="XYXY", canvas_size=(100, 120))
    zoom, seen = Zoom(0.5, 0.6), np.zeros(3)
    torch.manual_seed(0)
    for _ in range(300):
        window, kept = zoom.make_params([image, boxes]).values()
        low = np.array([window["left"], window["top"]])
        inside = np.clip(np.reshape(corners, (-1, 2, 2)) - low, 0, [window["width"], window["height"]])
        share = np.diff(inside, axis=1).prod(axis=2)[:, 0] / [3000, 3000, 1200]
        assert kept.tolist() == (share >= 0.6).tolist()
        assert (zoom.transform(boxes, {"window": window, "kept": kept}).sum(1) > 0).tolist() == kept.tolist()
        seen += kept.numpy()
    assert seen.min() > 0


def test_zoom_shows_something():
    """Where windows that show the only object are rare, the image stays whole rather than lose it."""
    image, target = noise(50, 50), a_target((0, 0, 2, 2), size=(50, 50))
    zoom = transforms("small(zoom=1, smallest=0.1)", 50, 50)
    assert all(len(zoom(image, target, seed)[1]["labels"]) == 1 for seed in range(100))


# --- the recipe of RT-DETR --------------------------------------------------------------------------------------------


def in_pixels(image, *corners):
    size = (image.height, image.width)
    return BoundingBoxes(torch.tensor(corners, dtype=torch.float64), format="XYXY", canvas_size=size)


def test_a_crop_keeps_the_objects_whose_centre_it_shows():
    image, corners = noise(100, 120), [(0, 0, 60, 50), (60, 50, 120, 100), (0, 20, 120, 30)]
    crop, boxes, kept = IoUCrop(), in_pixels(image, *corners), np.zeros(3)
    torch.manual_seed(0)
    for _ in range(200):
        params = crop.make_params([image, boxes])
        if not params:
            continue
        low = np.array([params["left"], params["top"]])
        centres = np.reshape(corners, (3, 2, 2)).mean(axis=1) - low
        seen = ((centres > 0) & (centres < [params["width"], params["height"]])).all(axis=1)
        assert seen.any()
        assert (crop.transform(boxes, params).sum(1) > 0).tolist() == seen.tolist()
        kept += seen
    assert kept.min() > 0
    assert kept.max() < 200


def test_objects_below_a_pixel_are_dropped():
    image = noise(20, 20)
    boxes = in_pixels(image, (0, 0, 1, 1), (3, 3, 3.9, 9), (3, 3, 9, 3.9), (3, 3, 9, 9))
    left, found = DropSmall(1)(image, boxes)
    assert left is image
    assert (found[:, 2] > 0).tolist() == [True, False, False, True]
    assert boxes[1].tolist() == [3, 3, 3.9, 9]


def test_zooming_out_shows_the_whole_image_on_a_black_canvas():
    """By areas: the canvas has up to 16 times the image's, evenly by side."""
    image, target = Image.new("RGB", (64, 64), (200, 90, 10)), a_target((0, 0, 64, 64), size=(64, 64))
    out, shares = transforms("rt_detr(distort=0, zoom_out=1, crop=0)", 64, 64), []
    for seed in range(300):
        found, changed = out(image, target, seed)
        box = (cxcywh_to_xyxy(changed["boxes"][0]) * 64).tolist()
        lit = Image.fromarray((np.asarray(found).sum(axis=2) > 150).astype(np.uint8)).getbbox()
        assert lit == pytest.approx(box, abs=1)
        shares.append(64 / (box[2] - box[0]))
    assert 1 <= min(shares) < 1.05
    assert 3.9 < max(shares) <= 4.1
    assert np.mean(shares) == pytest.approx(2.5, abs=0.15)


def test_a_large_photograph_is_shrunk_before_its_canvas_grows():
    """Zoomed out in its own size, 3000 x 4000 pixels could take half a gigabyte."""
    pipeline = transforms("rt_detr(zoom_out=1)", 64, 64).pipeline.transforms
    image = pipeline[0](noise(300, 400))
    assert image.size == (128, 96)
    assert pipeline[0](image).tobytes() == image.tobytes()


# --- in training ------------------------------------------------------------------------------------------------------


def samples(**changes):
    """Samples of three toy images in training."""
    fields = {"data": "toy(size=48, held_out=3)", "short_side": "48", "long_side": "60", **changes}
    detector, train = from_pairs("detr_tiny", fields)
    return Samples(REGISTRY.make("datasets", train.data, split="val"), detector, train)


def test_without_transforms_the_item_is_that_of_evaluation():
    plain = samples(transforms="none", short_side="30")
    for index in range(3):
        pixels, target = plain[0, index]
        image, expected = plain.data[index]
        assert torch.equal(pixels, normalize(resize(image, 30, 60)))
        assert torch.equal(target["boxes"], expected["boxes"])


def test_training_draws_by_seed_epoch_and_index():
    """Equal keys give equal items, in any order; another seed, epoch or index gives other draws."""
    keys = [(epoch, index) for epoch in range(3) for index in range(3)]
    first = {key: samples(transforms="small")[key] for key in keys}
    again = samples(transforms="small")
    for key in reversed(keys):
        pixels, target = again[key]
        assert torch.equal(pixels, first[key][0])
        assert torch.equal(target["boxes"], first[key][1]["boxes"])
    other = [samples(transforms="small", seed="1")[key][0] for key in keys]
    flat = [tuple(pixels.flatten().tolist()) for pixels in (*(item[0] for item in first.values()), *other)]
    assert len(set(flat)) == len(flat)


def test_training_tells_the_sides_of_its_detector():
    assert {max(samples(transforms="flip", short_side=str(side))[0, 0][0].shape) for side in (24, 48)} == {24, 48}


def test_transforms_of_the_published_presets_are_the_official_ones():
    assert TrainConfig().transforms == "detr"
    published = [name for name in presets() if name not in (*TWINS, "small_data")]
    assert {name: training_recipe(name).transforms for name in published} == {
        name: "rt_detr" if name.startswith("rt_detr") else "detr" for name in published
    }
    assert all(training_recipe(name).transforms is None for name in TWINS)


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("det", "transforms: unknown name in role 'transforms'.*did you mean 'detr'"),
        ("flip(p=2)", "transforms=flip.p: got 2; expected float, at least 0 and at most 1"),
        ("small(smallest=0)", "transforms=small.smallest: got 0; expected float, above 0 and at most 1"),
        ("detr(short_side=3)", "'short_side' is a dimension"),
    ],
)
def test_wrong_transforms_are_refused_with_the_configuration(spec, sentence):
    with pytest.raises(ConfigError, match=sentence):
        TrainConfig(transforms=spec).check()
