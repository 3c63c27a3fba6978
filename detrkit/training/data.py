"""From a data set to batches: order, augmentation and padding, all functions of (seed, epoch, index)."""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Container, Generator, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, count, islice
from threading import Thread
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
from detrkit.progress import watched
from detrkit.registry import REGISTRY
from detrkit.specs import Spec
from detrkit.training.distributed import Processes
from detrkit.training.multi_scale import rescaled, scale_of
from detrkit.transforms import Transforms

Key = tuple[int, int]
TRANSFORMS, ORDER = 0x7F0A, 2  # random streams of their own, beside those of data sets
ALONE = Processes()
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


class SampleError(DetrkitError):
    """A data set or a transform failed in a way that its author has not foreseen."""

    exit_code = 1

    @classmethod
    def of(cls, error: Exception, index: int) -> SampleError:
        """That error of the image with this index."""
        hint = "num_workers=0 and --debug show where"
        made = cls(f"the data set failed: {type(error).__name__}: {error}", image_id=index, hint=hint)
        made.__cause__ = error
        return made


class Samples(TorchDataset[Any]):
    """A data set as the model sees it in training: item (epoch, index), augmented, resized, normalised.

    Without `transforms`, images are resized as in evaluation, and targets are those of the data set.

    Args:
        data: what is read.
        detector: which sees it.
        train: how it is trained.
        plain: epochs in which images are flipped at most.
    """

    def __init__(
        self, data: Dataset, detector: DetectorConfig, train: TrainConfig, plain: Container[int] = range(0)
    ) -> None:
        self.data, self.detector, self.train, self.plain = data, detector, train, plain
        self.usual, self.mild = (
            None if spec is None else REGISTRY.make("transforms", spec, **detector.dimensions())
            for spec in (train.transforms, mild_form(train.transforms))
        )

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, key: Key) -> tuple[Tensor, Target] | DetrkitError:
        try:
            return self.sample(*key)
        except DetrkitError as error:  # whoever reads the image, the training process decides what becomes of it
            return error
        except Exception as error:
            return SampleError.of(error, key[1])

    def sample(self, epoch: int, index: int) -> tuple[Tensor, Target]:
        """Image [3, H, W] and target of an index in an epoch."""
        self.data.epoch = epoch
        image, target = self.data[index]
        transforms: Transforms | None = self.mild if epoch in self.plain else self.usual
        if transforms is None:
            return prepared(image, self.detector), target
        seed = np.random.SeedSequence((TRANSFORMS, self.train.seed, epoch, index)).generate_state(1)
        image, target = transforms(image, target, int(seed[0]))
        return normalize(image, self.detector.normalize), target


def mild_form(transforms: str | None) -> str | None:
    """What plain epochs leave of transforms: their flip, as likely as it was."""
    if transforms is None:
        return None
    settings = Spec.parse(transforms).settings
    return str(Spec("flip", {"p": settings.get("flip", settings.get("p", 0.5))}))


class Windows(Sampler[list[Key]]):
    """Order of all epochs as this process's micro-batches, without end; some in a row are its share of a step's window.

    A window is `batch_size` x `accumulate` x processes images. Their order is a permutation of all images, given by
    (seed, epoch) alone, so that it does not depend on how windows are shared out: micro-batches go to the processes in
    turn. The last window of an epoch may be smaller, so that some have fewer of them or none; no image is left out.

    Attributes:
        start: optimizer step of the whole run at which the order begins.
    """

    def __init__(self, size: int, train: TrainConfig, processes: Processes = ALONE, start: int = 0) -> None:
        self.size, self.train, self.processes, self.start = size, train, processes, start
        self.window = train.batch_size * train.accumulate * processes.count

    @property
    def per_epoch(self) -> int:
        """Optimizer steps an epoch."""
        return -(-self.size // self.window)

    @property
    def total(self) -> int:
        """Optimizer steps of the whole run."""
        return self.train.steps or (self.train.epochs or 0) * self.per_epoch

    @property
    def plain(self) -> range:
        """The last epochs, in which images are flipped at most and keep their size."""
        epochs = -(-self.total // self.per_epoch)
        return range(max(0, epochs - self.train.plain_epochs), epochs)

    def __iter__(self) -> Iterator[list[Key]]:
        return chain.from_iterable(self.shares())

    def shares(self) -> Iterator[list[list[Key]]]:
        """This process's micro-batches of each window."""
        first, place = divmod(self.start, self.per_epoch)
        for epoch in count(first):
            yield from islice(self.of_epoch(epoch), place, None)
            place = 0

    def of_epoch(self, epoch: int) -> Iterator[list[list[Key]]]:
        """The same of one epoch."""
        order = np.random.default_rng((ORDER, self.train.seed, epoch)).permutation(self.size)
        batch, processes = self.train.batch_size, self.processes
        for first in range(0, self.size, self.window):
            window = [(epoch, int(index)) for index in order[first : first + self.window]]
            lows = range(processes.rank * batch, len(window), processes.count * batch)
            yield [window[low : low + batch] for low in lows]


class WorkerError(DataError):
    """A process that reads images has died."""

    exit_code = 1


class WindowStream:
    """Endless stream of a process's shares of windows, from any step on; the same for any number of workers.

    Workers are forked once and live as long as an iteration does: each sample carries its epoch, so that they need no
    beginning of their own, and their memory stays what it is.
    """

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
        self.windows = Windows(len(data), train, processes, start_step)
        self.loader: DataLoader[Any] = DataLoader(
            Samples(data, detector, train, self.windows.plain),
            batch_sampler=self.windows,
            collate_fn=collate,
            num_workers=train.num_workers,
            generator=torch.Generator(),
            worker_init_fn=obey_the_trainer_alone,
        )

    def __iter__(self) -> Generator[list[Batch], None, None]:
        batches = iter(self.loader)
        for step, share in enumerate(self.windows.shares(), self.windows.start):
            scale = self.scale(step)
            yield [batch._replace(inputs=rescaled(batch.inputs, scale)) for batch in islice(batches, len(share))]

    def scale(self, step: int) -> float:
        """Factor of the sides of all images of a step."""
        windows = self.windows
        return 1.0 if step // windows.per_epoch in windows.plain else scale_of(step, windows.train)


def obey_the_trainer_alone(_: int) -> None:
    """Let a worker live on when all processes of a run are told to stop; the trainer finishes a step, then ends it.

    Where it cannot be known who sent a signal (macOS), only Ctrl-C is outlived.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        Thread(target=end_when_told_by, args=(os.getppid(),), daemon=True).start()


def end_when_told_by(trainer: int) -> None:
    """End this process at the first SIGTERM from that one; whatever it is doing, or the trainer would wait for it."""
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != trainer:
        pass
    os._exit(0)


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
        for index in watched(range(len(data)), "read", len(data)):
            try:
                data[index]
                self.indices.append(index)
            except DataError as error:
                self.findings.append(left_out(error))

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[Image.Image, Target]:
        return self.data[self.indices[index]]

    def target(self, index: int) -> Target:
        """As the data set tells it."""
        return self.data.target(self.indices[index])

    def image_id(self, index: int) -> int | str:
        """As the data set tells it."""
        return self.data.image_id(self.indices[index])

    def path(self, index: int) -> str | None:
        """As the data set tells it."""
        return self.data.path(self.indices[index])


def left_out(error: DataError) -> Finding:
    """The finding that an image could not be read."""
    path = str(error.path or "")
    return Finding(str(error).removeprefix(f"{path}: "), path, error.image_id, action="image left out")
