"""What does padding-exact mode cost? The same detector with and without it, on one padded batch, interleaved.

python benchmarks/padding.py --json benchmarks/results/padding-2025-01-31.json
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from _measuring import interleaved, machine, ratio, write_results

import detrkit
from detrkit.model import Detector
from detrkit.preprocessing import pad

# a preset, and the two images that share a batch
CASES = [("detr_tiny", (96, 96), (64, 96)), ("detr_r50", (480, 640), (640, 480)), ("detr_r50", (800, 1066), (800, 800))]


def task(model: Detector, images: torch.Tensor, mask: torch.Tensor | None, training: bool) -> Callable[[], object]:
    """Inference of the batch, or a forward and backward pass."""

    def infer() -> None:
        with torch.no_grad():
            model(images, mask)

    def learn() -> None:
        model.zero_grad()
        output = model(images, mask)
        (output.logits.square().mean() + output.boxes.mean()).backward()

    model.train(training)
    return learn if training else infer


def main() -> None:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="times each case is run by each mode")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, ...")
    parser.add_argument("--json", type=Path, help="also write machine and rows here")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    about = machine("torch", "torchvision", threads=options.threads, device=options.device)
    print(", ".join(f"{name} {value}" for name, value in about.items()))
    print(f"{'preset':12}{'images':22}{'task':11}{'published ms':>14}{'exact ms':>10}{'ratio':>8}")
    rows = []
    for preset, *sizes in CASES:
        images, mask = pad([torch.randn(3, *size) for size in sizes]).to(torch.device(options.device))
        for training in (False, True):
            rivals = {}
            for name, exact in (("published", False), ("exact", True)):
                torch.manual_seed(0)
                model = detrkit.build(preset, padding_exact=exact).to(options.device)
                rivals[name] = task(model, images, mask, training)
            seconds = interleaved(rivals, options.rounds)
            row = {
                "preset": preset,
                "images": " + ".join(f"{h}x{w}" for h, w in sizes),
                "task": "training" if training else "inference",
                "published_ms": round(1e3 * statistics.median(seconds["published"]), 1),
                "exact_ms": round(1e3 * statistics.median(seconds["exact"]), 1),
                "exact_over_published": round(ratio(seconds["exact"], seconds["published"]), 3),
            }
            rows.append(row)
            print("{:12}{:22}{:11}{:>14}{:>10}{:>8}".format(*row.values()), flush=True)
    write_results(options.json, machine=about, rows=rows)


if __name__ == "__main__":
    main()
