"""The command line. Answers ``--help`` without importing torch; data on stdout, progress on stderr.

Exit codes: 0 done, 1 a failure, 2 a mistake of the user's, 130 and 143 stopped by a signal after saving.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import detrkit
from detrkit.errors import ConfigError, DetrkitError, NonFiniteError, nearest

if TYPE_CHECKING:
    from detrkit.config import DetectorConfig, TrainConfig
    from detrkit.datasets import Dataset

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp"}


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line and name the nearest right word."""

    def error(self, message: str) -> NoReturn:
        """Print ``detrkit COMMAND: what; hint`` and exit with 2."""
        self.exit(2, f"{self.prog}: {message}\n")

    def parse_all(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Parse; words may also stand behind options; refuse what is not known."""
        known, unknown = self.parse_known_args(arguments)
        words = getattr(known, "fields", getattr(known, "images", None))
        if words is not None and not any(word.startswith("-") for word in unknown):
            words += unknown
            return known
        if unknown:
            command = next(iter(self._subparsers._group_actions)).choices[known.command]  # type: ignore
            command.error(f"unknown argument {unknown[0]!r}; {nearest(unknown[0], command._option_string_actions)}")
        return known


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    parser = make_parser()
    commands = [name for name in vars(Commands) if not name.startswith("_")]
    if arguments and not arguments[0].startswith("-") and arguments[0] not in commands:
        parser.error(f"unknown command {arguments[0]!r}; {nearest(arguments[0], commands)}")
    options = parser.parse_all(arguments)
    try:
        return getattr(Commands, options.command)(options) or 0
    except (KeyboardInterrupt, BrokenPipeError) as stop:
        sys.stderr.close() if isinstance(stop, BrokenPipeError) else None
        return 130 if isinstance(stop, KeyboardInterrupt) else 0
    except Exception as error:
        if options.debug:
            raise
        return report(error)


def report(error: Exception) -> int:
    """Say what went wrong in one line (a configuration's problems: a line each) and give the exit code."""
    if isinstance(error, DetrkitError):
        sys.stderr.write("".join(f"detrkit: {line}\n" for line in str(error).splitlines()))
        signum = getattr(error, "signum", None)
        return 128 + signum if signum else 1 if isinstance(error, NonFiniteError) else 2
    text = " ".join(str(error).split())
    sys.stderr.write(f"detrkit: failed: {type(error).__name__}: {text}; run again with --debug for the traceback\n")
    return 1


def make_parser() -> Parser:
    """The parser of all commands."""
    parser = Parser(prog="detrkit", description="A zoo of interchangeable DETR parts.")
    parser.add_argument("--version", action="version", version=f"detrkit {detrkit.__version__}")
    common = Parser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show the traceback of a failure")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)

    def command(name: str, help: str) -> Parser:
        return commands.add_parser(name, help=help, description=help, parents=[common])

    listing = command("list", "List roles, their components, and presets.")
    listing.add_argument("role", nargs="?", help="list only this role, or 'presets'")
    listing.add_argument("--json", action="store_true", help="print JSON")

    show = command("show", "Show a preset's fields, or a component's dimensions and settings.")
    show.add_argument("name", nargs="+", help="PRESET, or ROLE NAME")
    show.add_argument("--json", action="store_true", help="print JSON")

    diff = command("diff", "Print what differs between two presets or runs.")
    diff.add_argument("a", help="preset or folder of a run")
    diff.add_argument("b", help="preset or folder of a run")
    diff.add_argument("--json", action="store_true", help="print JSON")

    train = command("train", "Train a preset on data; every field of its configuration is a key=value.")
    train.add_argument(
        "fields",
        nargs="*",
        metavar="PRESET key=value",
        help=("for example: detr_tiny data=\"voc(root='DIR')\" encoder_attention=per_head lr=1e-4"),
    )
    train.add_argument("--config", metavar="FILE", help="fields from TOML, or from the config.json of a run")
    train.add_argument("--out", metavar="DIR", help="folder of the run; by default runs/PRESET, numbered")
    train.add_argument("--resume", metavar="DIR", help="go on with the run in this folder")
    train.add_argument("--dry-run", action="store_true", help="check configuration and data, train nothing")

    evaluation = command("eval", "Score a run on held-out data: COCO AP.")
    add_run(evaluation)
    evaluation.add_argument("--json", action="store_true", help="print JSON")

    predict = command("predict", "Detect in images; writes pictures with boxes and attention overlays.")
    add_run(predict)
    predict.add_argument("images", nargs="*", metavar="IMAGE", help="images or folders; by default those of the split")
    predict.add_argument("--out", metavar="DIR", help="folder for the pictures; by default predictions/ in the run's")
    predict.add_argument("--threshold", type=float, default=0.5, help="least score, 0 to 1 (default 0.5)")
    predict.add_argument("--limit", type=at_least(1), metavar="N", help="at most this many images")
    predict.add_argument("--json", action="store_true", help="print JSON")

    check = command("check", "Run the laws of its role on a component.")
    check.add_argument("what", choices=["component"], help="what to check")
    check.add_argument("name", help="MODULE:CLASS, or ROLE/NAME of a registered component")
    check.add_argument("--set", action="append", default=[], metavar="key=value", help="a setting of the component")
    check.add_argument("--examples", type=at_least(1), default=25, help="drawn cases a law (default 25)")
    check.add_argument("--seed", type=at_least(0), default=0, help="seed of the first case")
    check.add_argument("--json", action="store_true", help="print JSON")
    return parser


def at_least(least: int) -> Callable[[str], int]:
    """Reader of whole numbers that refuses lower ones."""

    def number(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"got {text}; expected at least {least}")
        return int(text)

    return number


def add_run(parser: argparse.ArgumentParser) -> None:
    """Arguments of the commands that use a finished run."""
    parser.add_argument("run", help="folder of a run, or a checkpoint")
    parser.add_argument("--data", metavar="SPEC", help="data set; by default the run's")
    parser.add_argument("--split", help="part of the data; by default the run's validation split")
    parser.add_argument("--batch-size", type=at_least(1), default=8, help="images at a time (default 8)")


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
        if options.resume:
            if options.fields or options.config or options.out:
                raise DetrkitError("takes no fields, --config or --out: the run has them", field="--resume")
            detector, train = read_run(Path(options.resume))
            out = Path(options.resume)
        else:
            preset, detector, train = read_fields(options.fields, options.config)
            out = Path(options.out) if options.out else free_folder(Path("runs"), preset)
        from detrkit.training import loop

        if options.dry_run:
            data = loop.make_data(train, train.train_split)
            for finding in data.findings:
                print(f"data: {finding}")
            print(f"ok: {len(data)} training images, classes {', '.join(data.label_space.names)}; nothing was trained")
            return
        run = loop.train(detector, train, out, resume=bool(options.resume))
        finish(run.folder, train)

    @staticmethod
    def eval(options: argparse.Namespace) -> None:
        """Twelve COCO numbers and the AP of each class."""
        from detrkit.evaluation import evaluate

        model, data = detrkit.load(options.run), run_data(options)
        numbers, _ = evaluate(model, data, batch_size=options.batch_size)
        if options.json:
            show_json({name: None if value != value else value for name, value in numbers.items()})
            return
        for name, value in numbers.items():
            print(f"{name:<12} {'-' if value != value else format(value, '.4f')}")

    @staticmethod
    def predict(options: argparse.Namespace) -> None:
        """Detections on stdout, pictures in a folder."""
        from detrkit.explain.pictures import predict_to_folder

        model = detrkit.load(options.run)
        folder = Path(options.run)
        out = Path(options.out) if options.out else (folder if folder.is_dir() else folder.parent) / "predictions"
        sources: list[Any] = image_paths(options.images)
        if not sources:
            data = run_data(options)
            sources = [data_image(data, index) for index in range(len(data))[: options.limit]]
        sources = sources[: options.limit]
        found = predict_to_folder(model, sources, out, threshold=options.threshold, batch_size=options.batch_size)
        if options.json:
            show_json(found)
        else:
            for name, detections in found.items():
                print(f"{name}: " + (", ".join(f"{d['name']} {d['score']:.2f}" for d in detections) or "nothing"))
        sys.stderr.write(f"pictures: {out}\n")

    @staticmethod
    def check(options: argparse.Namespace) -> int:
        """Laws kept and broken; 1 when one is broken."""
        from dataclasses import asdict

        from detrkit.listing import import_component
        from detrkit.registry import Spec
        from detrkit.testing import check_component

        sys.path.insert(0, os.getcwd())  # noqa: PTH109 (as python -m does: a stranger's module lies here)
        settings = Spec.parse(f"it({', '.join(options.set)})").settings
        component = import_component(options.name)
        results = check_component(component, examples=options.examples, seed=options.seed, **settings)
        broken = [result for result in results if result.outcome == "broken"]
        if options.json:
            show_json([asdict(result) for result in results])
            return 1 if broken else 0
        for result in results:
            print(f"{result.outcome:<13} {result.description}")
            if result.detail and result.outcome == "broken":
                print(f"{'':<13} {result.law}, seed {result.seed}: {result.detail}")
        kept = f"{len(results) - len(broken)} of" if broken else "all"
        print(f"{kept} {len(results)} laws kept")
        return 1 if broken else 0


def finish(folder: Path, train: TrainConfig) -> None:
    """Draw the run's pictures with its best detector, print its scores, and say where everything is."""
    from detrkit.training.log import read_log
    from detrkit.training.loop import make_data
    from detrkit.training.pictures import save_pictures

    model = detrkit.load(folder)
    data = make_data(train, train.val_split if train.eval_every else train.train_split)
    pictures = save_pictures(folder, model, data)
    scores = read_log(folder / "metrics.jsonl", "eval")
    if scores:
        best = max(scores, key=lambda entry: entry["AP"] or 0.0)
        print(
            f"best on {len(data)} unseen images of split {train.val_split!r}: "
            + "  ".join(f"{name} {best[name]:.3f}" for name in ("AP", "AP50", "AP75") if best[name] is not None)
            + f"  (step {best['step']}, {best['seconds']:.0f} s of training)"
        )
    print("look at:")
    for path in (*pictures, folder / "metrics.jsonl", folder / "config.json"):
        print(f"  {path}")
    print(f"then:\n  detrkit eval {folder}\n  detrkit predict {folder} IMAGE...")


def read_fields(words: Sequence[str], file: str | None) -> tuple[str, DetectorConfig, TrainConfig]:
    """Preset's name and both configurations from the words of the command line over those of a file."""
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
    preset = presets[0] if presets else pairs.pop("preset", "detr_r50")
    return preset, *from_pairs(preset, {**pairs, **dict(given)})


def read_run(folder: Path) -> tuple[DetectorConfig, TrainConfig]:
    """Both configurations that a run's folder has saved."""
    from detrkit.config import DetectorConfig, TrainConfig, read_file

    if not (folder / "config.json").is_file():
        raise DetrkitError("no run there", path=folder, expected="a folder with config.json")
    fields = read_file(folder / "config.json")
    known = [{n: v for n, v in fields.items() if n in kind.annotations()} for kind in (DetectorConfig, TrainConfig)]
    return DetectorConfig(**known[0]), TrainConfig(**known[1])


def read_configs(name: str) -> tuple[DetectorConfig, TrainConfig]:
    """Both configurations of a preset or of a run's folder."""
    if (Path(name) / "config.json").is_file():
        return read_run(Path(name))
    from detrkit.presets import from_pairs

    return from_pairs(name, {})


def run_data(options: argparse.Namespace) -> Dataset:
    """The data that a command names, else the run's."""
    from detrkit.config import TrainConfig
    from detrkit.training.loop import make_data

    folder = Path(options.run)
    folder = folder if folder.is_dir() else folder.parent
    train = read_run(folder)[1] if (folder / "config.json").is_file() else TrainConfig()
    train = train.replace(data=options.data) if options.data else train
    data = make_data(train, options.split or train.val_split)
    for finding in data.findings:
        sys.stderr.write(f"data: {finding}\n")
    return data


def data_image(data: Dataset, index: int) -> tuple[str, Any]:
    """Name and image of an item of a data set."""
    image, target = data[index]
    return str(target["image_id"]), image


def image_paths(names: Sequence[str]) -> list[Path]:
    """Image files, those in folders included."""
    paths: list[Path] = []
    for path in map(Path, names):
        inside = sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES) if path.is_dir() else [path]
        if not inside:
            raise DetrkitError("the folder holds no images", path=path, expected=", ".join(sorted(IMAGE_SUFFIXES)))
        paths += inside
    return paths


def free_folder(parent: Path, name: str) -> Path:
    """``parent/name``, or the first of ``parent/name-2``, ... that does not exist."""
    candidates = (parent / (name if i == 1 else f"{name}-{i}") for i in range(1, 100_000))
    return next(path for path in candidates if not path.exists())


def show_json(content: Any) -> None:
    """Print JSON on stdout."""
    print(json.dumps(content, indent=2, default=str))


if __name__ == "__main__":
    sys.exit(main())
