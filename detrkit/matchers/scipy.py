"""SciPy's solver behind the contract; the default."""

from __future__ import annotations

from typing import final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from detrkit.matchers import Assignment, Matcher, infeasible


@final
class ScipyMatcher(Matcher):
    """Optimal assignment by SciPy's ``linear_sum_assignment`` (Crouse 2016), as the official DETR (section 3.1)."""

    optimal = True

    def assign(self, cost: NDArray[np.float64]) -> Assignment:
        """As the contract; gives no dual."""
        try:
            rows, cols = linear_sum_assignment(cost)
        except ValueError:  # the cost is checked, so infeasibility is all that is left to refuse
            raise infeasible(cost) from None
        return Assignment(rows.astype(np.int64, copy=False), cols.astype(np.int64, copy=False))
