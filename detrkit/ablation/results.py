"""What a study found: everything in plain JSON (``study.json``), and that as text for people."""

from __future__ import annotations

import math
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import detrkit
from detrkit.ablation import costs, statistics
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


def gather(study: Study, jobs: Sequence[Job], earlier: Mapping[str, Any] | None = None) -> Content:
    """Everything about a study whose runs have ended.

    Args:
        study: what was asked.
        jobs: its runs.
        earlier: what was gathered before in the same folder; costs that still hold are taken from it.
    """
    plan, variants = study.plan, study.variations.variants
    runs = {
        variant.name: [_run(job, plan.metric) for job in jobs if job.variant == variant.name] for variant in variants
    }
    scores = {name: {run["seed"]: run["score"] for run in of_one} for name, of_one in runs.items()}
    base, others = variants[0].name, {variant.name: scores[variant.name] for variant in variants[1:]}
    found = {c.other: c for c in compare(scores[base], others, name=base, metric=plan.metric, margin=plan.margin)}
    measured = _costs(jobs, earlier or {})
    return {
        "question": plan.question,
        "hypothesis": plan.hypothesis,
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
    curve = [[entry["step"], entry[metric]] for entry in result.pop("evaluations")]
    dynamics = {name: [[step, of[name]] for step, of in result["dynamics"].items()] for name in DYNAMICS}
    score = curve[-1][1] if curve and result["failure"] is None else None
    return {
        "seed": job.seed,
        "score": score,
        **result,
        "curve": curve,
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
    height, width = resized_size(image.height, image.width, detector.short_side, detector.long_side)
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


HEAD = (
    "variant", "mean", "difference", "95 % interval", "verdict",
    "parameters", "MACs", "training time", "inference time", "memory",
)  # fmt: skip


def rows(content: Content) -> Iterator[list[str]]:
    """The cells of `HEAD` for each variant, as text; times are ratios to the base, memory is the peak in training."""
    for variant in content["variants"]:
        compared, cost = variant["comparison"], variant["costs"]
        yield [
            variant["name"],
            number(variant["mean"]),
            number(compared["difference"], "+") if compared else "",
            interval(compared["interval"]) if compared else "",
            compared["verdict"] if compared else "",
            amount(cost["parameters"]["total"]),
            amount(cost["macs"]["total"]) + ("+" if cost["macs"]["uncounted"] else ""),
            f"x{cost['training_time']:.2f}",
            f"x{cost['inference_time']:.2f}",
            f"{amount(cost['training_memory'])}B",
        ]


def number(value: float | None, sign: str = "") -> str:
    """A score or a difference of scores."""
    return "\N{EN DASH}" if value is None or math.isnan(value) else f"{value:{sign}.4f}"


def interval(ends: Sequence[float | None]) -> str:
    """Two ends, of which the level behind them is no part; where they are not known, nothing is excluded."""
    low, high, *_ = ends
    return "unknown" if low is None or high is None else f"{number(low, '+')} to {number(high, '+')}"


def amount(value: float) -> str:
    """A large number with its unit: 1.25 M."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:g} "


def findings(content: Content) -> list[str]:
    """Sentences: what can be concluded, and what is to be known about the runs."""
    found = [variant["comparison"]["sentence"] for variant in content["variants"] if variant["comparison"]]
    found += [f"{name} is {first}: it was not run again" for name, first in content["same"].items()]
    every = [(variant["name"], run) for variant in content["variants"] for run in variant["runs"]]
    found += [f"{name}, seed {run['seed']}: no score: {run['failure']}" for name, run in every if run["failure"]]
    if not any(run["score"] for _, run in every):
        found.append(f"no run has a {content['metric']} above 0: they are too short, or fail, and tell nothing")
    if any(run["out_of_time"] for _, run in every):
        steps = [run["steps"] for _, run in every]
        found.append(
            f"runs ended by time, after {min(steps)} to {max(steps)} steps, and are compared by their last evaluation: "
            "differences hold for this machine and what else it was doing"
        )
    return found


def advice(content: Content) -> list[str]:
    """How many seeds would tell more, for each variant."""
    compared = (variant["comparison"] for variant in content["variants"] if variant["comparison"])
    return [f"{one['other']}: {one['advice']}" for one in compared]


def as_text(content: Content) -> str:
    """The table, what can be concluded, and what each variant changes."""
    table = [list(HEAD), *rows(content)]
    widths = [max(len(row[i]) for row in table) for i in range(len(HEAD))]
    lines = ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
    diffs = [f"{v['name']}: {said}" for v in content["variants"] if (said := changes(v))]
    title = [f"{content['question']}", ""] if content["question"] else []
    return (
        "\n".join([*title, summary(content), "", *lines, "", *findings(content), "", *advice(content), "", *diffs])
        + "\n"
    )


def summary(content: Content) -> str:
    """What was run, in a line."""
    seeds, base = content["seeds"], content["base"]["preset"]
    height, width = content["workload"]["size"]
    return (
        f"{content['metric']} of the last evaluation on {content['data']['val']['images']} images, {len(seeds)} seeds "
        f"({seeds[0]} to {seeds[-1]}), {content['budget']} a run, base {base}; costs at {height} x {width} pixels, "
        f"times relative to the base"
    )


def changes(variant: Mapping[str, Any]) -> str:
    """What a variant changes of the base."""
    return ", ".join(f"{name} {before} -> {after}" for name, (before, after) in variant["diff"].items())


def as_markdown(content: Content) -> str:
    """The same as a Markdown page."""
    table = [list(HEAD), ["---"] * len(HEAD), *rows(content)]
    lines = [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in table]
    words = [f"**{name.capitalize()}.** {content[name]}\n" for name in ("question", "hypothesis") if content[name]]
    listed = [f"- {line}" for line in (*findings(content), *advice(content))]
    diffs = [f"- `{v['name']}`: {said}" for v in content["variants"] if (said := changes(v))]
    here = ", ".join(f"{name} {value}" for name, value in content["environment"].items())
    title = f"# Study of {content['base']['preset']}"
    parts = [title, "", *words, summary(content) + ".", "", *lines, "", *listed, "", *diffs, "", f"Ran with {here}."]
    return "\n".join(parts) + "\n"
