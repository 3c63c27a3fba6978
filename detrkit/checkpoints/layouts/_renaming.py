"""Renaming of state-dict entries: one table, used in both directions."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from detrkit.errors import CheckpointError

WILDCARDS = {"#": r"(0|[1-9][0-9]*)", "*": r"(.+)"}

Row = tuple[str, str | tuple[str, ...]]


class Pattern:
    """Names in which ``#`` stands for a number and ``*`` for any text.

    Args:
        text: for example ``encoder.layers.#.linear1.*``.
    """

    def __init__(self, text: str) -> None:
        self.pieces = re.split(r"([#*])", text)
        self.regex = re.compile("".join(WILDCARDS.get(piece) or re.escape(piece) for piece in self.pieces))
        self.start = text.partition("#")[0]

    def match(self, name: str) -> tuple[str, ...] | None:
        """What stands for the wildcards in a name; None where the name is another."""
        found = self.regex.fullmatch(name)
        return found.groups() if found else None

    def fill(self, values: Iterable[str]) -> str:
        """The name with these texts for its wildcards; the inverse of `match`."""
        left = iter(values)
        return "".join(next(left) if piece in WILDCARDS else piece for piece in self.pieces)


class _Row(NamedTuple):
    ours: Pattern
    theirs: tuple[Pattern, ...]


Place = tuple[str, ...]
"""Where an entry of ours stands in a file: one name, or those of its parts in order."""


class Renaming:
    """Entries in our names and in those of a foreign layout, one table for both directions.

    Args:
        rows: pairs of our pattern and theirs, both with the same wildcards in the same order. Where theirs is a tuple,
            one tensor of ours holds several of theirs, joined along the first dimension. Where several rows have the
            same pattern of ours, the entry stands in several places: all are written, any is enough to read it, and
            they must agree. ``{layers}`` stands for the number of decoder layers; a row with ``{layer}`` for as many
            rows, one a layer. Rows stand in the order of the foreign state dict; neighbours that begin alike before
            ``#`` take turns, number by number.
        layers: number of decoder layers; see `of`.
    """

    def __init__(self, rows: Iterable[Row], layers: int = 6) -> None:
        self.given = tuple(rows)
        self.rows = tuple(
            _Row(Pattern(ours), tuple(map(Pattern, (theirs,) if isinstance(theirs, str) else theirs)))
            for row in self.given
            for ours, theirs in _numbered(row, layers)
        )
        starts = [row.theirs[0].start for row in self.rows]
        self.blocks = tuple(starts.index(start) for start in starts)
        self.ours = lru_cache(maxsize=10_000)(self._ours)
        self.places = lru_cache(maxsize=10_000)(self._places)
        self.of = lru_cache(maxsize=10)(partial(Renaming, self.given))

    def _ours(self, name: str) -> str | None:
        """Our name for a foreign entry, or for the entry that it is a part of; None where the table has none."""
        for row in self.rows:
            for pattern in row.theirs:
                if (values := pattern.match(name)) is not None:
                    return row.ours.fill(values)
        return None

    def _places(self, name: str) -> tuple[Place, ...]:
        """All places of an entry of ours, the first being the one that a file must have."""
        found = ((row, row.ours.match(name)) for row in self.rows)
        return tuple(tuple(part.fill(values) for part in row.theirs) for row, values in found if values is not None)

    def theirs(self, name: str) -> Place:
        """The first place of an entry of ours; empty where the table has none."""
        return next(iter(self.places(name)), ())

    def place(self, name: str, state: Container[str]) -> Place:
        """The first place of an entry of ours that a file has whole; its very first place where the file has none."""
        places = self.places(name)
        return next((place for place in places if all(part in state for part in place)), self.theirs(name))

    def explained(self, names: Iterable[str]) -> int:
        """How many of these foreign names the table knows."""
        return sum(self.ours(name) is not None for name in names)

    def to_ours(self, state: Mapping[str, Tensor], *, path: Path | None = None) -> dict[str, Tensor]:
        """A foreign state dict in our names; unknown entries, and joined ones that lack a part, are left out.

        Raises:
            CheckpointError: parts of one tensor whose shapes do not fit each other, or places that do not agree.
        """
        found: dict[str, Tensor] = {}
        for ours in {name: None for name in map(self.ours, state) if name is not None}:
            whole = [place for place in self.places(ours) if all(part in state for part in place)]
            tensors = [_joined({part: state[part] for part in place}, path) for place in whole]
            for place, copy in zip(whole[1:], tensors[1:], strict=True):
                if not _same(copy, tensors[0]):
                    raise CheckpointError(
                        "is a copy of another entry, but differs",
                        path=path,
                        field=" + ".join(place),
                        expected=f"what {' + '.join(whole[0])} holds",
                    )
            if tensors:
                found[ours] = tensors[0]
        return found

    def from_ours(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A state dict of ours in their names and their order; the inverse of `to_ours`.

        Raises:
            CheckpointError: an entry for which the layout has no place.
        """
        if lost := [name for name in state if not self.places(name)]:
            raise CheckpointError("the layout has no place for this entry", field=lost[0])
        found: dict[str, Tensor] = {}
        for place, name in sorted(self._all_places(state), key=lambda item: self._order(item[0])):
            parts = state[name].chunk(len(place)) if len(place) > 1 else (state[name],)
            found.update(zip(place, parts, strict=True))
        return found

    def _all_places(self, names: Iterable[str]) -> list[tuple[Place, str]]:
        return [(place, name) for name in names for place in self.places(name)]

    def _order(self, place: Place) -> tuple[int, list[int], int]:
        """Where a place stands among theirs."""
        found = ((index, row.theirs[0].match(place[0])) for index, row in enumerate(self.rows))
        index, values = next((index, values) for index, values in found if values is not None)
        return self.blocks[index], [int(value) for value in values if value.isdecimal()], index


def _numbered(row: Row, layers: int) -> list[Row]:
    """The rows that a row with ``{layer}`` or ``{layers}`` stands for."""

    def filled(text: str, layer: int) -> str:
        return text.replace("{layers}", str(layers)).replace("{layer}", str(layer))

    ours, theirs = row
    texts = (theirs,) if isinstance(theirs, str) else theirs
    several = any("{layer}" in text for text in (ours, *texts))
    return [
        (filled(ours, layer), tuple(filled(text, layer) for text in texts)) for layer in range(layers if several else 1)
    ]


def _joined(parts: Mapping[str, Tensor], path: Path | None) -> Tensor:
    first, *rest = parts.values()
    if not rest:
        return first
    if first.ndim == 0 or any(part.shape != first.shape or part.dtype != first.dtype for part in rest):
        shapes = ", ".join(f"{name} {tuple(part.shape)}" for name, part in parts.items())
        raise CheckpointError("parts of one tensor do not fit each other", path=path, value=f"({shapes})")
    return torch.cat(list(parts.values()))


def _same(one: Tensor, other: Tensor) -> bool:
    alike = one.shape == other.shape and one.dtype == other.dtype
    return alike and torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)
