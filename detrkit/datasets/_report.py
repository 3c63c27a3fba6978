"""The policy for faults in data: each becomes a finding, or an error."""

from __future__ import annotations

from pathlib import Path
from reprlib import Repr

from detrkit.datasets import Finding
from detrkit.errors import DataError

_REPR = Repr()
_REPR.maxlevel, _REPR.maxlist, _REPR.maxdict, _REPR.maxother, _REPR.maxstring = 3, 10, 10, 80, 80


class Fault(Exception):
    """Something wrong in the data; `Report` makes it a finding or an error."""

    def __init__(
        self, what: str, *, field: str | None = None, value: object = None, expected: str | None = None
    ) -> None:
        super().__init__(what)
        self.what, self.field, self.value, self.expected = what, field, value, expected


class Report:
    """The policy for faults: gather them as findings, or raise the first one.

    Args:
        strict: raise instead of gathering.
    """

    def __init__(self, strict: bool) -> None:
        self.strict = strict
        self.findings: list[Finding] = []

    def add(
        self,
        fault: Fault | DataError,
        path: str | Path,
        *,
        image_id: int | str | None = None,
        within: str | None = None,
        action: str = "dropped",
    ) -> None:
        """Report a fault and what is done about it.

        Args:
            fault: what is wrong; a DataError is kept word by word.
            path: the file concerned.
            image_id: the image concerned.
            within: the part of the file that holds the fault's field, for example ``object[3]``.
            action: what was done about it.

        Raises:
            DataError: the policy is strict.
        """
        if isinstance(fault, DataError):
            if self.strict:
                raise fault
            what = str(fault).removeprefix(f"{path}: ")
            self.findings.append(Finding(what, str(path), image_id, action=action))
            return
        field = ".".join(part for part in (within, fault.field) if part) or None
        if self.strict:
            value = fault.value if isinstance(fault.value, str) else _shown(fault.value)
            raise DataError(fault.what, path=path, image_id=image_id, field=field, value=value, expected=fault.expected)
        self.findings.append(Finding(fault.what, str(path), image_id, field, _shown(fault.value), action))


def _shown(value: object, limit: int = 80) -> str | None:
    """A value on one line and not too long: texts in quotes, unless they are explanations in brackets already."""
    if value is None:
        return None
    plain = isinstance(value, str) and value[:1] in ("(", "<")
    text = " ".join(value.split()) if plain else repr(value) if isinstance(value, str) else _REPR.repr(value)  # type: ignore[attr-defined]
    return text if len(text) <= limit else f"{text[: limit - 3]}..."
