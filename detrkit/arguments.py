"""What can be written behind ``detrkit``: the commands, each with its arguments. Imports no torch."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable, Sequence
from typing import NoReturn

import detrkit
from detrkit.errors import nearest
from detrkit.export import FORMATS


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
            command = self
            for word in filter(None, (known.command, getattr(known, "what", None))):
                command = next(iter(command._subparsers._group_actions)).choices[word]  # type: ignore
            command.error(f"unknown argument {unknown[0]!r}; {nearest(unknown[0], command._option_string_actions)}")
        return known


def make_parser() -> Parser:
    """The parser of all commands."""
    parser = Parser(prog="detrkit", description="A zoo of interchangeable DETR parts.")
    parser.add_argument("--version", action="version", version=f"detrkit {detrkit.__version__}")
    add_commands(parser, "command", Arguments)
    return parser


def add_commands(parser: Parser, place: str, commands: type) -> None:
    """Let a parser go on with one of some commands.

    Args:
        parser: what stands before the command.
        place: what the parsed command is called.
        commands: a function a command, whose docstring is the help, and which adds the arguments.
    """
    added = parser.add_subparsers(dest=place, required=True, metavar=place.upper(), parser_class=Parser)
    for name in (name for name, member in vars(commands).items() if isinstance(member, staticmethod)):
        function = getattr(commands, name)
        about = inspect.getdoc(function)
        command = added.add_parser(name, help=about, description=about)
        command.add_argument("--debug", action="store_true", help="show the traceback of a failure")
        function(command)


class Arguments:
    """One function a command, whose docstring is its help; it adds the arguments."""

    @staticmethod
    def list(parser: Parser) -> None:
        """List roles, their components, and presets."""
        parser.add_argument("role", nargs="?", help="list only this role, or 'presets'")
        add_json(parser)

    @staticmethod
    def show(parser: Parser) -> None:
        """Show a preset's fields, or a component's dimensions and settings."""
        parser.add_argument("name", nargs="+", help="PRESET, or ROLE NAME")
        add_json(parser)

    @staticmethod
    def diff(parser: Parser) -> None:
        """Print what differs between two presets or runs."""
        parser.add_argument("a", help="preset or folder of a run")
        parser.add_argument("b", help="preset or folder of a run")
        add_json(parser)

    @staticmethod
    def train(parser: Parser) -> None:
        """Train a preset on data; every field of its configuration is a key=value."""
        parser.add_argument(
            "fields",
            nargs="*",
            metavar="PRESET key=value",
            help=("for example: detr_tiny data=\"voc(root='DIR')\" encoder_attention=per_head lr=1e-4"),
        )
        parser.add_argument("--config", metavar="FILE", help="fields from TOML, or from the config.json of a run")
        parser.add_argument("--out", metavar="DIR", help="folder of the run; by default runs/PRESET, numbered")
        parser.add_argument("--resume", metavar="DIR", help="go on with the run in this folder")
        parser.add_argument("--dry-run", action="store_true", help="check configuration and data, train nothing")

    @staticmethod
    def eval(parser: Parser) -> None:
        """Score a run on held-out data: AP by size and class, and kinds of errors."""
        add_run(parser)
        add_speed(parser)
        parser.add_argument("--evaluator", default="hotcoco", metavar="SPEC", help="for example voc (default hotcoco)")
        add_json(parser)

    @staticmethod
    def predict(parser: Parser) -> None:
        """Detect in images, folders and videos; writes COCO results and drawn images."""
        add_run(parser)
        add_speed(parser)
        words = "images, videos, and folders of them; by default the images of the split"
        parser.add_argument("images", nargs="*", metavar="IMAGE", help=words)
        parser.add_argument(
            "--out", metavar="DIR", help="folder for results and pictures; by default predictions/ in the run's"
        )
        parser.add_argument("--threshold", type=float, default=0.5, help="least score, 0 to 1 (default 0.5)")
        parser.add_argument("--limit", type=at_least(1), metavar="N", help="at most this many images")
        parser.add_argument(
            "--every",
            type=at_least(1),
            default=1,
            metavar="N",
            help="of videos and animations, each Nth frame (default 1)",
        )
        parser.add_argument(
            "--draw",
            choices=("none", "boxes", "attention"),
            help="pictures to write; attention also shows where each detection looked, and is slow (default boxes; "
            "attention where there are at most 20 images)",
        )
        add_json(parser)

    @staticmethod
    def explain(parser: Parser) -> None:
        """Write a page to explore what a run looks at, box by box and pixel by pixel."""
        add_run(parser)
        parser.add_argument(
            "images", nargs="*", metavar="IMAGE", help="images or folders; by default those of the split"
        )
        parser.add_argument("--out", metavar="FILE", help="the page; by default explorer.html in the run's folder")
        parser.add_argument("--threshold", type=float, default=0.5, help="least score of a detection (default 0.5)")
        parser.add_argument(
            "--limit", type=at_least(1), default=6, metavar="N", help="at most this many images (default 6)"
        )
        parser.add_argument(
            "--slots",
            type=at_least(1),
            metavar="N",
            help="also show what each query is a specialist of, over N images of the data",
        )

    @staticmethod
    def export(parser: Parser) -> None:
        """Write a run for other programs, checked against the run itself."""
        add_data(parser)
        about = "; ".join(f"{name}: {format.about}" for name, format in FORMATS.items())
        parser.add_argument("--format", choices=FORMATS, default="onnx", help=f"{about} (default onnx)")
        parser.add_argument("--out", metavar="FILE", help="what to write; by default beside the checkpoint")
        add_json(parser)

    @staticmethod
    def report(parser: Parser) -> None:
        """Write a run's page: changes, curves, AP, worst images."""
        add_run(parser)
        parser.add_argument("--threshold", type=float, default=0.5, help="least score of what is drawn (default 0.5)")

    @staticmethod
    def bench(parser: Parser) -> None:
        """Run the speed benchmarks of a checkout, each beside its peer."""
        parser.add_argument("names", nargs="*", metavar="NAME", help="scripts in benchmarks/; by default all")
        parser.add_argument("--rounds", type=at_least(1), metavar="N", help="times that every rival runs")
        parser.add_argument("--threads", type=at_least(1), metavar="N", help="threads of torch")
        parser.add_argument("--device", help="cpu, cuda, ... (default cpu)")
        parser.add_argument("--clock", choices=("wall", "processor"), help="processor: for a busy machine")
        parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that it runs, measures nothing")
        parser.add_argument("--json", metavar="DIR", help="folder for the results")

    @staticmethod
    def ablate(parser: Parser) -> None:
        """Tell what parts are worth: variants of a base, trained over seeds and compared."""
        parser.add_argument("fields", nargs="*", metavar="BASE key=value", help="a preset, and fields of all runs")
        parser.add_argument(
            "--study", metavar="FILE", help="TOML with question, base, vary, ...; see benchmarks/studies/"
        )
        parser.add_argument(
            "--vary",
            action="append",
            default=[],
            metavar="FIELD=A,B",
            help="values of a field, or of a setting: encoder_attention.heads=2,4; may be repeated",
        )
        parser.add_argument("--grid", action="store_true", help="every combination, instead of one change at a time")
        parser.add_argument("--seeds", type=at_least(1), metavar="N", help="runs of each variant (default 3)")
        parser.add_argument("--budget", metavar="LENGTH", help="of a run: 500steps, 12epochs, or 90s of training")
        parser.add_argument("--metric", help="what is compared (default AP)")
        parser.add_argument("--margin", type=float, metavar="X", help="largest difference of no interest")
        parser.add_argument("--out", metavar="DIR", help="folder of the study; by default ablations/NAME")
        parser.add_argument(
            "--runs", metavar="DIR", help="finished runs that studies share; by default in the study's folder"
        )
        parser.add_argument(
            "--workers",
            type=at_least(0),
            default=0,
            metavar="N",
            help="runs side by side, a thread each (default: here)",
        )
        add_json(parser)

    @staticmethod
    def check(parser: Parser) -> None:
        """Check a component, data, a configuration or a checkpoint."""
        add_commands(parser, "what", CheckArguments)


class CheckArguments:
    """The same for the words behind ``check``."""

    @staticmethod
    def component(parser: Parser) -> None:
        """Run the laws of its role on a component."""
        parser.add_argument("name", help="MODULE:CLASS, or ROLE/NAME of a registered component")
        parser.add_argument(
            "--set", action="append", default=[], metavar="key=value", help="a setting of the component"
        )
        parser.add_argument("--examples", type=at_least(1), default=25, help="drawn cases a law (default 25)")
        parser.add_argument("--seed", type=at_least(0), default=0, help="seed of the first case")
        add_json(parser)

    @staticmethod
    def data(parser: Parser) -> None:
        """Tell all that is wrong or suspicious in a data set; writes a page with pictures."""
        parser.add_argument("spec", metavar="SPEC", help="data set, for example \"voc(root='DIR')\"")
        parser.add_argument("--split", action="append", help="part to look at; may be repeated (default train and val)")
        parser.add_argument("--preset", default="detr_r50", help="detector whose image size counts (default detr_r50)")
        parser.add_argument("--quick", action="store_true", help="decode no images: finds no damaged or doubled ones")
        parser.add_argument("--out", metavar="DIR", help="folder of the page; by default check-NAME")
        add_json(parser)

    @staticmethod
    def config(parser: Parser) -> None:
        """Tell what a configuration would build, or everything that is wrong with it."""
        parser.add_argument("config", metavar="FILE|PRESET", help="TOML, a run's config.json or folder, or a preset")
        parser.add_argument("fields", nargs="*", metavar="key=value", help="fields to change")
        add_json(parser)

    @staticmethod
    def checkpoint(parser: Parser) -> None:
        """Tell what a checkpoint holds and whether it is intact."""
        parser.add_argument("path", help="folder of a run, or a checkpoint")
        parser.add_argument("--tensors", action="store_true", help="say what became of each tensor")
        add_json(parser)


def at_least(least: int) -> Callable[[str], int]:
    """Reader of whole numbers that refuses lower ones."""

    def number(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"got {text}; expected at least {least}")
        return int(text)

    return number


def add_json(parser: Parser) -> None:
    """The switch from text to JSON."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def add_data(parser: Parser) -> None:
    """Arguments of the commands that look at images of a finished run."""
    parser.add_argument("run", help="folder of a run, or a checkpoint")
    parser.add_argument("--data", metavar="SPEC", help="data set; by default the run's")
    parser.add_argument("--split", help="part of the data; by default the run's validation split")


def add_run(parser: Parser) -> None:
    """Arguments of the commands that use a finished run."""
    add_data(parser)
    parser.add_argument("--batch-size", type=at_least(1), default=8, help="images at a time (default 8)")
    parser.add_argument("--device", default="auto", help="cpu, cuda, ...; by default a GPU where there is one")


def add_speed(parser: Parser) -> None:
    """Arguments of the commands that look at many images."""
    parser.add_argument(
        "--fold", action=argparse.BooleanOptionalAction, default=True, help="fold norms into convolutions (default yes)"
    )
    parser.add_argument("--amp", choices=("none", "bf16"), default="none", help="bf16: products in bfloat16")
    parser.add_argument("--compile", action="store_true", help="compile first; takes minutes for each size of images")
