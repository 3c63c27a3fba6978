"""What a run of a study writes down at each evaluation, for the instruments: who answered for which held-out object.

A line of kind ``dynamics`` in the run's log, so that a resumed run goes on with them without a trace. Training sees
nothing of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from detrkit import boxes as geometry
from detrkit.ablation.instruments import (
    Claims,
    Curve,
    LayerAgreement,
    Matched,
    MatchingInstability,
    QueryUse,
    Seen,
)
from detrkit.criterion import SetCriterion
from detrkit.datasets import Dataset
from detrkit.model import Detector
from detrkit.outputs import DetectorOutput
from detrkit.targets import Truth, check_targets

KIND = "dynamics"
MOST = 500  # images that are looked at

DYNAMICS = {
    "changed": "share of the objects that another query answers for than at the evaluation before",
    "agreement": "share of the objects for which the first layer has the last one's query",
    "answered": "different queries that have answered for an object up to then, on average",
    "used": "queries in use: as many, used alike, would spread over the objects like these",
    "duplicates": "share of the detections above a score of 0.5 that overlap a better one by more than 0.7",
    "claimed": "detections above a score of 0.5 that claim an object, overlapping it by at least 0.5, on average",
    "unmatched": "share of the objects that no such detection claims",
}


class Recorder:
    """Watches a detector while it is scored on the first images of a data set, which it sees in their order.

    Args:
        criterion: whose matching is recorded.
        data: what is scored on.
        most: images that are looked at.
    """

    def __init__(self, criterion: SetCriterion, data: Dataset, most: int = MOST) -> None:
        self.criterion, self.data, self.most = criterion, data, min(most, len(data))
        self.truth: list[Truth] = []
        self.begin()

    def begin(self) -> None:
        """Forget what was seen."""
        self.owners: list[list[list[int]]] = []
        self.num_queries = 0
        self.claims = Claims()

    @contextmanager
    def watching(self, model: Detector) -> Iterator[None]:
        """Look at all that the model says within the block."""
        self.begin()
        handle = model.register_forward_hook(lambda module, inputs, output: self.look(model, output))
        try:
            yield
        finally:
            handle.remove()

    @torch.no_grad()
    def look(self, model: Detector, output: DetectorOutput) -> None:
        """Take in what is said of the next images."""
        logits, boxes = output.logits.float(), output.boxes.float()
        if not self.truth:
            targets = [self.data[index][1] for index in range(self.most)]
            self.truth = check_targets(targets, self.criterion.num_classes, like=boxes)
        truth = self.truth[len(self.owners) :][: logits.shape[1]]
        if not truth:
            return
        matching = self.criterion.matching(logits, boxes, truth)
        self.num_queries = logits.shape[2]
        self.owners += [owners.tolist() for owners in Matched.of(0, matching, truth, self.num_queries).owners]
        scores, labels, queries = model.selection.select(model.classification.scores(logits[-1]))
        corners = geometry.cxcywh_to_xyxy(boxes[-1])
        for image, one in enumerate(truth):
            found = corners[image, queries[image]], labels[image], scores[image]
            self.claims.update(Seen(0, *found, geometry.cxcywh_to_xyxy(one.boxes), one.labels))

    def line(self) -> dict[str, Any]:
        """What was seen, in plain JSON: owners by image, layer and object, and the sums of `Claims`."""
        return {"owners": self.owners, "num_queries": self.num_queries, "claims": self.claims.sums[0].tolist()}


def dynamics(lines: Iterable[Mapping[str, Any]]) -> Curve:
    """What the instruments say about a run, from its lines of kind ``dynamics``: step -> numbers as in `DYNAMICS`.

    None where there is no such number: nothing came before, there is a single layer, nothing was detected.
    """
    instability, agreement, use, claims = MatchingInstability(), LayerAgreement(), QueryUse(), Claims()
    for line in lines:
        owners = tuple(np.array(layers, dtype=np.int64) for layers in line["owners"])
        matched = Matched(line["step"], tuple(range(len(owners))), owners, line["num_queries"])
        for instrument in (instability, agreement, use):
            instrument.update(matched)
        claims.add(line["step"], line["claims"])
    changes, layers, queries = instability.result(), agreement.result(), use.result()
    return {
        step: _without_nan(
            changed=changes.get(step, {}).get("changed"),
            agreement=layers[step]["agreement"][0] if len(layers[step]["agreement"]) > 1 else None,
            answered=changes.get(step, {}).get("queries_per_object"),
            used=queries[step]["effective"],
            duplicates=claimed["duplicates"],
            claimed=claimed["queries_per_object"],
            unmatched=claimed["unmatched"],
        )
        for step, claimed in claims.result().items()
    }


def _without_nan(**numbers: float | None) -> dict[str, float | None]:
    """NaN, the share of nothing, as None, which JSON has a word for."""
    return {name: None if value is None or math.isnan(value) else value for name, value in numbers.items()}
