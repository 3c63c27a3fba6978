"""Law T7: data written as Pascal VOC, COCO and YOLO stay the same data, and boxes lie where things are drawn."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from layouts import COLOURS, NAMES, WRITERS, Drawn, drawn, read_back
from PIL import Image

from detrkit.registry import REGISTRY

pytestmark = pytest.mark.fast

few = settings(deadline=None, max_examples=30, suppress_health_check=list(HealthCheck))
seeds = given(seed=st.integers(0, 2**32 - 1))


def images_of(seed):
    """Some drawn images in which every class occurs: Pascal VOC's reader learns the classes from the objects."""
    rng = np.random.default_rng(seed)
    images = {f"im{i}": drawn(rng) for i in range(int(rng.integers(0, 3)))}
    return {**images, "all": Drawn(50, 40, [[0, 0, 9, 9], [10, 3, 20, 9], [30, 1, 50, 40]], [0, 1, 2], [False] * 3)}


def written(name, root, images):
    WRITERS[name](root, images)
    return REGISTRY.get("datasets", name)(root=str(root), strict=True)


def by_stem(data):
    return dict(zip(read_back(data), (data[i] for i in range(len(data))), strict=True))


def assert_same_targets(one, other, *, crowds=True):
    """The same images with the same objects in the same order."""
    first, second = by_stem(one), by_stem(other)
    assert set(first) == set(second)
    for stem, (image, target) in first.items():
        twin_image, twin = second[stem]
        assert image.tobytes() == twin_image.tobytes()
        assert torch.equal(target["labels"], twin["labels"])
        assert torch.equal(target["orig_size"], twin["orig_size"])
        torch.testing.assert_close(target["boxes"], twin["boxes"], rtol=0, atol=1e-6)
        assert not crowds or torch.equal(target["iscrowd"], twin["iscrowd"])


@few
@seeds
def test_three_renderings_give_the_same_targets(tmp_path_factory, seed):
    root, images = tmp_path_factory.mktemp("same"), images_of(seed)
    voc, coco, yolo = (written(name, root / name, images) for name in ("voc", "coco", "yolo"))
    assert voc.label_space.names == coco.label_space.names == yolo.label_space.names == NAMES
    assert_same_targets(voc, coco)
    assert_same_targets(voc, yolo, crowds=False)


@few
@seeds
def test_coco_to_voc_to_coco_is_the_identity(tmp_path_factory, seed):
    root, images = tmp_path_factory.mktemp("round"), images_of(seed)
    first = written("coco", root / "a", images)
    between = written("voc", root / "b", read_back(first))
    second = written("coco", root / "c", read_back(between))
    assert_same_targets(first, second)
    assert read_back(second) == images == read_back(first)


@few
@seeds
@pytest.mark.parametrize("name", sorted(WRITERS))
def test_boxes_are_found_in_the_pixels(tmp_path_factory, name, seed):
    data = written(name, tmp_path_factory.mktemp("found"), images_of(seed))
    for stem, one in read_back(data).items():
        image = np.asarray(dict(by_stem(data))[stem][0])
        for box, colour in zip(one.boxes, COLOURS, strict=False):
            rows, columns = np.nonzero((image == colour).all(axis=2))
            assert [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] == box


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["voc", "coco"])
@pytest.mark.parametrize("stored", [True, False])
def test_boxes_are_found_in_images_that_are_turned(tmp_path, name, orientation, stored):
    """Boxes in stored pixels are told by the size beside them, where an image is turned by a quarter; else as shown."""
    if stored and orientation < 5:
        pytest.skip("the size is the same both ways: boxes count as of the image as shown")
    one = Drawn(50, 30, [[4, 3, 20, 9]], [1], [False])
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = one.image()
    shown = _shown(pixels, orientation)
    if not stored:
        one = Drawn(*shown.size, [_found(shown)], [1], [False])
    WRITERS[name](tmp_path, {"a": one})
    path = next(tmp_path.rglob("a.png"))
    pixels.save(path, exif=exif)
    data = REGISTRY.get("datasets", name)(root=str(tmp_path))
    image, _ = data[0]
    assert image.tobytes() == shown.tobytes()
    assert read_back(data)["a"].boxes == [_found(image)]
    assert [f.action for f in data.findings] == (["boxes turned with the image"] if stored else [])


def _shown(image, orientation):
    """EXIF 2.3, table 4, by Pillow's transpositions."""
    turns = [None, 0, 3, 1, 5, 4, 6, 2]  # FLIP_LEFT_RIGHT 0, FLIP_TOP_BOTTOM 1, ROTATE_90 2, _180 3, _270 4
    turn = turns[orientation - 1]
    return image if turn is None else image.transpose(Image.Transpose(turn))


def _found(image):
    rows, columns = np.nonzero((np.asarray(image) == COLOURS[0]).all(axis=2))
    return [int(v) for v in (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)]
