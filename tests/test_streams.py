"""Outputs that are closed, full, broken off or cannot show a sign: one line at most, and an exit code."""

import io
import os
import sys
from pathlib import Path

import pytest

from detrkit import cli
from detrkit.commands import Commands

pytestmark = pytest.mark.fast


@pytest.fixture
def stream(monkeypatch):
    """Puts a stream, or one that writes to a device, in the place of another."""
    opened = []

    def put(name, made):
        if isinstance(made, Path):
            made = os.fdopen(os.open(made, os.O_WRONLY), "w")
            opened.append(made)
        monkeypatch.setattr(sys, name, made)

    yield put
    with Path(os.devnull).open("w") as nowhere:
        for file in opened:  # what they could not write is still to be written when they are closed
            os.dup2(nowhere.fileno(), file.fileno())
            file.close()


def test_a_mistake_is_one_also_where_it_cannot_be_told(stream):
    stream("stderr", None)
    assert cli.main(["show", "detr_r5"]) == 2
    stream("stderr", Path("/dev/full"))
    assert cli.main(["show", "detr_r5"]) == 2


def test_what_nobody_wants_to_see_is_no_failure(stream):
    stream("stdout", None)
    assert cli.main(["show", "detr_r50"]) == 0


def test_a_full_disk_is_a_failure_told_in_one_line(stream, capfd):
    stream("stdout", Path("/dev/full"))
    assert cli.main(["diff", "detr_r50", "detr_r101"]) == 1
    assert capfd.readouterr().err == "detrkit: failed: output: No space left on device\n"


def test_a_reader_who_has_seen_enough_is_no_failure(stream, capfd):
    end, beginning = os.pipe()
    os.close(end)
    with os.fdopen(beginning, "w") as pipe:
        stream("stdout", pipe)
        stream("stderr", Path(os.devnull))
        assert cli.main(["show", "detr_r50"]) == 0
    assert capfd.readouterr().err == ""


def test_signs_that_a_terminal_does_not_know_are_written_as_numbers(stream):
    written = io.BytesIO()
    stream("stdout", io.TextIOWrapper(written, encoding="ascii"))
    cli.prepare_streams()
    sys.stdout.write("猫\n")
    sys.stdout.flush()
    assert written.getvalue() == b"\\u732b\n"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "not enough memory; take smaller batches or images, or fewer queries"),
        (RuntimeError("DefaultCPUAllocator: can't allocate"), "not enough memory; take smaller batches"),
        (FileNotFoundError(2, "No such file or directory", "/proc/x"), "/proc/x: No such file or directory"),
        (RuntimeError("two\nlines"), "RuntimeError: two lines; run again with --debug for the traceback"),
    ],
)
def test_a_failure_is_told_in_one_line(monkeypatch, capsys, error, said):
    def fail(_):
        raise error

    monkeypatch.setattr(Commands, "list", fail)
    assert cli.main(["list"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"detrkit: failed: {said}")
