"""AdamW with a learning rate for each part, and a factor for all of them that is a plain function of the step."""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.optim import AdamW

from detrkit import fields
from detrkit.config import TrainConfig
from detrkit.training.parameters import matches, require_matches


def make_optimizer(model: nn.Module, train: TrainConfig) -> AdamW:
    """AdamW over all trainable parameters: the trunk at `lr_backbone`, the rest at `lr` (DETR, appendix A.4).

    The last pattern of `lr_factors` that matches a parameter multiplies its rate; those of `no_decay` are not decayed.

    Raises:
        ConfigError: a pattern matches nothing.
    """
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    factors = train.factors()
    require_matches("lr_factors", factors, list(trained))
    spared = fields.items(train.no_decay)
    require_matches("no_decay", spared, list(trained))
    groups: dict[tuple[bool, float, float], list[Tensor]] = {}
    for name in sorted(trained, key=in_trunk):
        factor = next((factors[pattern] for pattern in reversed(factors) if matches(name, pattern)), 1.0)
        decay = 0.0 if any(matches(name, pattern) for pattern in spared) else train.weight_decay
        groups.setdefault((in_trunk(name), factor, decay), []).append(trained[name])
    rates = {True: train.lr_backbone, False: train.lr}
    return AdamW(
        {"params": parameters, "lr": rates[trunk] * factor, "base_lr": rates[trunk] * factor, "weight_decay": decay}
        for (trunk, factor, decay), parameters in groups.items()
    )


def in_trunk(name: str) -> bool:
    """Whether a parameter is the backbone's."""
    return name.startswith("backbone.")


def set_learning_rate(optimizer: AdamW, factor: float) -> None:
    """Every group's base rate times a factor."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor


def learning_rate_factor(step: int, total_steps: int, steps_per_epoch: int, train: TrainConfig) -> float:
    """Factor of the learning rates at a step (counted from 0): linear warm-up, then the schedule."""
    if step < train.warmup_steps:
        return (step + 1) / train.warmup_steps
    if train.schedule == "step":
        drop = train.lr_drop * steps_per_epoch if train.lr_drop else total_steps * 2 / 3
        return 0.1 if step >= drop else 1.0
    done = (step - train.warmup_steps) / max(1, total_steps - train.warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * done)) if train.schedule == "cosine" else 1 - done
