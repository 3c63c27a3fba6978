"""Charts for pages, as SVG that takes its colours and fonts from the page: lines over steps, and histograms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil, floor, log10
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detrkit.html import Markup, figure, joined, tag

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 380, 220, 40, 34, 8, 8
POINTS = 240  # a line is averaged down to about as many
DOTTED = 24  # points that are marked one by one
COLORS = 6  # of the style sheet

Point = tuple[float, float]


class Axis:
    """Values along one side of a chart.

    Args:
        low: the least value.
        high: the greatest one.
        start: pixels of the least value.
        end: pixels of the greatest one.
        log: logarithmic.
    """

    def __init__(self, low: float, high: float, start: float, end: float, *, log: bool = False) -> None:
        self.log = log and low > 0
        high = high if high > low else low + (abs(low) or 1)
        self.low, self.high, self.start, self.end = self._at(low), self._at(high), start, end

    def _at(self, value: float) -> float:
        return log10(value) if self.log else value

    def __call__(self, value: float) -> float:
        """Pixels of a value."""
        return self.start + (self._at(value) - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self, most: int = 5) -> list[float]:
        """Round values within the range: 1, 2 and 5 times a power of ten, or whole steps of such a value."""
        if self.log:
            decades = range(floor(self.low), ceil(self.high) + 1)
            for factors in ((1,), (1, 3), (1, 2, 5)):
                values = (factor * 10.0**decade for decade in decades for factor in factors)
                inside = [value for value in values if self.low <= self._at(value) <= self.high]
                if 3 <= len(inside) <= most + 1:
                    return inside
        low, high = (10**end if self.log else end for end in (self.low, self.high))
        size = 10.0 ** floor(log10((high - low) / most))
        steps = (size * factor for factor in (10, 5, 2, 1))
        rows = ([step * i for i in range(ceil(low / step - 1e-9), floor(high / step + 1e-9) + 1)] for step in steps)
        return next((row for row in rows if len(row) >= 3), [])


def lines(
    series: Mapping[str, Sequence[Point]],
    *,
    title: str,
    x: str,
    log: bool = False,
    limits: tuple[float | None, float | None] = (None, None),
    graded: bool = False,
) -> Markup:
    """Lines over a common axis, with a key below.

    Args:
        series: points by name of the line; a line of no points is left out.
        title: what the values are.
        x: what the axis to the right is, which starts at 0.
        log: logarithmic values, where all are above 0.
        limits: least and greatest value of the chart; None: that of the lines.
        graded: the lines are stages of one thing: one colour that grows stronger.
    """
    kept = {name: thinned(points) for name, points in series.items() if len(points)}
    values = [y for points in kept.values() for _, y in points] or [0.0, 1.0]
    steps = [s for points in kept.values() for s, _ in points] or [1.0]
    low, high = (
        given if given is not None else own for given, own in zip(limits, (min(values), max(values)), strict=True)
    )
    across = Axis(0, max(steps), LEFT, WIDTH - RIGHT)
    up = Axis(low, high, HEIGHT - BOTTOM, TOP, log=log)
    drawn, keys = [], []
    for index, (name, points) in enumerate(kept.items()):
        color = f"var(--c{0 if graded else index % COLORS})"
        strength = 0.25 + 0.75 * (index + 1) / len(kept) if graded else 1.0
        drawn.append(_line([(across(s), up(y)) for s, y in points], f"stroke:{color};opacity:{strength:.2f}"))
        swatch = tag("i", style=f"background:{color};opacity:{strength:.2f}")
        keys.append(tag("span", swatch, name, class_="key"))
    last = "; ".join(f"{name} ends at {points[-1][1]:.3g}" for name, points in kept.items())
    content = (*_grid(across, up, x), *drawn)
    return _chart(
        title, content, alt=f"{title} over {x}: {last or 'no values'}", caption=joined(keys) if len(keys) > 1 else None
    )


def histogram(
    values: Sequence[float] | NDArray[Any],
    *,
    title: str,
    x: str,
    bins: int = 24,
    log: bool = False,
    mark: tuple[float, str] | None = None,
) -> Markup:
    """How often values occur.

    Args:
        values: any number of them; those not above 0 are left out under ``log``.
        title: what they are.
        x: what the axis to the right is.
        bins: number of bars; whole numbers over a short range get one each.
        log: logarithmic axis to the right.
        mark: a value to point out, and its name.
    """
    array = np.asarray([v for v in values if v > 0 or not log] or [1.0], dtype=float)
    low, high = float(array.min()), float(array.max())
    if not log and bool((array == np.round(array)).all()) and high - low < 2 * bins:
        edges = np.arange(low, high + 2) - 0.5
    else:
        edges = (
            np.geomspace(low, max(high, low * 1.01), bins + 1)
            if log
            else np.linspace(low, max(high, low + 1e-9), bins + 1)
        )
    counts, edges = np.histogram(array, edges)
    ends = [float(edges[0]), float(edges[-1]), *([mark[0]] if mark else [])]
    across = Axis(min(ends), max(ends), LEFT, WIDTH - RIGHT, log=log)
    up = Axis(0, max(1, int(counts.max())), HEIGHT - BOTTOM, TOP)
    content = [*_grid(across, up, x)]
    for count, left, right in zip(counts, edges[:-1], edges[1:], strict=True):
        width = max(1.0, across(right) - across(left) - 1)
        place = {"x": f"{across(left):.1f}", "y": f"{up(count):.1f}", "width": f"{width:.1f}"}
        content.append(tag("rect", **place, height=f"{up(0) - up(count):.1f}"))
    if mark is not None:
        at = f"{across(mark[0]):.1f}"
        content.append(tag("line", x1=at, x2=at, y1=TOP, y2=HEIGHT - BOTTOM, class_="mark"))
    said = f"{title}: {len(values):,} values from {low:.3g} to {high:.3g}, median {np.median(array):.3g}"
    return _chart(title, content, alt=said, caption=None if mark is None else f"Dashed: {mark[1]}.")


def thinned(points: Sequence[Point], most: int = POINTS) -> list[Point]:
    """At most about so many points, each the mean of neighbours."""
    width = ceil(len(points) / most)
    parts = (np.array(points[start : start + width], dtype=float) for start in range(0, len(points), width))
    return [(float(step), float(value)) for step, value in (part.mean(axis=0) for part in parts)]


def _grid(across: Axis, up: Axis, label: str) -> list[Markup]:
    drawn = []
    for value in up.ticks(4):
        y = f"{up(value):.1f}"
        drawn += [
            tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y, class_="grid"),
            tag("text", _short(value), x=LEFT - 6, y=f"{up(value) + 4:.1f}", text_anchor="end"),
        ]
    for value in across.ticks(5):
        drawn.append(tag("text", _short(value), x=f"{across(value):.1f}", y=HEIGHT - BOTTOM + 15, text_anchor="middle"))
    return [*drawn, tag("text", label, x=WIDTH - RIGHT, y=HEIGHT - 3, text_anchor="end")]


def _line(points: Sequence[Point], style: str) -> Markup:
    """A line; few points are dotted, too."""
    places = [f"{x:.1f} {y:.1f}" for x, y in points]
    dots = tag("path", d="".join(f"M{place}h0" for place in places), style=style, class_="dots")
    return joined([tag("path", d="M" + "L".join(places), style=style), dots if len(places) <= DOTTED else None])


def _chart(title: str, content: Sequence[Markup], *, alt: str, caption: object) -> Markup:
    drawing = tag("svg", *content, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=alt)
    return figure(joined([tag("h3", title), drawing]), caption, class_="chart")


def _short(value: float) -> str:
    """A number for an axis."""
    thousands = abs(value) >= 10_000
    return f"{value / 1000:.4g}k" if thousands else f"{value:.4g}"
