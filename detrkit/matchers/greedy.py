"""The cheapest pair first; not optimal, for ablations."""

from __future__ import annotations

from typing import final

import numpy as np
from numpy.typing import NDArray

from detrkit.matchers import Assignment, Matcher, infeasible


@final
class GreedyMatcher(Matcher):
    """Takes the cheapest remaining pair again and again: what an ablation holds against DETR, section 3.1. Not optimal.

    Where forbidden pairs leave it stuck, the rest is matched along augmenting paths of allowed pairs whatever they
    cost (Kuhn 1955), so that a complete assignment is found wherever there is one.
    """

    optimal = False

    def assign(self, cost: NDArray[np.float64]) -> Assignment:
        """As the contract, except that the total cost need not be the least; gives no dual."""
        tall = cost.shape[0] > cost.shape[1]
        short = cost.T if tall else cost
        column_of = _take_cheapest(short)
        allowed = short < np.inf
        for row in range(len(short)):
            if row not in column_of and not _augment(row, allowed, column_of):
                raise infeasible(cost)
        partner = np.array([column_of[row] for row in range(len(short))], dtype=np.int64)
        served = np.arange(len(short))
        if not tall:
            return Assignment(served, partner)
        by_row = partner.argsort()
        return Assignment(partner[by_row], by_row)


def _take_cheapest(cost: NDArray[np.float64]) -> dict[int, int]:
    """Row -> column, pair by pair, until every row is served or only forbidden pairs remain."""
    column_of: dict[int, int] = {}
    remaining = cost.copy()
    for _ in range(len(cost)):
        row, column = divmod(int(remaining.argmin()), cost.shape[1])
        if remaining[row, column] == np.inf:
            break
        column_of[row] = column
        remaining[row], remaining[:, column] = np.inf, np.inf
    return column_of


def _augment(start: int, allowed: NDArray[np.bool_], column_of: dict[int, int]) -> bool:
    """Match a free row along a shortest path of allowed pairs; False where none leads to a free column."""
    row_of = {column: row for row, column in column_of.items()}
    reached_from: dict[int, int] = {}
    queue = [start]
    for row in queue:
        for column in np.flatnonzero(allowed[row]).tolist():
            if column in reached_from:
                continue
            reached_from[column] = row
            if column in row_of:
                queue.append(row_of[column])
                continue
            while True:
                owner = reached_from[column]
                column_of[owner], freed = column, column_of.get(owner)
                if freed is None:
                    return True
                column = freed
    return False
