"""How much of the package stands in two of its files: runs of four lines or more, the same to the letter.

Two shares are printed. ``lines`` counts every line that is not blank, imports, docstrings and signatures too; it may
not exceed `MOST`. ``code`` leaves out imports, docstrings, comments and lone brackets: what was copied to be varied
shows there. The runs follow, the longest first. Exit 1 when there is too much.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

RUN, MOST = 4, 5.0  # lines; percent


class Line(NamedTuple):
    """A line of a file, from 1, without its indentation."""

    number: int
    text: str


class Run(NamedTuple):
    """Lines of one file that stand in others too."""

    path: Path
    first: int
    last: int
    length: int
    others: frozenset[Path]


def every_line(source: str) -> list[Line]:
    """All lines but blank ones."""
    lines = ((number, text.strip()) for number, text in enumerate(source.splitlines(), 1))
    return [Line(number, text) for number, text in lines if text]


def code(source: str) -> list[Line]:
    """Lines that do something."""
    passed: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        if text or isinstance(node, ast.Import | ast.ImportFrom):
            passed.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))  # type: ignore[attr-defined]
    return [
        line
        for line in every_line(source)
        if line.number not in passed and not line.text.startswith("#") and re.search(r"\w", line.text)
    ]


def runs(files: dict[Path, list[Line]]) -> Iterator[Run]:
    """All runs that stand in another file."""
    holders: dict[tuple[str, ...], set[Path]] = defaultdict(set)
    for path, lines in files.items():
        for window in windows(lines):
            holders[window].add(path)
    for path, lines in files.items():
        shared = [holders[window] - {path} for window in windows(lines)]
        start = 0
        while start < len(shared):
            end = start
            while end < len(shared) and shared[end]:
                end += 1
            if end > start:
                last = end + RUN - 2
                others = frozenset().union(*shared[start:end])
                yield Run(path, lines[start].number, lines[last].number, last - start + 1, others)
            start = end + 1


def windows(lines: list[Line]) -> list[tuple[str, ...]]:
    """Texts of every `RUN` neighbours."""
    texts = [line.text for line in lines]
    return [tuple(texts[i : i + RUN]) for i in range(len(texts) - RUN + 1)]


def share(found: list[Run], files: dict[Path, list[Line]]) -> float:
    """Percent of all lines that stand in a run."""
    marked = {(run.path, number) for run in found for number in range(run.first, run.last + 1)}
    lines = [(path, line.number) for path, lines in files.items() for line in lines]
    return 100 * sum(line in marked for line in lines) / max(len(lines), 1)


def measure(folder: Path, keep: Callable[[str], list[Line]]) -> tuple[float, list[Run]]:
    """The share of a folder's files, and their runs."""
    files = {path: keep(path.read_text(encoding="utf-8")) for path in sorted(folder.rglob("*.py"))}
    found = list(runs(files))
    return share(found, files), sorted(found, key=lambda run: (-run.length, run.path, run.first))


def main(folder: Path) -> int:
    """Print and judge."""
    (lines, found), (code_lines, _) = measure(folder, every_line), measure(folder, code)
    sys.stdout.write(f"lines {lines:.2f} %, code {code_lines:.2f} % of {folder} stand in two files; at most {MOST} %\n")
    if "--runs" in sys.argv:
        for run in found:
            others = ", ".join(sorted(path.relative_to(folder).as_posix() for path in run.others))
            sys.stdout.write(f"{run.path}:{run.first}-{run.last}: {run.length} lines, also in {others}\n")
    return 1 if lines > MOST else 0


if __name__ == "__main__":
    sys.exit(main(Path("detrkit")))
