"""Detections: what people, notebooks and other libraries get."""

import sys

import matplotlib
import numpy as np
import pytest
from PIL import Image

from detrkit.detections import Detections
from detrkit.drawing import COLORS, Labelled, draw, of_detections
from detrkit.errors import DetrkitError
from detrkit.labels import COCO, VOC, LabelSpace

pytestmark = pytest.mark.fast
matplotlib.use("Agg")


def detections(*found, size=(480, 640), space=COCO):
    """Detections from pairs (name, score, (x1, y1, x2, y2)); the queries are 10, 11, ..."""
    names, scores, boxes = zip(*found, strict=True) if found else ((), (), ())
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array([space.names.index(name) for name in names], np.int64),
        np.array(scores, np.float32),
        size,
        space,
        np.arange(10, 10 + len(names)),
    )


@pytest.fixture
def pets():
    """Two cats and a remote, best first."""
    return detections(
        ("cat", 0.98, (10, 50, 320, 470)), ("remote", 0.91, (330, 80, 370, 180)), ("cat", 0.5, (350, 20, 640, 370))
    )


def test_a_person_at_a_prompt_sees_what_was_found(pets):
    assert str(pets) == "3 detections in 480x640: cat 0.98, remote 0.91, cat 0.50"
    assert repr([pets[:1], pets[:0]]) == "[<1 detection in 480x640: cat 0.98>, <no detections in 480x640>]"
    many = detections(*[("dog", 0.9, (0, 0, 1, 1))] * 100)
    assert str(many) == "100 detections in 480x640: " + "dog 0.90, " * 5 + "and 95 more"


def test_some_of_the_detections_are_detections(pets):
    """By index, slice and mask, and one by one; every field follows."""
    assert [one.names for one in pets] == [["cat"], ["remote"], ["cat"]]
    cats = pets[pets.labels == COCO.names.index("cat")]
    assert (cats.queries.tolist(), cats.boxes[:, 0].tolist(), cats.scores.tolist()) == (
        [10, 12],
        [10, 350],
        pytest.approx([0.98, 0.5]),
    )
    assert (len(pets[-1]), pets[-1].queries.tolist(), pets[1:].queries.tolist()) == (1, [12], [11, 12])
    assert (pets.above(0.9).queries.tolist(), len(pets.above(0.5)), pets[:0].size) == ([10, 11], 3, (480, 640))
    with pytest.raises(IndexError):
        pets[3]


def test_labels_move_to_another_space_by_name(pets):
    """With its ids; what it does not know is left out."""
    found = pets.in_space(LabelSpace(("dog", "Cat"), (18, 17)))
    assert (found.labels.tolist(), found.names, found.queries.tolist()) == ([1, 1], ["Cat", "Cat"], [10, 12])
    assert [entry["category_id"] for entry in found.to_coco(1)] == [17, 17]
    assert len(pets.in_space(LabelSpace(("spoon",)))) == 0
    assert len(pets[:0].in_space(VOC)) == 0


@pytest.mark.filterwarnings("ignore:OpenCV")
def test_supervision_gets_everything(pets):
    supervised = pets.to_supervision()
    assert supervised.xyxy.dtype == np.float32
    assert np.array_equal(supervised.xyxy, pets.boxes)
    assert np.array_equal(supervised.confidence, pets.scores)
    assert supervised.class_id.tolist() == pets.labels.tolist()
    assert supervised.data["class_name"].tolist() == ["cat", "remote", "cat"]
    assert (supervised[supervised.confidence > 0.9].data["class_name"] == ["cat", "remote"]).all()
    nothing = pets[:0].to_supervision()
    assert (len(nothing), nothing.xyxy.shape, nothing.data["class_name"].dtype.kind) == (0, (0, 4), "U")


def test_without_supervision_the_error_names_the_extra(pets, monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(DetrkitError, match=r"^supervision is not installed; pip install 'detrkit\[supervision\]'$"):
        pets.to_supervision()


@pytest.fixture
def pyplot():
    """matplotlib's state machine, left clean."""
    from matplotlib import pyplot

    yield pyplot
    pyplot.close("all")


def painted(axes):
    """The picture in some axes: uint8 [H, W, 3] and its extent."""
    (picture,) = axes.images
    return np.asarray(picture.get_array()), list(picture.get_extent())


def test_a_plot_shows_image_and_boxes_in_pixels_of_the_image(pets, pyplot):
    image = Image.new("RGB", (640, 480), (200, 0, 0))
    picture, extent = painted(pets.plot(np.asarray(image)))
    assert extent == [0, 640, 480, 0]
    colours = {tuple(colour) for colour in picture.reshape(-1, 3).tolist()}
    orange, blue = (tuple(bytes.fromhex(COLORS[k % len(COLORS)][1:])) for k in (COCO.names.index("cat"), 65))
    assert {(200, 0, 0), orange, blue} <= colours
    blank, _ = painted(pets[:0].plot())
    assert (blank == 255).all()


def test_a_plot_goes_into_the_axes_given(pets, pyplot):
    _, axes = pyplot.subplots(1, 2)
    assert pets.plot(ax=axes[1]) is axes[1]
    assert [len(one.images) for one in axes] == [0, 1]
    assert len(pyplot.get_fignums()) == 1


def test_a_plot_over_another_image_is_refused(pets, pyplot):
    with pytest.raises(DetrkitError, match=r"image: another image.*\(640 x 480\); expected height x width 480 x 640"):
        pets.plot(Image.new("RGB", (480, 640)))
    assert pyplot.get_fignums() == []


@pytest.mark.parametrize("corner", [(0, 0), (300, 200), (639, 479), (639, 0), (-50, 600)])
def test_tags_lie_inside_the_picture_and_on_no_other_tag(corner):
    """Seven boxes of one corner without area: of each colour as much is seen as of a tag that lies alone."""
    boxes = [Labelled((*corner, *corner), label, "class") for label in range(len(COLORS))]
    canvas = Image.new("RGB", (640, 480), "white")
    pixels = np.asarray(draw(canvas, boxes)).astype(int)
    alone = np.asarray(draw(canvas, [boxes[0]._replace(box=(300, 300, 300, 300))])).astype(int)
    seen = [(pixels == list(bytes.fromhex(colour[1:]))).all(-1).sum() for colour in COLORS]
    whole = (alone == list(bytes.fromhex(COLORS[0][1:]))).all(-1).sum()
    assert min(seen) > 0.95 * whole > 300


def test_the_best_lies_on_top():
    """Two boxes of one place: the first one's colour is seen."""
    two = detections(("person", 0.9, (100, 100, 300, 300)), ("bicycle", 0.8, (100, 100, 300, 300)))
    picture = draw(Image.new("RGB", (640, 480)), of_detections(two))
    assert picture.getpixel((200, 100)) == tuple(bytes.fromhex(COLORS[0][1:]))
