"""How training went, variant by variant: what the instruments say at the end, and when a score was reached.

For information, beside what a study compares: differences come with their own intervals, corrected for nothing.
"""

from __future__ import annotations

import statistics as plain
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from detrkit.ablation import statistics
from detrkit.ablation.instruments import reached
from detrkit.ablation.recording import DYNAMICS
from detrkit.ablation.statistics import Pairs

Content = dict[str, Any]
Runs = Sequence[Mapping[str, Any]]

NONE = "\N{EN DASH}"
HALFWAY = 0.5  # of the base's final score: what it takes to reach is told

TITLES = {
    "changed": "matching changed",
    "agreement": "first layer agrees",
    "answered": "queries an object had",
    "used": "effective queries",
    "duplicates": "duplicates",
    "claimed": "detections an object",
    "unmatched": "objects not found",
}

READING = (
    "Measured on the held-out images, at the end of training; means over the seeds. The first column is the median step"
    " of the evaluation at which a run first had half of the base's final score."
)
DIFFERENCES = (
    "Differences from the base, paired by seed, with their 95 % intervals: for information, each for itself and "
    "corrected for nothing."
)


def summarize(runs: Mapping[str, Runs], base: str, metric: str) -> dict[str, Content]:
    """Behaviour of every variant, in plain JSON.

    Args:
        runs: of each variant, as `detrkit.ablation.results` gathers them.
        base: name of the one that the others are held against.
        metric: of the runs' curves.

    Returns:
        For each variant ``ends``, the instruments' last numbers (`Ends`), and ``reached`` (see `_reached`).
    """
    scores = [run["score"] for run in runs[base] if run["score"] is not None]
    level = HALFWAY * plain.fmean(scores) if scores else 0.0
    return {
        name: {
            "ends": {what: _end(of_one, runs[base] if name != base else None, what) for what in DYNAMICS},
            "reached": _reached(of_one, level, metric),
        }
        for name, of_one in runs.items()
    }


def _end(runs: Runs, base: Runs | None, what: str) -> Content:
    """Mean of an instrument's last numbers, and the mean difference from the base's with its 95 % interval."""
    values = _last(runs, what)
    known = [value for value in values.values() if value is not None]
    found: Content = {"mean": plain.fmean(known) if known else None, "difference": None, "interval": None}
    pairs = None if base is None else Pairs.of(_last(base, what), values)
    if pairs is not None and len(pairs.seeds) > 1:
        low, high, _ = statistics.t_interval(pairs.differences)
        found |= {"difference": float(pairs.differences.mean()), "interval": [float(low), float(high)]}
    return found


def _last(runs: Runs, what: str) -> dict[int, float | None]:
    """Last number of each run, by seed."""
    return {run["seed"]: run["dynamics"][what][-1][1] if run["dynamics"][what] else None for run in runs}


def _reached(runs: Runs, level: float, metric: str) -> Content:
    """Median step at which the runs that came to a score first had it, and how many did."""
    found = [reached(_evaluations(run, metric), level, metric) for run in runs]
    steps = [one.step for one in found if one is not None]
    return {"level": level, "steps": plain.median(steps) if steps else None, "runs": len(steps), "of": len(runs)}


def _evaluations(run: Mapping[str, Any], metric: str) -> Iterator[dict[str, Any]]:
    """The curve of a run as entries of its log."""
    for (step, value), seconds in zip(run["curve"], run["seconds_at"], strict=True):
        yield {"step": step, "seconds": seconds, metric: value}


Table = tuple[list[str], list[list[str]]]


def means(content: Content) -> Table:
    """Columns, and a line of text for each variant."""
    level = content["variants"][0]["behaviour"]["reached"]["level"]
    lines = [
        [variant["name"], _steps(variant["behaviour"]["reached"]), *(_mean(end) for end in _ends(content, variant))]
        for variant in content["variants"]
    ]
    return ["variant", f"steps to {content['metric']} {level:.2g}", *_titles(content)], lines


def differences(content: Content) -> Table:
    """The same of the differences from the base, where two seeds at least have both."""
    lines = [
        [variant["name"], *(_difference(end) for end in _ends(content, variant))] for variant in content["variants"][1:]
    ]
    return ["variant", *_titles(content)], lines


def meanings(content: Content) -> Iterator[tuple[str, str]]:
    """What the columns are."""
    return ((TITLES[what], DYNAMICS[what]) for what in _named(content))


def curves(content: Content) -> Iterator[tuple[str, dict[str, list[list[tuple[float, float]]]]]]:
    """For each instrument the curves of the runs of each variant."""
    for what in _named(content):
        yield (
            TITLES[what],
            {v["name"]: [_known(run["dynamics"][what]) for run in v["runs"]] for v in content["variants"]},
        )


def _named(content: Content) -> list[str]:
    return [
        what for what in DYNAMICS if any(v["behaviour"]["ends"][what]["mean"] is not None for v in content["variants"])
    ]


def _known(curve: Iterable[Sequence[Any]]) -> list[tuple[float, float]]:
    return [(step, value) for step, value in curve if value is not None]


def _steps(reached: Mapping[str, Any]) -> str:
    some = "" if reached["runs"] == reached["of"] else f" ({reached['runs']} of {reached['of']} runs)"
    return "never" if reached["steps"] is None else f"{reached['steps']:g}{some}"


def _ends(content: Content, variant: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [variant["behaviour"]["ends"][what] for what in _named(content)]


def _titles(content: Content) -> list[str]:
    return [TITLES[what] for what in _named(content)]


def _mean(end: Mapping[str, Any]) -> str:
    return NONE if end["mean"] is None else f"{end['mean']:.3f}"


def _difference(end: Mapping[str, Any]) -> str:
    if end["interval"] is None:
        return NONE
    half = (end["interval"][1] - end["interval"][0]) / 2
    return f"{end['difference']:+.3f} \N{PLUS-MINUS SIGN} {half:.3f}"
