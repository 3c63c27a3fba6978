"""How fast are matching and losses of a training step beside those of transformers? All six layers of DETR.

"loss" is matching, losses and gradients at the outputs; "matching" the assignment of all layers alone. Both sides are
given the same outputs and targets, and must say the same total.

python benchmarks/criterion.py --json benchmarks/results/criterion-2025-01-31.json
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from _measuring import COMPARED, Table, check_same, parse
from matchers import COUNTS
from torch import Tensor
from transformers import DetrConfig
from transformers.loss.loss_for_object_detection import ForObjectDetectionLoss, HungarianMatcher

import detrkit
from detrkit.model import DetectorOutput
from detrkit.targets import check_targets

LAYERS, QUERIES, CLASSES = 6, 100, 91
OURS, THEIRS = "detrkit", "transformers"
Runs = dict[str, Callable[[], object]]
# objects in each image of the batch
CASES = {
    "2 images, 7 each": [7] * 2,
    "2 images, 30 each": [30] * 2,
    "2 images, 100 each": [100] * 2,
    "16 images as in COCO": list(COUNTS),
    "16 images, 30 each": [30] * 16,
}
QUICK = {"2 images, 3 each": [3, 3]}


def scene(counts: Sequence[int], device: str) -> tuple[DetectorOutput, list[dict[str, Tensor]]]:
    """Outputs of all layers and targets, drawn at random."""
    generator = torch.Generator().manual_seed(sum(counts))

    def draw(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    logits = 2 * torch.randn(LAYERS, len(counts), QUERIES, CLASSES + 1, generator=generator)
    boxes = 0.02 + 0.9 * draw(LAYERS, len(counts), QUERIES, 4)
    targets = [
        {"boxes": (0.05 + 0.45 * draw(n, 4)).to(device), "labels": (CLASSES * draw(n)).long().to(device)}
        for n in counts
    ]
    return DetectorOutput(*(x.to(device).requires_grad_() for x in (logits, boxes))), targets


def losing(total: Callable[[], Tensor], outputs: DetectorOutput) -> Callable[[], object]:
    """Total and gradients at the outputs."""
    return lambda: torch.autograd.grad(total(), outputs.pair)


def rivals(outputs: DetectorOutput, targets: list[dict[str, Tensor]], device: str) -> dict[str, Runs]:
    """Both sides of both tasks, after a look that the totals are equal."""
    criterion = detrkit.SetCriterion.from_config(detrkit.config("detr_r50", num_classes=CLASSES))
    config = DetrConfig(num_labels=CLASSES, decoder_layers=LAYERS, auxiliary_loss=True)
    matcher = HungarianMatcher(config.class_cost, config.bbox_cost, config.giou_cost)
    wanted = [{"class_labels": target["labels"], "boxes": target["boxes"]} for target in targets]
    truth = check_targets(targets, CLASSES)

    def our_total() -> Tensor:
        return criterion(outputs, targets).total

    def their_total() -> Tensor:
        last = outputs.pred_logits, wanted, device, outputs.pred_boxes
        return ForObjectDetectionLoss(*last, config, *outputs.pair)[0]

    def their_matching() -> object:
        return [matcher({"logits": x, "pred_boxes": y}, wanted) for x, y in zip(*outputs.pair, strict=True)]

    check_same(our_total().detach(), their_total().detach(), "total of all losses", 1e-4)
    return {
        "matching": {OURS: lambda: criterion.matching(*outputs.pair, truth), THEIRS: their_matching},
        "loss": {OURS: losing(our_total, outputs), THEIRS: losing(their_total, outputs)},
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the table, write the JSON."""
    options = parse(__doc__, arguments, rounds=9)
    columns = {"batch": "<21", "task": "<8", **COMPARED}
    table = Table(options, "torch", "transformers", "scipy", columns=columns, cases=QUICK if options.quick else CASES)
    for name, counts in table.about["cases"].items():
        for task, runs in rivals(*scene(counts, options.device), options.device).items():
            table.compare(runs, peer=THEIRS, batch=name, task=task)
    means = " and ".join(f"{table.ratio(OURS, task=task):.2f} for the {task}" for task in ("matching", "loss"))
    table.conclude(f"In times of transformers (geometric means): {means}.")


if __name__ == "__main__":
    main()
