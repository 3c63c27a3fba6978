"""Typed fields: what values a config field or a component's setting accepts, read from its annotation.

One vocabulary serves the dataclasses of `detrkit.config` and the signatures of components::

    heads: Positive = 8
    dropout: Probability = 0.0
    norm: Literal["frozen", "batch"] = "frozen"
"""

from __future__ import annotations

import ast
import types
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin


@dataclass(frozen=True)
class Range:
    """Closed interval of numbers that a field accepts; ``above`` and ``below`` exclude the end itself."""

    min: float | None = None
    max: float | None = None
    above: float | None = None
    below: float | None = None

    def __contains__(self, value: float) -> bool:
        return (
            (self.min is None or value >= self.min)
            and (self.max is None or value <= self.max)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        parts = [f"above {self.above:g}"] if self.above is not None else []
        parts += [f"at least {self.min:g}"] if self.min is not None else []
        parts += [f"at most {self.max:g}"] if self.max is not None else []
        parts += [f"below {self.below:g}"] if self.below is not None else []
        return " and ".join(parts)


@dataclass(frozen=True)
class Role:
    """Marks a config field whose value is a spec string of this role, for example ``"matrix(heads=4)"``.

    Attributes:
        name: the role.
        other: another role whose names may stand there too.
    """

    name: str
    other: str | None = None


Positive = Annotated[int, Range(min=1)]
Seed = Annotated[int, Range(min=0, max=2**32 - 1)]
Workers = Annotated[int, Range(min=0, max=256)]  # processes; more are a slip of the finger that stops the machine
NonNegative = Annotated[int, Range(min=0)]
Weight = Annotated[float, Range(min=0)]
Rate = Annotated[float, Range(min=0)]
Probability = Annotated[float, Range(min=0, max=1)]
Fraction = Annotated[float, Range(min=0, below=1)]


def base_and_metadata(annotation: Any) -> tuple[Any, tuple[Any, ...]]:
    """Split ``Annotated[T, *metadata]`` into T and its metadata; other annotations have none."""
    if get_origin(annotation) is Annotated:
        base, *metadata = get_args(annotation)
        return base, tuple(metadata)
    return annotation, ()


def roles_of(annotation: Any) -> tuple[str, ...]:
    """The roles of a spec field, also of an optional one; none of another field."""
    for choice in (annotation, *get_args(annotation)):
        for item in base_and_metadata(choice)[1]:
            if isinstance(item, Role):
                return (item.name, item.other) if item.other else (item.name,)
    return ()


def describe(annotation: Any) -> str:
    """The accepted values in words, for error messages and listings: ``int, at least 1``."""
    base, metadata = base_and_metadata(annotation)
    ranges = [str(item) for item in metadata if isinstance(item, Range)]
    roles = [f"a spec of role {item.name!r}" for item in metadata if isinstance(item, Role)]
    if roles:
        return roles[0]
    origin, args = get_origin(base), get_args(base)
    if origin is Literal:
        text = "one of " + ", ".join(repr(choice) for choice in args)
    elif origin in (Union, types.UnionType):
        text = " or ".join(describe(choice) for choice in args)
    elif origin in (tuple, list):
        inside = ["..." if item is Ellipsis else describe(item) for item in args]
        text = f"{origin.__name__}[{('; ' if any(',' in item for item in inside) else ', ').join(inside)}]"
    elif base is type(None):
        text = "none"
    elif origin is tuple and args[-1] is not Ellipsis:
        text = f"({'; '.join(map(describe, args))})"
    else:
        text = str(base) if origin else getattr(base, "__name__", str(base))
    return ", ".join([text, *ranges])


def accepts(value: Any, annotation: Any) -> bool:
    """Whether the value fits the annotation; an int is a float; a bool, NaN and infinity are no numbers."""
    base, metadata = base_and_metadata(annotation)
    if not _fits(value, base):
        return False
    ranges = [item for item in metadata if isinstance(item, Range)]
    return all(value in interval for interval in ranges)


def _fits(value: Any, base: Any) -> bool:
    origin, args = get_origin(base), get_args(base)
    if base is Any:
        return True
    if base is None or base is type(None):
        return value is None
    if origin is Literal:
        return any(value == choice and type(value) is type(choice) for choice in args)
    if origin in (Union, types.UnionType):
        return any(accepts(value, choice) for choice in args)
    if origin in (tuple, list):
        return isinstance(value, tuple | list) and _items_fit(value, args)
    if base is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")
    if base is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, base)


def _items_fit(values: tuple[Any, ...] | list[Any], args: tuple[Any, ...]) -> bool:
    if len(args) == 2 and args[1] is Ellipsis:
        args = (args[0],) * len(values)
    elif len(args) == 1:
        args = args * len(values)
    return len(args) == len(values) and all(accepts(v, a) for v, a in zip(values, args, strict=True))


def from_text(text: str, annotation: Any) -> Any:
    """Read a value from the command line the way its field wants it; what cannot be read stays text.

    Numbers, booleans (``true`` and ``True``), ``none`` and tuples are literals; a field that accepts strings keeps
    the text as it is, except for ``none`` where the field accepts None.
    """
    if text.lower() in ("none", "null") and accepts(None, annotation):
        return None
    literal = _literal(text)
    return text if accepts(text, annotation) and not accepts(literal, annotation) else literal


def _literal(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def items(text: str | None) -> list[str]:
    """The pieces of a comma-separated list; none of None."""
    return [item for item in map(str.strip, (text or "").split(",")) if item]


def problems(given: dict[str, Any], annotations: dict[str, Any], owner: str) -> Iterable[str]:
    """A line for each given value that its annotation does not accept."""
    for name, value in given.items():
        if name in annotations and not accepts(value, annotations[name]):
            yield f"{owner}.{name}: got {value!r}; expected {describe(annotations[name])}"
