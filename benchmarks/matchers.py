"""How fast is the NumPy matcher beside SciPy's? Costs as DETR builds them, both solvers interleaved in one process.

python benchmarks/matchers.py --json benchmarks/results/matchers-2025-01-31.json
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from _measuring import COMPARED, Table, parse
from numpy.typing import NDArray

from detrkit.matchers import Matcher
from detrkit.matchers.numpy import NumpyMatcher
from detrkit.matchers.scipy import ScipyMatcher

Array = NDArray[np.float64]

SHAPES = [(100, 20), (300, 50), (900, 100)]
STATES = {
    "converged": "each object has a query near it, and every second a duplicate",
    "random": "predicted boxes and scores drawn like the objects",
    "collapsed": "all queries predict nearly the same, as a new DETR does: every object wants the same few",
}
CLASSES = 80
# Objects in the 16 images of a step: skewed as in COCO, 7 on average, one image empty, one crowded.
COUNTS = (0, 1, 1, 1, 2, 2, 3, 3, 4, 5, 6, 7, 9, 12, 20, 36)
LAYERS = 6
STEP = "step 6x16x100"


def random_boxes(generator: np.random.Generator, count: int) -> Array:
    """[count, 4] cxcywh with log-normal sides, most of them small, as in COCO."""
    sides = np.exp(generator.normal(-1.8, 0.8, (count, 2))).clip(0.01, 0.9)
    return np.concatenate([generator.random((count, 2)), sides], axis=1)


def giou(first: Array, second: Array) -> Array:
    """Generalised IoU [N, M] of cxcywh boxes."""
    low1, high1 = first[:, None, :2] - first[:, None, 2:] / 2, first[:, None, :2] + first[:, None, 2:] / 2
    low2, high2 = second[:, :2] - second[:, 2:] / 2, second[:, :2] + second[:, 2:] / 2
    common = (np.minimum(high1, high2) - np.maximum(low1, low2)).clip(0).prod(-1)
    union = first[:, 2:].prod(-1)[:, None] + second[:, 2:].prod(-1) - common
    hull = (np.maximum(high1, high2) - np.minimum(low1, low2)).prod(-1)
    return common / union - (hull - union) / hull


def detr_cost(generator: np.random.Generator, queries: int, targets: int, state: str) -> Array:
    """Cost [Q, T] = - class probability + 5 L1 - 2 GIoU, in float32 precision, as DETR's own."""
    boxes, labels = random_boxes(generator, targets), generator.integers(0, CLASSES, targets)
    spread = 0.1 if state == "collapsed" else 1.0
    logits = generator.normal(0, spread, (queries, CLASSES + 1))
    predicted = random_boxes(generator, queries)
    if state == "collapsed":
        predicted = 1 / (1 + np.exp(-generator.normal(0, spread, (queries, 4))))
    if state == "converged":
        logits[:, -1] += 8
        order = generator.permutation(queries)
        own, twins = order[:targets], order[targets : targets + targets // 2]
        for chosen, noise in ((own, 0.02), (twins, 0.04)):
            predicted[chosen] = boxes[: len(chosen)] + generator.normal(0, noise, (len(chosen), 4))
            logits[chosen, labels[: len(chosen)]] += 10
        predicted[:, 2:] = predicted[:, 2:].clip(0.01)
    odds = np.exp(logits)
    class_cost = -(odds / odds.sum(1, keepdims=True))[:, labels]
    cost = class_cost + 5 * np.abs(predicted[:, None] - boxes).sum(-1) - 2 * giou(predicted, boxes)
    return cost.astype(np.float32).astype(np.float64)


def problems(quick: bool) -> Iterator[tuple[str, str, list[Array]]]:
    """(what, state, costs) of each comparison."""
    for state in STATES:
        for queries, targets in SHAPES[: 1 if quick else None]:
            generator = np.random.default_rng(queries + targets)
            yield f"{queries}x{targets} (10)", state, [detr_cost(generator, queries, targets, state) for _ in range(10)]
        generator = np.random.default_rng(16)
        yield STEP, state, [detr_cost(generator, 100, count, state) for count in COUNTS * LAYERS]


def solving(matcher: Matcher, costs: list[Array]) -> Callable[[], None]:
    """A rival: solves all costs once, input checks included."""

    def run() -> None:
        for cost in costs:
            matcher.solve(cost)

    return run


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the table, write the JSON."""
    options = parse(__doc__, arguments, rounds=31, threads=None, device=False)
    columns = {"problem": "<14", "state": "<10", **COMPARED}
    # Processor time of this thread: neither solver starts another, and wall time on a shared machine counts whole
    # scheduler slices of others against the longer run only.
    table = Table(options, "numpy", "scipy", columns=columns, clock=time.thread_time, states=STATES)
    for what, state, costs in problems(options.quick):
        rivals = {"numpy": solving(NumpyMatcher(), costs), "scipy": solving(ScipyMatcher(), costs)}
        table.compare(rivals, peer="scipy", problem=what, state=state)
    steps = ", ".join(f"{table.ratio('numpy', problem=STEP, state=state):.2f} {state}" for state in STATES)
    table.conclude(f"The matching of a training step takes the NumPy matcher, in times of SciPy's: {steps}.")


if __name__ == "__main__":
    main()
