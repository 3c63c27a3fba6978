"""The command line. Answers ``--help`` without importing torch; data on stdout, progress on stderr.

Exit codes: 0 done, 1 a failure, 2 a mistake of the user's, 130 and 143 stopped by a signal after saving.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from io import TextIOWrapper
from pathlib import Path
from typing import NoReturn

import detrkit
from detrkit.commands import Commands
from detrkit.errors import DetrkitError, nearest
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    prepare_streams()
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    parser = make_parser()
    commands = [name for name in vars(Commands) if not name.startswith("_")]
    if arguments and not arguments[0].startswith("-") and arguments[0] not in commands:
        parser.error(f"unknown command {arguments[0]!r}; {nearest(arguments[0], commands)}")
    options = parser.parse_all(arguments)
    try:
        code = getattr(Commands, options.command)(options) or 0
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # whoever read has seen enough
        for stream in (sys.stdout, sys.stderr):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return 0
    except Exception as error:
        if options.debug:
            raise
        return report(error)


def prepare_streams() -> None:
    """Let every text be written: signs that the terminal does not know as numbers, to a closed stream in vain."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115 (until the process ends)
        elif isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def report(error: Exception) -> int:
    """Say what went wrong in one line (a configuration's problems: a line each) and give the exit code."""
    text, code = (str(error), error.exit_code) if isinstance(error, DetrkitError) else (failure(error), 1)
    with suppress(OSError):  # where nobody can be told, the exit code is left
        sys.stderr.write("".join(f"detrkit: {line}\n" for line in text.splitlines()))
    return code


def failure(error: Exception) -> str:
    """One line about what nobody has foreseen."""
    text, kind = " ".join(str(error).split()), type(error).__name__
    if isinstance(error, MemoryError) or "OutOfMemory" in kind or "DefaultCPUAllocator" in text:
        return "failed: not enough memory; take smaller batches or images, or fewer queries"
    if isinstance(error, OSError) and error.strerror:
        return f"failed: {error.filename or 'output'}: {error.strerror}"
    return f"failed: {kind}: {text}; run again with --debug for the traceback"


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

    evaluation = command("eval", "Score a run on held-out data: AP by size and class, and kinds of errors.")
    add_run(evaluation)
    add_speed(evaluation)
    evaluation.add_argument("--evaluator", default="hotcoco", metavar="SPEC", help="for example voc (default hotcoco)")
    evaluation.add_argument("--json", action="store_true", help="print JSON")

    add_stream(command("predict", "Detect in images, folders and videos; writes COCO results and drawn images."))

    explain = command("explain", "Write a page to explore what a run looks at, box by box and pixel by pixel.")
    add_run(explain)
    explain.add_argument("images", nargs="*", metavar="IMAGE", help="images or folders; by default those of the split")
    explain.add_argument("--out", metavar="FILE", help="the page; by default explorer.html in the run's folder")
    explain.add_argument("--threshold", type=float, default=0.5, help="least score of a detection (default 0.5)")
    explain.add_argument(
        "--limit", type=at_least(1), default=6, metavar="N", help="at most this many images (default 6)"
    )
    explain.add_argument(
        "--slots",
        type=at_least(1),
        metavar="N",
        help="also show what each query is a specialist of, over N images of the data",
    )

    export = command("export", "Write a run for other programs, checked against the run itself.")
    add_data(export)
    about = "; ".join(f"{name}: {format.about}" for name, format in FORMATS.items())
    export.add_argument("--format", choices=FORMATS, default="onnx", help=f"{about} (default onnx)")
    export.add_argument("--out", metavar="FILE", help="what to write; by default beside the checkpoint")
    export.add_argument("--json", action="store_true", help="print JSON")

    report = command("report", "Write a run's page: changes, curves, AP, worst images.")
    add_run(report)
    report.add_argument("--threshold", type=float, default=0.5, help="least score of what is drawn (default 0.5)")

    add_tables(command("bench", "Run the speed benchmarks of a checkout, each beside its peer."))
    add_study(command("ablate", "Tell what parts are worth: variants of a base, trained over seeds and compared."))
    add_checks(command("check", "Check a component, data, a configuration or a checkpoint."), common)
    return parser


def at_least(least: int) -> Callable[[str], int]:
    """Reader of whole numbers that refuses lower ones."""

    def number(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"got {text}; expected at least {least}")
        return int(text)

    return number


def add_tables(parser: Parser) -> None:
    """Arguments of the speed benchmarks, which are theirs."""
    parser.add_argument("names", nargs="*", metavar="NAME", help="scripts in benchmarks/; by default all")
    parser.add_argument("--rounds", type=at_least(1), metavar="N", help="times that every rival runs")
    parser.add_argument("--threads", type=at_least(1), metavar="N", help="threads of torch")
    parser.add_argument("--device", help="cpu, cuda, ... (default cpu)")
    parser.add_argument("--clock", choices=("wall", "processor"), help="processor: for a busy machine")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that it runs, measures nothing")
    parser.add_argument("--json", metavar="DIR", help="folder for the results")


def add_stream(parser: Parser) -> None:
    """Arguments of a prediction."""
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
        "--every", type=at_least(1), default=1, metavar="N", help="of videos and animations, each Nth frame (default 1)"
    )
    parser.add_argument(
        "--draw",
        choices=("none", "boxes", "attention"),
        help="pictures to write; attention also shows where each detection looked, and is slow (default boxes; "
        "attention where there are at most 20 images)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def add_study(parser: Parser) -> None:
    """Arguments of a study."""
    parser.add_argument("fields", nargs="*", metavar="BASE key=value", help="a preset, and fields of all runs")
    parser.add_argument("--study", metavar="FILE", help="TOML with question, base, vary, ...; see benchmarks/studies/")
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
        "--workers", type=at_least(0), default=0, metavar="N", help="runs side by side, a thread each (default: here)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def add_checks(parser: Parser, common: Parser) -> None:
    """The things that can be checked, each with its own arguments."""
    things = parser.add_subparsers(dest="what", required=True, metavar="WHAT", parser_class=Parser)

    def thing(name: str, help: str) -> Parser:
        made = things.add_parser(name, help=help, description=help, parents=[common])
        made.add_argument("--json", action="store_true", help="print JSON")
        return made

    component = thing("component", "Run the laws of its role on a component.")
    component.add_argument("name", help="MODULE:CLASS, or ROLE/NAME of a registered component")
    component.add_argument("--set", action="append", default=[], metavar="key=value", help="a setting of the component")
    component.add_argument("--examples", type=at_least(1), default=25, help="drawn cases a law (default 25)")
    component.add_argument("--seed", type=at_least(0), default=0, help="seed of the first case")

    data = thing("data", "Tell all that is wrong or suspicious in a data set; writes a page with pictures.")
    data.add_argument("spec", metavar="SPEC", help="data set, for example \"voc(root='DIR')\"")
    data.add_argument("--split", action="append", help="part to look at; may be repeated (default train and val)")
    data.add_argument("--preset", default="detr_r50", help="detector whose image size counts (default detr_r50)")
    data.add_argument("--quick", action="store_true", help="decode no images: finds no damaged or doubled ones")
    data.add_argument("--out", metavar="DIR", help="folder of the page; by default check-NAME")

    config = thing("config", "Tell what a configuration would build, or everything that is wrong with it.")
    config.add_argument("config", metavar="FILE|PRESET", help="TOML, a run's config.json or folder, or a preset")
    config.add_argument("fields", nargs="*", metavar="key=value", help="fields to change")

    checkpoint = thing("checkpoint", "Tell what a checkpoint holds and whether it is intact.")
    checkpoint.add_argument("path", help="folder of a run, or a checkpoint")
    checkpoint.add_argument("--tensors", action="store_true", help="say what became of each tensor")


def add_data(parser: argparse.ArgumentParser) -> None:
    """Arguments of the commands that look at images of a finished run."""
    parser.add_argument("run", help="folder of a run, or a checkpoint")
    parser.add_argument("--data", metavar="SPEC", help="data set; by default the run's")
    parser.add_argument("--split", help="part of the data; by default the run's validation split")


def add_run(parser: argparse.ArgumentParser) -> None:
    """Arguments of the commands that use a finished run."""
    add_data(parser)
    parser.add_argument("--batch-size", type=at_least(1), default=8, help="images at a time (default 8)")
    parser.add_argument("--device", default="auto", help="cpu, cuda, ...; by default a GPU where there is one")


def add_speed(parser: argparse.ArgumentParser) -> None:
    """Arguments of the commands that look at many images."""
    parser.add_argument(
        "--fold", action=argparse.BooleanOptionalAction, default=True, help="fold norms into convolutions (default yes)"
    )
    parser.add_argument("--amp", choices=("none", "bf16"), default="none", help="bf16: products in bfloat16")
    parser.add_argument("--compile", action="store_true", help="compile first; takes minutes for each size of images")


if __name__ == "__main__":
    sys.exit(main())
