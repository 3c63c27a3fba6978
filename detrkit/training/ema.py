"""An exponential moving average of the weights (Polyak and Juditsky 1992), to be evaluated and kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Average:
    """Averaged weights and norm statistics of a model; buffers of whole numbers are those of the last step.

    Early on the average is short: after n steps the decay is at most (1 + n) / (10 + n), so that the random weights
    from which a run starts are soon forgotten.

    Args:
        model: whose weights are averaged.
        decay: share of the old average that a step keeps.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay = model, decay
        self.state: dict[str, Tensor] = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    @torch.no_grad()
    def update(self, steps: int) -> None:
        """Take in the model's weights and buffers after so many steps."""
        decay = min(self.decay, (1 + steps) / (10 + steps))
        for name, tensor in self.model.state_dict().items():
            if tensor.is_floating_point():
                self.state[name].lerp_(tensor, 1 - decay)
            else:
                self.state[name].copy_(tensor)

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on with an average that was saved."""
        for name, tensor in self.state.items():
            tensor.copy_(state[name])

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """While this lasts, the model has the averaged weights."""
        own = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        self.model.load_state_dict(self.state)
        try:
            yield
        finally:
            self.model.load_state_dict(own)
