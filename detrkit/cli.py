"""The command line. Answers ``--help`` without importing torch; data on stdout, progress on stderr.

Exit codes: 0 done, 1 a failure, 2 a mistake of the user's, 130 and 143 stopped by a signal after saving.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from io import TextIOWrapper
from pathlib import Path

from detrkit.arguments import make_parser
from detrkit.commands import Commands
from detrkit.errors import DetrkitError, nearest


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


if __name__ == "__main__":
    sys.exit(main())
