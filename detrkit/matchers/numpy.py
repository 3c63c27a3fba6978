"""Shortest augmenting paths in plain NumPy, with a proof of optimality."""

from __future__ import annotations

from typing import final

import numpy as np
from numpy.typing import NDArray

from detrkit.errors import InfeasibleError
from detrkit.matchers import Assignment, Matcher, infeasible

Costs = NDArray[np.float64]

# Path lengths are sums of costs; above this the costs are scaled down first, so that no sum overflows.
_LARGE = 2.0**990
_SCALE = 40


@final
class NumpyMatcher(Matcher):
    """Optimal assignment and its dual in NumPy alone (Jonker & Volgenant 1987; rectangular: Crouse 2016, section II).

    The shorter side is served row by row. Rows whose cheapest columns differ are matched at once, which is nearly all
    of them in a trained detector; each other row starts one Dijkstra search over the longer side, whose every step is a
    handful of operations on a whole row. At worst n searches of n steps for the n rows of the shorter side.

    The dual proves the result optimal up to the rounding of float64: see `Assignment`.
    """

    optimal = True

    def assign(self, cost: Costs) -> Assignment:
        """As the contract; ``u`` [Q] and ``v`` [T] are always given."""
        tall = cost.shape[0] > cost.shape[1]
        short = np.ascontiguousarray(cost.T if tall else cost)
        scale = _SCALE if _is_large(short) else 0
        if scale:
            short = np.ldexp(short, -scale)
        try:
            partner, long_dual = _match_rows(short)
        except InfeasibleError:
            raise infeasible(cost) from None
        served = np.arange(len(short))
        short_dual = short[served, partner] - long_dual[partner]
        if scale:
            with np.errstate(over="ignore"):
                short_dual, long_dual = np.ldexp(short_dual, scale), np.ldexp(long_dual, scale)
        if not tall:
            return Assignment(served, partner, short_dual, long_dual)
        by_row = partner.argsort()
        return Assignment(partner[by_row], by_row, long_dual, short_dual)


def _is_large(cost: Costs) -> bool:
    """Whether a finite cost is too large to be summed; the extremes tell, unless forbidden pairs hide them."""
    flat = cost.reshape(-1)
    highest, lowest = flat[flat.argmax()], flat[flat.argmin()]
    if highest == np.inf:
        highest = cost.max(where=np.isfinite(cost), initial=-np.inf)
    return bool(highest > _LARGE or lowest < -_LARGE)


def _match_rows(cost: Costs) -> tuple[NDArray[np.int64], Costs]:
    """Match every row of ``cost`` [n, m], n <= m: its column [n], and the dual of the columns [m].

    Between searches the duals are feasible, with equality on the matched pairs and zero on free columns.
    """
    n, m = cost.shape
    cheapest = cost.argmin(axis=1)
    if cost[np.arange(n), cheapest].max() == np.inf:
        raise infeasible(cost)
    column_of, row_of, waiting = [-1] * n, [-1] * m, []
    for row, column in enumerate(cheapest.tolist()):
        if row_of[column] < 0:
            row_of[column], column_of[row] = row, column
        else:
            waiting.append(row)
    dual = np.zeros(m)
    if waiting:
        lengths = np.empty((n, m))
        for row in waiting:
            _augment(row, cost, dual, column_of, row_of, lengths)
    return np.array(column_of, dtype=np.int64), dual


def _augment(start: int, cost: Costs, dual: Costs, column_of: list[int], row_of: list[int], lengths: Costs) -> None:
    """Match a free row along the shortest path of reduced costs to a free column (Dijkstra), and update the dual.

    ``lengths[k]`` receives the lengths of the paths through the k-th row reached. A column that has been settled is
    hidden by a dual of minus infinity, which makes every later path to it infinitely long.
    """
    rows, settled = [start], []
    nearest = np.empty_like(dual)
    np.subtract(cost[start], dual, out=lengths[0])
    nearest[:] = lengths[0]
    while True:
        column = int(nearest.argmin())
        length = nearest.item(column)
        row = row_of[column]
        if row < 0 or length == np.inf:
            break
        through = lengths[len(rows)]
        np.subtract(cost[row], dual, out=through)
        through += length - through.item(column)
        np.minimum(nearest, through, out=nearest)
        settled.append((column, length, dual.item(column)))
        rows.append(row)
        nearest[column], dual[column] = np.inf, -np.inf
    if length == np.inf:
        raise infeasible(cost)
    for passed, when, before in settled:
        dual[passed] = before - max(length - when, 0.0)
    reached = len(rows)
    while reached:
        reached = int(lengths[:reached, column].argmin())
        row = rows[reached]
        row_of[column] = row
        column_of[row], column = column, column_of[row]
