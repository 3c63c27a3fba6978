"""The check of a data set as a page: what is wrong, numbers, and pictures of both."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from detrkit import charts, html
from detrkit.checkpoints.storage import replace_text
from detrkit.checks.data import QUANTILES, DataCheck, per_class, place, quantiles, short_name
from detrkit.checks.survey import Survey
from detrkit.checks.suspicions import Suspicion
from detrkit.datasets import Finding
from detrkit.drawing import draw, of_target
from detrkit.errors import DataError

SAMPLES = 8  # pictures of the data
WORST = 3  # pictures of a kind of finding
LISTED = 50  # findings of a kind that the page names; findings.txt names all
SIDE = 420  # pixels of a picture


def write_page(check: DataCheck, folder: Path) -> Path:
    """Write ``index.html``, and ``findings.txt`` with every finding, into a folder.

    Returns:
        The page.

    Raises:
        WriteError: the folder cannot be written.
    """
    replace_text(folder / "findings.txt", "".join(f"{finding}\n" for finding in check.findings))
    replace_text(folder / "index.html", page(check))
    return folder / "index.html"


def page(check: DataCheck) -> str:
    """The page's text."""
    names = check.surveys[0].data.label_space.names
    lead = [html.tag("p", html.tag("code", check.spec))]
    lead += [html.tag("p", f"Training would refuse: {sentence}", class_="alert") for sentence in check.refusals]
    sizes = {f"images in {one.split}": len(one.data) for one in check.surveys}
    objects = sum(int(one.per_class.sum()) for one in check.surveys)
    facts = html.facts({**sizes, "objects": objects, "classes": len(names), "findings": len(check.findings)})
    return html.page(
        f"Data check: {short_name(check.spec)}",
        *_findings(check),
        html.section("Classes", _classes(check), note="Objects of each class; crowds are not counted."),
        *(_numbers(one, check) for one in check.surveys if len(one.index)),
        _samples(check.surveys[0]),
        lead=html.joined([*lead, facts]),
    )


def _findings(check: DataCheck) -> Iterator[html.Markup]:
    """A section for what is wrong, one for what is suspicious; where there is neither, that is said."""
    facts: list[html.Markup] = []
    doubts: list[html.Markup] = []
    for (what, action), found in check.kinds.items():
        suspicious = isinstance(found[0], Suspicion)
        number = f"{len(found):,}" if suspicious else f"{len(found):,}, {action}"
        heading = html.tag("h3", f"{what} ", html.tag("span", number))
        (doubts if suspicious else facts).append(html.joined([heading, *_kind(check, found)]))
    if facts:
        yield html.section("Wrong", *facts, note="Faults, and what was done about them.")
    if doubts:
        yield html.section("Suspicious", *doubts, note="This may be right, and nothing was changed.")
    if not check.findings:
        yield html.section("Findings", html.tag("p", "Nothing wrong and nothing suspicious."))


def _kind(check: DataCheck, found: list[Finding]) -> Iterator[html.Markup]:
    """Findings of one kind: a few pictures and a list."""
    if shots := [picture for finding in _spread(found) if (picture := _shot(check, finding))]:
        yield html.gallery(shots)
    listed = html.tag("ul", *(html.tag("li", html.tag("code", place(finding))) for finding in found[:LISTED]))
    rest = html.tag("p", f"{len(found) - LISTED:,} more in findings.txt.") if len(found) > LISTED else None
    yield html.folded(f"All {len(found):,}", listed, rest) if len(found) > WORST else listed


def _spread(found: list[Finding]) -> list[Finding]:
    """A few of many, from one end to the other."""
    places = np.linspace(0, len(found) - 1, min(WORST, len(found)))
    return [found[int(place)] for place in places]


def _shot(check: DataCheck, finding: Finding) -> html.Markup | None:
    """The image that a finding is about, with the boxes concerned; None where it is not about one that can be seen."""
    if (where := _row(check, finding)) is None:
        return None
    one, row = where
    boxes = finding.boxes if isinstance(finding, Suspicion) else ()
    value = f": {finding.value}" if finding.value is not None else ""
    return _drawn(one, row, f"{one.split}, image {one.ids[row]}{value}", boxes)


def _drawn(one: Survey, row: int, caption: str, chosen: tuple[int, ...] = ()) -> html.Markup:
    """An image with all of its boxes, or with those chosen; undecoded ones may turn out to be damaged."""
    try:
        image, target = one.data[int(one.index[row])]
    except DataError as error:
        return html.figure(html.tag("p", error, class_="alert"), caption)
    boxes = of_target(target, one.data.label_space)
    boxes = [boxes[i] for i in chosen] or boxes
    alt = f"image {one.ids[row]} with {len(boxes)} boxes"
    return html.figure(html.picture(draw(image, boxes, side=SIDE), alt), caption)


def _row(check: DataCheck, finding: Finding) -> tuple[Survey, int] | None:
    """Where the image of a finding is; by its id for what the reader found."""
    for one in check.surveys:
        if isinstance(finding, Suspicion):
            if finding.row is not None and finding.split == one.split:
                return one, finding.row
        elif finding.image_id in one.ids and finding in one.data.findings:
            return one, one.ids.index(finding.image_id)
    return None


def _classes(check: DataCheck) -> html.Markup:
    classes = per_class(check.surveys)
    most = max([1, *(first for first, *_ in classes.values())])
    rows = [[name, *counts, html.bar(counts[0] / most)] for name, counts in classes.items()]
    table = html.table(["class", *(one.split for one in check.surveys), "share"], rows)
    return table if len(rows) <= 40 else html.folded(f"All {len(rows)} classes", table)


def _numbers(one: Survey, check: DataCheck) -> html.Markup:
    seen = one.sides_seen(check.viewer)[~one.crowd].max(axis=1, initial=0)
    sizes = np.sqrt(one.boxes[~one.crowd, 2:].prod(axis=1))
    stride, queries = check.viewer.stride, check.viewer.num_queries
    drawn = [
        charts.histogram(one.per_image, title="Objects in an image", x="objects", mark=_near(one, queries)),
        charts.histogram(
            seen,
            title="Boxes as the detector sees them",
            x="longer side in pixels",
            log=True,
            mark=(stride, f"a cell of the coarsest feature map, {stride} pixels"),
        ),
        charts.histogram(sizes, title="Boxes beside the image", x="root of the share of its area"),
    ]
    head = ["measure", *({0: "least", 0.5: "median", 1: "most"}.get(at, f"{100 * at:g} %") for at in QUANTILES)]
    measured = quantiles(one, check.viewer)
    rows = [[name, *(value or 0 for value in values)] for name, values in measured.items() if values]
    note = (
        "Widths, heights and areas of boxes are shares of the image. "
        f"The detector sees images of {check.viewer.short_side} pixels (short side)."
    )
    return html.section(f"Split {one.split}", html.gallery(drawn, least="19.5rem"), html.table(head, rows), note=note)


def _near(one: Survey, queries: int) -> tuple[float, str] | None:
    """The number of queries, where images come near to it."""
    most = int(one.per_image.max(initial=0))
    return (queries, f"{queries} queries") if 2 * most > queries else None


def _samples(one: Survey) -> html.Markup | None:
    """Images from one end of the split to the other, with their boxes."""
    rows = np.linspace(0, len(one.index) - 1, min(SAMPLES, len(one.index))).astype(int).tolist()
    counts = {row: "1 object" if one.per_image[row] == 1 else f"{one.per_image[row]} objects" for row in rows}
    shots = [_drawn(one, row, f"{one.ids[row]}, {count}") for row, count in counts.items()]
    return html.section(f"Images of split {one.split}", html.gallery(shots)) if shots else None
