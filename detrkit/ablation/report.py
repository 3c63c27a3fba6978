"""The page of a study: what was asked, what was found and how sure that is, and all that is needed to judge it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from detrkit import html
from detrkit.ablation import behaviour, drawings
from detrkit.ablation.behaviour import Content
from detrkit.ablation.drawings import Whisker
from detrkit.ablation.text import HEAD, advice, findings, number, rows, summary

READING = (
    "Each variant was trained with the same seeds as the base and is compared with it seed by seed. The interval says "
    "which true differences are compatible with these runs. A difference is claimed only after correction for all "
    "comparisons of the study (Holm); where none is claimed, none was shown, which is not the same as none being there."
)
COSTS = {"training_time": "training time", "inference_time": "inference time"}
WORDS = ("hypothesis", "result")
SCORES = HEAD.index("verdict") + 1  # columns of scores; the others are costs


def page(content: Content) -> str:
    """The whole page, from what `study.json` holds."""
    sections = [
        html.section("What was found", _listed(findings(content)), note=READING),
        html.section("Differences and costs", html.gallery(_overview(content), least="24rem")),
        html.section("Tables", *_tables(content), note=f"{summary(content)}."),
        html.section(f"{content['metric']} while training", html.gallery(_curves(content), least="19.5rem"), note=BAND),
        html.section("How training went", *_behaviour(content), note=behaviour.READING),
        html.section("How many seeds would tell more", _listed(advice(content))),
        html.section("What each variant changes", _diffs(content)),
        html.section("What the detectors look at", _sights(content), note=SIGHTS),
        html.section("How it was done", *_method(content)),
    ]
    title = content["question"] or f"Study of {content['base']['preset']}"
    return html.page(title, *sections, lead=_lead(content))


SIGHTS = "Pages to explore, of each variant's run with the first seed: the images that it gets best and worst."
BAND = "Mean over the seeds, in a band from the lowest to the highest run, beside the base."


def _lead(content: Content) -> html.Markup:
    verdicts = [variant["comparison"]["verdict"] for variant in content["variants"] if variant["comparison"]]
    facts = {
        "variants": len(verdicts),
        "shown to differ": verdicts.count("different"),
        "seeds each": len(content["seeds"]),
        "budget of a run": content["budget"],
        f"{content['metric']} of the base": content["variants"][0]["mean"],
        "noise of the base": content["variants"][0]["noise"],
    }
    words = [
        html.tag("p", html.tag("strong", f"{name.capitalize()}. "), content[name]) for name in WORDS if content[name]
    ]
    return html.joined([*words, html.facts(facts)])


def _listed(sentences: Sequence[str]) -> html.Markup:
    return html.tag("ul", *(html.tag("li", sentence) for sentence in sentences))


def _tables(content: Content) -> Iterator[html.Markup]:
    """Scores, then costs."""
    cells = list(rows(content))
    yield html.table(HEAD[:SCORES], (row[:SCORES] for row in cells))
    yield html.table([HEAD[0], *HEAD[SCORES:]], ([row[0], *row[SCORES:]] for row in cells))


def _overview(content: Content) -> Iterator[html.Markup]:
    """Ranking with intervals, then what the benefit costs."""
    ranked = _ranked(content)
    if not ranked:
        yield html.tag("p", "No variant could be compared with the base.")
        return
    yield ranking(content)
    for cost, label in COSTS.items():
        points = {v["name"]: (v["costs"][cost], v["comparison"]["difference"]) for v in ranked}
        title = f"{content['metric']}: difference from the base, over {label}"
        yield drawings.against(points, title=title, x=f"{label} / the base's")


def ranking(content: Content) -> html.Markup:
    """Every variant's difference from the base with its interval, the best first."""
    dots = [
        Whisker(v["name"], v["comparison"]["difference"], *v["comparison"]["interval"][:2]) for v in _ranked(content)
    ]
    title = f"{content['metric']}: difference from the base, 95 % intervals"
    return drawings.whiskers(dots, title=title, x="difference", margin=content["margin"])


def _ranked(content: Content) -> list[Content]:
    """Variants that could be compared, the best first."""
    compared = [v for v in content["variants"] if v["comparison"] and v["comparison"]["difference"] is not None]
    return sorted(compared, key=lambda variant: -variant["comparison"]["difference"])


def _curves(content: Content) -> Iterator[html.Markup]:
    base, *others = content["variants"]
    top = max((value or 0 for v in content["variants"] for run in v["runs"] for _, value in run["curve"]), default=0)
    for variant in others or [base]:
        series = {one["name"]: [_known(run["curve"]) for run in one["runs"]] for one in (base, variant)}
        yield drawings.bands(series, title=variant["name"], x="step", top=top or 0.01)


def _behaviour(content: Content) -> Iterator[html.Markup]:
    """What the instruments say, as a table and over time."""
    yield html.table(*behaviour.means(content))
    yield html.folded(
        "Differences from the base", html.table(*behaviour.differences(content), caption=behaviour.DIFFERENCES)
    )
    meanings = dict(behaviour.meanings(content))
    yield html.tag("ul", *(html.tag("li", html.tag("em", name), f": {text}") for name, text in meanings.items()))
    yield html.gallery(
        [drawings.bands(series, title=what, x="step") for what, series in behaviour.curves(content)], least="19.5rem"
    )


def _known(curve: list[list[Any]]) -> list[tuple[float, float]]:
    return [(step, value) for step, value in curve if value is not None]


def _diffs(content: Content) -> html.Markup:
    changed = [
        [variant["name"], html.tag("code", field), str(before), str(after)]
        for variant in content["variants"]
        for field, (before, after) in variant["diff"].items()
    ]
    return html.table(["variant", "field", "base", "variant's"], changed)


def _sights(content: Content) -> html.Markup:
    """Links to the explorer pages of each variant."""
    pages = {variant["name"]: variant.get("sights", {}) for variant in content["variants"]}
    cells = [
        [name, *(html.link(f"the {kind} images", found[kind]) if kind in found else "" for kind in ("worst", "best"))]
        for name, found in pages.items()
    ]
    return html.table(["variant", "worst", "best"], cells)


def _method(content: Content) -> Iterator[html.Markup]:
    """Base, data, every run, and what it ran on."""
    fields = [[html.tag("code", name), str(value)] for name, value in content["base"]["fields"].items()]
    base = html.tag("p", "The base is the preset ", html.tag("code", content["base"]["preset"]), " with these changes:")
    yield html.joined([base, html.table(["field", "value"], fields)])
    scored = content["data"]["val"]
    classes = ", ".join(scored["classes"])
    yield html.tag(
        "p",
        f"Trained on {content['data']['train']['images']:,} images and scored on {scored['images']:,}; "
        f"classes {classes}.",
    )
    names = ("seed", "score", "steps", "seconds", "folder", "identity")
    ran = [[v["name"], *(_cell(run[name]) for name in names)] for v in content["variants"] for run in v["runs"]]
    yield html.folded("Every run", html.table(["variant", *names], ran))
    here = [[name, _cell(value)] for name, value in content["environment"].items()]
    yield html.folded("Environment", html.table(["what", "value"], here))


def _cell(value: object) -> str:
    """A value as text, since those of one column mean different things or are no amounts."""
    return number(value) if value is None or isinstance(value, float) else str(value)
