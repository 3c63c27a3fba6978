"""AdamW with two learning rates, and a learning rate that is a plain function of the step."""

from __future__ import annotations

import math

from torch import nn
from torch.optim import AdamW

from detrkit.config import TrainConfig


def make_optimizer(model: nn.Module, train: TrainConfig) -> AdamW:
    """AdamW over all trainable parameters: the trunk at `lr_backbone`, the rest at `lr` (DETR, appendix A.4)."""
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    trunk = [p for name, p in trained.items() if name.startswith("backbone.")]
    rest = [p for name, p in trained.items() if not name.startswith("backbone.")]
    groups = [
        {"params": rest, "lr": train.lr, "base_lr": train.lr},
        {"params": trunk, "lr": train.lr_backbone, "base_lr": train.lr_backbone},
    ]
    return AdamW([group for group in groups if group["params"]], weight_decay=train.weight_decay)


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
