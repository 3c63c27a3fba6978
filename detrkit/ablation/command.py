"""``detrkit ablate``: from the words of the command line to a finished study and its page."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from detrkit.ablation.study import Plan, Study
from detrkit.checks import Outcome
from detrkit.errors import DetrkitError

SAVED, PAGE, TABLE, RANKING = "study.json", "report.html", "report.md", "ranking.svg"


def ablate(options: argparse.Namespace) -> Outcome:
    """Run a study, or go on with it, and write its results."""
    study = Study.of(plan_of(options))
    from detrkit import html
    from detrkit.ablation.report import page, ranking
    from detrkit.ablation.results import gather
    from detrkit.ablation.runner import prepare, run_all
    from detrkit.ablation.sights import save_sights
    from detrkit.ablation.text import as_markdown, as_text
    from detrkit.checkpoints.storage import replace_text

    folder = folder_of(options, study.plan)
    store = Path(options.runs) if options.runs else None
    jobs = prepare(study, folder, threads=threads_of(options.workers), store=store)
    run_all(jobs, folder, workers=options.workers, say=lambda line: sys.stderr.write(f"{line}\n"))
    content = gather(study, jobs, _saved(folder / SAVED), save_sights(jobs, folder))
    files = {
        SAVED: json.dumps(content, indent=2) + "\n",
        PAGE: page(content),
        TABLE: as_markdown(content, picture=RANKING),
        RANKING: html.alone(ranking(content)),
    }
    for name, text in files.items():
        replace_text(folder / name, text)
    return Outcome(content, as_text(content) + "\nlook at:\n" + "".join(f"  {folder / name}\n" for name in files))


def plan_of(options: argparse.Namespace) -> Plan:
    """A study's file, if one is given, with what the command line says over it."""
    plan = Plan.read(options.study) if options.study else Plan()
    plan = plan.with_words(options.fields)
    names = ("vary", "grid", "seeds", "budget", "metric", "margin")
    given = {name: value for name in names if (value := getattr(options, name)) not in (None, [], False)}
    return plan.replace("ablate", **given)


def folder_of(options: argparse.Namespace, plan: Plan) -> Path:
    """Where a study lies; by default the same place for the same file or preset, so that it can go on."""
    if options.out:
        folder = Path(options.out)
    else:
        folder = Path("ablations") / (Path(options.study).stem if options.study else str(plan.base))
    if folder.is_file():
        raise DetrkitError("is a file, not a folder", path=folder, hint="choose another --out")
    return folder


def threads_of(workers: int) -> int:
    """Threads of PyTorch in a run: one in a worker, else what this process has."""
    import torch

    return 1 if workers else torch.get_num_threads()


def _saved(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
