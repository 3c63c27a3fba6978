"""The training loop."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.nn.utils import clip_grad_norm_
from torchvision.ops import FrozenBatchNorm2d
from tqdm import tqdm

from detrkit.checkpoints.detector import save_detector, without_weights
from detrkit.config import DetectorConfig, TrainConfig
from detrkit.criterion import Losses, Normalizer, SetCriterion
from detrkit.datasets import Dataset, Finding
from detrkit.errors import ConfigError, NonFiniteCostError, NonFiniteError
from detrkit.evaluation import evaluate
from detrkit.model import build
from detrkit.specs import Spec
from detrkit.training.data import Batch, WindowStream
from detrkit.training.log import MetricsLog
from detrkit.training.optimizer import learning_rate_factor, make_optimizer, set_learning_rate
from detrkit.training.run import FINDINGS, Progress, Run, Stopped, refuse_other_run
from detrkit.training.splits import make_splits
from detrkit.training.state import environment, restore_state, save_state


def train(detector: DetectorConfig, train: TrainConfig, out: str | Path, *, resume: bool = False) -> Run:
    """Train a detector.

    Args:
        detector: what to train; `num_classes` is taken from the data.
        train: how; `data` must be given.
        out: folder of the run: configuration, ``metrics.jsonl``, ``last`` and ``best`` checkpoints.
        resume: go on from the folder's last checkpoint, bit for bit as if the run had never stopped.

    Returns:
        The run, finished.

    Raises:
        ConfigError, DataError: before anything is written.
        NonFiniteError: a loss or gradient that is not finite; the weights are those before that step.
        Stopped: SIGINT or SIGTERM; the step was finished and saved.
    """
    return Trainer(detector, train, Path(out), resume=resume).run_to_end()


class Trainer:
    """What a run needs while it lasts."""

    def __init__(self, detector: DetectorConfig, train: TrainConfig, folder: Path, *, resume: bool) -> None:
        self.data, self.val = make_splits(train)
        detector = detector.replace(num_classes=len(self.data.label_space))
        self.run = Run(folder, detector, train)
        refuse_other_run(self.run, resume)
        torch.manual_seed(train.seed)
        self.device = pick_device(train.device)
        start = detector.replace(backbone=without_weights(detector.backbone)) if resume else detector
        source = None if resume else train.init_from
        self.model = build(start, label_space=self.data.label_space, init_from=source).to(self.device)
        self.model.config = detector
        self.criterion = SetCriterion.from_config(detector)
        self.optimizer = make_optimizer(self.model, train)
        if resume:
            self.restore()
        self.log = MetricsLog(folder / "metrics.jsonl", self.run.progress.log_length)
        self.stream = WindowStream(self.data, detector, train, self.run.progress.step)
        self.per_epoch = self.stream.windows.per_epoch
        self.total = train.steps or (train.epochs or 0) * self.per_epoch
        self.signum: int | None = None
        if not resume:
            self.run.save_config(self.findings(), self.model.loaded)
            self.save()  # so that a run which dies early can be resumed too
        self.announce()

    def restore(self) -> None:
        """Go to where the run's last checkpoint stands."""
        progress, made_in = restore_state(self.run.last, self.model, self.optimizer)
        self.run.progress = Progress(**progress)
        if made_in != environment():
            say(f"the run was made with {made_in}, this is {environment()}: it will go on, but not to the bit")

    def findings(self) -> list[Finding]:
        """What was wrong in the data, each thing once."""
        parts = [part for part in (self.data, self.val) if part is not None]
        return list({str(finding): finding for part in parts for finding in part.findings}.values())

    def announce(self) -> None:
        """Say on stderr what is trained on what, and what was wrong with the data."""
        trained = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
        count = sum(p.numel() for p in self.model.parameters())
        say(f"{len(self.data)} training images, classes: {', '.join(self.data.label_space.names)}")
        say(
            f"{count:,} parameters, {trained:,} trained; {self.total} steps of "
            f"{self.stream.windows.window} images on {self.device}, {torch.get_num_threads()} threads"
        )
        if self.model.loaded:
            say(f"init_from {self.model.loaded}")
        if self.frozen_at_random():
            say("backbone: a part is frozen at random; give it weights='FILE', or norm=batch, trainable_levels=none")
        findings = self.findings()
        for finding in findings[:10]:
            say(f"data: {finding}")
        if len(findings) > 10:
            say(f"data: ... and {len(findings) - 10} more, see {FINDINGS} in the run folder")
        say(f"run folder: {self.run.folder}")

    def frozen_at_random(self) -> bool:
        """Whether the trunk keeps parameters or norms that were never trained."""
        carried_over = self.model.loaded.only("loaded") if self.model.loaded else ()
        starts_at_random = Spec.parse(self.run.detector.backbone).settings.get("weights") is None and not any(
            entry.name.startswith("backbone.") for entry in carried_over
        )
        trunk = self.model.backbone
        trained = all(p.requires_grad for p in trunk.parameters())
        return starts_at_random and not (trained and not any(isinstance(m, FrozenBatchNorm2d) for m in trunk.modules()))

    def run_to_end(self) -> Run:
        """Train from where the run stands to its last step."""
        progress = self.run.progress
        bar = tqdm(total=self.total, initial=progress.step, desc="train", unit="step", dynamic_ncols=True)
        with bar, self.catching_signals():
            windows = iter(self.stream)
            while progress.step < self.total:
                started = time.perf_counter()
                bar.set_postfix_str(self.step(next(windows)))
                progress.seconds += time.perf_counter() - started
                bar.update()
                self.after_step()
        return self.run

    def step(self, window: Sequence[Batch]) -> str:
        """One optimizer step over one accumulation window; exact whatever the split into micro-batches."""
        progress, train = self.run.progress, self.run.train
        self.model.train()
        factor = learning_rate_factor(progress.step, self.total, self.per_epoch, train)
        set_learning_rate(self.optimizer, factor)
        self.optimizer.zero_grad(set_to_none=True)
        normalizer = window_normalizer(self.criterion, window, self.run.detector.num_queries)
        progress.surplus += count_surplus(window, self.run.detector.num_queries)
        logged: dict[str, float] = {}
        for batch in window:
            losses = self.losses(batch, normalizer)
            losses.total.backward()
            accumulate_log(logged, losses, share=len(batch.targets) / sum(len(b.targets) for b in window))
        norm = clip_grad_norm_(self.model.parameters(), train.clip_max_norm or float("inf"))
        if not torch.isfinite(norm):
            raise NonFiniteError(
                f"gradient of step {progress.step} is not finite",
                field="gradient",
                value=float(norm),
                hint=f"images {[i for b in window for i in b.image_ids]}",
            )
        self.optimizer.step()
        progress.step += 1
        self.log.write(
            "train",
            {
                "step": progress.step,
                "epoch": (progress.step - 1) // self.per_epoch,
                "lr_factor": factor,
                "grad_norm": float(norm),
                **logged,
            },
        )
        return (
            f"loss {logged['loss']:.3f} ce {logged['loss_ce']:.3f} L1 {logged['loss_bbox']:.3f} "
            f"GIoU {logged['loss_giou']:.3f}"
        )

    def losses(self, batch: Batch, normalizer: Normalizer) -> Losses:
        """Losses of a micro-batch, refused where they are not finite.

        Raises:
            NonFiniteError: names step, images and the first bad term.
        """
        step = self.run.progress.step
        try:
            losses = self.criterion(self.model(*batch.inputs.to(self.device), batch.targets), batch.targets, normalizer)
        except NonFiniteCostError as error:
            raise NonFiniteError(f"step {step}, images {batch.image_ids}: {error}") from None
        check_finite(losses, batch, step)
        return losses

    def after_step(self) -> None:
        """Evaluate and save where it is due; stop where a signal asked for it."""
        step, train = self.run.progress.step, self.run.train
        ends_epoch = step % self.per_epoch == 0 or step == self.total
        epoch = -(-step // self.per_epoch)
        if ends_epoch and self.run.progress.surplus:
            say_beside_bar(f"epoch {epoch}: {self.run.progress.surplus} objects had no query; raise num_queries")
            self.run.progress.surplus = 0
        if ends_epoch and self.val is not None and (epoch % train.eval_every == 0 or step == self.total):
            self.evaluate(self.val)
        if self.signum is not None or (
            ends_epoch and (step == self.total or (train.save_every and epoch % train.save_every == 0))
        ):
            self.save()
        if self.signum is not None:
            raise Stopped(self.signum, self.run)

    def evaluate(self, data: Dataset) -> None:
        """Score on held-out data; keep the best detector."""
        numbers, _ = evaluate(self.model, data, batch_size=max(8, self.run.train.batch_size))
        progress = self.run.progress
        self.log.write("eval", {"step": progress.step, "seconds": round(progress.seconds, 1), **numbers})
        if numbers["AP"] != numbers["AP"]:
            say_beside_bar(f"step {progress.step}: the validation data hold no object, so that there is no AP")
            return
        say_beside_bar(
            f"step {progress.step}: AP {numbers['AP']:.3f}  AP50 {numbers['AP50']:.3f}  "
            f"AP75 {numbers['AP75']:.3f}  ({progress.seconds:.0f} s of training)"
        )
        if numbers["AP"] > progress.best_ap:
            progress.best_ap = numbers["AP"]
            save_detector(self.model, self.run.best)

    def save(self) -> None:
        """Write the checkpoint to resume from."""
        self.run.progress.log_length = self.log.length
        save_state(self.run.last, self.model, self.optimizer, vars(self.run.progress))

    @contextmanager
    def catching_signals(self) -> Iterator[None]:
        """SIGINT and SIGTERM let the step finish; a second one acts at once."""

        def note(signum: int, _: Any) -> None:
            self.signum = signum
            signal.signal(signum, before[signal.Signals(signum)])

        before = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)} if is_main_thread() else {}
        try:
            yield
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)


def check(detector: DetectorConfig, train: TrainConfig) -> tuple[Dataset, Dataset | None]:
    """All that can be known to be wrong before training: data, device, weights, and that the parts fit."""
    data, val = make_splits(train)
    pick_device(train.device)
    build(detector, label_space=data.label_space, init_from=train.init_from)
    return data, val


def window_normalizer(criterion: SetCriterion, window: Sequence[Batch], num_queries: int) -> Normalizer:
    """What the losses of all micro-batches of a window are divided by."""
    parts = [criterion.normalizer(batch.targets, num_queries) for batch in window]
    return sum(parts[1:], start=parts[0])


def accumulate_log(logged: dict[str, float], losses: Losses, share: float) -> None:
    """Add a micro-batch: losses add up (they share a normalizer), metrics are averaged over images."""
    values = {"loss": losses.total, **losses.terms, **{name: share * value for name, value in losses.metrics.items()}}
    numbers = torch.stack([value.detach().double() for value in values.values()]).tolist()
    for name, number in zip(values, numbers, strict=True):
        logged[name] = logged.get(name, 0.0) + number


def count_surplus(window: Sequence[Batch], num_queries: int) -> int:
    """Objects that cannot be matched because their image holds more of them than there are queries."""
    objects = [int((~target["iscrowd"]).sum()) for batch in window for target in batch.targets]
    return sum(max(0, count - num_queries) for count in objects)


def check_finite(losses: Losses, batch: Batch, step: int) -> None:
    """Stop before the optimizer step on a loss that is not finite.

    Raises:
        NonFiniteError: names step, images and the first bad term.
    """
    if torch.isfinite(losses.total):
        return
    name = next((n for n, value in losses.terms.items() if not torch.isfinite(value)), "total")
    raise NonFiniteError(
        f"loss of step {step} is not finite",
        field=name,
        value=float(losses.total.detach()),
        hint=f"images {batch.image_ids}; the weights are unchanged by this step",
    )


def pick_device(name: str) -> torch.device:
    """``auto`` is a GPU where there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            [f"device: got {name!r}; {str(error).splitlines()[0]}; use device=auto or device=cpu"]
        ) from None
    return device


def is_main_thread() -> bool:
    """Only the main thread may catch signals."""
    import threading

    return threading.current_thread() is threading.main_thread()


def say_beside_bar(text: str) -> None:
    """A line on stderr that leaves the progress bar whole."""
    tqdm.write(text, file=sys.stderr)


def say(text: str) -> None:
    """A line of progress on stderr."""
    sys.stderr.write(text + os.linesep)
