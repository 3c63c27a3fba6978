"""Typed fields: what is accepted, how it is described, and how texts are read."""

from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detrkit.fields import (
    NonNegative,
    Positive,
    Probability,
    Range,
    Role,
    Weight,
    accepts,
    describe,
    from_text,
    problems,
)

pytestmark = pytest.mark.fast

Spec = Annotated[str, Role("attention")]
Choice = Literal["relu", "gelu", 4]


@pytest.mark.parametrize(
    ("annotation", "right", "wrong"),
    [
        (int, [0, -3, 10**30], [1.0, True, "1", None, float("nan")]),
        (float, [0, 1.5, -2], [True, "1.5", None, float("nan"), float("inf"), -float("inf")]),
        (bool, [True, False], [0, 1, "true", None]),
        (str, ["", "x"], [1, None, b"x", True]),
        (Positive, [1, 5], [0, -1, 1.0, True, "1"]),
        (NonNegative, [0, 5], [-1, False]),
        (Weight, [0, 0.5, 100], [-1e-9, float("nan"), float("inf")]),
        (Probability, [0, 0.5, 1, 1.0], [-0.1, 1.1, True, "0.5"]),
        (Annotated[float, Range(above=0)], [0.1, 3], [0, 0.0, -1]),
        (Positive | None, [1, None], [0, "none", False]),
        (Spec | None, ["sdpa", None], [1, ()]),
        (Choice, ["relu", 4], ["silu", 4.0, True, None, ["relu"]]),
        (tuple[int, int], [(1, 2), [1, 2]], [(1,), (1, 2, 3), 1, (1, 2.0), "12"]),
        (tuple[int, ...], [(), (1,), (1, 2, 3)], [(1, "2"), 1]),
        (list[Positive], [[], [1]], [[0], (1.5,)]),
        (int | tuple[int, int], [3, (1, 2)], ["3", (1,)]),
        (Any, [None, 3, object()], []),
        (type(None), [None], [0, False, ""]),
    ],
)
def test_accepts(annotation, right, wrong):
    assert [value for value in right if not accepts(value, annotation)] == []
    assert [value for value in wrong if accepts(value, annotation)] == []


@given(st.integers())
def test_an_int_is_a_float_but_a_bool_is_no_number(value):
    assert accepts(value, float)
    assert not accepts(bool(value), float)
    assert not accepts(bool(value), int)


@given(st.floats(), st.floats(allow_nan=False), st.floats(allow_nan=False))
def test_range_is_the_closed_interval(value, low, high):
    assert (value in Range(low, high)) == (low <= value <= high)
    assert (value in Range(above=low)) == (value > low)


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (int, "int"),
        (Positive, "int, at least 1"),
        (Probability, "float, at least 0 and at most 1"),
        (Annotated[float, Range(above=0, max=2)], "float, above 0 and at most 2"),
        (Positive | None, "int, at least 1 or none"),
        (Spec, "a spec of role 'attention'"),
        (Spec | None, "a spec of role 'attention' or none"),
        (Choice, "one of 'relu', 'gelu', 4"),
        (tuple[int, int], "tuple[int, int]"),
        (tuple[str, ...], "tuple[str, ...]"),
        (tuple[Positive, int], "tuple[int, at least 1; int]"),
    ],
)
def test_describe(annotation, words):
    assert describe(annotation) == words


@pytest.mark.parametrize(
    ("text", "annotation", "value"),
    [
        ("3", int, 3),
        ("1e-4", float, 1e-4),
        ("3", float, 3),
        ("true", bool, True),
        ("False", bool, False),
        ("TRUE", bool, True),
        ("none", Positive | None, None),
        ("NULL", Spec | None, None),
        ("None", str, "None"),
        ("3", str, "3"),
        ("'quoted'", str, "quoted"),
        ("matrix(heads=4)", Spec, "matrix(heads=4)"),
        ("voc(root='a b')", Spec | None, "voc(root='a b')"),
        ("(1, 2)", tuple[int, int], (1, 2)),
        ("relu", Choice, "relu"),
        ("4", Choice, 4),
        ("a=b", str, "a=b"),
        ("", str, ""),
    ],
)
def test_text_is_read_as_its_field_wants(text, annotation, value):
    got = from_text(text, annotation)
    assert got == value
    assert type(got) is type(value)


@pytest.mark.parametrize(
    ("text", "annotation"),
    [("abc", int), ("1.5", int), ("yes", bool), ("1", bool), ("none", int), ("inf", float), ("nan", float),
     ("1e999", float), ("[" * 9000, int), ("__import__('os')", int), ("(1, 2, 3)", tuple[int, int]), ("", float)],
)  # fmt: skip
def test_text_that_does_not_fit_is_still_refused_when_it_is_read(text, annotation):
    assert not accepts(from_text(text, annotation), annotation)


@pytest.mark.parametrize(("text", "shown"), [("1.5", 1.5), ("abc", "abc"), ("(1, 2)", (1, 2)), ("true", True)])
def test_what_was_read_is_shown_where_it_is_refused(text, shown):
    assert from_text(text, int) == shown


@given(st.text(), st.sampled_from([int, float, bool, Positive | None, Choice, tuple[int, int], Spec]))
def test_no_text_is_more_than_refused(text, annotation):
    value = from_text(text, annotation)
    assert accepts(value, annotation) or not accepts(text, annotation)


@given(st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.booleans(), st.none()))
def test_values_survive_their_text(value):
    annotation = type(value) if value is not None else int | None
    assert from_text(str(value), annotation) == value


def test_problems_name_owner_field_value_and_expectation():
    given_values = {"heads": 0, "dropout": 2.0, "fine": 3, "unknown": object()}
    found = list(problems(given_values, {"heads": Positive, "dropout": Probability, "fine": int}, "matrix"))
    assert found == [
        "matrix.heads: got 0; expected int, at least 1",
        "matrix.dropout: got 2.0; expected float, at least 0 and at most 1",
    ]
