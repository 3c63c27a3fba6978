"""From a data set to batches: order, augmentation and padding, all functions of (seed, epoch, index)."""

from __future__ import annotations

import signal
import traceback
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Sampler
from torch.utils.data import Dataset as TorchDataset

from detrkit.config import DetectorConfig, TrainConfig
from detrkit.datasets import Dataset, Finding, Target
from detrkit.errors import DataError, DetrkitError
from detrkit.preprocessing import PaddedImages, normalize, pad, prepared
from detrkit.registry import REGISTRY
from detrkit.training.distributed import Processes
from detrkit.transforms import Transforms

Key = tuple[int, int]
TRANSFORMS, ORDER = 0x7F0A, 2  # random streams of their own, beside those of data sets
ALONE = Processes()
GRACE = 60  # seconds
NO_IMAGES = PaddedImages(torch.empty(0, 3, 0, 0), None)


class Batch(NamedTuple):
    """Images with their padding mask, a target an image, and what was wrong with images that are missing."""

    inputs: PaddedImages
    targets: list[Target]
    failures: list[DetrkitError]

    @property
    def image_ids(self) -> list[int | str]:
        """The data set's ids of the images."""
        return [target["image_id"] for target in self.targets]


class Samples(TorchDataset[Any]):
    """A data set as the model sees it in training: item (epoch, index), augmented, resized, normalised.

    Without `transforms`, images are resized as in evaluation, and targets are those of the data set.
    """

    def __init__(self, data: Dataset, detector: DetectorConfig, train: TrainConfig) -> None:
        self.data, self.detector, self.train = data, detector, train
        self.transforms: Transforms | None = None
        if train.transforms is not None:
            self.transforms = REGISTRY.make("transforms", train.transforms, **detector.dimensions())

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, key: Key) -> tuple[Tensor, Target] | DetrkitError:
        try:
            return self.sample(*key)
        except DetrkitError as error:  # whoever reads the image, the training process decides what becomes of it
            return error

    def sample(self, epoch: int, index: int) -> tuple[Tensor, Target]:
        """Image [3, H, W] and target of an index in an epoch."""
        self.data.epoch = epoch
        image, target = self.data[index]
        if self.transforms is None:
            return prepared(image, self.detector), target
        seed = np.random.SeedSequence((TRANSFORMS, self.train.seed, epoch, index)).generate_state(1)
        image, target = self.transforms(image, target, int(seed[0]))
        return normalize(image, self.detector.normalize), target


class Windows(Sampler[list[Key]]):
    """Order of one epoch as this process's micro-batches; some of them in a row are its share of a step's window.

    A window is `batch_size` x `accumulate` x processes images. Their order is a permutation of all images, given by
    (seed, epoch) alone, so that it does not depend on how windows are shared out: micro-batches go to the processes in
    turn. The last window of an epoch may be smaller, so that some have fewer of them or none; no image is left out.
    """

    def __init__(self, size: int, train: TrainConfig, processes: Processes = ALONE) -> None:
        self.size, self.train, self.processes = size, train, processes
        self.window = train.batch_size * train.accumulate * processes.count
        self.epoch, self.start = 0, 0

    @property
    def per_epoch(self) -> int:
        """Optimizer steps an epoch."""
        return -(-self.size // self.window)

    def seek(self, step: int) -> None:
        """Go to an optimizer step of the whole run."""
        self.epoch, self.start = divmod(step, self.per_epoch)

    def counts(self) -> list[int]:
        """How many micro-batches this process has of each window that is left of the epoch."""
        return [len(self._lows(min(self.window, self.size - first))) for first in self._firsts()]

    def __len__(self) -> int:
        return sum(self.counts())

    def __iter__(self) -> Iterator[list[Key]]:
        order = np.random.default_rng((ORDER, self.train.seed, self.epoch)).permutation(self.size)
        for first in self._firsts():
            window = order[first : first + self.window]
            for low in self._lows(len(window)):
                yield [(self.epoch, int(index)) for index in window[low : low + self.train.batch_size]]

    def _firsts(self) -> range:
        """Where in the order of the epoch the windows begin that are left."""
        return range(self.start * self.window, self.size, self.window)

    def _lows(self, size: int) -> range:
        """Where in a window of this size the micro-batches of this process begin."""
        batch, processes = self.train.batch_size, self.processes
        return range(processes.rank * batch, size, processes.count * batch)


class WorkerError(DataError):
    """A process that reads images has died."""

    exit_code = 1


class WindowStream:
    """Endless stream of a process's shares of windows, from any step on; the same for any number of workers."""

    def __init__(
        self,
        data: Dataset,
        detector: DetectorConfig,
        train: TrainConfig,
        start_step: int = 0,
        processes: Processes = ALONE,
    ) -> None:
        if len(data) == 0:
            raise DataError("the training set is empty", field="data", value=str(train.data))
        self.windows = Windows(len(data), train, processes)
        self.windows.seek(start_step)
        self.loader: DataLoader[Any] = DataLoader(
            Samples(data, detector, train),
            batch_sampler=self.windows,
            collate_fn=collate,
            num_workers=train.num_workers,
            generator=torch.Generator(),
            persistent_workers=False,
            worker_init_fn=outlive_signals,
        )

    def __iter__(self) -> Generator[list[Batch], None, None]:
        while True:
            batches = iter(self.loader)
            for count in self.windows.counts():
                yield list(islice(batches, count))
            self.windows.epoch, self.windows.start = self.windows.epoch + 1, 0


def outlive_signals(_: int) -> None:
    """Let a worker live on for a while when all processes are told to stop, so that the step can be finished."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(GRACE))


@contextmanager
def noticing_dead_workers() -> Iterator[None]:
    """Say in one line that a worker has died, and end the others; PyTorch notices it at any moment, by a signal.

    Raises:
        WorkerError: with the likely reason.
    """
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("DataLoader "):
            raise
        traceback.clear_frames(error.__traceback__)  # they hold the loader, which ends its workers when it goes
        raise WorkerError(
            "a process that reads images has died",
            field="num_workers",
            value=f"({' '.join(str(error).split())})",
            hint="often for want of memory: take fewer workers, smaller batches or images; then --resume",
        ) from None


def collate(samples: Sequence[tuple[Tensor, Target] | DetrkitError]) -> Batch:
    """Samples -> a padded batch of those that could be read."""
    failures = [sample for sample in samples if isinstance(sample, DetrkitError)]
    read = [sample for sample in samples if not isinstance(sample, DetrkitError)]
    images, targets = [image for image, _ in read], [target for _, target in read]
    return Batch(pad(images) if images else NO_IMAGES, targets, failures)


class Readable(Dataset):
    """The images of a data set that can be read, each tried once; the others are findings."""

    def __init__(self, data: Dataset) -> None:
        self.data, self.label_space, self.findings = data, data.label_space, list(data.findings)
        self.indices: list[int] = []
        for index in range(len(data)):
            try:
                data[index]
                self.indices.append(index)
            except DataError as error:
                self.findings.append(left_out(error))

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[Image.Image, Target]:
        return self.data[self.indices[index]]


def left_out(error: DataError) -> Finding:
    """The finding that an image could not be read."""
    path = str(error.path or "")
    return Finding(str(error).removeprefix(f"{path}: "), path, error.image_id, action="image left out")
