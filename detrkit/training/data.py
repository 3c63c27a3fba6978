"""From a data set to batches: order, augmentation and padding, all functions of (seed, epoch, index)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader, Sampler
from torch.utils.data import Dataset as TorchDataset

from detrkit.config import DetectorConfig, TrainConfig
from detrkit.datasets import Dataset, Target
from detrkit.errors import DataError, DetrkitError
from detrkit.preprocessing import PaddedImages, normalize, pad, resize

Key = tuple[int, int]
FLIPS, ORDER = 0xF11B, 2  # random streams of their own, beside those of data sets


class Batch(NamedTuple):
    """Images with their padding mask, and a target an image."""

    inputs: PaddedImages
    targets: list[Target]

    @property
    def image_ids(self) -> list[int | str]:
        """The data set's ids of the images."""
        return [target["image_id"] for target in self.targets]


class Samples(TorchDataset[Any]):
    """A data set as the model sees it in training: item (epoch, index), augmented, resized, normalised."""

    def __init__(self, data: Dataset, detector: DetectorConfig, train: TrainConfig) -> None:
        self.data, self.detector, self.train = data, detector, train

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, key: Key) -> tuple[Tensor, Target] | DetrkitError:
        try:
            return self.sample(*key)
        except DetrkitError as error:  # a worker hands it on whole; raised there, it would lose all but its text
            return error

    def sample(self, epoch: int, index: int) -> tuple[Tensor, Target]:
        """Image [3, H, W] and target of an index in an epoch."""
        self.data.epoch = epoch
        image, target = self.data[index]
        if np.random.default_rng((FLIPS, self.train.seed, epoch, index)).random() < self.train.flip:
            image, target = flip(image, target)
        return normalize(resize(image, self.detector.short_side, self.detector.long_side)), target


def flip(image: Image.Image, target: Target) -> tuple[Image.Image, Target]:
    """Image and boxes mirrored left to right."""
    boxes = target["boxes"].clone()
    boxes[:, 0] = 1 - boxes[:, 0]
    return ImageOps.mirror(image), {**target, "boxes": boxes}


class Windows(Sampler[list[Key]]):
    """Order of one epoch as micro-batches; `accumulate` of them in a row are one optimizer step's window.

    A permutation of all images, given by (seed, epoch) alone; the last window may be smaller, no image is left out.
    """

    def __init__(self, size: int, train: TrainConfig) -> None:
        self.size, self.train = size, train
        self.window = train.batch_size * train.accumulate
        self.epoch, self.start = 0, 0

    @property
    def per_epoch(self) -> int:
        """Optimizer steps an epoch."""
        return -(-self.size // self.window)

    def seek(self, step: int) -> None:
        """Go to an optimizer step of the whole run."""
        self.epoch, self.start = divmod(step, self.per_epoch)

    def __len__(self) -> int:
        whole, rest = divmod(self.size - self.start * self.window, self.window)
        return whole * self.train.accumulate - (-rest // self.train.batch_size)

    def __iter__(self) -> Iterator[list[Key]]:
        order = np.random.default_rng((ORDER, self.train.seed, self.epoch)).permutation(self.size)
        for first in range(self.start * self.window, self.size, self.window):
            window = order[first : first + self.window]
            for low in range(0, len(window), self.train.batch_size):
                yield [(self.epoch, int(index)) for index in window[low : low + self.train.batch_size]]


class WindowStream:
    """Endless stream of accumulation windows, from any step on; the data are the same for any number of workers."""

    def __init__(self, data: Dataset, detector: DetectorConfig, train: TrainConfig, start_step: int = 0) -> None:
        if len(data) == 0:
            raise DataError("the training set is empty", field="data", value=str(train.data))
        self.windows = Windows(len(data), train)
        self.windows.seek(start_step)
        self.loader: DataLoader[Any] = DataLoader(
            Samples(data, detector, train),
            batch_sampler=self.windows,
            collate_fn=collate,
            num_workers=train.num_workers,
            generator=torch.Generator(),
            persistent_workers=False,
            timeout=600 if train.num_workers else 0,
        )
        self.accumulate = train.accumulate

    def __iter__(self) -> Iterator[list[Batch]]:
        while True:
            window: list[Batch] = []
            for batch in self.loader:
                if isinstance(batch, DetrkitError):
                    raise batch
                window.append(batch)
                if len(window) == self.accumulate:
                    yield window
                    window = []
            if window:
                yield window
            self.windows.epoch, self.windows.start = self.windows.epoch + 1, 0


def collate(samples: Sequence[tuple[Tensor, Target] | DetrkitError]) -> Batch | DetrkitError:
    """Samples -> a padded batch, or the first error among them."""
    for sample in samples:
        if isinstance(sample, DetrkitError):
            return sample
    images, targets = zip(*samples, strict=True)
    return Batch(pad(images), list(targets))
