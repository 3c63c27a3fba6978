"""What a study found, as text for people: tables, sentences, and a Markdown page."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from detrkit.ablation import behaviour
from detrkit.ablation.behaviour import Content

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
    scored, behaved = _aligned(HEAD, rows(content)), _aligned(*behaviour.means(content))
    diffs = [f"{v['name']}: {said}" for v in content["variants"] if (said := changes(v))]
    title = [f"{content['question']}", ""] if content["question"] else []
    return (
        "\n".join(
            [
                *title,
                summary(content),
                "",
                *scored,
                "",
                *findings(content),
                "",
                *behaved,
                "",
                *advice(content),
                "",
                *diffs,
            ]
        )
        + "\n"
    )


def _aligned(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a table of one width a column."""
    table = [head, *rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]


def summary(content: Content) -> str:
    """What was run, in a line."""
    seeds, base = content["seeds"], content["base"]["preset"]
    height, width = content["workload"]["size"]
    return (
        f"{content['metric']} of the last evaluation on {content['data']['val']['images']} images, {len(seeds)} seeds "
        f"({seeds[0]} to {seeds[-1]}), {content['budget']} a run, base {base}; costs at {height} x {width} pixels, "
        f"times ({content['workload']['clock']} time, in turn with the base) relative to the base"
    )


def changes(variant: Mapping[str, Any]) -> str:
    """What a variant changes of the base."""
    return ", ".join(f"{name} {before} -> {after}" for name, (before, after) in variant["diff"].items())


def as_markdown(content: Content, *, picture: str | None = None) -> str:
    """The same as a Markdown page.

    Args:
        content: what the study found.
        picture: file beside the page that shows the ranking.
    """
    shown = [f"![Differences from the base with their intervals]({picture})", ""] if picture else []
    lines = _table(HEAD, rows(content))
    behaved = [
        *_table(*behaviour.means(content)),
        "",
        behaviour.DIFFERENCES,
        "",
        *_table(*behaviour.differences(content)),
    ]
    words = [f"**{n.capitalize()}.** {content[n]}\n" for n in ("hypothesis", "result") if content[n]]
    listed = [f"- {line}" for line in (*findings(content), *advice(content))]
    diffs = [f"- `{v['name']}`: {said}" for v in content["variants"] if (said := changes(v))]
    here = ", ".join(f"{name} {value}" for name, value in content["environment"].items())
    title = f"# {content['question'] or 'Study of ' + content['base']['preset']}"
    parts = [title, "", *words, summary(content) + ".", "", *shown, *lines, "", *listed, "", *diffs, ""]
    parts += ["## How training went", "", behaviour.READING, "", *behaved, ""]
    parts += [f"- *{name}*: {meaning}" for name, meaning in behaviour.meanings(content)]
    return "\n".join([*parts, "", f"Ran with {here}."]) + "\n"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table."""
    table = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in table]
