"""Label spaces: class names, the contiguous ids that models use, and the ids that the data use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from detrkit.errors import DataError


@dataclass(frozen=True)
class LabelSpace:
    """The classes of a data set; the background is none of them.

    Attributes:
        names: class names; a model's label k is ``names[k]``.
        ids: the ids that the data use for them, for example COCO's 1..90 with gaps; 0..K-1 when not given.
    """

    names: tuple[str, ...]
    ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(str(name) for name in self.names))
        object.__setattr__(self, "ids", tuple(int(i) for i in self.ids) or tuple(range(len(self.names))))
        if len(set(self.names)) < len(self.names) or len(set(self.ids)) < len(self.ids):
            raise DataError("names and ids of a label space are unique", field="label_space", value=self.names)
        if len(self.names) != len(self.ids):
            raise DataError("a label space has one id a name", field="label_space", value=(self.names, self.ids))

    def __len__(self) -> int:
        return len(self.names)

    def to_json(self) -> dict[str, list[Any]]:
        """Plain lists, as saved in checkpoints."""
        return {"names": list(self.names), "ids": list(self.ids)}

    @classmethod
    def from_json(cls, saved: dict[str, Sequence[Any]]) -> LabelSpace:
        """The inverse of `to_json`."""
        return cls(tuple(saved["names"]), tuple(saved["ids"]))

    @classmethod
    def numbered(cls, count: int) -> LabelSpace:
        """Nameless classes ``class 0`` ... where nothing is known but their number."""
        return cls(tuple(f"class {k}" for k in range(count)))
