"""Spec strings: a component's name with its settings. Imports no torch."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from detrkit.errors import RegistryError

LONGEST_SPEC = 10_000  # characters


@dataclass(frozen=True)
class Spec:
    """A component's name with its settings, written ``name`` or ``name(setting=value, ...)``.

    Values are Python literals, bare words (read as strings) or nested specs; nothing is ever executed.
    """

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str | Spec) -> Spec:
        """Read a spec string.

        Raises:
            RegistryError: the text is not a name or a call with keyword settings only.
        """
        if isinstance(text, Spec):
            return text
        if not isinstance(text, str) or not text.strip() or len(text) > LONGEST_SPEC:
            raise _bad_spec(text)
        try:
            return _read_spec(ast.parse(text.strip(), mode="eval").body, text)
        except RegistryError:
            raise
        except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
            raise _bad_spec(text) from None

    def __str__(self) -> str:
        inside = ", ".join(f"{name}={value!r}" for name, value in self.settings.items())
        return f"{self.name}({inside})" if inside else self.name

    def __hash__(self) -> int:
        return hash((self.name, frozenset(self.settings)))


def _bad_spec(text: object, hint: str | None = None) -> RegistryError:
    if hint is None and isinstance(text, str) and "(" in text:
        hint = "texts that are no plain words stand in quotes: name(root='/data')"
    return RegistryError("not a spec string", value=text, expected="name or name(setting=value)", hint=hint)


def _read_spec(node: ast.expr, text: str) -> Spec:
    if isinstance(node, ast.Name):
        return Spec(node.id)
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
        raise _bad_spec(text)
    names = [keyword.arg for keyword in node.keywords]
    if node.args or None in names or len(set(names)) < len(names):
        raise _bad_spec(text, "settings are given by name, each once")
    return Spec(node.func.id, {str(kw.arg): _spec_value(kw.value, text) for kw in node.keywords})


def _spec_value(node: ast.expr, text: str) -> Any:
    if isinstance(node, ast.Name):
        return {"true": True, "false": False, "none": None}.get(node.id, node.id)
    if isinstance(node, ast.Call):
        _read_spec(node, text)
        return ast.unparse(node)
    try:
        return ast.literal_eval(repr(ast.literal_eval(node)))  # read twice: what is not finite has no literal
    except ValueError:
        raise _bad_spec(text, f"{ast.unparse(node)!r} is not a literal") from None
