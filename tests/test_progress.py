"""Progress: a bar where somebody watches, seldom lines in a log, nothing where it is not wanted."""

import io
import sys

import pytest
from launching import small

from detrkit import progress
from detrkit.progress import ProgressBar, watched
from detrkit.training import train


class Stderr(io.StringIO):
    """Text that may be a terminal."""

    def __init__(self, terminal):
        super().__init__()
        self.terminal = terminal

    def isatty(self):
        return self.terminal


@pytest.fixture
def stderr(monkeypatch):
    """Puts a stderr in place."""

    def put(terminal):
        monkeypatch.setattr(sys, "stderr", Stderr(terminal))
        return sys.stderr

    return put


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass when the test says so."""

    class Clock:
        now = 0.0

        def monotonic(self):
            return self.now

    monkeypatch.setattr(progress, "time", clock := Clock())
    return clock


@pytest.mark.fast
def test_a_log_gets_a_line_every_half_minute_at_most(stderr, clock):
    said = stderr(terminal=False)
    with ProgressBar("train", 400, unit="step", done=100) as bar:
        for _ in range(300):
            clock.now += 0.25
            bar.advance(note="loss 1.5")
    assert said.getvalue().splitlines() == [
        "train: 220 of 400 steps, loss 1.5, 00:45 left",
        "train: 340 of 400 steps, loss 1.5, 00:15 left",
    ]


@pytest.mark.fast
def test_a_short_task_leaves_no_line_in_a_log(stderr, clock):
    said = stderr(terminal=False)
    assert list(watched(range(1000), "evaluate", 1000)) == list(range(1000))
    assert said.getvalue() == ""


@pytest.mark.fast
def test_how_many_there_are_may_be_known_better_on_the_way(stderr, clock):
    said = stderr(terminal=False)
    with ProgressBar("predict") as bar:
        for total in (100, 8, None):
            clock.now += 40
            bar.expect(total)
            bar.advance(2)
    assert said.getvalue().splitlines() == [
        "predict: 2 of 100 images, 32:40 left",
        "predict: 4 of 8 images, 01:20 left",
        "predict: 6 images, 0.05 a second",
    ]


@pytest.mark.fast
def test_what_has_no_known_end_is_counted(stderr, clock):
    said = stderr(terminal=False)
    for _ in watched(range(4), "predict"):
        clock.now += 16
    assert said.getvalue().splitlines() == [
        "predict: 2 images, 0.0625 a second",
        "predict: 4 images, 0.0625 a second",
    ]


@pytest.mark.fast
@pytest.mark.parametrize(("terminal", "show", "drawn"), [(True, None, True), (True, False, False), (False, True, True)])
def test_a_bar_is_drawn_on_a_terminal_or_where_it_is_asked_for(stderr, clock, terminal, show, drawn):
    said = stderr(terminal)
    for _ in watched(range(3), "look", 3, show=show):
        clock.now += 60
    assert ("look" in said.getvalue()) == drawn
    assert "look:  " in said.getvalue() or not drawn
    assert "\n" not in said.getvalue()


@pytest.mark.fast
def test_a_bar_is_drawn_seldomer_than_steps_are_made(stderr):
    said = stderr(terminal=True)
    with ProgressBar("train", 10_000, unit="step") as bar:
        for _ in range(10_000):
            bar.advance(note="loss 1.5")
    assert said.getvalue().count("\r") < 1000


def test_the_log_of_a_run_holds_lines_that_say_something(stderr, tmp_path):
    said = stderr(terminal=False)
    train(*small(steps=10, num_workers=1), tmp_path)
    lines = said.getvalue().split("\n")
    assert "\r" not in said.getvalue()
    assert sum(line.startswith("step ") for line in lines) == 2
    assert not any("%|" in line for line in lines)
