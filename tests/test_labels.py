"""Label spaces: which class of one is which class of another."""

import pytest

from detrkit.labels import COCO, COCO_RAW, VOC, LabelSpace

pytestmark = pytest.mark.fast


def test_voc_has_its_twenty_classes_in_order():
    assert len(VOC) == 20
    assert list(VOC.names) == sorted(VOC.names)
    assert (VOC.names[0], VOC.names[-1], VOC.ids) == ("aeroplane", "tvmonitor", tuple(range(20)))


def test_every_class_of_voc_is_one_of_coco():
    assert [COCO.names[row] for row in VOC.rows_of(COCO)] == [
        *("airplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "dining table", "dog"),
        *("horse", "motorcycle", "person", "potted plant", "sheep", "couch", "train", "tv"),
    ]


def test_rows_the_other_way_are_the_inverse():
    there, back = VOC.rows_of(COCO), COCO.rows_of(VOC)
    assert [back[row] for row in there] == list(range(20))
    assert sum(row is not None for row in back) == 20


def test_the_91_rows_of_the_official_detr_are_the_ids_of_coco():
    """REFERENCE: 80 classes under the ids 1..90; what was never used is no class of COCO."""
    assert COCO.rows_of(COCO_RAW) == list(COCO.ids)
    assert [k for k, row in enumerate(COCO_RAW.rows_of(COCO)) if row is None] == [
        0,
        *(12, 26, 29, 30, 45, 66, 68, 69, 71, 83),
    ]


@pytest.mark.parametrize("name", ["Traffic Light", "traffic_light", "traffic-light", " TRAFFIC  light "])
def test_case_and_separators_do_not_matter(name):
    space = LabelSpace((name,))
    assert space.rows_of(COCO) == [COCO.names.index("traffic light")]
    assert COCO.rows_of(space)[COCO.names.index("traffic light")] == 0


@pytest.mark.parametrize("name", ["traffic", "traffic lights", "trafficlight", "light", ""])
def test_other_names_are_other_classes(name):
    assert LabelSpace((name,)).rows_of(COCO) == [None]


@pytest.mark.parametrize(
    ("ours", "theirs", "rows"),
    [
        (("a", "A"), ("A", "a"), [1, 0]),
        (("a", "A"), ("a",), [0, None]),
        (("A",), ("a", "b"), [0]),
        (("a b",), ("a_b", "a-b"), [None]),
        (("sofa", "couch"), ("couch",), [None, 0]),
        (("sofa",), ("cat", "couch"), [1]),
    ],
)
def test_names_that_one_space_tells_apart_are_not_confused(ours, theirs, rows):
    """The same name wins; one that is merely alike counts where it leaves no doubt."""
    assert LabelSpace(ours).rows_of(LabelSpace(theirs)) == rows
