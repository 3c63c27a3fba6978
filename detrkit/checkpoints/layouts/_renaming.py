"""Renaming of state-dict entries: one table, used in both directions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
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


class Renaming:
    """A bijection between entries in our names and entries in those of a foreign layout.

    Args:
        rows: pairs of our pattern and theirs, both with the same wildcards in the same order. Where theirs is a tuple,
            one tensor of ours holds several of theirs, joined along the first dimension. Rows stand in the order of the
            foreign state dict; neighbours that begin alike before ``#`` take turns, number by number.
        copies: patterns of foreign entries that only repeat others, where a shared module stands in several places.
    """

    def __init__(self, rows: Iterable[Row], copies: Iterable[str] = ()) -> None:
        self.copies = tuple(map(Pattern, copies))
        self.rows = tuple(
            _Row(Pattern(ours), tuple(map(Pattern, (theirs,) if isinstance(theirs, str) else theirs)))
            for ours, theirs in rows
        )
        starts = [row.theirs[0].start for row in self.rows]
        self.blocks = tuple(starts.index(start) for start in starts)
        self.ours = lru_cache(maxsize=10_000)(self._ours)
        self.theirs = lru_cache(maxsize=10_000)(self._theirs)

    def _ours(self, name: str) -> str | None:
        """Our name for a foreign entry, or for the entry that it is a part of; None where the table has none."""
        for row in self.rows:
            for pattern in row.theirs:
                if (values := pattern.match(name)) is not None:
                    return row.ours.fill(values)
        return None

    def _theirs(self, name: str) -> tuple[str, ...]:
        """Their names, several where ours joins parts, for an entry of ours; empty where the table has none."""
        index, values = self._place(name)
        return () if index is None else tuple(pattern.fill(values) for pattern in self.rows[index].theirs)

    def _place(self, name: str) -> tuple[int | None, tuple[str, ...]]:
        for index, row in enumerate(self.rows):
            if (values := row.ours.match(name)) is not None:
                return index, values
        return None, ()

    def explained(self, names: Iterable[str]) -> int:
        """How many of these foreign names the table knows, copies included."""
        return sum(self.ours(name) is not None or self.repeats(name) for name in names)

    def repeats(self, name: str) -> bool:
        """Whether a foreign entry only repeats another."""
        return any(pattern.match(name) is not None for pattern in self.copies)

    def to_ours(self, state: Mapping[str, Tensor], *, path: Path | None = None) -> dict[str, Tensor]:
        """A foreign state dict in our names; unknown entries, and joined ones that lack a part, are left out.

        Raises:
            CheckpointError: parts of one tensor whose shapes do not fit each other.
        """
        found: dict[str, Tensor] = {}
        for name in state:
            ours = self.ours(name)
            if ours is None or ours in found:
                continue
            theirs = self.theirs(ours)
            if all(part in state for part in theirs):
                found[ours] = _joined({part: state[part] for part in theirs}, path)
        return found

    def from_ours(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A state dict of ours in their names and their order; the inverse of `to_ours`.

        Raises:
            CheckpointError: an entry for which the layout has no place.
        """
        found: dict[str, Tensor] = {}
        for name in sorted(state, key=self._order):
            theirs = self.theirs(name)
            parts = state[name].chunk(len(theirs)) if len(theirs) > 1 else (state[name],)
            found.update(zip(theirs, parts, strict=True))
        return found

    def _order(self, name: str) -> tuple[int, list[int], int]:
        """Where an entry of ours stands among theirs."""
        index, values = self._place(name)
        if index is None:
            raise CheckpointError("the layout has no place for this entry", field=name)
        return self.blocks[index], [int(value) for value in values if value.isdecimal()], index


def _joined(parts: Mapping[str, Tensor], path: Path | None) -> Tensor:
    first, *rest = parts.values()
    if not rest:
        return first
    if first.ndim == 0 or any(part.shape != first.shape or part.dtype != first.dtype for part in rest):
        shapes = ", ".join(f"{name} {tuple(part.shape)}" for name, part in parts.items())
        raise CheckpointError("parts of one tensor do not fit each other", path=path, value=f"({shapes})")
    return torch.cat(list(parts.values()))
