"""Matchers: the laws for every registered one, SciPy as the judge of the NumPy one, and past defects of others."""

import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from detrkit.errors import InfeasibleError, NonFiniteCostError, ShapeError
from detrkit.matchers import Assignment, Matcher
from detrkit.matchers.greedy import GreedyMatcher
from detrkit.matchers.numpy import NumpyMatcher
from detrkit.registry import REGISTRY
from detrkit.testing import NotConcerned, check_component, laws_of
from detrkit.testing.law import Maker
from detrkit.testing.matchers import check_dual, check_equal_cost, is_feasible, least_cost, total

pytestmark = pytest.mark.fast

MATCHERS = REGISTRY.names("matchers")


@pytest.mark.parametrize("law", laws_of("matchers"))
@pytest.mark.parametrize("name", MATCHERS)
@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_law(name, law, data):
    make = Maker(REGISTRY.get("matchers", name))
    try:
        laws_of("matchers")[law](make, lambda low, high: data.draw(st.integers(low, high)))
    except NotConcerned as reason:
        pytest.skip(str(reason))


def random_problem(generator):
    """Rectangular both ways, with ties, forbidden pairs, a common order, and magnitudes from 1e-30 to 1e30."""
    largest = 120 if generator.random() < 0.02 else 14
    shape = tuple(generator.integers(1, largest, 2))
    kind = generator.integers(4)
    if kind == 0:
        cost = generator.normal(size=shape)
    elif kind == 1:
        cost = generator.integers(0, 4, shape).astype(float)
    elif kind == 2:
        cost = generator.random((shape[0], 1)) * generator.random(shape[1]) + 1e-3 * generator.random(shape)
    else:
        cost = 10.0 ** generator.uniform(-30, 30, shape)
    cost *= 10.0 ** generator.integers(-30, 31) if kind < 3 else 1.0
    if generator.random() < 0.4:
        cost[generator.random(shape) < generator.uniform(0, 1)] = np.inf
    return cost


def test_numpy_equals_scipy_on_ten_thousand_problems():
    generator, refused = np.random.default_rng(20240), 0
    matcher = NumpyMatcher()
    with np.errstate(all="raise", under="ignore"):
        for _ in range(10_000):
            cost = random_problem(generator)
            if not is_feasible(cost):
                refused += 1
                with pytest.raises(InfeasibleError):
                    matcher.solve(cost)
                continue
            found = matcher.solve(cost)
            np.testing.assert_allclose(total(cost, found), least_cost(cost), rtol=1e-9, atol=0)
            check_dual(cost, found)
    assert 500 < refused < 2500


@pytest.mark.parametrize("shape", [(900, 300), (300, 900), (300, 300)])
@pytest.mark.parametrize("kind", ["uniform", "ties", "one order"])
def test_dual_certifies_large_problems(shape, kind):
    generator = np.random.default_rng(7)
    cost = {
        "uniform": lambda: generator.random(shape),
        "ties": lambda: generator.integers(0, 5, shape).astype(float),
        "one order": lambda: np.outer(generator.random(shape[0]), generator.random(shape[1])),
    }[kind]()
    found = NumpyMatcher().solve(cost)
    check_dual(cost, found)
    check_equal_cost(cost, found, least_cost(cost))


@pytest.mark.parametrize("name", MATCHERS)
@pytest.mark.parametrize("cost", [[[1, np.inf], [2, np.inf]], [[np.inf]], [[np.inf, np.inf], [1, 2]]])
def test_infeasible_is_refused_at_once(name, cost):
    start = time.perf_counter()
    with pytest.raises(InfeasibleError, match="no complete assignment"):
        REGISTRY.make("matchers", name).solve(cost)
    assert time.perf_counter() - start < 1


@pytest.mark.parametrize("name", MATCHERS)
def test_large_infeasible_is_refused_at_once(name):
    cost = np.random.default_rng(0).random((300, 100))
    cost[50:, :51] = np.inf
    start = time.perf_counter()
    with pytest.raises(InfeasibleError, match="no complete assignment"):
        REGISTRY.make("matchers", name).solve(cost)
    assert time.perf_counter() - start < 1


@pytest.mark.parametrize("shape", [(3900, 300), (300, 3900)])
def test_numpy_is_fast_on_long_problems(shape):
    cost = np.random.default_rng(0).random(shape)
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        found = NumpyMatcher().solve(cost)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.5
    assert total(cost, found) == pytest.approx(least_cost(cost), rel=1e-9)


@pytest.mark.parametrize("name", MATCHERS)
def test_bad_costs_are_refused(name):
    matcher = REGISTRY.make("matchers", name)
    with pytest.raises(NonFiniteCostError, match="query 1 and target 0"):
        matcher.solve([[1.0, 2.0], [np.nan, 0.0]])
    with pytest.raises(ShapeError, match="two axes"):
        matcher.solve(np.zeros(3))


def test_infeasible_error_shows_the_shape_that_was_given():
    tall = np.full((3, 2), np.inf)
    for name in MATCHERS:
        with pytest.raises(InfeasibleError, match=r"6 of 6 pairs.*\(3, 2\)"):
            REGISTRY.make("matchers", name).solve(tall)


def test_greedy_takes_the_cheapest_pair_first():
    found = GreedyMatcher().solve([[0.0, 1.0], [2.0, 9.0]])
    assert found.cols.tolist() == [0, 1]
    assert NumpyMatcher().solve([[0.0, 1.0], [2.0, 9.0]]).cols.tolist() == [1, 0]


def test_greedy_repairs_itself_where_it_is_stuck():
    found = GreedyMatcher().solve([[0.0, 5.0, np.inf], [1.0, np.inf, np.inf], [2.0, 3.0, 4.0]])
    assert found.cols.tolist() == [1, 0, 2]


def test_dual_of_a_small_problem():
    found = NumpyMatcher().solve([[1.0, 2.0, 9.0], [1.0, 4.0, 9.0]])
    assert found.cols.tolist() == [1, 0]
    assert found.u.tolist() == [2.0, 2.0]
    assert found.v.tolist() == [-1.0, 0.0, 0.0]


def test_numpy_solves_costs_that_overflow_when_added():
    most, no = 1.7e308, np.inf
    wide = most * np.array([[-1, 1, 0.9, 0.8], [-1, 0.9, 1, no], [-1, 1, 0.95, 1]])
    chain = most * np.array([[-1, 0, no], [no, -1, 0], [-1, no, no]])
    with np.errstate(all="raise"):
        assert NumpyMatcher().solve(wide).cols.tolist() == [3, 1, 0]
        found = NumpyMatcher().solve(chain)
        assert NumpyMatcher().solve([[most, 1e308]]).u.tolist() == [1e308]
    assert found.cols.tolist() == [1, 2, 0]
    assert found.u.tolist() == pytest.approx([most, 0, most])


def test_numpy_tells_the_smallest_costs_apart():
    cost = [[1e-320, 2e-320, np.inf], [1e-320, 5e-320, np.inf]]
    assert NumpyMatcher().solve(cost).cols.tolist() == [1, 0]


def test_the_laws_find_a_matcher_that_lies():
    class Liar(Matcher):
        optimal = True
        assign = GreedyMatcher.assign

    broken = {result.law for result in check_component(Liar) if result.outcome == "broken"}
    assert {"cost_is_least_of_all", "cost_equals_scipy", "order_does_not_matter"} <= broken
    assert "pairs_are_one_to_one" not in broken


def test_the_laws_find_a_wrong_dual():
    class WrongSign(Matcher):
        optimal = True

        def assign(self, cost):
            found = NumpyMatcher().assign(cost)
            return Assignment(found.rows, found.cols, found.u, -found.v)

    broken = {result.law for result in check_component(WrongSign) if result.outcome == "broken"}
    assert broken == {"dual_proves_optimality", "dual_survives_forbidden_pairs"}


def test_the_laws_find_swapped_indices():
    class Swapped(Matcher):
        optimal = True

        def assign(self, cost):
            rows, cols = linear_sum_assignment(cost)
            return Assignment(cols, rows)

    broken = {result.law for result in check_component(Swapped) if result.outcome == "broken"}
    assert {"pairs_are_one_to_one", "cost_is_least_of_all", "cost_equals_scipy"} <= broken


def test_the_laws_find_a_changed_input():
    class Careless(Matcher):
        optimal = True

        def assign(self, cost):
            np.subtract(cost, 0.0, out=cost)
            return NumpyMatcher().assign(cost)

    broken = {result.law for result in check_component(Careless) if result.outcome == "broken"}
    assert broken == {"input_is_not_modified"}
