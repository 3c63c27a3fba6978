"""What does padding-exact mode cost? The same detector with and without it, on one padded batch, interleaved.

python benchmarks/padding.py --json benchmarks/results/padding-2025-01-31.json
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from _measuring import COMPARED, Table, inferring, learning, parse

import detrkit
from detrkit.model import Detector
from detrkit.preprocessing import PaddedImages, pad

# a preset, and the two images that share a batch
QUICK = [("detr_tiny", (96, 96), (64, 96))]
CASES = [*QUICK, ("detr_r50", (480, 640), (640, 480)), ("detr_r50", (800, 1066), (800, 800))]


def rival(model: Detector, batch: PaddedImages, task: str) -> Callable[[], object]:
    """Inference of the batch, or a forward and backward pass."""

    def loss() -> torch.Tensor:
        output = model(*batch)
        return output.logits.square().mean() + output.boxes.mean()

    model.train(task == "training")
    return learning(model, loss) if task == "training" else inferring(model, *batch)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the table, write the JSON."""
    options = parse(__doc__, arguments, rounds=3)
    columns = {"preset": "<9", "images": "<18", "task": "<9", **COMPARED}
    table = Table(options, "torch", "torchvision", columns=columns)
    for preset, *sizes in QUICK if options.quick else CASES:
        batch = pad([torch.randn(3, *size) for size in sizes]).to(torch.device(options.device))
        shapes = " + ".join(f"{height}x{width}" for height, width in sizes)
        for task in ("inference", "training"):
            rivals = {}
            for name, exact in (("published", False), ("exact", True)):
                torch.manual_seed(0)
                rivals[name] = rival(detrkit.build(preset, padding_exact=exact).to(options.device), batch, task)
            table.compare(rivals, peer="published", preset=preset, images=shapes, task=task)
    costs = " and ".join(
        f"{table.ratio('exact', task=task):.2f} times the {task}" for task in ("inference", "training")
    )
    table.conclude(f"Padding-exact mode takes {costs} of the published mode.")


if __name__ == "__main__":
    main()
