"""Does training wait for its images, and does its memory grow? A run on blood cells, each process watched.

python benchmarks/dataloading.py --data "voc(root='DIR')" --json benchmarks/results/dataloading-2025-01-31.json
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from _measuring import machine, write_results

from detrkit.presets import from_pairs
from detrkit.training.loop import Trainer

WARM_UP = 5  # steps, while workers start and allocators settle


def megabytes(role: str, pid: int) -> float:
    """Memory of a process; of a worker without what it shares with the trainer, from which it was forked."""
    counted = ("Rss:",) if role == "trainer" else ("Private_Clean:", "Private_Dirty:")
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) / 1024 for line in lines if line.startswith(counted))


def processes() -> Iterator[tuple[str, int]]:
    """This process and its workers, by role and process id."""
    yield "trainer", int(Path("/proc/self").resolve().name)
    children = Path("/proc/self/task").iterdir()
    pids = sorted(int(pid) for task in children for pid in (task / "children").read_text().split())
    yield from ((f"worker {number}", pid) for number, pid in enumerate(pids))


def watch(trainer: Trainer) -> tuple[list[dict[str, float]], dict[str, list[float]]]:
    """Seconds of every step, and the highest memory in each epoch by role."""
    windows, steps = iter(trainer.stream), []
    peaks: dict[str, list[float]] = {}
    for step in range(trainer.total):
        start = time.perf_counter()
        window = next(windows)
        waited = time.perf_counter()
        trainer.step(window)
        steps.append({"waiting": waited - start, "step": time.perf_counter() - start})
        epoch = step // trainer.per_epoch
        for role, pid in processes():
            epochs = peaks.setdefault(role, [])
            epochs += [0.0] * (epoch + 1 - len(epochs))
            epochs[epoch] = max(epochs[epoch], megabytes(role, pid))
    return steps[WARM_UP:], peaks


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, write the JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", default="toy(size=(240, 320), length=208)", help="data set; by default drawn shapes")
    parser.add_argument("--fields", nargs="*", default=[], metavar="key=value", help="of the configuration")
    parser.add_argument("--quick", action="store_true", help="few images: shows that it runs, measures nothing")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write machine, rows and result here")
    options = parser.parse_args(arguments)
    data = "toy(size=64, length=16)" if options.quick else options.data
    fields = {"data": data, "short_side": 240, "long_side": 320, "batch_size": 8, "num_workers": 2, "epochs": 3}
    fields |= {"eval_every": 0, "device": "cpu", **dict(pair.split("=", 1) for pair in options.fields)}
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        steps, peaks = watch(Trainer(*from_pairs("detr_tiny", fields), Path(folder) / "run", resume=False))
    share = sum(step["waiting"] for step in steps) / max(sum(step["step"] for step in steps), 1e-9)
    growth = {role: epochs[-1] / epochs[0] - 1 for role, epochs in peaks.items()}
    for role, epochs in peaks.items():
        print(f"{role:<9} {'  '.join(f'{mb:8.1f} MB' for mb in epochs)}  {100 * growth[role]:+.1f} % since the first")
    sentence = f"Steps wait for images {100 * share:.1f} % of the time; no process grows by more than "
    sentence += f"{100 * max(growth.values()):.1f} %."
    print(sentence)
    rows = [{"role": role, "peak_mb_by_epoch": epochs} for role, epochs in peaks.items()]
    about = {"fields": {name: str(value) for name, value in fields.items()}, "waiting": share}
    write_results(options.json, machine=machine("torch"), **about, rows=rows, result=sentence)


if __name__ == "__main__":
    main()
