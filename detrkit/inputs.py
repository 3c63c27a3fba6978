"""What goes into a detector: normalised images with their mask, and the mask at the sizes of feature maps."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from detrkit.errors import ShapeError

FARTHEST_NORMALIZED_PIXEL = 30.0


def valid_share(padding: Bool[Tensor, "B h w"], like: Tensor) -> Float[Tensor, "B 2"]:
    """Which share of width and height is no padding (Deformable DETR, as its official code)."""
    seen = (~padding).to(like.dtype)
    return torch.stack([seen[:, 0].mean(-1), seen[:, :, 0].mean(-1)], dim=-1)


def mask_at(mask: Bool[Tensor, "B H W"], height: int, width: int) -> Bool[Tensor, "B h w"]:
    """The padding mask at the size of a feature map, nearest cell (as the official code)."""
    # what F.interpolate gives, in whole numbers: the runtimes of exported programs round its quotients otherwise
    rows, columns = (
        torch.arange(cells, device=mask.device) * size // cells
        for cells, size in zip((height, width), mask.shape[-2:], strict=True)
    )
    return mask[:, rows[:, None], columns]


def check_images(images: Tensor, mask: Tensor | None) -> None:
    """Refuse what is not a batch of normalised images with its mask.

    Raises:
        ShapeError: says which tensor, what was got and what is expected.
    """
    if images.ndim != 4 or images.shape[1] != 3:
        raise ShapeError(
            "images have the wrong shape", field="images", value=tuple(images.shape), expected="[B, 3, H, W]"
        )
    if not images.is_floating_point():
        raise ShapeError(
            "images have the wrong dtype",
            field="images",
            value=str(images.dtype),
            expected="floating point, normalised",
            hint="model.predict(...) takes raw images",
        )
    if mask is not None and (mask.dtype != torch.bool or mask.shape != (images.shape[0], *images.shape[-2:])):
        raise ShapeError(
            "mask does not fit the images",
            field="mask",
            value=f"({mask.dtype}, {tuple(mask.shape)})",
            expected=f"torch.bool, {(images.shape[0], *images.shape[-2:])}, True = padding",
        )
    if torch.compiler.is_compiling() or images.device.type != "cpu":
        return
    if images.numel() and float(images.detach().abs().amax()) > FARTHEST_NORMALIZED_PIXEL:
        raise ShapeError(
            "images look unnormalised",
            field="images",
            value=float(images.detach().abs().amax()),
            expected=f"values within {FARTHEST_NORMALIZED_PIXEL:g} (ImageNet mean and deviation)",
            hint="model.predict(...) takes raw images",
        )
