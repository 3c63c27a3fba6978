"""Reading of large JSON files from anywhere: the elements of the lists in the outermost object, one at a time.

Only a piece of the file is held at once, so that memory does not grow with its size.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterator, Mapping
from json import JSONDecodeError, JSONDecoder
from pathlib import Path
from typing import Any, NoReturn

from detrkit.datasets._files import encoding_of
from detrkit.datasets._report import Fault
from detrkit.errors import DataError

Take = Callable[[int, Any], None]

PIECE = 2**20  # bytes read at once
_BLANK = re.compile(r"[ \t\r\n]*")
_MARGIN = 4  # characters that must follow a value in the piece at hand: after "1e", digits may still come


class Twice(dict[str, Any]):
    """An object of JSON that gives some field more than once; the last value counts."""


def read_lists(path: Path, take: Mapping[str, Take]) -> None:
    """Hand over the elements of lists in the outermost object of a JSON file, with their positions.

    Args:
        path: the file; UTF-8, or what its byte order mark says.
        take: what is called with the elements of each list, by the field that holds it. Every field must be there;
            the values of others are read over.

    Raises:
        DataError: the file cannot be read, is no JSON (names the byte), or has not these lists.
    """
    try:
        with path.open("rb") as file:
            _Reader(path, iter(lambda: file.read(PIECE), b"")).read(take)
    except OSError as error:
        raise DataError("file cannot be read", path=path, value=f"({error.strerror})") from None


def fields_of(entry: object) -> dict[str, Any]:
    """An element as an object of JSON.

    Raises:
        Fault: it is none, or gives a field more than once.
    """
    if not isinstance(entry, dict):
        raise Fault("not an object of JSON", value=entry, expected="{...}")
    if isinstance(entry, Twice):
        raise Fault("a field is given more than once", value=dict(entry), expected="once")
    return entry


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    return fields if len(fields) == len(pairs) else Twice(fields)


class _Reader:
    """A window on the text of a file that moves forward and grows where a value needs it."""

    def __init__(self, path: Path, pieces: Iterator[bytes]) -> None:
        self.path, self.pieces = path, pieces
        self.text, self.at = "", 0
        first = next(pieces, b"")
        self.encoding, mark = encoding_of(first)
        self.decode = codecs.getincrementaldecoder(self.encoding)().decode
        self.before = self.decoded = mark  # bytes before the text, and before what is not yet decoded
        self._add(first[mark:])
        self.scan = JSONDecoder(object_pairs_hook=_object).raw_decode

    def read(self, take: Mapping[str, Take]) -> None:
        """The whole file."""
        if self.peek() == "<":
            self.fail("not JSON but HTML or XML")
        if self.peek() != "{":
            what = "a list" if self.peek() == "[" else None
            self.fail("the outermost value is no object" if self.peek() else "file is empty", what)
        seen: set[str] = set()
        for key in self.members():
            if key in seen and key in take:
                self.fail(f"field {key!r} is given more than once")
            seen.add(key)
            if key not in take:
                self.value()
                continue
            if self.peek() != "[":
                self.fail(f"field {key!r} is no list")
            for position in self.steps("[", "]"):
                take[key](position, self.value())
        if self.peek():
            self.fail("something follows the end of the JSON")
        for key in take:
            if key not in seen:
                raise DataError(f"no field {key!r}", path=self.path, expected=f"an object with {', '.join(take)}")

    def members(self) -> Iterator[str]:
        """Keys of the object that begins here; stops before each value."""
        for _ in self.steps("{", "}"):
            if self.peek() != '"':
                self.fail("not JSON", "no name of a field")
            key = self.value()
            self.expect(":")
            yield key

    def steps(self, opening: str, closing: str) -> Iterator[int]:
        """Counts the items between brackets; stops before each."""
        self.expect(opening)
        if self.peek() != closing:
            position = 0
            while True:
                yield position
                if self.peek() != ",":
                    break
                self.at, position = self.at + 1, position + 1
        self.expect(closing)

    def expect(self, sign: str) -> None:
        """Step over a sign."""
        if self.peek() != sign:
            self.fail("not JSON", f"no {sign!r}")
        self.at += 1

    def peek(self) -> str:
        """The next character that is not blank; empty at the end of the file."""
        while True:
            self.at = _BLANK.match(self.text, self.at).end()  # type: ignore[union-attr]
            if self.at < len(self.text) or not self.more():
                return self.text[self.at : self.at + 1]

    def value(self) -> Any:
        """The value that begins at the next character."""
        self.peek()
        while True:
            start = self.at
            try:
                value, end = self.scan(self.text, start)
            except RecursionError:
                self.fail("JSON is nested too deep")
            except ValueError as error:
                if self.more():
                    continue
                if isinstance(error, JSONDecodeError):
                    self.at += len(self.text) if error.msg.startswith("Unterminated") else error.pos - start
                self.fail("not JSON", getattr(error, "msg", str(error)))
            if end + _MARGIN <= len(self.text) or not self.more():
                self.at += end - start
                return value

    def more(self) -> bool:
        """Let go of what was read and add at least as much as is left; False at the end of the file."""
        self.before += len(self.text[: self.at].encode(self.encoding))
        self.text, self.at = self.text[self.at :], 0
        wanted, length = max(PIECE, len(self.text)), len(self.text)
        while len(self.text) - length < wanted:
            if not (piece := next(self.pieces, b"")):
                self._add(b"", final=True)
                break
            self._add(piece)
        return len(self.text) > length

    def _add(self, piece: bytes, *, final: bool = False) -> None:
        try:
            self.text += self.decode(piece, final)
        except UnicodeDecodeError as error:
            byte = self.decoded + len(piece) - len(error.object) + error.start
            reason = f"({error.reason} at byte {byte})"
            raise DataError("not a text file", path=self.path, value=reason, expected="JSON in UTF-8") from None
        self.decoded += len(piece)

    def fail(self, what: str, why: str | None = None) -> NoReturn:
        """Refuse the file; names the byte."""
        byte = self.before + len(self.text[: self.at].encode(self.encoding))
        rest = self.text[self.at :].strip()
        place = f"at byte {byte}" + ("" if rest else ", where the file ends")
        reason = f"({why} {place})" if why else f"({place})"
        raise DataError(what, path=self.path, value=reason, expected="a whole JSON file") from None
