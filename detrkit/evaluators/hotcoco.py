"""COCO's numbers by hotcoco, a port of pycocotools; the default."""

from __future__ import annotations

from typing import final

import numpy as np

from detrkit.evaluators import CocoEvaluator, Curves
from detrkit.evaluators._evidence import Evidence


@final
class HotcocoEvaluator(CocoEvaluator):
    """COCO AP and AR (Lin et al. 2014) by hotcoco, a fast port of pycocotools that equals it to the bit."""

    def curves(self, evidence: Evidence) -> Curves:
        """As the contract."""
        from hotcoco import COCO, COCOeval

        truth, found = evidence.truth, evidence.found
        data = COCO.from_arrays(
            [{"id": number + 1} for number in range(len(evidence.image_ids))],
            [{"id": label + 1, "name": name} for label, name in enumerate(evidence.label_space.names)],
            truth.image + 1,
            truth.label + 1,
            truth.box,
            ids=np.arange(len(truth.image)) + 1,  # from 1: COCO's evaluator reads 0 as "not matched"
            area=truth.area,
            iscrowd=truth.crowd,
        )
        rows = np.column_stack([found.image + 1, found.box, found.score, found.label + 1])
        evaluation = COCOeval(data, data.load_res(rows), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        scored = evaluation.eval or {}
        return Curves(scored["precision"][..., -1], scored["recall"])
