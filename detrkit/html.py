"""Pages that stand alone: one file, nothing fetched, no script but their own. Data in, text out.

A page is put together from `Markup`, which only `tag` and what stands on it make. Any other text, such as the name of a
class or a path, is escaped where it enters an element, whatever it holds.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from html import escape
from io import BytesIO
from math import isnan
from pathlib import Path
from typing import Any
from urllib.parse import quote

from PIL import Image

_VOID = {"br", "img", "meta"}
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"  # a browser would refuse all the rest


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def tag(name: str, /, *content: object, **attributes: object) -> Markup:
    """An element. What is no `Markup` is escaped; None leaves a piece or an attribute out.

    Attributes are written ``class_="note"`` and ``stroke_width=2``: an underscore is a hyphen, or at the end nothing.
    """
    given = ((n.rstrip("_").replace("_", "-"), value) for n, value in attributes.items() if value is not None)
    head = "".join(f' {n}="{escape(str(value))}"' for n, value in given)
    return Markup(f"<{name}{head}>" if name in _VOID else f"<{name}{head}>{joined(content)}</{name}>")


def joined(content: Iterable[object]) -> Markup:
    """Pieces one after the other, escaped as in `tag`."""
    return Markup("".join(c if isinstance(c, Markup) else escape(str(c)) for c in content if c is not None))


def page(title: str, *sections: object, lead: object = None, style: str = "", script: str | None = None) -> str:
    """A whole page.

    Args:
        title: what it is about; also the name of its tab.
        sections: see `section`.
        lead: what a hurried reader needs, below the title.
        style: rules of its own, after those of all pages.
        script: the one program that it may run, by its hash; None: none.
    """
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY + _allowed(script)),
        tag("title", title),
        tag("style", _style(style)),
    )
    top = tag("header", tag("h1", title), lead)
    program = None if script is None else tag("script", Markup(script))
    body = tag("body", tag("main", top, *sections), tag("footer", "Written by detrkit."), program)
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def _allowed(script: str | None) -> str:
    """What the policy of a page adds for its script."""
    if script is None:
        return ""
    return f"; script-src 'sha256-{base64.b64encode(sha256(script.encode()).digest()).decode('ascii')}'"


def data(name: str, text: str) -> Markup:
    """JSON within the page, for its script to read by this id."""
    safe = text.replace("<", "\\u003c")
    return tag("script", Markup(safe), type="application/json", id=name)


def alone(chart: Markup) -> str:
    """The drawing of a chart as an SVG file that stands alone, in the page's style."""
    start, end = chart.index("<svg") + len("<svg"), chart.index("</svg>")
    drawing = chart[start:end].replace(">", f">{tag('style', _style())}", 1)
    return f'<svg xmlns="http://www.w3.org/2000/svg" class="chart"{drawing}</svg>\n'


def _style(more: str = "") -> Markup:
    return Markup((Path(__file__).parent / "html.css").read_text(encoding="utf-8") + more)


def section(title: str, *content: object, note: object = None) -> Markup:
    """A part of a page with its heading, and a sentence below it."""
    return tag("section", tag("h2", title), None if note is None else tag("p", note, class_="note"), *content)


def folded(title: object, *content: object) -> Markup:
    """What only some readers want, behind a line to click."""
    return tag("details", tag("summary", title), *content)


def facts(pairs: Mapping[str, object]) -> Markup:
    """Names with their values, the few numbers that matter most."""
    return tag("dl", *(tag("div", tag("dt", name), tag("dd", shown(value))) for name, value in pairs.items()))


def table(head: Sequence[object], rows: Iterable[Sequence[object]], *, caption: object = None) -> Markup:
    """Rows under a head; the first cell of a row is its heading, numbers stand to the right."""
    rows = list(rows)
    numeric = [all(isinstance(row[i], int | float) or row[i] is None for row in rows) for i in range(len(head))]
    kinds = ["number" if rows and is_number else None for is_number in numeric]

    def cells(row: Sequence[object]) -> Iterable[Markup]:
        for i, value in enumerate(row):
            yield tag("th" if i == 0 else "td", shown(value), scope="row" if i == 0 else None, class_=kinds[i])

    titles = (tag("th", name, scope="col", class_=kind) for name, kind in zip(head, kinds, strict=True))
    return tag(
        "div",
        tag(
            "table",
            None if caption is None else tag("caption", caption),
            tag("thead", tag("tr", *titles)),
            tag("tbody", *(tag("tr", *cells(row)) for row in rows)),
        ),
        class_="wide",
    )


def shown(value: object) -> object:
    """A number for people: thousands set off, as many decimals as say something; a dash for none. Or the value."""
    if value is None or (isinstance(value, float) and isnan(value)):
        return "\N{EN DASH}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if not isinstance(value, float):
        return value
    decimals = 0 if value == round(value) and value else 3 - min(3, len(str(int(abs(value)))) * (abs(value) >= 1))
    return f"{value:,.{decimals}f}"


def bar(share: float) -> Markup:
    """A share of 1 as a bar, for a cell of a table that has the number beside it."""
    return tag("span", class_="bar", style=f"width:{100 * min(max(share, 0), 1):.1f}%", aria_hidden="true")


def link(text: object, path: str) -> Markup:
    """A link to a file beside the page; a path as in ``pages/one.html#2``."""
    return tag("a", text, href=quote(path, safe="/#"))


def picture(image: Image.Image, alt: str, *, quality: int = 82) -> Markup:
    """An image within the page, as JPEG."""
    file = BytesIO()
    image.convert("RGB").save(file, "JPEG", quality=quality, optimize=True)
    data = base64.b64encode(file.getvalue()).decode("ascii")
    return tag("img", src=f"data:image/jpeg;base64,{data}", alt=alt, width=image.width, height=image.height)


def figure(content: object, caption: object = None, **attributes: Any) -> Markup:
    """A picture or chart with the words below it."""
    return tag("figure", content, None if caption is None else tag("figcaption", caption), **attributes)


def gallery(figures: Iterable[Markup], *, least: str = "15rem") -> Markup:
    """Figures side by side, as many as there is room for when each is at least so wide."""
    return tag("div", *figures, class_="gallery", style=f"--least:{least}")


def beside(*content: object) -> Markup:
    """Pieces one beside the other where there is room."""
    return tag("div", *content, class_="beside")
