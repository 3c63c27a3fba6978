"""The laws of the role `matchers`."""

from __future__ import annotations

from contextlib import suppress
from itertools import permutations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from detrkit.errors import InfeasibleError, NonFiniteCostError
from detrkit.matchers import Assignment
from detrkit.testing.law import Draw, Make, concern, law

Costs = NDArray[np.float64]


@law("matchers")
def pairs_are_one_to_one(make: Make, draw: Draw) -> None:
    """Gives min(Q, T) pairs, sorted by query; no query and no target twice; int64 indices in range."""
    cost = draw_cost(draw)
    check_valid(cost, make().solve(cost))


@law("matchers")
def cost_is_least_of_all(make: Make, draw: Draw) -> None:
    """No other assignment is cheaper: every one of them is tried, up to 6 x 6."""
    concern(make.component.optimal, "not optimal")  # type: ignore[attr-defined]
    cost = draw_cost(draw, largest=6)
    short = cost if cost.shape[0] <= cost.shape[1] else cost.T
    n, m = short.shape
    least = min(short[range(n), columns].sum() for columns in permutations(range(m), n))
    check_equal_cost(cost, make().solve(cost), float(least))


@law("matchers")
def cost_equals_scipy(make: Make, draw: Draw) -> None:
    """Costs the same as SciPy's solution; pairs may differ where costs tie."""
    concern(make.component.optimal, "not optimal")  # type: ignore[attr-defined]
    cost = draw_cost(draw, largest=draw(1, 60))
    cost[draw_mask(draw, cost.shape, percent=draw(0, 10))] = np.inf
    if is_feasible(cost):
        check_equal_cost(cost, make().solve(cost), least_cost(cost))


@law("matchers")
def dual_proves_optimality(make: Make, draw: Draw) -> None:
    """The dual, where one is given, is a certificate: feasible everywhere, tight on the pairs, its sum the cost."""
    cost = draw_cost(draw, largest=12)
    if draw(0, 19) == 19:
        cost = draw_generator(draw).random((900, 300) if draw(0, 1) else (300, 900))
    found = make().solve(cost)
    concern(found.u is not None, "gives no dual")
    check_dual(cost, found)


@law("matchers")
def dual_survives_forbidden_pairs(make: Make, draw: Draw) -> None:
    """The dual stays a certificate when pairs are forbidden and when costs are huge or tiny."""
    cost = draw_cost(draw) * 10.0 ** draw(-30, 30)
    cost[draw_mask(draw, cost.shape, percent=draw(0, 40))] = np.inf
    if is_feasible(cost):
        found = make().solve(cost)
        concern(found.u is not None, "gives no dual")
        check_dual(cost, found)


@law("matchers")
def order_does_not_matter(make: Make, draw: Draw) -> None:
    """Permuting queries, permuting targets or swapping the two leaves the least cost unchanged."""
    concern(make.component.optimal, "not optimal")  # type: ignore[attr-defined]
    cost, generator = draw_cost(draw), draw_generator(draw)
    least = total(cost, make().solve(cost))
    shuffled = generator.permutation(generator.permutation(cost, axis=0), axis=1)
    for other in (shuffled, cost.T, np.asfortranarray(cost), cost[::-1, ::-1]):
        check_equal_cost(other, make().solve(other), least)


@law("matchers")
def scale_does_not_matter(make: Make, draw: Draw) -> None:
    """Scaling all costs by a positive number scales the least cost, from 1e-30 to 1e30."""
    concern(make.component.optimal, "not optimal")  # type: ignore[attr-defined]
    cost, scale = draw_cost(draw), 10.0 ** draw(-30, 30)
    check_equal_cost(cost * scale, make().solve(cost * scale), least_cost(cost) * scale)


@law("matchers")
def extreme_magnitudes_are_handled(make: Make, draw: Draw) -> None:
    """Costs near the largest and the smallest float64 give valid pairs without numerical warnings."""
    cost = draw_cost(draw) * (1e300 if draw(0, 1) else 1e-320)
    with np.errstate(all="raise", under="ignore"):
        check_valid(cost, make().solve(cost))


@law("matchers")
def offset_of_the_shorter_side_does_not_matter(make: Make, draw: Draw) -> None:
    """A cost added to all pairs of one member of the shorter side is paid once and changes nothing else."""
    concern(make.component.optimal, "not optimal")  # type: ignore[attr-defined]
    cost = draw_cost(draw)
    short = cost if cost.shape[0] <= cost.shape[1] else cost.T
    offsets = draw_generator(draw).integers(-1000, 1000, (len(short), 1)).astype(float)
    moved = short + offsets if short is cost else (short + offsets).T
    check_equal_cost(moved, make().solve(moved), least_cost(cost) + float(offsets.sum()))


@law("matchers")
def hopeless_query_changes_nothing(make: Make, draw: Draw) -> None:
    """A query that is worse for every target than any other leaves the assignment's cost unchanged."""
    cost = draw_cost(draw)
    cost = cost if cost.shape[0] >= cost.shape[1] else cost.T
    worse = np.vstack([cost, np.full((1, cost.shape[1]), cost.max() + 10 * np.ptp(cost) * len(cost) + 1)])
    found = make().solve(worse)
    assert len(cost) not in found.rows, "the hopeless query is matched"
    check_equal_cost(worse, found, total(cost, make().solve(cost)))


@law("matchers")
def cheaper_pair_never_costs_more(make: Make, draw: Draw) -> None:
    """Lowering the cost of one pair never raises the least cost."""
    concern(make.component.optimal, "not optimal")  # type: ignore[attr-defined]
    cost = draw_cost(draw)
    cheaper = cost.copy()
    cheaper[draw(0, cost.shape[0] - 1), draw(0, cost.shape[1] - 1)] -= draw(0, 100) / 10
    before, after = total(cost, make().solve(cost)), total(cheaper, make().solve(cheaper))
    assert after <= before + tolerance(cost), f"lowering one cost raised the total from {before} to {after}"


@law("matchers")
def forbidden_pairs_are_never_chosen(make: Make, draw: Draw) -> None:
    """A pair of cost +inf is never chosen; where no complete assignment is left, InfeasibleError is raised."""
    cost = draw_cost(draw)
    cost[draw_mask(draw, cost.shape, percent=draw(0, 100))] = np.inf
    if is_feasible(cost):
        found = make().solve(cost)
        check_valid(cost, found)
        assert np.isfinite(cost[found.rows, found.cols]).all(), "a forbidden pair is chosen"
    else:
        check_refused(make, cost, InfeasibleError)


@law("matchers")
def infeasible_is_refused(make: Make, draw: Draw) -> None:
    """Two targets that allow only one and the same query raise InfeasibleError; so does one that allows none."""
    cost = draw_cost(draw, smallest=2)
    cost = cost if cost.shape[0] >= cost.shape[1] else cost.T
    narrow, barred = cost.copy(), cost.copy()
    narrow[np.arange(len(cost)) != draw(0, len(cost) - 1), :2] = np.inf
    barred[:, draw(0, cost.shape[1] - 1)] = np.inf
    for problem in (narrow, narrow.T, barred, barred.T):
        check_refused(make, problem, InfeasibleError)


@law("matchers")
def nan_is_refused(make: Make, draw: Draw) -> None:
    """A cost that is NaN or -inf raises NonFiniteCostError, which names the query and the target."""
    cost = draw_cost(draw)
    query, target = draw(0, cost.shape[0] - 1), draw(0, cost.shape[1] - 1)
    for value in (np.nan, -np.inf):
        cost[query, target] = value
        message = check_refused(make, cost, NonFiniteCostError)
        assert f"query {query} " in message, f"the query is not named: {message}"
        assert f"target {target} " in message, f"the target is not named: {message}"


@law("matchers")
def empty_gives_no_pairs(make: Make, draw: Draw) -> None:
    """No queries or no targets give empty int64 indices."""
    for shape in ((0, draw(0, 9)), (draw(0, 9), 0), (0, 0)):
        check_valid(np.empty(shape), make().solve(np.empty(shape)))


@law("matchers")
def ties_are_repeatable(make: Make, draw: Draw) -> None:
    """Equal costs give a valid assignment, and the same one each time."""
    cost = np.full((draw(1, 30), draw(1, 30)), float(draw(-3, 3)))
    cost[draw_mask(draw, cost.shape, percent=draw(0, 50))] += 1
    first, second = make().solve(cost), make().solve(cost.copy())
    check_valid(cost, first)
    assert np.array_equal(first.rows, second.rows), "rows differ on repeat"
    assert np.array_equal(first.cols, second.cols), "columns differ on repeat"


@law("matchers")
def every_dtype_is_taken(make: Make, draw: Draw) -> None:
    """Integers, lists, and tensors of any float dtype, with gradient or not, give the pairs of the float64 cost."""
    import torch

    cost = np.floor(draw_cost(draw)).clip(-100, 100)
    expected = make().solve(cost)
    tensors = [torch.tensor(cost, dtype=dtype) for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.int32)]
    graph = torch.tensor(cost, requires_grad=True)
    for given in (*tensors, graph, graph * 1, cost.astype(np.int16), cost.astype(np.float32), cost.tolist()):
        found = make().solve(given)
        assert np.array_equal(found.rows, expected.rows), f"rows differ for {getattr(given, 'dtype', type(given))}"
        assert np.array_equal(found.cols, expected.cols), f"columns differ for {getattr(given, 'dtype', type(given))}"


@law("matchers")
def input_is_not_modified(make: Make, draw: Draw) -> None:
    """The cost is left as it was, also where it is read-only or the problem is refused."""
    cost = draw_cost(draw)
    cost[draw_mask(draw, cost.shape, percent=draw(0, 60))] = np.inf
    for given in (cost, cost.T, np.asfortranarray(cost)):
        before = given.copy()
        given.flags.writeable = False
        with suppress(InfeasibleError):
            make().solve(given)
        given.flags.writeable = True
        assert np.array_equal(given, before), "the cost was modified"


@law("matchers")
def blocks_are_solved_apart(make: Make, draw: Draw) -> None:
    """Two images side by side, with pairs across forbidden, cost as much as each on its own."""
    first, second = (square(draw_cost(draw)) for _ in range(2))
    n, m = len(first), len(second)
    both = np.full((n + m, n + m), np.inf)
    both[:n, :n], both[n:, n:] = first, second
    check_equal_cost(both, make().solve(both), sum(total(part, make().solve(part)) for part in (first, second)))


def draw_generator(draw: Draw) -> np.random.Generator:
    """Contents come from a drawn seed, shapes from draws."""
    return np.random.default_rng(draw(0, 2**31 - 1))


def draw_cost(draw: Draw, *, smallest: int = 1, largest: int = 25) -> Costs:
    """A cost [Q, T] of either orientation: uniform, of few values (ties), of one common order, or of wide spread."""
    shape = draw(smallest, max(smallest, largest)), draw(smallest, max(smallest, largest))
    generator, kind = draw_generator(draw), draw(0, 3)
    if kind == 0:
        return generator.uniform(-10, 10, shape)
    if kind == 1:
        return generator.integers(-2, 3, shape).astype(float)
    if kind == 2:
        return np.outer(generator.random(shape[0]), generator.random(shape[1])) + generator.normal(0, 0.01, shape)
    return generator.normal(0, 1, shape) * 10.0 ** generator.integers(-4, 5, shape)


def draw_mask(draw: Draw, shape: tuple[int, ...], percent: int) -> NDArray[np.bool_]:
    """True in about that many of 100 places."""
    return draw_generator(draw).random(shape) * 100 < percent


def square(cost: Costs) -> Costs:
    """The largest square corner."""
    side = min(cost.shape)
    return cost[:side, :side]


def total(cost: Costs, found: Assignment) -> float:
    """Cost of an assignment."""
    return float(cost[found.rows, found.cols].sum())


def least_cost(cost: Costs) -> float:
    """The least cost, by SciPy."""
    return float(cost[linear_sum_assignment(cost)].sum())


def is_feasible(cost: Costs) -> bool:
    """Whether a complete assignment avoids the forbidden pairs: one of 0/1 costs that costs nothing."""
    barred = np.isinf(cost).astype(float)
    return bool(barred[linear_sum_assignment(barred)].sum() == 0)


def tolerance(cost: Costs) -> float:
    """Rounding to allow in a sum of min(Q, T) costs."""
    size = np.abs(cost).max(where=np.isfinite(cost), initial=0.0)
    return float(1e-12 * size * min(cost.shape))


def check_valid(cost: Costs, found: Assignment) -> None:
    """Min(Q, T) pairs, int64, in range, sorted by row, one-to-one."""
    pairs = min(cost.shape)
    for name, index, size in (("rows", found.rows, cost.shape[0]), ("cols", found.cols, cost.shape[1])):
        assert index.dtype == np.int64, f"{name} are {index.dtype}, not int64"
        assert index.shape == (pairs,), f"{name} have shape {index.shape}, not {(pairs,)}"
        assert len(set(index.tolist())) == pairs, f"{name} repeat: {index.tolist()}"
        assert ((index >= 0) & (index < size)).all(), f"{name} out of range: {index.tolist()}"
    assert (np.diff(found.rows) > 0).all(), f"rows are not sorted: {found.rows.tolist()}"


def check_equal_cost(cost: Costs, found: Assignment, expected: float) -> None:
    """Valid, and of the expected cost."""
    check_valid(cost, found)
    got = total(cost, found)
    assert abs(got - expected) <= 1e-9 * abs(expected) + tolerance(cost), f"costs {got}, not {expected}"


def check_dual(cost: Costs, found: Assignment) -> None:
    """The certificate that the docstring of `Assignment` describes, up to rounding."""
    assert found.u is not None, "no dual of the rows"
    assert found.v is not None, "no dual of the columns"
    assert (found.u.shape, found.v.shape) == ((cost.shape[0],), (cost.shape[1],)), "duals do not fit the cost"
    allowed = tolerance(cost)
    slack = cost - found.u[:, None] - found.v
    assert (slack >= -allowed).all(), f"u[i] + v[j] exceeds a cost by {-slack.min()}"
    on_pairs = np.abs(slack[found.rows, found.cols]).max()
    assert on_pairs <= allowed, f"u[i] + v[j] differs from the cost of a pair by {on_pairs}"
    longer, used = (found.u, found.rows) if cost.shape[0] > cost.shape[1] else (found.v, found.cols)
    assert (longer <= allowed).all(), f"a dual of the longer side is positive: {longer.max()}"
    assert (np.delete(longer, used) == 0).all(), "a dual of an unmatched member of the longer side is not zero"
    gap = abs(found.u.sum() + found.v.sum() - total(cost, found))
    assert gap <= allowed * max(cost.shape), f"the duals' sum differs from the cost by {gap}"


def check_refused(make: Make, cost: Costs, error: type[Exception]) -> str:
    """The error's text."""
    try:
        make().solve(cost)
    except error as refusal:
        return str(refusal)
    raise AssertionError(f"a cost that must raise {error.__name__} was accepted: {cost.tolist()}")
