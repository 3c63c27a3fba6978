"""Charts of studies, beside those of `detrkit.charts`: intervals, curves with bands, cost against benefit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from detrkit.charts import BOTTOM, COLORS, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Axis, Point
from detrkit.html import Markup, figure, joined, tag

ROW = 34  # pixels of a row of whiskers: its name, and the line below it
BANDS = 3  # of one chart
PALE = "opacity:.16;stroke:none"


class Whisker(NamedTuple):
    """A difference and its interval, which may be unknown."""

    name: str
    value: float
    low: float | None
    high: float | None


def whiskers(rows: Sequence[Whisker], *, title: str, x: str, margin: float | None = None) -> Markup:
    """Dots with their intervals, one below the other; no difference is dashed, the margin shaded."""
    ends = [end for row in rows for end in (row.value, row.low, row.high) if end is not None]
    ends += [0.0] if margin is None else [-margin, margin]
    across = Axis(*_padded(ends), RIGHT, WIDTH - RIGHT)
    bottom = TOP + ROW * len(rows)
    drawn: list[Markup] = []
    if margin is not None:
        left, right = across(-margin), across(margin)
        drawn.append(tag("rect", x=_at(left), width=_at(right - left), y=TOP, height=bottom - TOP, style="opacity:.25"))
    for value in across.ticks(5):
        at = _at(across(value))
        drawn.append(tag("line", x1=at, x2=at, y1=TOP, y2=bottom, class_="grid"))
        drawn.append(tag("text", f"{value:+.3g}" if value else "0", x=at, y=bottom + 15, text_anchor="middle"))
    zero = _at(across(0.0))
    drawn.append(tag("line", x1=zero, x2=zero, y1=TOP, y2=bottom, class_="mark"))
    for index, row in enumerate(rows):
        y = TOP + ROW * index
        drawn.append(tag("text", row.name, x=RIGHT, y=y + 12, style="fill:var(--ink)"))
        if row.low is not None and row.high is not None:
            line = f"M{_at(across(row.low))} {y + 22}H{_at(across(row.high))}"
            drawn.append(tag("path", d=line, style="stroke:var(--c0)"))
        drawn.append(_dot(across(row.value), y + 22, "var(--c0)"))
    drawn.append(tag("text", x, x=WIDTH - RIGHT, y=bottom + 31, text_anchor="end"))
    said = "; ".join(f"{row.name} {row.value:+.3g}" for row in rows)
    shaded = None if margin is None else f"Shaded: differences up to {margin:g} are of no interest."
    return _chart(title, drawn, bottom + BOTTOM, f"{title}: {said}", shaded)


def bands(series: Mapping[str, Sequence[Sequence[Point]]], *, title: str, x: str, top: float | None = None) -> Markup:
    """Mean over the runs of each name, in a band from the lowest to the highest; more than three would hide each other.

    Args:
        series: curves of its runs by name; steps that not all runs have are left out.
        title: what the values are.
        x: what the axis to the right is.
        top: greatest value of the chart; by default that of the curves.
    """
    spans = {name: _spans(curves) for name, curves in series.items()}
    if top is None:
        top = max((high for span in spans.values() for *_, high in span), default=0.0) or 0.01
    last = max((step for span in spans.values() for step, *_ in span), default=1.0)
    across, up = Axis(0, last, LEFT, WIDTH - RIGHT), Axis(0, top, HEIGHT - BOTTOM, TOP)
    drawn, keys = _grid(across, up, x), []
    for index, (name, span) in enumerate(spans.items()):
        color = f"var(--c{index % COLORS})"
        highs = [f"{_at(across(step))} {_at(up(high))}" for step, _, _, high in span]
        lows = [f"{_at(across(step))} {_at(up(low))}" for step, low, _, _ in reversed(span)]
        means = [f"{_at(across(step))} {_at(up(mean))}" for step, _, mean, _ in span]
        if span:
            if len(spans) <= BANDS:
                drawn.append(tag("path", d=f"M{'L'.join(highs + lows)}Z", style=f"fill:{color};{PALE}"))
            drawn.append(tag("path", d=f"M{'L'.join(means)}", style=f"stroke:{color}"))
            drawn += [_dot(across(span[0][0]), up(span[0][2]), color)] if len(span) == 1 else []
        keys.append(tag("span", tag("i", style=f"background:{color}"), name, class_="key"))
    said = "; ".join(f"{name} ends at {span[-1][2]:.3g}" for name, span in spans.items() if span)
    return _chart(title, drawn, HEIGHT, f"{title} over {x}: {said or 'no values'}", joined(keys))


def against(points: Mapping[str, Point], *, title: str, x: str) -> Markup:
    """Benefit over a relative cost, a dot each; the dashed lines cross at the base."""
    across = Axis(*_padded([cost for cost, _ in points.values()] + [0.95, 1.05]), LEFT, WIDTH - RIGHT)
    up = Axis(*_padded([gain for _, gain in points.values()] + [0.0]), HEIGHT - BOTTOM, TOP)
    drawn, keys = _grid(across, up, x), []
    ends = {"x1": LEFT, "x2": WIDTH - RIGHT, "y1": TOP, "y2": HEIGHT - BOTTOM}
    drawn.append(tag("line", **{**ends, "x1": _at(across(1.0)), "x2": _at(across(1.0))}, class_="mark"))
    drawn.append(tag("line", **{**ends, "y1": _at(up(0.0)), "y2": _at(up(0.0))}, class_="mark"))
    for index, (name, (cost, gain)) in enumerate(points.items(), 1):
        color = f"var(--c{(index - 1) % COLORS})"
        drawn.append(_dot(across(cost), up(gain), color))
        drawn.append(tag("text", index, x=_at(across(cost) + 6), y=_at(up(gain) - 5)))
        keys.append(tag("span", tag("i", style=f"background:{color}"), f"{index}: {name}", class_="key"))
    said = "; ".join(f"{name} {gain:+.3g} for x{cost:.2f}" for name, (cost, gain) in points.items())
    return _chart(title, drawn, HEIGHT, f"{title} over {x}: {said}", joined(keys))


def _spans(curves: Sequence[Sequence[Point]]) -> list[tuple[float, float, float, float]]:
    """Step, lowest, mean and highest value, where all curves have one."""
    runs = [dict(curve) for curve in curves if len(curve)]
    shared = sorted(set.intersection(*map(set, runs))) if runs else []
    values = {step: [run[step] for run in runs] for step in shared}
    return [(step, min(of), sum(of) / len(of), max(of)) for step, of in values.items()]


def _grid(across: Axis, up: Axis, label: str) -> list[Markup]:
    drawn = []
    for value in up.ticks(4):
        y = up(value)
        drawn.append(tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=_at(y), y2=_at(y), class_="grid"))
        drawn.append(tag("text", f"{value:.3g}", x=LEFT - 6, y=_at(y + 4), text_anchor="end"))
    for value in across.ticks(5):
        drawn.append(tag("text", f"{value:.4g}", x=_at(across(value)), y=HEIGHT - BOTTOM + 15, text_anchor="middle"))
    return [*drawn, tag("text", label, x=WIDTH - RIGHT, y=HEIGHT - 3, text_anchor="end")]


def _dot(x: float, y: float, color: str) -> Markup:
    return tag("path", d=f"M{_at(x)} {_at(y)}h0", style=f"stroke:{color};stroke-width:7")


def _padded(values: Sequence[float]) -> tuple[float, float]:
    """Least and greatest value with some room around them."""
    low, high = min(values), max(values)
    room = 0.08 * (high - low) or 0.01
    return low - room, high + room


def _at(value: float) -> str:
    return f"{value:.1f}"


def _chart(title: str, content: Sequence[Markup], height: float, alt: str, caption: object) -> Markup:
    drawing = tag("svg", *content, viewBox=f"0 0 {WIDTH} {height:g}", role="img", aria_label=alt)
    return figure(joined([tag("h3", title), drawing]), caption, class_="chart")
