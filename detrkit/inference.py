"""Detectors that only look: a copy that says the same in less time.

On an AMD EPYC, DETR-R50 takes 0.6 of its time folded, and 0.3 of it in bfloat16 (`benchmarks/model.py`, 800 x 1066).
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import wraps
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from detrkit.folding import folded
from detrkit.training.precision import autocast

if TYPE_CHECKING:
    from detrkit.model import Detector
    from detrkit.outputs import DetectorOutput

Forward = Callable[..., "DetectorOutput"]

HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def for_inference(
    model: Detector, *, fold: bool = True, amp: Literal["none", "bf16"] = "none", compile: bool = False
) -> Detector:
    """A copy for inference, in evaluation mode and without gradients; later changes of the model do not reach it.

    Args:
        model: the detector; stays as it is.
        fold: fold norms into convolutions, see `detrkit.folding.folded`; the same answers but for rounding.
        amp: ``bf16`` takes products in bfloat16, all but those of the heads; answers differ by the rounding of 8 bits.
        compile: let PyTorch compile it at the first call, and again for other sizes of images, which takes minutes.

    Raises:
        ConfigError: norms that cannot be folded.
    """
    copy = folded(model) if fold else deepcopy(model).eval().requires_grad_(False)
    forward: Forward = copy.forward
    if compile:  # weights as constants: only then are products packed once, and norms folded by the compiler too
        forward = torch.compile(forward, options={"freezing": True})
    copy.forward = looking(forward if compile else with_fast_products(forward), copy, amp)  # type: ignore[method-assign]
    return copy


def looking(forward: Forward, model: Detector, amp: str) -> Forward:
    """The same without gradients, its products taken as asked."""

    @wraps(forward)
    def look(*args: Any, **options: Any) -> DetectorOutput:
        with torch.no_grad(), autocast(next(model.parameters()).device, amp):
            return forward(*args, **options)

    return look


def with_fast_products(forward: Forward) -> Forward:
    """The same, with linear layers through oneDNN where there is one."""

    @wraps(forward)
    def run(*args: Any, **options: Any) -> DetectorOutput:
        with FastProducts():
            return forward(*args, **options)

    return run if HAS_ONEDNN else forward


class FastProducts(TorchFunctionMode):
    """While this lasts, linear layers of float32 on a CPU go through oneDNN, as convolutions do; no gradients.

    PyTorch gives them to MKL, which takes twice the time on processors that are not Intel's.
    """

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Any function as it is, but for linear layers."""
        if function is F.linear and not kwargs and len(args) == 3 and all(map(fits, args)):
            return torch.ops.mkldnn._linear_pointwise(*args, "none", [], "")
        return function(*args, **(kwargs or {}))


def fits(tensor: Tensor | None) -> bool:
    """Whether oneDNN takes it: float32 on a CPU, and to be left so."""
    there = tensor is not None and tensor.device.type == "cpu" and tensor.dtype == torch.float32
    return there and not torch.is_autocast_enabled("cpu")
