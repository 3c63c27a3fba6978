"""Play the guided tour, ``docs/tour/``: run its blocks, hold the text against what they do, draw its pictures.

What is checked in a chapter, from top to bottom in one namespace and one working folder:

- ``python`` blocks run; what one prints stands in the ``text`` block behind it, where ``...`` leaves parts out.
- ``console`` blocks: the output of each ``$ detrkit ...``.
- Code in the prose that compares, such as ```len(data) == 960```, is true there.
- Rows of a table ``tensor | shape | here`` tell the shape of a tensor; a letter means one number throughout a chapter.
- A decimal number in the prose was printed in that chapter, or its paragraph names its source.
- A picture that the text shows was saved by a block of that chapter.

Decimal numbers agree within one unit of their last digit, or as ``text within 20 %`` says; all else is equal.

``python tools/tour.py [CHAPTER ...]`` also puts the pictures into ``docs/tour/images``; ``--check`` leaves those alone,
and ``--accept`` writes into the chapters what their blocks print.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import shlex
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
TOUR = ROOT / "docs" / "tour"
LARGEST_PICTURE = 100_000
FENCE = re.compile(r"^```(\w*)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NUMBER = r"(?<![\w.])[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?(?![\w])"
PICTURE = re.compile(r"!\[[^\]]+\]\((images/[\w.-]+)\)")
SHAPE = re.compile(r"^\| `([^`]+)` \| `\[(.+?)\]` \| `\[([\d, ]*)\]` \|", re.MULTILINE)
SOURCE = re.compile(r"\b(section|table|figure|appendix|equation)s?\b|benchmarks/|https://", re.IGNORECASE)
NEEDS = re.compile(r"^<!-- goes on from (\S+) -->$", re.MULTILINE)


@dataclass(frozen=True)
class Piece:
    """A block, with its language and what stands behind that word; or the prose between two blocks, with none."""

    line: int
    text: str
    language: str = ""
    options: str = ""


@dataclass(frozen=True)
class Chapter:
    """A chapter's file, and what it consists of."""

    path: Path

    @property
    def text(self) -> str:
        """The Markdown."""
        return self.path.read_text(encoding="utf-8")

    @property
    def before(self) -> Chapter | None:
        """The chapter whose files this one uses."""
        found = NEEDS.search(self.text)
        return Chapter(self.path.with_name(found[1])) if found else None

    @property
    def pictures(self) -> list[str]:
        """The pictures that the text shows."""
        return PICTURE.findall(self.text)

    def pieces(self) -> Iterator[Piece]:
        """Prose and blocks by turns, with the number of their first line."""
        text, end = self.text, 0
        for fence in FENCE.finditer(text):
            yield Piece(text.count("\n", 0, end) + 1, text[end : fence.start()])
            yield Piece(text.count("\n", 0, fence.start()) + 2, fence[3], fence[1], fence[2].strip())
            end = fence.end()
        yield Piece(text.count("\n", 0, end) + 1, text[end:])


def chapters() -> list[Chapter]:
    """All chapters in order."""
    return [Chapter(path) for path in sorted(TOUR.glob("[0-9][0-9]-*.md"))]


@dataclass
class Player:
    """Plays one chapter.

    Attributes:
        chapter: which.
        folder: where its blocks run.
        findings: what is wrong, a line each.
        printed: what each shown output really was, by the number of its first line.
        seconds: how long that took.
    """

    chapter: Chapter
    folder: Path
    findings: list[str] = field(default_factory=list)
    printed: dict[int, str] = field(default_factory=dict)
    names: dict[str, Any] = field(default_factory=lambda: {"__name__": "tour"})
    letters: dict[str, int] = field(default_factory=dict)
    waiting: tuple[int, str] | None = None
    seconds: float = 0.0

    def play(self) -> Player:
        """Run all of it; an exception ends it and is a finding."""
        started = time.perf_counter()
        (self.folder / "images").mkdir(parents=True, exist_ok=True)
        try:
            with contextlib.chdir(self.folder):
                for piece in self.chapter.pieces():
                    getattr(self, piece.language or "prose", self.other)(piece)
        except Exception:
            self.find(0, traceback.format_exc(limit=-2))
        self.unshown()
        self.check_pictures()
        self.check_numbers()
        self.seconds = time.perf_counter() - started
        return self

    def find(self, line: int, what: str) -> None:
        """Keep a finding."""
        self.findings.append(f"{self.chapter.path.relative_to(ROOT)}:{line}: {what}")

    def python(self, piece: Piece) -> None:
        """Run a block; what it prints waits for the text that shows it."""
        self.unshown()
        lines, out = "\n" * (piece.line - 1), io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compile(lines + piece.text, str(self.chapter.path), "exec"), self.names)
        if out.getvalue():
            self.waiting = piece.line, out.getvalue()

    def text(self, piece: Piece) -> None:
        """Compare what the block before has printed."""
        if self.waiting is None:
            self.find(piece.line, "no block printed this")
            return
        self.printed[piece.line] = self.waiting[1]
        self.waiting = None
        self.compare(piece.line, piece.text, self.printed[piece.line], piece.options)

    def console(self, piece: Piece) -> None:
        """Run commands one by one and compare what each prints."""
        self.unshown()
        parts = re.split(r"^\$ (.*)\n", piece.text, flags=re.MULTILINE)[1:]
        told = ""
        for command, shown in zip(parts[::2], parts[1::2], strict=True):
            got = run(command)
            self.compare(piece.line, shown, got, piece.options)
            told += f"$ {command}\n{shown if '...' in shown and agree(shown, got) else got}"
        self.printed[piece.line] = told

    def other(self, piece: Piece) -> None:
        """Blocks of other languages are not played, and so are refused."""
        self.find(piece.line, f"a block of {piece.language!r}; expected python, text or console")

    def prose(self, piece: Piece) -> None:
        """Check comparisons and shapes."""
        for code in re.findall(r"(?<!`)`([^`\n]+ == [^`\n]+)`(?!`)", piece.text):
            if not eval(code, self.names):
                self.find(piece.line, f"not true: {code}")
        for name, letters, here in SHAPE.findall(piece.text):
            got = ", ".join(map(str, eval(name, self.names).shape))
            if got != here:
                self.find(piece.line, f"shape of {name}: the text says [{here}], it is [{got}]")
            for letter, size in zip(letters.split(", "), here.split(", "), strict=True):
                self.check_letter(piece.line, letter, int(size))

    def check_letter(self, line: int, letter: str, size: int) -> None:
        """A letter means one number throughout a chapter: that of a variable of the blocks, else of its first row."""
        known = {**self.letters, **self.names}
        if letter.isidentifier() and letter not in known:
            self.letters[letter] = size
        elif (elsewhere := eval(letter, known)) != size:
            self.find(line, f"{letter} is {elsewhere} elsewhere; here {size}")

    def compare(self, line: int, shown: str, got: str, options: str) -> None:
        """Keep a finding where an output is not the one shown."""
        if not agree(shown, got, options):
            self.find(line, f"the text shows\n{shown}\nbut this was printed\n{got}")

    def unshown(self) -> None:
        """What was printed must be shown."""
        if self.waiting is not None:
            self.find(self.waiting[0], f"prints what the text does not show:\n{self.waiting[1]}")
            self.waiting = None

    def check_pictures(self) -> None:
        """Each picture that the text shows has been made here, and is small."""
        for name in self.chapter.pictures:
            path = self.folder / name
            if not path.is_file():
                self.find(0, f"no block saves {name}")
            elif path.stat().st_size > LARGEST_PICTURE:
                self.find(0, f"{name} has {path.stat().st_size:,} bytes; at most {LARGEST_PICTURE:,}")

    def check_numbers(self) -> None:
        """Each decimal number of the prose was printed, or its paragraph names a source."""
        pieces = list(self.chapter.pieces())
        printed = " ".join(piece.text for piece in pieces if piece.language)
        for piece in pieces:
            for paragraph in [] if piece.language else re.split(r"\n\s*\n|\n(?=[-*|])", piece.text):
                bare = re.sub(r"`[^`]*`|\]\([^)]*\)", "", paragraph)
                for number in [] if SOURCE.search(paragraph) else re.findall(r"(?<![\w.])\d+\.\d+(?!\w)", bare):
                    if number not in re.findall(r"\d+\.\d+", printed):
                        self.find(piece.line, f"{number}: neither printed in this chapter nor with a source")


def run(command: str) -> str:
    """What a command of detrkit prints; where it fails, also what it says."""
    from detrkit.cli import main

    program, *words = shlex.split(command)
    if program != "detrkit":
        raise ValueError(f"only detrkit is run: {command}")
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            failed = main(words)
        except SystemExit as stop:  # of the parser
            failed = stop.code
    return out.getvalue() + (err.getvalue() if failed else "")


def agree(shown: str, got: str, options: str = "") -> bool:
    """Whether an output is the one shown, up to rounding and what ``...`` leaves out."""
    allowed = re.fullmatch(r"within (\d+) %", options)
    share = int(allowed[1]) / 100 if allowed else 0.0
    shown, got = ("\n".join(line.rstrip() for line in text.strip().splitlines()) for text in (shown, got))
    numbers = re.findall(NUMBER, shown)
    parts = [re.escape(part).replace(re.escape("..."), ".*?") for part in re.split(NUMBER, shown)]
    pattern = parts[0] + "".join(f"({NUMBER}){part}" for part in parts[1:])
    if share:  # a number of another length moves the columns of a table
        pattern = re.sub(r"(\\ )+", " +", pattern)
    found = re.fullmatch(pattern, got, re.DOTALL)
    return found is not None and all(near(a, b, share) for a, b in zip(numbers, found.groups(), strict=True))


def near(shown: str, got: str, share: float) -> bool:
    """Whether two numbers are one up to a share of them, decimal ones up to a unit of the last digit shown."""
    mantissa, _, exponent = shown.partition("e")
    digits = len(mantissa.partition(".")[2])
    unit = 10.0 ** (int(exponent or 0) - digits) if digits or exponent else 0.0
    wanted, value = float(shown), float(got)
    return abs(wanted - value) <= max(1.001 * unit, share * abs(wanted))


def play(chapter: Chapter, folder: Path) -> Player:
    """Play a chapter, after the one that it goes on from if that has not been played in this folder."""
    if chapter.before is not None and not (folder / chapter.before.path.stem).exists():
        play(chapter.before, folder)
    (folder / chapter.path.stem).touch()
    return Player(chapter, folder).play()


def accept(player: Player) -> None:
    """Write what was printed into the chapter, except where the text agrees with it."""
    lines = player.chapter.text.splitlines(keepends=True)
    for piece in reversed(list(player.chapter.pieces())):
        got = player.printed.get(piece.line)
        if piece.language and got is not None and not agree(piece.text, got, piece.options):
            start = piece.line - 1
            lines[start : start + piece.text.count("\n")] = [got.rstrip("\n") + "\n"]
    player.chapter.path.write_text("".join(lines), encoding="utf-8")


def prepare() -> None:
    """One thread, no window, and the tour's own style of drawing."""
    import matplotlib.style
    import torch

    matplotlib.use("Agg")
    matplotlib.style.use(TOUR / "tour.mplstyle")
    torch.set_num_threads(1)


def main() -> int:
    """Play the chapters named, or all; 1 where something is wrong."""
    parser = argparse.ArgumentParser(description="Play the guided tour and draw its pictures.")
    parser.add_argument("chapters", nargs="*", help="their numbers or names; by default all")
    parser.add_argument("--check", action="store_true", help="leave the pictures as they are")
    parser.add_argument("--accept", action="store_true", help="write into the chapters what their blocks print")
    parser.add_argument("--folder", type=Path, help="work here and leave everything, to go on from it")
    options = parser.parse_args()
    prepare()
    chosen = [c for c in chapters() if not options.chapters or c.path.stem.startswith(tuple(options.chapters))]
    with contextlib.nullcontext(options.folder) if options.folder else tempfile.TemporaryDirectory() as folder:
        return max([show(play(chapter, Path(folder)), options) for chapter in chosen])


def show(player: Player, options: argparse.Namespace) -> int:
    """Say what is wrong in a chapter, and keep what was asked for; 1 where something is wrong."""
    if options.accept:
        accept(player)
    for name in [] if options.check else player.chapter.pictures:
        if (player.folder / name).is_file():
            shutil.copy(player.folder / name, TOUR / name)
    sys.stdout.write("".join(f"{finding}\n" for finding in player.findings))
    sys.stderr.write(f"{player.chapter.path.stem}: {player.seconds:.0f} s, {len(player.findings)} findings\n")
    return 1 if player.findings else 0


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main())
