"""By picking cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from detrkit.samplers import Sampler
from detrkit.samplers._corners import corners


@final
class GatherSampler(Sampler):
    """The four cells around each point looked up and summed by a matrix product: plain operators, for export.

    Takes four copies of the values for every point of a query, which is much in an encoder. The gradient of the values
    comes from the backward of ``embedding``, which on a GPU sorts instead of adding by atomics.
    """

    def sample(
        self,
        value: Float[Tensor, "B N H d"],
        shapes: Sequence[tuple[int, int]],
        points: Float[Tensor, "B Q H L P 2"],
        weights: Float[Tensor, "B Q H L P"],
    ) -> Float[Tensor, "B Q D"]:
        """As the contract."""
        rows, shares = corners(value, shapes, points, weights)
        return (shares[..., None, :] @ F.embedding(rows, value.flatten(0, 2))).flatten(2)
