"""What each command does. Imported by the parser; what is heavy is imported where it is used."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import detrkit
from detrkit.errors import ConfigError, DetrkitError, nearest

if TYPE_CHECKING:
    from detrkit.checks import Outcome
    from detrkit.config import DetectorConfig, TrainConfig
    from detrkit.datasets import Dataset
    from detrkit.model import Detector
    from detrkit.tailoring import Choice


class Commands:
    """One function a command; names are the commands."""

    @staticmethod
    def list(options: argparse.Namespace) -> None:
        """Roles, components and presets, with a line about each."""
        from detrkit import listing

        everything, role = listing.everything(), options.role
        if role is not None and role not in everything:
            raise DetrkitError("nothing of that name to list", value=role, hint=nearest(role, everything))
        chosen = {name: everything[name] for name in everything if role in (None, name)}
        show_json(chosen) if options.json else sys.stdout.write(listing.as_text(chosen))

    @staticmethod
    def show(options: argparse.Namespace) -> None:
        """A preset or a component in full."""
        from detrkit import listing

        parts = [part for word in options.name for part in word.split("/")]
        content = listing.preset(parts[0]) if len(parts) == 1 else listing.component(*parts[:2])
        show_json(content) if options.json else sys.stdout.write(listing.details(content))

    @staticmethod
    def diff(options: argparse.Namespace) -> None:
        """Fields that differ, detector first, then training."""
        from detrkit.config import difference

        pairs = zip(read_configs(options.a), read_configs(options.b), strict=True)
        found = {name: both for a, b in pairs for name, both in difference(a, b).items()}
        if options.json:
            show_json({name: {"a": a, "b": b} for name, (a, b) in found.items()})
            return
        width = max(map(len, found), default=0)
        for name, (a, b) in found.items():
            print(f"{name:<{width}}  {a} -> {b}")

    @staticmethod
    def train(options: argparse.Namespace) -> None:
        """Train, then draw what there is to look at."""
        from detrkit.progress import say, watched

        reasons: list[str] = []
        if options.resume:
            if options.fields or options.config or options.out:
                raise DetrkitError("takes no fields, --config or --out: the run has them", field="--resume")
            detector, train = read_run(Path(options.resume))
            out = Path(options.resume)
        else:
            preset, detector, train = read_fields(
                options.fields, options.config, lambda choice: reasons.append(str(choice))
            )
            out = Path(options.out) if options.out else free_folder(Path("runs"), preset)
        from detrkit.training import loop
        from detrkit.training.distributed import Processes

        first = Processes.started().is_first
        for reason in reasons if first else ():
            say(f"chosen: {reason}")
        if options.dry_run:
            data, val = loop.check(detector, train)
            for part in (data, val) if val is not None else (data,):
                for finding in part.findings:
                    sys.stderr.write(f"data: {finding}\n")
                for index in watched(range(len(part)), "read", len(part)):
                    part[index]  # an image that cannot be decoded is known before training, not in its middle
            print(f"ok: {len(data)} training images, classes {', '.join(data.label_space.names)}; nothing was trained")
            return
        run = loop.train(detector, train, out, resume=bool(options.resume), reasons=reasons)
        if first:
            finish(run.folder, train)

    @staticmethod
    def eval(options: argparse.Namespace) -> None:
        """Numbers over all classes and for each, kinds of errors, and classes taken for others."""
        from detrkit.evaluation import evaluate
        from detrkit.evaluation.errors import confusion, errors
        from detrkit.registry import REGISTRY

        evaluator = REGISTRY.make("evaluators", options.evaluator)
        numbers, _ = evaluate(fast(options), run_data(options), evaluator=evaluator, batch_size=options.batch_size)
        evidence = evaluator.evidence()
        wrong, swapped = errors(evidence), confusion(evidence)
        if not options.json:
            print(evaluator.table(numbers), wrong.table(), swapped.table(), sep="\n\n")
            return
        content: dict[str, Any] = {name: None if value != value else value for name, value in numbers.items()}
        content["objects"] = dict(zip(evidence.label_space.names, evidence.objects.tolist(), strict=True))
        show_json({**content, "errors": wrong.to_json(), "confusion": swapped.to_json()})

    @staticmethod
    def predict(options: argparse.Namespace) -> None:
        """Detections on stdout; results and pictures in a folder."""
        from detrkit.streaming.command import predict

        predict(options)

    @staticmethod
    def explain(options: argparse.Namespace) -> None:
        """The page to explore what a run looks at; its path on stdout."""
        from detrkit.explanation.command import explain

        print(explain(options))

    @staticmethod
    def export(options: argparse.Namespace) -> None:
        """The file, what goes in and comes out, and how far it is from the run."""
        from dataclasses import asdict

        from detrkit.export.command import export_run

        written = export_run(options)
        if options.json:
            show_json(asdict(written))
            return
        print(written.path)
        for name, text in {**written.inputs, **written.outputs}.items():
            print(f"  {name:<12} {text}")
        for name, amount in written.differences.items():
            print(f"{name} differ by {amount:.2g} at most in {written.comparisons} comparisons")

    @staticmethod
    def bench(options: argparse.Namespace) -> int:
        """Tables of a checkout's benchmarks, in processes of their own."""
        folder = Path(detrkit.__file__).parents[1] / "benchmarks"
        if not (folder / "__main__.py").is_file():
            raise DetrkitError(
                "the benchmarks are not installed: they come with a checkout of the repository",
                path=folder,
                hint="run it in a clone after `make setup`",
            )
        given = {name: getattr(options, name) for name in ("rounds", "threads", "device", "clock", "json")}
        words = [word for name, value in given.items() if value for word in (f"--{name}", str(value))]
        words += ["--quick"] if options.quick else []
        return subprocess.run([sys.executable, str(folder), *options.names, *words], check=False).returncode

    @staticmethod
    def ablate(options: argparse.Namespace) -> int:
        """What variants of a base are worth, with intervals and costs."""
        from detrkit.ablation.command import ablate

        return show(ablate(options), options)

    @staticmethod
    def check(options: argparse.Namespace) -> int:
        """What was found; the exit code says whether it can be used."""
        return show(getattr(Checks, options.what)(options), options)

    @staticmethod
    def report(options: argparse.Namespace) -> None:
        """The page of a run, written anew."""
        from detrkit.training.report import save_report

        folder = Path(options.run)
        train = read_run(folder)[1]
        model, data = load_run(options), run_data(options)
        how = {"threshold": options.threshold, "batch_size": options.batch_size}
        print(save_report(folder, model, data, train, split=options.split or train.val_split, **how))


class Checks:
    """One function for each thing that can be checked; names are the words behind ``check``."""

    @staticmethod
    def component(options: argparse.Namespace) -> Outcome:
        """The laws of its role, run on a component."""
        from detrkit.checks.component import check_laws

        sys.path.insert(0, os.getcwd())  # noqa: PTH109 (as python -m does: a stranger's module lies here)
        return check_laws(options.name, options.set, examples=options.examples, seed=options.seed)

    @staticmethod
    def data(options: argparse.Namespace) -> Outcome:
        """What is wrong or suspicious in a data set; writes a page."""
        from detrkit.checks.data import SPLITS, check_data, short_name
        from detrkit.checks.data_page import write_page

        detector = detrkit.config(options.preset)
        found = check_data(options.spec, options.split or SPLITS, detector=detector, quick=options.quick)
        return found.outcome(write_page(found, Path(options.out or f"check-{short_name(options.spec)}")))

    @staticmethod
    def config(options: argparse.Namespace) -> Outcome:
        """What a configuration would build."""
        path = Path(options.config)
        path = path / "config.json" if path.is_dir() else path
        named = path.suffix not in (".json", ".toml")
        words = [options.config, *options.fields] if named else options.fields
        from detrkit.checks.config import check_config
        from detrkit.progress import say

        _, detector, train = read_fields(words, None if named else str(path), lambda choice: say(f"chosen: {choice}"))

        return check_config(detector, train).outcome()

    @staticmethod
    def checkpoint(options: argparse.Namespace) -> Outcome:
        """What checkpoints hold, and whether they are intact."""
        from detrkit.checks.checkpoint import check_checkpoints

        return check_checkpoints(options.path, tensors=options.tensors)


def finish(folder: Path, train: TrainConfig) -> None:
    """Draw the run's pictures with its best detector, print its scores, and say where everything is."""
    from detrkit.training.log import read_log
    from detrkit.training.pictures import save_pictures
    from detrkit.training.report import save_report
    from detrkit.training.run import FINDINGS

    model = detrkit.load(folder)
    split = train.val_split if train.eval_every else train.train_split
    data = split_of_run(train, split)
    pictures = [save_report(folder, model, data, train, split=split), *save_pictures(folder, model, data)]
    scores = [entry for entry in read_log(folder / "metrics.jsonl", "eval") if entry["AP"] is not None]
    if scores:
        best = max(scores, key=lambda entry: entry["AP"])
        unseen = "" if train.val_split == train.train_split else "unseen "
        print(
            f"best on {len(data)} {unseen}images of split {train.val_split!r}: "
            f"AP {best['AP']:.3f}  AP50 {best['AP50']:.3f}  AP75 {best['AP75']:.3f}"
            f"  (step {best['step']}, {best['seconds']:.0f} s of training)"
        )
    files = [*pictures, folder / "metrics.jsonl", folder / "config.json"]
    if (folder / FINDINGS).exists():
        count = len((folder / FINDINGS).read_text(encoding="utf-8").splitlines())
        things = "1 thing was" if count == 1 else f"{count} things were"
        print(f"data: {things} wrong, and dropped or repaired; named in {FINDINGS}")
        files.append(folder / FINDINGS)
    print("look at:")
    for path in files:
        print(f"  {path}")
    print(f"then:\n  detrkit eval {folder}\n  detrkit predict {folder} IMAGE...")


def read_fields(
    words: Sequence[str], file: str | None, tell: Callable[[Choice], None] = lambda choice: None
) -> tuple[str, DetectorConfig, TrainConfig]:
    """Preset's name and both configurations from the words of the command line over those of a file.

    A preset that looks at the data decides what these leave open; each choice is told.
    """
    from detrkit.config import read_file
    from detrkit.presets import from_pairs

    presets = [word for word in words if "=" not in word]
    if len(presets) > 1:
        raise ConfigError([f"one preset at a time; got {', '.join(presets)}; fields are written key=value"])
    pairs: dict[str, Any] = read_file(file) if file else {}
    given = [word.split("=", 1) for word in words if "=" in word]
    if twice := [name for i, (name, _) in enumerate(given) if name in dict(given[:i])]:
        raise ConfigError([f"{name}: given twice" for name in twice])
    for one, other in (("steps", "epochs"), ("epochs", "steps")):
        if one in dict(given) and other not in dict(given):
            pairs.pop(other, None)
    if not presets and not file:
        raise ConfigError([f"name a preset to train; {nearest('', detrkit.presets())}"])
    if "num_classes" in dict(given):
        raise ConfigError(["num_classes: the data tells it; leave it out"])
    saved = pairs.pop("preset", None)
    if not presets and not isinstance(saved, str) and "backbone" not in pairs:
        raise ConfigError([f"{file}: names no preset; add preset = '...' or name one on the command line"])
    preset = presets[0] if presets else saved if isinstance(saved, str) else "detr_r50"
    return preset, *from_pairs(preset, {**pairs, **dict(given)}, tell)


def read_run(folder: Path) -> tuple[DetectorConfig, TrainConfig]:
    """Both configurations that a run's folder has saved."""
    from detrkit.config import DetectorConfig, TrainConfig, read_file

    if not (folder / "config.json").is_file():
        raise DetrkitError("no run there", path=folder, expected="a folder with config.json")
    fields = read_file(folder / "config.json")
    known = [{n: v for n, v in fields.items() if n in kind.annotations()} for kind in (DetectorConfig, TrainConfig)]
    return DetectorConfig(**known[0]).check(), TrainConfig(**known[1]).check()


def read_configs(name: str) -> tuple[DetectorConfig, TrainConfig]:
    """Both configurations of a preset or of a run's folder."""
    if Path(name).is_dir():
        return read_run(Path(name))
    from detrkit.presets import from_pairs

    return from_pairs(name, {})


def run_data(options: argparse.Namespace) -> Dataset:
    """The data that a command names, else the run's."""
    from detrkit.config import TrainConfig

    folder = Path(options.run)
    folder = folder if folder.is_dir() else folder.parent
    if not options.data and not (folder / "config.json").is_file():
        raise DetrkitError("no config.json there that names the data", path=folder, hint="give --data SPEC")
    train = read_run(folder)[1] if (folder / "config.json").is_file() else TrainConfig()
    train = train.replace(data=options.data) if options.data else train
    data = split_of_run(train, options.split or train.val_split)
    for finding in data.findings:
        sys.stderr.write(f"data: {finding}\n")
    return data


def split_of_run(train: TrainConfig, split: str) -> Dataset:
    """A split of a run's data, without images that cannot be read if the run leaves such out."""
    from detrkit.training.data import Readable
    from detrkit.training.splits import make_data

    data = make_data(train, split)
    return Readable(data) if train.on_bad_image == "skip" else data


def load_run(options: argparse.Namespace) -> Detector:
    """The detector that a command names, on its device."""
    from detrkit.training.loop import pick_device

    return detrkit.load(options.run).to(pick_device(options.device))


def fast(options: argparse.Namespace) -> Detector:
    """The same, made for looking as the command says."""
    return load_run(options).for_inference(fold=options.fold, amp=options.amp, compile=options.compile)


def free_folder(parent: Path, name: str) -> Path:
    """``parent/name``, or the first of ``parent/name-2``, ... that does not exist."""
    candidates = (parent / (name if i == 1 else f"{name}-{i}") for i in range(1, 100_000))
    return next(path for path in candidates if not path.exists())


def show(outcome: Outcome, options: argparse.Namespace) -> int:
    """Print an outcome; gives its exit code."""
    show_json(outcome.content) if options.json else sys.stdout.write(outcome.text)
    return outcome.exit_code


def show_json(content: Any) -> None:
    """Print JSON on stdout."""
    print(json.dumps(content, indent=2, default=str))
