"""The data of a run: training and validation, made and checked before anything else."""

from __future__ import annotations

from detrkit.config import TrainConfig
from detrkit.datasets import Dataset
from detrkit.errors import ConfigError, DataError
from detrkit.registry import REGISTRY
from detrkit.training.data import Readable


def make_splits(train: TrainConfig) -> tuple[Dataset, Dataset | None]:
    """Training and validation data, checked: neither is empty, and their classes are the same.

    Raises:
        DataError: they cannot be used.
    """
    data = make_data(train, train.train_split)
    val = make_data(train, train.val_split) if train.eval_every else None
    if val is not None and train.on_bad_image == "skip":
        val = Readable(val)
    for split, part in ((train.train_split, data), (train.val_split, val)):
        if part is not None and len(part) == 0:
            hint = "eval_every=0 trains without evaluation" if part is val else None
            raise DataError(f"the split {split!r} is empty", field="data", value=str(train.data), hint=hint)
    if val is not None and val.label_space != data.label_space:
        raise DataError(
            "training and validation data have different classes",
            field="data",
            value=str(val.label_space.names),
            expected=str(data.label_space.names),
        )
    return data, val


def make_data(train: TrainConfig, split: str) -> Dataset:
    """A split of the data that a configuration names."""
    if train.data is None:
        raise ConfigError(["data: must be given, for example data=toy or data=\"voc(root='DIR')\""])
    return REGISTRY.make("datasets", train.data, split=split)
