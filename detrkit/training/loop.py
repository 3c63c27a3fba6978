"""The training loop."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from detrkit import fields
from detrkit.checkpoints.detector import save_detector, without_weights
from detrkit.config import DetectorConfig, TrainConfig
from detrkit.criterion import Losses, SetCriterion
from detrkit.datasets import Dataset
from detrkit.errors import CheckpointError, NonFiniteError
from detrkit.evaluation import evaluate
from detrkit.model import build
from detrkit.progress import ProgressBar, say
from detrkit.training.announcement import announcement
from detrkit.training.data import ALONE, Batch, WindowStream, noticing_dead_workers
from detrkit.training.devices import pick_device
from detrkit.training.distributed import Processes
from detrkit.training.ema import Average
from detrkit.training.log import Log, MetricsLog, length_of
from detrkit.training.numerics import check_finite, origin
from detrkit.training.optimizer import learning_rate_factor, make_optimizer, set_learning_rate
from detrkit.training.parameters import freeze, running_statistics
from detrkit.training.precision import autocast, determinism
from detrkit.training.run import Progress, Run, Stopped, refuse_other_run
from detrkit.training.signals import noticing_signals
from detrkit.training.splits import make_splits
from detrkit.training.state import RandomState, environment, random_state, restore_state, save_state
from detrkit.training.tensorboard import TensorBoardLog
from detrkit.training.window import Share, add_to_log, total_log


def train(
    detector: DetectorConfig,
    train: TrainConfig,
    out: str | Path,
    *,
    resume: bool = False,
    reasons: Iterable[str] = (),
) -> Run:
    """Train a detector; under ``torchrun``, in all its processes as one.

    Args:
        detector: what to train; `num_classes` is taken from the data.
        train: how; `data` must be given.
        out: folder of the run: configuration, ``metrics.jsonl``, ``last`` and ``best`` checkpoints.
        resume: go on from the folder's last checkpoint, bit for bit as if the run had never stopped.
        reasons: why the configurations are as they are, lines to be kept beside them.

    Returns:
        The run, finished.

    Raises:
        ConfigError, DataError: before anything is written.
        NonFiniteError: a loss or gradient that is not finite; the weights are those before that step.
        Stopped: SIGINT or SIGTERM; the step was finished and saved.
    """
    processes = Processes.started()
    with processes.joined():
        return Trainer(detector, train, Path(out), resume=resume, processes=processes, reasons=reasons).run_to_end()


class Trainer:
    """What a run needs while it lasts."""

    def __init__(
        self,
        detector: DetectorConfig,
        train: TrainConfig,
        folder: Path,
        *,
        resume: bool,
        processes: Processes = ALONE,
        reasons: Iterable[str] = (),
    ) -> None:
        self.processes, self.signum, self.saved_at = processes, 0, time.monotonic()
        self.data, self.val = make_splits(train)
        detector = detector.replace(num_classes=len(self.data.label_space))
        self.run = Run(folder, detector, train, reasons=tuple(reasons))
        processes.of_first(lambda: refuse_other_run(self.run, resume))
        torch.manual_seed(train.seed)
        self.device = pick_device(train.device, processes.local_rank)
        start = detector.replace(backbone=without_weights(detector.backbone)) if resume else detector
        source = None if resume else train.init_from
        self.model = build(start, label_space=self.data.label_space, init_from=source).to(self.device)
        self.model.config = detector
        processes.copy_first(self.model.state_dict().values())
        if processes.rank:  # or all would drop the same units
            torch.manual_seed(train.seed + processes.rank)
        self.resting_norms = freeze(self.model, fields.items(train.freeze))
        self.average = Average(self.model, train.ema_decay) if train.ema_decay else None
        self.criterion = SetCriterion.from_config(detector)
        self.optimizer = make_optimizer(self.model, train)
        self.stream = WindowStream(self.data, detector, train, processes=processes)
        self.per_epoch = self.stream.windows.per_epoch
        self.total = self.stream.windows.total
        self.run.progress.window = self.stream.windows.window
        self.logs: list[Log] = []
        self.restore() if resume else self.begin()
        for line in announcement(self):
            self.say(line)

    def begin(self) -> None:
        """Save the run as it begins, so that one which dies early can be resumed too."""
        self.processes.of_first(self.open_logs)
        self.save()
        self.processes.of_first(lambda: self.run.save_config(self.findings(), self.model.loaded))

    def restore(self) -> None:
        """Go to where the run's last checkpoint stands.

        Raises:
            CheckpointError: it is damaged, or of a run whose steps see another number of images.
        """
        rank, window = self.processes.rank, self.run.progress.window
        progress, made_in = restore_state(self.run.last, self.model, self.optimizer, self.average, rank)
        self.run.progress = Progress(**{"window": window, **progress})
        if self.run.progress.window != window:
            raise CheckpointError(
                "a step of the run is another one",
                path=self.run.last,
                field="batch_size x accumulate x processes",
                value=window,
                expected=f"{self.run.progress.window} images",
                hint="start as many processes as before, with torchrun --nproc-per-node",
            )
        here = environment(self.processes.count)
        if made_in != here:
            self.say(f"the run was made with {made_in}, this is {here}: it will go on, but not to the bit")
        self.stream.windows.start = self.run.progress.step
        self.processes.of_first(self.open_logs)

    def open_logs(self) -> None:
        """Make the run's logs ready."""
        folder, progress = self.run.folder, self.run.progress
        self.run.remove_leftovers()
        board = [TensorBoardLog(folder, progress.step)] if self.run.train.tensorboard else []
        self.logs = [MetricsLog(self.run.log, progress.log_length), *board]

    def findings(self) -> list[str]:
        """What was wrong in the data, each thing once."""
        parts = [part for part in (self.data, self.val) if part is not None]
        told = [str(finding) for part in parts for finding in part.findings]
        return list(dict.fromkeys(told + self.run.progress.left_out))

    def run_to_end(self) -> Run:
        """Train from where the run stands to its last step."""
        progress = self.run.progress
        show = None if self.processes.is_first else False
        bar = ProgressBar("train", self.total, unit="step", done=progress.step, show=show)
        catching = noticing_signals(lambda signum: setattr(self, "signum", signum))
        repeating, reading = determinism(self.run.train.deterministic), closing(iter(self.stream))
        with bar, catching, repeating, noticing_dead_workers(), reading as windows:
            while not self.is_over:
                started = time.perf_counter()
                said = self.step(next(windows))
                progress.seconds += time.perf_counter() - started
                bar.advance(note=said)
                self.after_step()
        if self.average is not None and progress.best_ap < 0:  # without a score, the average is the run's result
            self.processes.of_first(self.save_best)
        return self.run

    @property
    def is_over(self) -> bool:
        """Whether the run has reached its last step, or has long not become better."""
        progress, patience = self.run.progress, self.run.train.patience
        return progress.step >= self.total or 0 < patience <= progress.stale

    def step(self, window: Sequence[Batch]) -> str:
        """One optimizer step over one accumulation window; exact whatever the split into micro-batches and processes.

        Args:
            window: this process's share of it.
        """
        progress, train = self.run.progress, self.run.train
        self.model.train()
        for norm in self.resting_norms:
            norm.eval()
        factor = learning_rate_factor(progress.step, self.total, self.per_epoch, train)
        set_learning_rate(self.optimizer, factor)
        self.optimizer.zero_grad(set_to_none=True)
        whole = Share.whole(self.processes.exchange(lambda: self.share(window)))
        logged = total_log(self.processes.exchange(lambda: self.backward(window, whole)))
        length = 0.0
        if whole.images:
            length = self.gradient_norm(window)
            self.optimizer.step()
            self.processes.copy_first(running_statistics(self.model))
        progress.step += 1
        progress.add(whole.surplus, whole.unreadable)
        if self.average is not None:
            self.average.update(progress.step)
        epoch = (progress.step - 1) // self.per_epoch
        self.write("train", {"step": progress.step, "epoch": epoch, "lr_factor": factor, "grad_norm": length, **logged})
        titles = {"loss": "loss", "ce": "loss_ce", "L1": "loss_bbox", "GIoU": "loss_giou"}
        return " ".join(f"{title} {logged[name]:.3f}" for title, name in titles.items() if name in logged)

    def share(self, window: Sequence[Batch]) -> Share:
        """What this process's micro-batches add to the whole window."""
        skip = self.run.train.on_bad_image == "skip"
        return Share.of(window, self.criterion, self.run.detector.num_queries, skip=skip)

    def backward(self, window: Sequence[Batch], whole: Share) -> dict[str, float]:
        """Gradients of this process's micro-batches as parts of the whole window; what is to be logged of them."""
        logged: dict[str, float] = {}
        for batch in window:
            if batch.targets:
                losses = self.losses(batch, whole)
                losses.total.backward()
                add_to_log(logged, losses, share=len(batch.targets) / whole.images)
        return logged

    def losses(self, batch: Batch, whole: Share) -> Losses:
        """Losses of a micro-batch, refused where they are not finite.

        Raises:
            NonFiniteError: names step, images, the first bad term and where it comes from.
        """
        try:
            with autocast(self.device, self.run.train.amp):
                outputs = self.model(*batch.inputs.to(self.device), batch.targets)
            losses = self.criterion(outputs, batch.targets, whole.normalizer)
            check_finite(losses)
        except NonFiniteError as error:
            raise self.located(error, [batch]) from None
        return losses

    def gradient_norm(self, window: Sequence[Batch]) -> float:
        """Norm of the gradient of the whole window, which is then clipped.

        Raises:
            NonFiniteError: it is not finite; names step, images and parameter.
        """
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.processes.add_up_gradients(trained)
        norm = get_total_norm([p.grad for p in trained if p.grad is not None])
        if not torch.isfinite(norm):
            self.processes.of_first(lambda: self.refuse_gradient(float(norm), window))
        clip_grads_with_norm_(trained, self.run.train.clip_max_norm or float("inf"), norm)
        return float(norm)

    def refuse_gradient(self, norm: float, window: Sequence[Batch]) -> NoReturn:
        """Stop before the optimizer step."""
        raise self.located(NonFiniteError("the gradient is not finite", field="gradient", value=norm), window)

    def located(self, error: NonFiniteError, window: Sequence[Batch]) -> NonFiniteError:
        """The same error with step, images, and where numbers are first not finite, looked for in the first of them."""
        batches = [batch for batch in window if batch.targets]
        with autocast(self.device, self.run.train.amp):
            where = origin(self.model, *batches[0].inputs.to(self.device), batches[0].targets)
        images = [image_id for batch in batches for image_id in batch.image_ids]
        found = NonFiniteError(
            f"step {self.run.progress.step}, images {images}: {error}", hint=f"{where}; the weights are unchanged"
        )
        found.field = error.field
        return found

    def after_step(self) -> None:
        """Evaluate and save where it is due; stop where a signal asked for it."""
        step, train = self.run.progress.step, self.run.train
        ends_epoch = step % self.per_epoch == 0 or step == self.total
        epoch = -(-step // self.per_epoch)
        if ends_epoch:
            self.report_epoch(epoch)
        if ends_epoch and self.val is not None and (epoch % train.eval_every == 0 or step == self.total):
            self.evaluate(self.val)
        signals, is_time = zip(*self.processes.exchange(lambda: (self.signum, self.is_time_to_save())), strict=True)
        ends_epochs = ends_epoch and bool(train.save_every) and epoch % train.save_every == 0
        if max(signals) or self.is_over or ends_epochs or is_time[0]:
            self.save()
        if max(signals):
            raise Stopped(max(signals), self.run) if self.processes.is_first else SystemExit(128 + max(signals))

    def is_time_to_save(self) -> bool:
        """Whether the last checkpoint is `save_minutes` old."""
        return 0 < 60 * self.run.train.save_minutes <= time.monotonic() - self.saved_at

    def report_epoch(self, epoch: int) -> None:
        """Say what was left out in an epoch."""
        progress = self.run.progress
        if progress.surplus:
            self.say(f"epoch {epoch}: {progress.surplus} objects had no query; raise num_queries")
        if progress.unreadable:
            self.say(f"epoch {epoch}: {progress.unreadable} images could not be read and were left out")
            self.processes.of_first(lambda: self.run.save_findings(self.findings()))
        progress.surplus = progress.unreadable = 0

    def evaluate(self, data: Dataset) -> None:
        """Score on held-out data; keep the best detector."""
        progress = self.run.progress
        numbers = self.processes.of_first(lambda: self.scores(data))
        self.write("eval", {"step": progress.step, "seconds": round(progress.seconds, 1), **numbers})
        if numbers["AP"] != numbers["AP"]:
            self.say(f"step {progress.step}: the validation data hold no object, so that there is no AP")
            return
        self.say(
            f"step {progress.step}: AP {numbers['AP']:.3f}  AP50 {numbers['AP50']:.3f}  "
            f"AP75 {numbers['AP75']:.3f}  ({progress.seconds:.0f} s of training)"
        )
        progress.stale += 1
        if numbers["AP"] > progress.best_ap:
            progress.best_ap, progress.stale = numbers["AP"], 0
        if 0 < self.run.train.patience <= progress.stale:
            self.say(f"step {progress.step}: no better AP in {progress.stale} evaluations; the run ends")

    def scores(self, data: Dataset) -> dict[str, float]:
        """Score the averaged weights, or the model's own; save them if no others were better."""
        with self.averaged():
            numbers, _ = evaluate(self.model, data, batch_size=max(8, self.run.train.batch_size))
        if numbers["AP"] > self.run.progress.best_ap:
            self.save_best()
        return numbers

    def averaged(self) -> AbstractContextManager[None]:
        """While this lasts, the model has the averaged weights, where there are any."""
        return nullcontext() if self.average is None else self.average.in_place()

    def save_best(self) -> None:
        """Write the averaged detector, or the model's own, as the run's result."""
        with self.averaged():
            save_detector(self.model, self.run.best)

    def save(self) -> None:
        """Write the checkpoint to resume from."""
        random = self.processes.exchange(random_state)
        self.processes.of_first(lambda: self.write_state(random))
        self.saved_at = time.monotonic()

    def write_state(self, random: Sequence[RandomState]) -> None:
        """Write that checkpoint; done by the first process."""
        progress = self.run.progress
        progress.log_length = length_of(self.run.log)
        save_state(self.run.last, self.model, self.optimizer, vars(progress), random, self.average)

    def write(self, kind: str, values: Mapping[str, Any]) -> None:
        """Append to the logs."""
        for log in self.logs:
            log.write(kind, values)

    def say(self, text: str) -> None:
        """A line on stderr, of the first process only."""
        if self.processes.is_first:
            say(text)


def check(detector: DetectorConfig, train: TrainConfig) -> tuple[Dataset, Dataset | None]:
    """All that can be known to be wrong before training: data, device, weights, patterns, and that the parts fit."""
    data, val = make_splits(train)
    pick_device(train.device)
    model = build(detector, label_space=data.label_space, init_from=train.init_from)
    freeze(model, fields.items(train.freeze))
    make_optimizer(model, train)
    return data, val
