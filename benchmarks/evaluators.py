"""How fast are the COCO evaluators, and pycocotools? The same boxes for all, interleaved in one process.

python benchmarks/evaluators.py --json benchmarks/results/evaluators-2025-01-31.json
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from _measuring import COMPARED, Table, parse

from detrkit.evaluators import METRICS, Evaluator, Numbers
from detrkit.evaluators._evidence import Evidence, Found, Truth
from detrkit.labels import COCO
from detrkit.registry import REGISTRY

QUERIES = 100
SIZES = (100, 500, 5000)  # images
PATIENCE = 500  # images that pycocotools is asked to score


def synthetic(images: int) -> Evidence:
    """As of a detector of middling quality on COCO: 7 objects and 100 detections an image, 80 classes, some crowds."""
    generator, classes = np.random.default_rng(images), len(COCO)
    counts = generator.poisson(7, images)
    total, found = int(counts.sum()), images * QUERIES
    first = np.cumsum(counts) - counts
    label = generator.zipf(1.5, total) % classes
    box = np.column_stack([generator.random((total, 2)) * 400, np.exp(generator.normal(4.2, 0.9, (total, 2)))])
    truth = Truth(np.repeat(np.arange(images), counts), label, box, box[:, 2:].prod(1), generator.random(total) < 0.01)
    image = np.repeat(np.arange(images), QUERIES)
    near = np.minimum(first[image] + generator.integers(0, np.maximum(counts, 1)[image]), total - 1)
    guess = np.where(generator.random(found) < 0.7, label[near], generator.integers(0, classes, found))
    moved = box[near] + generator.normal(0, 0.15, (found, 4)) * np.tile(box[near, 2:], 2)
    score = generator.beta(0.5, 3, found)
    best = np.lexsort((-score, image))
    boxes = np.column_stack([moved[:, :2], np.maximum(moved[:, 2:], 1)])
    return Evidence(COCO, tuple(range(images)), truth, Found(image, guess[best], boxes[best], score[best]))


def scoring(evaluator: Evaluator, evidence: Evidence) -> Callable[[], Numbers]:
    """A rival: from columns to numbers."""
    return lambda: evaluator.score(evidence)


def pycocotools(evidence: Evidence) -> Callable[[], Numbers]:
    """The rival: from dictionaries, which are made before, to the twelve numbers."""
    from pycocotools import coco
    from pycocotools.cocoeval import COCOeval

    truth, found = evidence.truth, evidence.found
    columns = zip(*(column.tolist() for column in truth), strict=True)
    annotations = [
        {"id": i, "image_id": im, "category_id": k, "bbox": box, "area": area, "iscrowd": int(crowd)}
        for i, (im, k, box, area, crowd) in enumerate(columns, 1)
    ]
    data: dict[str, Any] = {
        "images": [{"id": i} for i in evidence.image_ids],
        "annotations": annotations,
        "categories": [{"id": k, "name": name} for k, name in enumerate(COCO.names)],
    }
    results = np.column_stack([found.image, found.box, found.score, found.label])

    def run() -> Numbers:
        with contextlib.redirect_stdout(io.StringIO()):
            api = coco.COCO()
            api.dataset = data
            api.createIndex()
            evaluation = COCOeval(api, api.loadRes(results), "bbox")
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        return dict(zip(METRICS, evaluation.stats.tolist(), strict=True))

    return run


def check_same(rivals: Mapping[str, Callable[[], Numbers]]) -> None:
    """Rivals must give the same numbers.

    Raises:
        SystemExit: they do not.
    """
    expected, *others = (run() for run in rivals.values())
    for name, numbers in zip(list(rivals)[1:], others, strict=True):
        if apart := [metric for metric in METRICS if abs(numbers[metric] - expected[metric]) > 1e-12]:
            raise SystemExit(f"{name}: differs in {', '.join(apart)}; nothing is measured")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the table, write the JSON."""
    options = parse(__doc__, arguments, rounds=3, threads=None, device=False)
    columns = {"images": ">6", **COMPARED}
    table = Table(options, "numpy", "hotcoco", "pycocotools", columns=columns, queries=QUERIES)
    sizes = (20,) if options.quick else SIZES
    for images in sizes:
        evidence = synthetic(images)
        rivals = {name: scoring(REGISTRY.make("evaluators", name), evidence) for name in ("hotcoco", "numpy")}
        if images <= PATIENCE:
            rivals["pycocotools"] = pycocotools(evidence)
        check_same(rivals)
        table.compare(rivals, peer="hotcoco", images=images)
    most = {row["rival"]: row for row in table.rows}  # the last row of each is that of most images
    shares = ", ".join(f"{name} {row['ratio']:.2g} ({row['images']} images)" for name, row in most.items())
    table.conclude(f"In times of hotcoco, with {QUERIES} detections an image: {shares}.")


if __name__ == "__main__":
    main()
