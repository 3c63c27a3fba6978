"""Reading of small YAML files from anywhere: texts, lists and mappings; no tags, no aliases, bounded size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from detrkit.datasets._files import read_text
from detrkit.errors import DataError

MAX_BYTES = 512 * 2**10  # some 20,000 names of classes
MAX_DEPTH = 8


def read_yaml(path: Path) -> Any:
    """The content of a YAML file. All scalars are texts, as they are written: ``no`` and ``1`` may be names of classes.

    Only the events of the parser are used, so that nothing is constructed that the file could choose.

    Raises:
        DataError: it cannot be read, is no YAML, is nested too deep, uses aliases, by which little text becomes much
            ("billion laughs"), gives a key twice, or holds more than one document.
    """
    try:
        return _Builder(path).build(read_text(path, MAX_BYTES))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" in line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "unreadable"
        raise DataError("not YAML", path=path, value=f"({problem}{place})", expected="a YAML file") from None


class _Builder:
    """Puts the events of a parser together."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def build(self, text: str) -> Any:
        """The one document; None where there is none."""
        open_nodes: list[Any] = [[]]  # the innermost last; a mapping as a list of keys and values in turn
        mappings: list[bool] = [False]
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            line = event.start_mark.line + 1
            if isinstance(event, yaml.AliasEvent):
                raise self.error("YAML uses an alias; refused", line, "plain YAML")
            if isinstance(event, yaml.ScalarEvent):
                open_nodes[-1].append(event.value)
            elif isinstance(event, yaml.CollectionStartEvent):
                open_nodes.append([])
                mappings.append(isinstance(event, yaml.MappingStartEvent))
                if len(open_nodes) > MAX_DEPTH:
                    raise self.error("YAML is nested too deep", line, f"at most {MAX_DEPTH} levels")
            elif isinstance(event, yaml.CollectionEndEvent):
                items = open_nodes.pop()
                open_nodes[-1].append(self.mapping(items, line) if mappings.pop() else items)
        documents = open_nodes[0]
        if len(documents) > 1:
            raise DataError("YAML holds several documents", path=self.path, expected="one")
        return documents[0] if documents else None

    def mapping(self, items: list[Any], line: int) -> dict[str, Any]:
        """A mapping from its keys and values in turn."""
        found: dict[str, Any] = {}
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, str):
                raise self.error("YAML has a key that is no text", line, "plain YAML")
            if key in found:
                raise self.error(f"YAML gives the key {key!r} twice", line, "once")
            found[key] = value
        return found

    def error(self, what: str, line: int, expected: str) -> DataError:
        """An error that names a line."""
        return DataError(what, path=self.path, value=f"(line {line})", expected=expected)
