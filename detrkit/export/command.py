"""``detrkit export``: a run for other programs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from PIL.Image import Image

import detrkit
from detrkit.commands import run_data
from detrkit.errors import DetrkitError
from detrkit.export import FORMATS, Export, export

PHOTOGRAPHS = 4  # on which a program is compared


def export_run(options: argparse.Namespace) -> Export:
    """Write what the command asks for.

    Raises:
        DetrkitError: a run that cannot be read, or what `export` raises.
    """
    run = Path(options.run)
    beside = run / "model" if run.is_dir() else run.with_suffix("")
    out = Path(options.out or f"{beside}{FORMATS[options.format].suffix}")
    model = detrkit.load(run)
    if out.exists() and out.samefile(run):
        raise DetrkitError("that is the run itself", field="--out", value=str(out), hint="choose another --out")
    shown = some_photographs(options)
    return export(model, out, options.format, photographs=shown, say=lambda line: sys.stderr.write(f"{line}\n"))


def some_photographs(options: argparse.Namespace) -> Iterator[Image]:
    """The first images of the data that a command names, else of the run's; says so where the run's cannot be read."""
    try:
        data = run_data(options)
        yield from (data[index][0] for index in range(min(PHOTOGRAPHS, len(data))))
    except DetrkitError as error:
        if options.data or options.split:
            raise
        sys.stderr.write(f"no photographs to compare on: {error}\n")
