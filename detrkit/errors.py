"""Errors that a user meets: one line each, with the place, what was got, what was expected, and the way out."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any, ClassVar


class DetrkitError(ValueError):
    """Base of every error that detrkit raises for a user's mistake or for bad data.

    The text reads ``file:field: what; got X; expected Y; hint``; the pieces stay available as attributes, so that a
    program can act on them without parsing the sentence. ``exit_code`` is what the command line returns: 2 for the
    user's mistake, 1 for a failure.

    Args:
        what: what is wrong, in a few words.
        path: the file concerned.
        image_id: the image concerned.
        field: the field, option or part concerned.
        value: what was got; shown with ``repr`` when it is not None.
        expected: what would have been right.
        hint: the way out, for example the nearest right name.
    """

    exit_code: ClassVar[int] = 2

    def __init__(
        self,
        what: str,
        *,
        path: str | Path | None = None,
        image_id: int | str | None = None,
        field: str | None = None,
        value: object = None,
        expected: str | None = None,
        hint: str | None = None,
    ) -> None:
        self.path, self.image_id, self.field, self.value = path, image_id, field, value
        place = ":".join(str(part) for part in (path, field) if part is not None)
        image = f"image {image_id!r}: " if image_id is not None else ""
        clauses = [f"{image}{what}"]
        if value is not None:
            clauses.append(f"got {_short(value)}")
        if expected:
            clauses.append(f"expected {expected}")
        if hint:
            clauses.append(hint)
        super().__init__((f"{place}: " if place else "") + "; ".join(clauses))

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (type(self), self.args, self.__dict__)


class RegistryError(DetrkitError):
    """A name, a spec string or a component that the registry cannot accept."""


class ConfigError(DetrkitError):
    """A configuration that cannot be used; ``problems`` lists everything that is wrong with it, a line each."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


class ShapeError(DetrkitError):
    """Tensors whose shape or dtype does not fit."""


class TargetError(DetrkitError):
    """Training targets that cannot be right: labels out of range, boxes in pixels, counts that differ."""


class DataError(DetrkitError):
    """A data set, annotation file or image that cannot be read."""


class CheckpointError(DetrkitError):
    """A checkpoint that is damaged, foreign, or does not fit the model."""


class WriteError(CheckpointError):
    """A file that cannot be written: a full disk, a folder without permission."""

    exit_code = 1


class NonFiniteError(DetrkitError):
    """A NaN or an infinity where numbers are needed (costs, losses, scores)."""

    exit_code = 1


class NonFiniteCostError(NonFiniteError):
    """A matching cost that is NaN or minus infinity."""


class InfeasibleError(DetrkitError):
    """A matching problem in which forbidden pairs leave no complete assignment."""


def _restored(kind: type[DetrkitError], args: tuple[Any, ...], attributes: dict[str, Any]) -> DetrkitError:
    """An error as it was before it was pickled, for example in a worker process."""
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(attributes)
    return error


def nearest(name: str, choices: Iterable[str]) -> str:
    """``did you mean 'x'?`` followed by all choices; the hint of every error about an unknown name."""
    known = sorted(choices)
    close = get_close_matches(str(name), known, n=1, cutoff=0.6)
    listing = f"known: {', '.join(known)}" if known else "none are known"
    if not close:
        return listing
    return f"did you mean {close[0]!r}?" + (f" ({listing})" if len(known) <= 12 else "")


def _short(value: object, limit: int = 120) -> str:
    text = value if isinstance(value, str) and "\n" not in value and value.startswith(("(", "[", "<")) else repr(value)
    return text if len(text) <= limit else f"{text[: limit - 3]}..."
