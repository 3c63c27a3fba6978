"""The role `matchers`: who answers for which object (DETR, section 3.1). Imports no torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detrkit.errors import InfeasibleError, NonFiniteCostError, ShapeError


class Assignment(NamedTuple):
    """A one-to-one assignment of min(Q, T) pairs, sorted by row.

    Attributes:
        rows: int64 [min(Q, T)], query indices, ascending.
        cols: int64 [min(Q, T)], target indices.
        u: [Q] dual of the rows, or None where the matcher gives no certificate.
        v: [T] dual of the columns, or None.

    A dual is a certificate of optimality: ``u[i] + v[j] <= cost[i, j]`` everywhere, with equality on the pairs; the
    duals of the longer side are at most zero, and zero where unmatched; so ``u.sum() + v.sum()`` equals the cost of the
    assignment and bounds that of any other from below.
    """

    rows: NDArray[np.int64]
    cols: NDArray[np.int64]
    u: NDArray[np.float64] | None = None
    v: NDArray[np.float64] | None = None


class Matcher(ABC):
    """Contract of the role. Keep it by defining `assign`; `solve` checks what comes in.

    Attributes:
        optimal: whether the assignment has the least total cost; a matcher that does not is for ablations.
    """

    optimal: ClassVar[bool]

    def solve(self, cost: Any) -> Assignment:
        """Assign targets to queries.

        Args:
            cost: [Q, T] array or tensor of any real dtype and device, left unchanged; ``+inf`` forbids a pair.

        Returns:
            The assignment, min(Q, T) pairs; empty when there are no queries or no targets.

        Raises:
            ShapeError: the cost has not two axes.
            NonFiniteCostError: a NaN or ``-inf`` cost, naming query and target.
            InfeasibleError: forbidden pairs leave no complete assignment.
        """
        matrix = _as_float64(cost)
        bad = np.isnan(matrix) | (matrix == -np.inf)
        if bad.any():
            query, target = (int(i) for i in np.argwhere(bad)[0])
            raise NonFiniteCostError(
                f"matching cost of query {query} and target {target} is not a number",
                field="cost",
                value=float(matrix[query, target]),
                expected="finite, or +inf to forbid the pair",
            )
        if matrix.size == 0:
            none = np.empty(0, np.int64)
            return Assignment(none, none.copy(), np.zeros(matrix.shape[0]), np.zeros(matrix.shape[1]))
        return self.assign(matrix)

    @abstractmethod
    def assign(self, cost: NDArray[np.float64]) -> Assignment:
        """Assign a checked cost [Q, T]: float64, Q and T at least 1, finite or ``+inf``; not to be modified.

        Raises:
            InfeasibleError: no complete assignment avoids the forbidden pairs.
        """


def infeasible(cost: NDArray[np.float64]) -> InfeasibleError:
    """The error of every matcher for a problem without complete assignment."""
    forbidden = int(np.isinf(cost).sum())
    return InfeasibleError(
        f"no complete assignment: {forbidden} of {cost.size} pairs are forbidden (+inf)",
        field="cost",
        value=cost.shape,
        hint="allow more pairs",
    )


def _as_float64(cost: Any) -> NDArray[np.float64]:
    if hasattr(cost, "detach"):
        cost = cost.detach().cpu().double().numpy()
    matrix = np.asarray(cost, dtype=np.float64)
    if matrix.ndim != 2:
        raise ShapeError(
            "a matching cost has two axes", field="cost", value=matrix.shape, expected="[queries, targets]"
        )
    return matrix
