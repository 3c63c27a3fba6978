"""What became of each tensor when weights were loaded. Nothing partial is silent."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal, get_args

FEW = 4  # tensors of one part that share a reason are named one by one; more, as a group

Action = Literal["loaded", "renamed", "sliced", "re-initialised", "unused"]


@dataclass(frozen=True)
class Entry:
    """What became of one tensor.

    Attributes:
        action: ``loaded`` under its own name; ``renamed``; ``sliced``: only a part of it, or rows of it in another
            order; ``re-initialised``: the model's tensor found nothing to load and starts afresh; ``unused``: the
            file's tensor found no place.
        name: the model's name for it; empty for an unused one.
        source: the file's name for it (several, joined by `` + ``, where one tensor was joined from them); empty for a
            re-initialised one.
        note: why, in a few words.
    """

    action: Action
    name: str = ""
    source: str = ""
    note: str = ""

    def __str__(self) -> str:
        way = " <- ".join(text for text in (self.name, self.source) if text) if self.name != self.source else self.name
        return f"{self.action:<15} {way}" + (f"  ({self.note})" if self.note else "")


@dataclass(frozen=True)
class LoadReport:
    """What became of every tensor of a file and of a model; ``print(report)`` shows counts and all that is partial.

    Attributes:
        source: the file or folder.
        origin: what it was: ``detrkit``, or the name of a foreign layout.
        entries: one a tensor; each is of the file, of the model, or of both.
        remarks: what else is worth knowing, a line each.
    """

    source: str
    origin: str
    entries: tuple[Entry, ...]
    remarks: tuple[str, ...] = ()

    @property
    def counts(self) -> dict[str, int]:
        """Number of tensors by action, those that occur."""
        found = Counter(entry.action for entry in self.entries)
        return {action: found[action] for action in get_args(Action) if found[action]}

    @property
    def partial(self) -> tuple[Entry, ...]:
        """Entries that say something was left out, cut or started afresh."""
        return self.only("sliced", "re-initialised", "unused")

    def only(self, *actions: Action) -> tuple[Entry, ...]:
        """Entries of these actions."""
        return tuple(entry for entry in self.entries if entry.action in actions)

    def table(self) -> str:
        """One line a tensor."""
        return "\n".join(map(str, self.entries))

    def __str__(self) -> str:
        counts = ", ".join(f"{number} {action}" for action, number in self.counts.items()) or "nothing to load"
        groups: dict[tuple[Action, str, str], list[Entry]] = {}
        for entry in self.partial:
            groups.setdefault((entry.action, (entry.name or entry.source).split(".")[0], entry.note), []).append(entry)
        lines = [f"{self.source} ({self.origin}): {counts}", *self.remarks]
        for (action, part, note), entries in groups.items():
            if len(entries) > FEW:
                lines.append(str(Entry(action, f"{part}.*", note=f"{len(entries)} tensors" + (note and f": {note}"))))
            else:
                lines += map(str, entries)
        return "\n".join(lines)
