"""The log of a run: one JSON object a line, which a resumed run continues without a trace."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from detrkit.errors import CheckpointError


class Log(Protocol):
    """Where a run's numbers go."""

    def write(self, kind: str, values: Mapping[str, Any]) -> None:
        """Take a set of named numbers of a step."""


class MetricsLog:
    """Appends to ``metrics.jsonl``; lines written after the checkpoint that a run resumes from are cut off.

    Args:
        path: the file.
        length: bytes to keep of an existing file.
    """

    def __init__(self, path: Path, length: int = 0) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        if length and (not path.exists() or path.stat().st_size < length):
            raise CheckpointError(
                "the log is shorter than its checkpoint says",
                path=path,
                expected=f"{length} bytes",
                hint="put the file back, or start anew with another --out",
            )
        try:
            with path.open("ab") as file:
                file.truncate(length)
        except OSError as error:
            raise CheckpointError("cannot write the log", path=path, value=f"({error.strerror})") from None

    def write(self, kind: str, values: Mapping[str, Any]) -> None:
        """Append a line ``{"kind": ..., ...}``; numbers that are not finite become null."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"kind": kind, **{k: _plain(v) for k, v in values.items()}}) + "\n")


def length_of(path: Path) -> int:
    """Bytes of a log, all of them on the disk."""
    with path.open("ab") as file:
        os.fsync(file.fileno())
        return file.tell()


def read_log(path: Path, kind: str) -> list[dict[str, Any]]:
    """All entries of a kind; none where there is no log.

    Raises:
        CheckpointError: it cannot be read; names the line.
    """
    try:
        lines = path.read_bytes().splitlines() if path.exists() else []
    except OSError as error:
        raise CheckpointError("cannot read the log", path=path, value=f"({error.strerror})") from None
    return [entry for number, line in enumerate(lines, 1) if (entry := _entry(path, number, line))["kind"] == kind]


def _entry(path: Path, number: int, line: bytes) -> dict[str, Any]:
    with suppress(ValueError):
        entry = json.loads(line)
        if isinstance(entry, dict) and "kind" in entry:
            return entry
    raise CheckpointError("the log is damaged", path=f"{path}:{number}", expected='{"kind": ..., ...}')


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 6) if abs(value) < float("inf") else None
    return value
