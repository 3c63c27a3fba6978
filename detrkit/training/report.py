"""The report of a run: one page with what was changed, how it went, how good it is, and where it is worst."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from detrkit import charts, html
from detrkit.checkpoints.storage import replace_text
from detrkit.checks.config import nearest_preset
from detrkit.config import DetectorConfig, TrainConfig
from detrkit.datasets import Dataset
from detrkit.detections import Detections
from detrkit.drawing import draw, of_detections, of_target
from detrkit.evaluation.images import FITS, Mistakes, judge
from detrkit.evaluators import METRICS, PER_CLASS
from detrkit.explanation.extremes import save_extremes
from detrkit.model import Detector
from detrkit.training.log import read_log
from detrkit.training.pictures import TERMS
from detrkit.training.run import FINDINGS, LOADED, REASONS

REPORT = "report.html"
WORST = 8
SIDE = 380  # pixels of a picture
LISTED = 50  # findings that the page names

MEANINGS = {
    "AP": "mean over overlaps 0.50 to 0.95",
    "AP50": "at overlap 0.50",
    "AP75": "at overlap 0.75",
    "APs": "small objects, up to 32 x 32 pixels",
    "APm": "medium objects",
    "APl": "large objects, from 96 x 96 pixels",
    "AR1": "recall with 1 detection an image",
    "AR10": "recall with 10 detections",
    "AR100": "recall with 100 detections",
    "ARs": "recall of small objects",
    "ARm": "recall of medium objects",
    "ARl": "recall of large objects",
}

Entries = list[dict[str, Any]]


def save_report(
    folder: Path,
    model: Detector,
    data: Dataset,
    train: TrainConfig,
    *,
    split: str,
    threshold: float = 0.5,
    batch_size: int = 8,
) -> Path:
    """Write ``report.html`` into a run's folder.

    Args:
        folder: of the run.
        model: its best detector.
        data: the split whose worst images are shown.
        train: the run's configuration of training.
        split: name of that split.
        threshold: least score of the detections that are shown.
        batch_size: images at a time.

    Raises:
        WriteError: the folder cannot be written.
    """
    steps, scores = read_log(folder / "metrics.jsonl", "train"), read_log(folder / "metrics.jsonl", "eval")
    scored = [entry for entry in scores if entry.get("AP") is not None]
    best = max(scored, key=lambda entry: entry["AP"]) if scored else None
    sections = [
        _changes(model.config, train),
        _precision(best) if best else None,
        html.section("Curves", html.gallery(_curves(steps, scored), least="19.5rem")),
        _worst_images(folder, model, data, split, threshold, batch_size),
        _data(folder),
        _configuration(folder, model.config, train),
    ]
    replace_text(
        folder / REPORT, html.page(f"Run {folder.resolve().name}", *sections, lead=_lead(steps, scored, best, train))
    )
    return folder / REPORT


def _lead(steps: Entries, scored: Entries, best: dict[str, Any] | None, train: TrainConfig) -> html.Markup:
    last = steps[-1]["step"] if steps else 0
    facts: dict[str, object] = {name: best[name] for name in ("AP", "AP50", "AP75")} if best else {}
    if best:
        facts |= {"best step": best["step"], "steps": last}
        seconds = scored[-1]["seconds"]
        facts |= {"training": _duration(seconds), "a step": f"{1000 * seconds / max(1, scored[-1]['step']):,.0f} ms"}
    evaluations = "1 evaluation" if len(scored) == 1 else f"{len(scored)} evaluations"
    said = f"Best of {evaluations} on split {train.val_split!r}." if best else f"{last} steps; nothing was scored."
    about = html.tag("p", said, " Data: ", html.tag("code", train.data))
    return html.joined([about, html.facts(facts)])


def _changes(detector: DetectorConfig, train: TrainConfig) -> html.Markup:
    """The fields that differ from the nearest preset."""
    preset, changes = nearest_preset(detector, train)
    if not changes:
        return html.section("What was trained", html.tag("p", f"The preset {preset}, as it is."))
    rows = [[html.tag("code", name), *map(_value, pair)] for name, pair in changes.items()]
    differ = "1 field differs" if len(rows) == 1 else f"{len(rows)} fields differ"
    note = f"The nearest preset is {preset}; {differ} from it."
    return html.section("What was trained", html.table(["field", preset, "this run"], rows), note=note)


def _precision(best: Mapping[str, Any]) -> html.Markup:
    rows = [[name, best[name], MEANINGS[name]] for name in METRICS if name in best]
    names = [key.removeprefix("AP/") for key in best if key.startswith("AP/")]
    columns = [column for column in PER_CLASS if f"{column}/{names[0]}" in best] if names else []
    ranked = sorted(names, key=lambda name: -(best[f"AP/{name}"] or 0))
    by_class = [[name, *(best[f"{column}/{name}"] for column in columns)] for name in ranked]
    return html.section(
        "Average precision",
        html.beside(
            html.table(["measure", "value", "what it is"], rows),
            html.table(["class", *columns], by_class) if names else None,
        ),
        note=f"Of the best detector, step {best['step']}. A dash: no such object in the data.",
    )


def _curves(steps: Entries, scored: Entries) -> Iterator[html.Markup]:
    aps = {name: _points(scored, name) for name in ("AP", "AP50", "AP75")}
    yield charts.lines(aps, title="Average precision", x="step", limits=(0, None))
    yield charts.lines({"loss": _points(steps, "loss")}, title="Weighted sum of all losses", x="step", log=True)
    for term, title in TERMS.items():
        layers = sorted(name for name in (steps[0] if steps else {}) if name.startswith(f"{term}_"))
        named = {f"layer {i + 1}": name for i, name in enumerate([*layers, term])}
        series = {layer: _points(steps, name) for layer, name in named.items()}
        yield charts.lines(series, title=title[0].upper() + title[1:], x="step", log=True, graded=True)
    wrong = {"class error": _points(steps, "class_error")}
    yield charts.lines(wrong, title="Class error of matched queries, %", x="step", limits=(0, None))
    counts = {"error": _points(steps, "cardinality_error")}
    yield charts.lines(counts, title="Error in the number of objects", x="step", limits=(0, None))
    yield charts.lines({"norm": _points(steps, "grad_norm")}, title="Norm of the gradient", x="step", log=True)
    rates = {"factor": _points(steps, "lr_factor")}
    yield charts.lines(rates, title="Factor of the learning rate", x="step", limits=(0, 1))


def _points(entries: Entries, name: str) -> list[charts.Point]:
    return [(entry["step"], entry[name]) for entry in entries if entry.get(name) is not None]


def _worst_images(
    folder: Path, model: Detector, data: Dataset, split: str, threshold: float, batch_size: int
) -> html.Markup:
    judged = judge(model, data, threshold=threshold, batch_size=batch_size)
    right, missed, wrong = (judged.total(name) for name in ("right", "missed", "wrong"))
    note = (
        f"Truth to the left, detections with a score of at least {threshold:g} to the right. In "
        f"{len(judged.mistakes):,} images of split {split!r}, {right:,} objects were found and {missed:,} missed; "
        f"{wrong:,} detections were wrong (overlap below {FITS:g}, or another class)."
    )
    worst = judged.worst(WORST)
    pages = save_extremes(folder, model, data, judged, threshold=threshold)
    shots = [_pair(data, one, judged.found[one.place], i, pages.get("worst")) for i, one in enumerate(worst)]
    content = (
        html.gallery(shots, least="26rem") if shots else html.tag("p", "All objects were found, and nothing else.")
    )
    links = [html.link(f"the {name} images", f"{path.parent.name}/{path.name}") for name, path in pages.items()]
    explored = html.tag("p", "What the detector looked at: ", *_between(links, ", "), ".") if links else None
    return html.section("Worst images", explored, content, note=note)


def _between(pieces: Sequence[object], mark: str) -> Iterator[object]:
    """Pieces with a mark between them."""
    for index, piece in enumerate(pieces):
        if index:
            yield mark
        yield piece


def _pair(data: Dataset, one: Mistakes, found: Detections, number: int, page: Path | None) -> html.Markup:
    """Truth and detections; a link to the image of this number on its explorer page."""
    image, target = data[one.place]
    true, ours = of_target(target, data.label_space), of_detections(found)
    name = f"image {target['image_id']}"
    pictures = html.tag(
        "div",
        html.picture(draw(image, true, side=SIDE), f"{name}, truth: {len(true)} objects"),
        html.picture(draw(image, ours, side=SIDE), f"{name}, found: {len(ours)} detections"),
        class_="pair",
    )
    said = f"{target['image_id']}: {one.right} right, {one.missed} missed, {one.wrong} wrong"
    explore = html.link("look inside", f"{page.parent.name}/{page.name}#{number + 1}") if page else None
    return html.figure(pictures, html.joined([said, " \N{MIDDLE DOT} " if page else None, explore]))


def _data(folder: Path) -> html.Markup:
    """What was wrong in the data, as the run noted it."""
    findings = _lines(folder / FINDINGS)
    if not findings:
        return html.section("Data", html.tag("p", "Nothing was wrong in the files."))
    listed = html.tag("ul", *(html.tag("li", html.tag("code", finding)) for finding in findings[:LISTED]))
    rest = html.tag("p", f"{len(findings) - LISTED:,} more in {FINDINGS}.") if len(findings) > LISTED else None
    count = "1 thing was" if len(findings) == 1 else f"{len(findings):,} things were"
    return html.section("Data", html.folded(f"{count} wrong, and dropped or repaired", listed, rest))


def _configuration(folder: Path, detector: DetectorConfig, train: TrainConfig) -> html.Markup:
    """The whole configuration, what it ran on, what it started from, and why it is so; folded away."""
    saved = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    tables = {"Detector": detector.to_dict(), "Training": train.to_dict(), "Environment": saved.get("environment", {})}
    content = [
        html.folded(
            title, html.table(["field", "value"], [[html.tag("code", n), _value(v)] for n, v in fields.items()])
        )
        for title, fields in tables.items()
    ]
    if loaded := _lines(folder / LOADED):
        content.append(html.folded("Started from", html.tag("p", html.tag("code", loaded[0]))))
    if reasons := _lines(folder / REASONS):
        content.append(html.folded("Chosen for the data", html.tag("ul", *(html.tag("li", line) for line in reasons))))
    return html.section("Whole configuration", *content)


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def _value(value: object) -> str:
    """A field's value; as text, since numbers in one column mean different things."""
    return "none" if value is None else str(value)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
