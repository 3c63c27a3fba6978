"""What the speed tables share: options, the machine's description, rivals timed in turn, and the table itself."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

Rivals = Mapping[str, Callable[[], object]]
Row = dict[str, Any]

CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}
COMPARED = {"rival": "<20", "ms": ">9.3f", "ratio": ">7.3f"}
"""Columns that `Table.compare` fills; those of the case stand before them."""


def parse(
    about: str | None,
    arguments: Sequence[str] | None,
    *,
    rounds: int,
    threads: int | None = 2,
    device: bool = True,
    flags: Mapping[str, str] | None = None,
) -> Namespace:
    """Options of a speed table, and torch set up as they say.

    Args:
        about: the script's docstring.
        arguments: the command line without the script's name; None: that of the process.
        rounds: how often the rivals run by default.
        threads: of torch by default; None where the measured code uses one alone, and more are refused.
        device: whether the measured code runs on any device; others than the CPU are refused where not.
        flags: more options of a script, each with its help.
    """
    parser = ArgumentParser(description=about, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=rounds, help=f"times that every rival runs (default {rounds})")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that it runs, measures nothing")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write machine, rows and result here")
    parser.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="processor: time of this process alone, for a busy machine"
    )
    alone, cpu = None if threads else [1], None if device else ["cpu"]
    more = {"default": threads or 1, "help": f"threads of torch (default {threads or 1})"}
    parser.add_argument("--threads", type=int, choices=alone, **more)
    parser.add_argument("--device", default="cpu", choices=cpu, help="cpu, cuda, ... (default cpu)")
    for name, help_ in (flags or {}).items():
        parser.add_argument(f"--{name}", action="store_true", help=help_)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    return options


def machine(*packages: str, **more: Any) -> dict[str, Any]:
    """What the numbers were measured on, with the versions of these packages."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    if str(more.get("device", "cpu")).startswith("cuda"):
        more["gpu"] = torch.cuda.get_device_name(more["device"])
    return {
        "date": date.today().isoformat(),
        "cpu": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
        **more,
    }


def interleaved(
    rivals: Rivals, rounds: int, *, device: str = "cpu", clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of each rival, each round running all of them in turn, after one round that is not counted.

    On an accelerator the clock stops when all that a rival has started there is done.
    """
    wait = (lambda: None) if device == "cpu" else torch.accelerator.synchronize
    seconds: dict[str, list[float]] = {name: [] for name in rivals}
    for counted in range(rounds + 1):
        for name, run in rivals.items():
            wait()
            start = clock()
            run()
            wait()
            if counted:
                seconds[name].append(clock() - start)
    return seconds


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Median of the rounds' own ratios, so that a slow spell of the machine counts for both."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def write_results(path: Path | None, **content: Any) -> None:
    """Keep the table as JSON, where a path is given."""
    if path:
        path.write_text(json.dumps(content, indent=2) + "\n")


class Table:
    """Rows that are printed as they come, and kept.

    Args:
        options: of `parse`.
        packages: whose versions are to be told.
        columns: names and format specifications, in their order.
        clock: see `interleaved`; by default that of the options.
        about: more to tell about the measurement.
    """

    def __init__(
        self,
        options: Namespace,
        *packages: str,
        columns: Mapping[str, str],
        clock: Callable[[], float] | None = None,
        **about: Any,
    ) -> None:
        self.options, self.columns, self.about = options, columns, about
        self.clock = clock or CLOCKS[options.clock]
        told = {name: getattr(options, name) for name in ("threads", "device")}
        load = round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None
        self.machine = machine(*packages, rounds=options.rounds, clock=self.clock.__name__, load=load, **told)
        self.rows: list[Row] = []
        print(", ".join(f"{name} {value}" for name, value in self.machine.items()))
        self._print({name: name for name in columns})

    def add(self, **row: Any) -> None:
        """Print a row and keep it; columns that it leaves out stay empty."""
        self.rows.append(row)
        self._print({name: f"{row[name]:{form}}" for name, form in self.columns.items() if name in row})

    def compare(self, rivals: Rivals, *, peer: str, **case: Any) -> None:
        """Time the rivals in turn; a row each: milliseconds, and the ratio of its time to that of the peer."""
        seconds = interleaved(rivals, self.options.rounds, device=self.options.device, clock=self.clock)
        for name, own in seconds.items():
            self.add(
                **case, rival=name, ms=round(1e3 * statistics.median(own), 3), ratio=round(ratio(own, seconds[peer]), 6)
            )

    def ratio(self, rival: str, **case: Any) -> float:
        """Geometric mean of a rival's ratios over the rows of these cases."""
        wanted = {"rival": rival, **case}
        return statistics.geometric_mean(row["ratio"] for row in self.rows if wanted.items() <= row.items())

    def conclude(self, sentence: str) -> None:
        """Print the result and write everything to the file of ``--json``."""
        print(f"\n{sentence}")
        write_results(self.options.json, machine=self.machine, **self.about, rows=self.rows, result=sentence)

    def _print(self, cells: Mapping[str, str]) -> None:
        whole = (f"{cells.get(name, ''):{form.partition('.')[0]}}" for name, form in self.columns.items())
        print("  ".join(whole).rstrip(), flush=True)


def inferring(model: nn.Module, *inputs: Any) -> Callable[[], object]:
    """A rival: the model looks, without gradients."""

    def run() -> None:
        with torch.no_grad():
            model(*inputs)

    return run


def learning(model: nn.Module, loss: Callable[[], Tensor]) -> Callable[[], object]:
    """A rival: gradients of all parameters."""

    def run() -> None:
        model.zero_grad()
        loss().backward()

    return run


def check_same(found: Tensor, expected: Tensor, what: str, tolerance: float = 1e-3) -> None:
    """Rivals must compute the same: differ by ``tolerance`` of the largest number at most.

    Raises:
        SystemExit: they do not.
    """
    apart = float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-9))
    if not apart <= tolerance:
        raise SystemExit(f"{what}: differs from its peer by {apart:.2g} of the largest number; nothing is measured")
