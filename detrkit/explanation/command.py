"""``detrkit explain``: the page of a run's images."""

from __future__ import annotations

import argparse
from itertools import islice
from pathlib import Path

from detrkit.commands import load_run, run_data
from detrkit.errors import DetrkitError
from detrkit.explanation.explorer import save_explorer
from detrkit.explanation.slots import slots
from detrkit.progress import watched
from detrkit.streaming.command import source_of


def explain(options: argparse.Namespace) -> Path:
    """Write the page that the command asks for; gives its path.

    Raises:
        DetrkitError: options that contradict each other, a run or an image that cannot be read.
        WriteError: the page cannot be written.
    """
    if options.images and (options.data or options.split) and not options.slots:
        raise DetrkitError("give either images, or --data and --split", field="images")
    model, run = load_run(options), Path(options.run)
    folder = run if run.is_dir() else run.parent
    found = None
    if options.slots:
        data = run_data(options)
        chosen = range(min(options.slots, len(data)))
        images = (data[index][0] for index in watched(chosen, "slots", len(chosen)))
        found = slots(model, images, batch_size=options.batch_size)
    named = ((frame.name, frame.image) for frame in islice(source_of(options), options.limit))
    path = Path(options.out) if options.out else folder / "explorer.html"
    title = f"What {folder.resolve().name} looks at"
    return save_explorer(model, named, path, title=title, threshold=options.threshold, found=found)
