"""Does training wait for its images, and does its memory grow? A run on blood cells, each process watched.

python benchmarks/dataloading.py --data "voc(root='DIR')" --json benchmarks/results/dataloading-2025-01-31.json
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import torch
from _measuring import Row, machine, write_results

from detrkit.presets import from_pairs
from detrkit.training.loop import Trainer

WARM_UP = 5  # steps, while workers start and allocators settle


MEASURES = {"RSS": "Rss:", "PSS": "Pss:"}
"""Memory of a process: all pages it has mapped, as ``ps`` shows it; and the same with shared pages divided by those
who share them, which add up to what the machine has given."""


def megabytes(pid: int) -> dict[str, float]:
    """Memory of a process by measure."""
    lines = dict(line.split()[:2] for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
    return {measure: int(lines[key]) / 1024 for measure, key in MEASURES.items()}


def children() -> set[int]:
    """Process ids of what this process has started."""
    tasks = Path("/proc/self/task").iterdir()
    return {int(pid) for task in tasks for pid in (task / "children").read_text().split()}


class Watch:
    """The highest memory of every process in each epoch, {(role, measure): [megabytes]}, and who was there."""

    def __init__(self, epochs: int) -> None:
        self.peaks: dict[tuple[str, str], list[float]] = {}
        self.pids: set[tuple[str, int]] = set()
        self.epochs, self.strangers = epochs, children()

    def processes(self) -> Iterator[tuple[str, int]]:
        """This process and its workers, by role and process id; not what had been started before."""
        yield "trainer", int(Path("/proc/self").resolve().name)
        yield from ((f"worker {number}", pid) for number, pid in enumerate(sorted(children() - self.strangers)))

    def look(self, epoch: int) -> None:
        """Look at all processes, in an epoch from 0."""
        for role, pid in self.processes():
            self.pids.add((role, pid))
            for measure, value in megabytes(pid).items():
                row = self.peaks.setdefault((role, measure), [0.0] * self.epochs)
                row[epoch] = max(row[epoch], value)

    def rows(self) -> Iterator[Row]:
        """A row each process and measure, with the growth since the first epoch."""
        for (role, measure), peaks in self.peaks.items():
            growth = 100 * (max(peaks) / peaks[0] - 1)
            yield {"process": role, "measure": measure, "peak_mb_by_epoch": peaks, "growth_percent": growth}


def run(trainer: Trainer, watch: Watch) -> list[dict[str, float]]:
    """Train to the end, with evaluations and checkpoints; gives the seconds of every step."""
    steps = []
    with closing(iter(trainer.stream)) as windows:
        for step in range(trainer.total):
            start = time.perf_counter()
            window = next(windows)
            waited = time.perf_counter()
            trainer.step(window)
            steps.append({"waiting": waited - start, "step": time.perf_counter() - start})
            watch.look(step // trainer.per_epoch)
            trainer.after_step()
            watch.look(step // trainer.per_epoch)
    return steps[WARM_UP:]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, write the JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", default="toy(size=(240, 320), length=208)", help="data set; by default drawn shapes")
    parser.add_argument("--fields", nargs="*", default=[], metavar="key=value", help="of the configuration")
    parser.add_argument("--quick", action="store_true", help="few images: shows that it runs, measures nothing")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write machine, rows and result here")
    options = parser.parse_args(arguments)
    data = "toy(size=64, length=16, held_out=8)" if options.quick else options.data
    fields = {"data": data, "short_side": 240, "long_side": 320, "batch_size": 8, "num_workers": 2, "epochs": 3}
    fields |= {"device": "cpu", **dict(pair.split("=", 1) for pair in options.fields)}
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(*from_pairs("detr_tiny", fields), Path(folder) / "run", resume=False)
        watch = Watch(-(-trainer.total // trainer.per_epoch))
        steps = run(trainer, watch)
    waiting = sum(step["waiting"] for step in steps) / max(sum(step["step"] for step in steps), 1e-9)
    rows = list(watch.rows())
    for row in rows:
        peaks = "  ".join(f"{peak:8.1f} MB" for peak in row["peak_mb_by_epoch"])
        print(f"{row['process']:<9}  {row['measure']}  {peaks}  {row['growth_percent']:+.1f} % since the first epoch")
    worst = {name: max(row["growth_percent"] for row in rows if row["measure"] == name) for name in MEASURES}
    grown = " and ".join(f"{worst[measure]:.1f} % {measure}" for measure in MEASURES)
    sentence = (
        f"Steps wait for images {100 * waiting:.1f} % of the time. After the first epoch no process grows by more "
    )
    sentence += f"than {grown}; {len(watch.pids)} processes in all."
    print(f"\n{sentence}")
    about = {"fields": {name: str(value) for name, value in fields.items()}, "waiting": waiting}
    write_results(options.json, machine=machine("torch"), **about, rows=rows, result=sentence)


if __name__ == "__main__":
    main()
