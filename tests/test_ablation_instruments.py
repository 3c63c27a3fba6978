"""Instruments of training dynamics on cases worked by hand."""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from detrkit.ablation.instruments import (
    Claims,
    LayerAgreement,
    Matched,
    MatchingInstability,
    QueryUse,
    Reached,
    Seen,
    reached,
)
from detrkit.config import DetectorConfig
from detrkit.criterion import SetCriterion
from detrkit.matchers import Assignment
from detrkit.targets import Truth

pytestmark = pytest.mark.fast


def matched(epoch, *owners, queries=4, first_id=0):
    """A batch whose images have these owners, [L][T] or [T]."""
    arrays = tuple(np.atleast_2d(np.array(owner, dtype=np.int64)) for owner in owners)
    return Matched(epoch, tuple(range(first_id, first_id + len(owners))), arrays, queries)


def truth(count, image_id=0):
    return Truth(torch.full((count, 4), 0.5), torch.zeros(count, dtype=torch.int64), image_id)


def observed(instrument, *batches):
    for batch in batches:
        instrument.update(batch)
    return instrument


# --- matchings --------------------------------------------------------------------------------------------------------


def test_owners_are_read_from_assignments():
    layers = [
        [Assignment(np.array([0, 3]), np.array([1, 0])), Assignment(np.array([], int), np.array([], int))],
        [Assignment(np.array([1, 2]), np.array([0, 1])), Assignment(np.array([], int), np.array([], int))],
    ]
    found = Matched.of(5, layers, [truth(2, "a"), truth(0, "b")], num_queries=4)
    assert found.image_ids == ("a", "b")
    assert found.owners[0].tolist() == [[3, 0], [1, 2]]
    assert found.owners[1].shape == (2, 0)


def test_surplus_objects_have_no_owner():
    layer = [Assignment(np.array([0]), np.array([2]))]
    assert Matched.of(0, [layer], [truth(3)], num_queries=1).owners[0].tolist() == [[-1, -1, 0]]


def test_matching_of_the_criterion_fits():
    criterion = SetCriterion.from_config(DetectorConfig(num_classes=3))
    generator = torch.Generator().manual_seed(0)
    boxes, logits = torch.rand(2, 1, 6, 4, generator=generator), torch.randn(2, 1, 6, 4, generator=generator)
    objects = [Truth(torch.rand(3, 4, generator=generator), torch.tensor([0, 1, 2]), 7)]
    found = Matched.of(0, criterion.matching(logits, boxes, objects), objects, num_queries=6)
    assert found.owners[0].shape == (2, 3)
    assert all(len(set(layer)) == 3 and set(layer) <= set(range(6)) for layer in found.owners[0].tolist())


def test_instability_by_hand():
    one = observed(MatchingInstability(), matched(0, [0, 1], [2]), matched(1, [0, 2], [2]), matched(2, [1, 0], [2]))
    curve = one.result()
    assert list(curve) == [1, 2]
    # object 1 of image 0 goes from query 1 to 2: one object of three; queries 1 and 2 change, in two images
    assert curve[1]["changed"] == pytest.approx(1 / 3)
    assert curve[1]["instability"] == 1.0
    assert curve[1]["queries_per_object"] == pytest.approx((1 + 2 + 1) / 3)
    # both objects of image 0 move: queries 0, 1 and 2 change
    assert curve[2]["changed"] == pytest.approx(2 / 3)
    assert curve[2]["instability"] == 1.5
    assert curve[2]["queries_per_object"] == pytest.approx((2 + 3 + 1) / 3)


def test_instability_swapped_queries_count_once_each():
    curve = observed(MatchingInstability(), matched(0, [0, 1]), matched(1, [1, 0])).result()
    assert (curve[1]["changed"], curve[1]["instability"]) == (1.0, 2.0)


def test_instability_of_nothing_new_is_zero():
    curve = observed(MatchingInstability(), *(matched(epoch, [3, -1]) for epoch in range(3))).result()
    assert [(row["changed"], row["instability"]) for row in curve.values()] == [(0, 0)] * 2
    assert curve[2]["queries_per_object"] == 0.5  # an object without query counts as one with none


def test_instability_leaves_out_images_whose_objects_changed():
    curve = observed(MatchingInstability(), matched(0, [0, 1], [1]), matched(1, [0], [2])).result()
    assert (curve[1]["incomparable"], curve[1]["objects"], curve[1]["changed"]) == (1, 1, 1.0)


def test_instability_compares_with_the_last_sight_of_an_image():
    curve = observed(
        MatchingInstability(), matched(0, [0]), matched(1, [3], first_id=9), matched(2, [1]), matched(4, [1])
    ).result()
    assert {epoch: row["changed"] for epoch, row in curve.items()} == {2: 1.0, 4: 0.0}


def test_agreement_by_hand():
    curve = observed(
        LayerAgreement(), matched(0, [[0, 1, 2], [3, 1, 2], [3, 1, 0]]), matched(1, [[1], [2], [1]])
    ).result()
    assert curve[0]["agreement"] == pytest.approx([1 / 3, 2 / 3, 1])
    assert curve[1]["agreement"] == [1, 0, 1]


def test_agreement_leaves_out_objects_without_query():
    curve = observed(LayerAgreement(), matched(0, [[0, 1], [0, -1]]), matched(1, [[], []])).result()
    assert (curve[0]["agreement"], curve[0]["objects"]) == ([1, 1], 1)
    assert all(map(math.isnan, curve[1]["agreement"]))


def test_query_use_by_hand():
    curve = observed(
        QueryUse(), matched(0, [0, 1], [2, 3]), matched(1, [1], [1]), matched(2, [[0, 0], [1, -1]]), matched(3, [])
    ).result()
    assert curve[0] == pytest.approx({"used": 1, "entropy": math.log(4), "effective": 4, "unmatched": 0, "objects": 4})
    assert curve[1] == pytest.approx({"used": 0.25, "entropy": 0, "effective": 1, "unmatched": 0, "objects": 2})
    assert curve[2]["unmatched"] == 0.5
    assert math.isnan(curve[3]["entropy"])


batches = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 9), st.lists(st.permutations(range(4)), min_size=2, max_size=2)),
    unique_by=lambda drawn: drawn[:2],
    max_size=8,
)


@given(batches, st.integers(0, 8))
@pytest.mark.parametrize("kind", [MatchingInstability, LayerAgreement, QueryUse])
def test_two_processes_see_what_one_would(kind, drawn, cut):
    seen = [matched(epoch, layers, first_id=image) for epoch, image, layers in drawn]
    whole, left, right = observed(kind(), *seen), observed(kind(), *seen[:cut]), observed(kind(), *seen[cut:])
    before = copy.deepcopy(right.result())
    left.merge(right)
    assert str(left.result()) == str(whole.result())  # as texts, in which NaN equals NaN
    assert str(right.result()) == str(before)


# --- detections -------------------------------------------------------------------------------------------------------

BOX, NEAR, FAR = [0.0, 0, 10, 10], [0.0, 0, 10, 9], [20.0, 20, 30, 30]  # BOX and NEAR overlap by 0.9


def seen(found, objects, epoch=0):
    """An image with detections (box, label, score) and objects (box, label)."""
    boxes, labels, scores = zip(*found, strict=True) if found else ([], [], [])
    true_boxes, true_labels = zip(*objects, strict=True) if objects else ([], [])
    return Seen(
        epoch,
        torch.tensor(boxes).reshape(-1, 4),
        torch.tensor(labels, dtype=torch.int64),
        torch.tensor(scores),
        torch.tensor(true_boxes).reshape(-1, 4),
        torch.tensor(true_labels, dtype=torch.int64),
    )


CASES = {
    "one each": ([(BOX, 0, 0.9)], [(BOX, 0)], {"duplicates": 0, "queries_per_object": 1, "unmatched": 0}),
    "a duplicate": ([(NEAR, 0, 0.8), (BOX, 0, 0.9)], [(BOX, 0)], {"duplicates": 0.5, "queries_per_object": 2}),
    "another class": ([(BOX, 0, 0.9), (NEAR, 1, 0.8)], [(BOX, 0)], {"duplicates": 0, "queries_per_object": 1}),
    "too weak": ([(BOX, 0, 0.9), (NEAR, 0, 0.4)], [(BOX, 0)], {"duplicates": 0, "detections": 1}),
    "two of one": ([(BOX, 0, 0.9)] * 3, [(BOX, 0)], {"duplicates": 2 / 3, "claims": [0, 0, 0, 1]}),
    "missed": ([(BOX, 0, 0.9)], [(BOX, 0), (FAR, 0)], {"unmatched": 0.5, "claims": [0.5, 0.5, 0, 0]}),
    "wrong class": ([(BOX, 1, 0.9)], [(BOX, 0)], {"unmatched": 1, "queries_per_object": 0}),
    "nothing found": ([], [(BOX, 0)], {"unmatched": 1, "detections": 0}),
}


@pytest.mark.parametrize("case", CASES)
def test_claims_by_hand(case):
    found, objects, expected = CASES[case]
    numbers = observed(Claims(), seen(found, objects)).result()[0]
    assert {name: numbers[name] == pytest.approx(value) for name, value in expected.items()} == dict.fromkeys(
        expected, True
    )


def test_overlap_of_just_the_limit_is_no_duplicate():
    image = seen([(BOX, 0, 0.9), (NEAR, 0, 0.8)], [])
    assert observed(Claims(duplicate_iou=0.9), image).result()[0]["duplicates"] == 0
    assert observed(Claims(duplicate_iou=0.89), image).result()[0]["duplicates"] == 0.5


def test_claims_merge_and_shares_of_nothing_are_nan():
    empty = observed(Claims(), seen([], []))
    assert math.isnan(empty.result()[0]["duplicates"])
    other = observed(Claims(), seen([(BOX, 0, 0.9)] * 2, [(BOX, 0)]), seen([(BOX, 0, 0.9)], [(BOX, 0)], epoch=3))
    empty.merge(other)
    assert {epoch: row["duplicates"] for epoch, row in empty.result().items()} == {0: 0.5, 3: 0}


# --- time to an AP ----------------------------------------------------------------------------------------------------

LOG = [
    {"step": 30, "seconds": 3.0, "AP": 0.40, "AP50": 0.7},
    {"step": 10, "seconds": 1.0, "AP": 0.10, "AP50": 0.6},
    {"step": 20, "seconds": 2.0, "AP": None, "AP50": 0.5},
    {"step": 40, "seconds": 4.0, "AP": 0.30, "AP50": 0.9},
]


@pytest.mark.parametrize(
    ("least", "metric", "expected"),
    [
        (0.1, "AP", Reached(10, 1.0)),
        (0.2, "AP", Reached(30, 3.0)),
        (0.5, "AP", None),
        (0.9, "AP50", Reached(40, 4.0)),
    ],
)
def test_time_to_a_score(least, metric, expected):
    assert reached(LOG, least, metric) == expected


def test_time_to_a_score_of_an_empty_log():
    assert reached([], 0.1) is None
