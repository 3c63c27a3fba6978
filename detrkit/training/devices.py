"""Where to compute."""

from __future__ import annotations

import torch

from detrkit.errors import ConfigError


def pick_device(name: str, local_rank: int = 0) -> torch.device:
    """The device of that name; ``auto`` is a GPU where there is one, each process of a machine its own.

    Raises:
        ConfigError: there is no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(f"cuda:{local_rank}" if name == "cuda" else name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            [f"device: got {name!r}; {str(error).splitlines()[0]}; use device=auto or device=cpu"]
        ) from None
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device
