"""Run speed benchmarks, all or those named, one process each: ``python benchmarks [NAME ...] [options of theirs]``.

Options go to every script as they are, for example ``python benchmarks attention model --rounds 3 --threads 1``;
``--json DIR`` gives each script a file in that folder.
"""

from __future__ import annotations

import subprocess
import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from datetime import date
from pathlib import Path

HERE = Path(__file__).parent
NAMES = sorted(script.stem for script in HERE.glob("*.py") if not script.stem.startswith("_"))


def main() -> int:
    """The exit code of the first script that failed, or 0."""
    parser = ArgumentParser(
        prog="python benchmarks",
        description=__doc__,
        formatter_class=RawDescriptionHelpFormatter,
        epilog="\n".join(f"{name:12} {question(name)}" for name in NAMES),
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; by default all")
    parser.add_argument("--json", type=Path, metavar="DIR", help="folder for their results")
    options, rest = parser.parse_known_args()
    if unknown := set(options.names) - set(NAMES):
        parser.error(f"unknown benchmark {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    codes = [run(name, rest, options.json) for name in options.names or NAMES]
    return next(filter(None, codes), 0)


def question(name: str) -> str:
    """The first line of a script's docstring."""
    return (HERE / f"{name}.py").read_text(encoding="utf-8").partition("\n")[0].strip('"')


def run(name: str, options: list[str], folder: Path | None) -> int:
    """One script in its own process, so that none inherits another's memory and threads."""
    print(f"== {name}: {question(name)}", flush=True)
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
    file = ["--json", str(folder / f"{name}-{date.today()}.json")] if folder else []
    code = subprocess.run([sys.executable, str(HERE / f"{name}.py"), *options, *file], check=False).returncode
    print(flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
