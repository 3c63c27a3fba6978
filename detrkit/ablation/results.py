"""What a study found: everything in plain JSON (``study.json``)."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import detrkit
from detrkit.ablation import behaviour, costs, statistics
from detrkit.ablation.conclusions import Comparison, compare
from detrkit.ablation.identity import code, digest
from detrkit.ablation.recording import DYNAMICS
from detrkit.ablation.runner import Job
from detrkit.ablation.study import Study, difference
from detrkit.config import DetectorConfig, TrainConfig
from detrkit.preprocessing import resized_size
from detrkit.training.splits import make_data

INTERESTING = 0.01  # difference that sample sizes are told for, where no margin was stated
ROUNDS = 10

Content = dict[str, Any]


def gather(
    study: Study,
    jobs: Sequence[Job],
    earlier: Mapping[str, Any] | None = None,
    sights: Mapping[str, Mapping[str, str]] | None = None,
) -> Content:
    """Everything about a study whose runs have ended.

    Args:
        study: what was asked.
        jobs: its runs.
        earlier: what was gathered before in the same folder; costs that still hold are taken from it.
        sights: explorer pages of each variant, as `save_sights` names them.
    """
    plan, variants = study.plan, study.variations.variants
    runs = {
        variant.name: [_run(job, plan.metric) for job in jobs if job.variant == variant.name] for variant in variants
    }
    scores = {name: {run["seed"]: run["score"] for run in of_one} for name, of_one in runs.items()}
    base, others = variants[0].name, {variant.name: scores[variant.name] for variant in variants[1:]}
    found = {c.other: c for c in compare(scores[base], others, name=base, metric=plan.metric, margin=plan.margin)}
    measured = _costs(jobs, earlier or {})
    behaved = behaviour.summarize(runs, base, plan.metric)
    return {
        "question": plan.question,
        "hypothesis": plan.hypothesis,
        "result": plan.result,
        "base": {"preset": plan.base, "fields": plan.fields},
        "vary": list(plan.vary),
        "grid": plan.grid,
        "seeds": list(study.seeds),
        "budget": str(study.budget),
        "metric": plan.metric,
        "margin": plan.margin,
        "same": dict(study.variations.same),
        "variants": [
            {
                "name": variant.name,
                "diff": {name: list(pair) for name, pair in difference(study, index).items()},
                "mean": _mean(scores[variant.name].values()),
                "noise": _noise(scores[variant.name].values()),
                "comparison": _compared(found.get(variant.name), plan.margin),
                "costs": measured["variants"][variant.name],
                "behaviour": behaved[variant.name],
                "sights": dict((sights or {}).get(variant.name, {})),
                "runs": runs[variant.name],
            }
            for index, variant in enumerate(variants)
        ],
        "workload": {name: value for name, value in measured.items() if name != "variants"},
        "data": {"spec": jobs[0].identity["train"]["data"], **jobs[0].identity["data"]},
        "environment": environment(jobs[0].identity["threads"]),
    }


def _run(job: Job, metric: str) -> Content:
    """A run with its curve; its score is that of its last evaluation, not the best, which would favour noise."""
    result = job.result()
    evaluations = result.pop("evaluations")
    curve = [[entry["step"], entry[metric]] for entry in evaluations]
    dynamics = {name: [[step, of[name]] for step, of in result["dynamics"].items()] for name in DYNAMICS}
    score = curve[-1][1] if curve and result["failure"] is None else None
    return {
        "seed": job.seed,
        "score": score,
        **result,
        "curve": curve,
        "seconds_at": [entry["seconds"] for entry in evaluations],
        "dynamics": dynamics,
        "folder": "/".join(job.folder.parts[-3:]),
        "identity": digest(job.identity),
    }


def _compared(comparison: Comparison | None, margin: float | None) -> Content | None:
    if comparison is None:
        return None
    return {**comparison.to_dict(), "advice": comparison.advice(margin or INTERESTING)}


def _mean(scores: Iterable[float | None]) -> float | None:
    known = [score for score in scores if score is not None]
    return sum(known) / len(known) if known else None


def _noise(scores: Iterable[float | None]) -> float | None:
    known = [score for score in scores if score is not None]
    return statistics.spread(known) if len(known) > 1 else None


def _costs(jobs: Sequence[Job], earlier: Mapping[str, Any]) -> Content:
    """Costs of all variants at the base's training size, or those measured before of the same ones."""
    first = {job.variant: job for job in reversed(jobs)}
    base = jobs[0]
    detector, train = DetectorConfig(**base.identity["detector"]), TrainConfig(**base.identity["train"])
    image = make_data(train, train.val_split)[0][0]
    height, width = resized_size(image.height, image.width, detector.short_side, detector.long_side, detector.square)
    configs = {job.variant: DetectorConfig(**job.identity["detector"]) for job in jobs[: len(first)]}
    known = {"detectors": {name: config.to_dict() for name, config in configs.items()}, "code": code()}
    threads = base.identity["threads"]
    about = {
        "size": [height, width],
        "batch": train.batch_size,
        "clock": costs.clock(threads),
        "key": digest([known, height, width]),
    }
    if earlier.get("workload") == about:
        return {**about, "variants": {variant["name"]: variant["costs"] for variant in earlier["variants"]}}
    work = costs.Workload(height, width, train.batch_size)
    measured = costs.measure(configs, base.variant, work, rounds=ROUNDS, threads=threads)
    return {**about, "variants": {name: cost.to_dict() for name, cost in measured.items()}}


def environment(threads: int) -> dict[str, Any]:
    """What a study ran on."""
    return {
        "detrkit": detrkit.__version__,
        "code": code(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {_processor()}",
        "threads": threads,
    }


def _processor() -> str:
    listed = Path("/proc/cpuinfo")
    lines = listed.read_text().splitlines() if listed.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or "unknown processor")
