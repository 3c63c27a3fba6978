"""Box geometry: the laws, values worked out by hand, and torchvision as the judge."""

import pytest
import torch
import torchvision
from conftest import draws
from hypothesis import given, settings
from hypothesis import strategies as st

from detrkit import boxes as geometry
from detrkit.testing import laws_of
from detrkit.testing.boxes import draw_boxes
from detrkit.testing.tensors import check_close

pytestmark = pytest.mark.fast


@pytest.mark.parametrize("law", laws_of("boxes"))
@settings(deadline=None, max_examples=30)
@given(data=st.data())
def test_law(law, data):
    laws_of("boxes")[law](None, draws(data))


def test_formats_by_hand():
    assert geometry.cxcywh_to_xyxy(torch.tensor([3.0, 5.0, 2.0, 4.0])).tolist() == [2, 3, 4, 7]
    assert geometry.xyxy_to_cxcywh(torch.tensor([2.0, 3.0, 4.0, 7.0])).tolist() == [3, 5, 2, 4]


@pytest.mark.parametrize(
    ("first", "second", "iou", "giou"),
    [
        ([0, 0, 2, 2], [1, 1, 3, 3], 1 / 7, 1 / 7 - 2 / 9),
        ([0, 0, 1, 1], [2, 0, 3, 1], 0, -1 / 3),
        ([0, 0, 4, 4], [1, 1, 2, 3], 2 / 16, 2 / 16),
        ([0, 0, 1, 2], [1, 0, 2, 2], 0, 0),
        ([0, 0, 0, 0], [0, 0, 0, 0], 0, 0),
        ([0, 0, 0, 0], [1, 1, 1, 1], 0, -1),
        ([0, 0, 1, 0], [0, 0, 1, 0], 0, 0),
    ],
)
def test_overlaps_by_hand(first, second, iou, giou):
    first, second = torch.tensor([first, second], dtype=torch.float64)
    assert float(geometry.elementwise_iou(first, second)) == pytest.approx(iou)
    assert float(geometry.elementwise_giou(first, second)) == pytest.approx(giou)


def test_clipping_by_hand():
    boxes = torch.tensor([[-1.0, -2.0, 5.0, 9.0], [1.0, 1.0, 2.0, 2.0]])
    assert geometry.clip_xyxy(boxes, height=4, width=3).tolist() == [[0, 0, 3, 4], [1, 1, 2, 2]]


def test_swapped_corners_have_no_area():
    assert geometry.area(torch.tensor([[2.0, 2.0, 1.0, 1.0], [0.0, 0.0, 2.0, 3.0]])).tolist() == [0, 6]


@settings(deadline=None, max_examples=50)
@given(data=st.data())
def test_overlaps_equal_torchvisions(data):
    first, second = draw_boxes(draws(data)), draw_boxes(draws(data))
    check_close(geometry.pairwise_iou(first, second), torchvision.ops.box_iou(first, second), "from torchvision")
    expected = torchvision.ops.generalized_box_iou(first, second)
    check_close(geometry.pairwise_giou(first, second), expected, "from torchvision")
    check_close(geometry.area(first), torchvision.ops.box_area(first), "from torchvision")
    expected = torchvision.ops.box_convert(first, "cxcywh", "xyxy")
    check_close(geometry.cxcywh_to_xyxy(first), expected, "from torchvision")
