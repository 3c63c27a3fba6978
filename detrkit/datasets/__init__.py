"""The role `datasets`: images with what is to be found in them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

from detrkit.labels import LabelSpace

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor


class Target(TypedDict):
    """What is to be found in one image.

    Keys:
        boxes: float32 [T, 4], (cx, cy, w, h) as fractions of the image, w and h above 0, inside the image.
        labels: int64 [T], 0..K-1.
        iscrowd: bool [T], a box around many objects that are not told apart; ignored in matching.
        image_id: the data set's own id of the image.
        orig_size: int64 [2], (height, width) of the image in pixels as it is shown (EXIF orientation applied).
        area: float [T], pixels that each object covers, where the data tell it (COCO's masks); an evaluator calls
            objects small, medium or large by it. May be left out: then it is the area of the box.
    """

    boxes: Tensor
    labels: Tensor
    iscrowd: Tensor
    image_id: int | str
    orig_size: Tensor
    area: NotRequired[Tensor]


@dataclass(frozen=True)
class Finding:
    """Something wrong or repaired in the data: what, where, and what was done about it."""

    what: str
    path: str
    image_id: int | str | None = None
    field: str | None = None
    value: Any = None
    action: str = "dropped"

    def __str__(self) -> str:
        place = ":".join(str(part) for part in (self.path, self.field) if part is not None)
        got = "" if self.value is None else f"; got {self.value}"
        named = self.image_id is None or str(self.image_id) in place
        image = "" if named else f"image {self.image_id!r}: "
        return f"{place}: {image}{self.what}{got}; {self.action}"


class Dataset(ABC):
    """Contract of the role. Keep it by defining `__len__` and `__getitem__` and setting the attributes.

    Laws: an item depends only on the settings, the split, `epoch` and the index, whatever was read before and by
    whichever process; targets are as `Target` says; `target`, `image_id` and `path` tell what is true of the item.

    Attributes:
        label_space: names and original ids of the classes.
        findings: what was wrong in the files and what was done about it; nothing is repaired silently.
        epoch: set by the training loop before each item; data that do not change over time ignore it.
    """

    label_space: LabelSpace
    findings: list[Finding]
    epoch: int = 0

    @abstractmethod
    def __len__(self) -> int:
        """Number of images."""

    @abstractmethod
    def __getitem__(self, index: int) -> tuple[Image, Target]:
        """Image (PIL, mode RGB) and target.

        Raises:
            DataError: the image cannot be read; names the file.
        """

    def target(self, index: int) -> Target:
        """What is to be found in an image; a data set that knows it without the pixels does not read them.

        Raises:
            DataError: the image must be read for it and cannot be.
        """
        return self[index][1]

    def image_id(self, index: int) -> int | str:
        """The data set's own id of an image, as in its target."""
        return self.target(index)["image_id"]

    def path(self, index: int) -> str | None:
        """The file of an image, which nobody opens for it; None where there is none."""
        return None
