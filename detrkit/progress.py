"""How far a long task has come, told on stderr: the one place that decides how."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from types import TracebackType
from typing import Self, TypeVar

from tqdm import tqdm

T = TypeVar("T")

SELDOM = 30.0  # seconds between two lines where nobody watches


class ProgressBar:
    """A bar on a terminal; elsewhere, in a log say, a plain line every half minute at most.

    Args:
        task: what is done, in a word.
        total: how many units there are; None where that is not known.
        unit: what is counted.
        done: units that were done before.
        show: None: as above; True: a bar in any case; False: nothing.
    """

    def __init__(
        self, task: str, total: int | None = None, *, unit: str = "image", done: int = 0, show: bool | None = None
    ) -> None:
        self.task, self.total, self.unit, self.done = task, total, unit, done
        as_bar = sys.stderr.isatty() if show is None else show
        self.in_lines = show is None and not as_bar
        self.bar = tqdm(
            desc=task, total=total, unit=unit, initial=done, leave=False, dynamic_ncols=True, disable=not as_bar
        )
        self.began = self.told = time.monotonic()
        self.before = done

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.bar.close()

    def expect(self, total: int | None) -> None:
        """How many units there are is known better than before, or is not known any more."""
        self.total = self.bar.total = total

    def advance(self, count: int = 1, note: str = "") -> None:
        """Some more units are done.

        Args:
            count: how many.
            note: what else is to be told of them.
        """
        self.done += count
        if note:
            self.bar.set_postfix_str(note, refresh=False)
        self.bar.update(count)
        if self.in_lines and time.monotonic() - self.told >= SELDOM:
            self.told = time.monotonic()
            say(self.line(note))

    def line(self, note: str = "") -> str:
        """How far the task is, and what is left of it at the speed so far."""
        took = (self.told - self.began) / max(self.done - self.before, 1)
        if self.total is None:
            rate = f"{1 / took:.3g} a second" if took else ""
            return ", ".join(filter(None, (f"{self.task}: {self.done} {self.unit}s", note, rate)))
        left = took * (self.total - self.done)
        how_far = f"{self.task}: {self.done} of {self.total} {self.unit}s"
        return ", ".join(filter(None, (how_far, note, f"{tqdm.format_interval(left)} left")))


def watched(
    stream: Iterable[T], task: str, total: int | None = None, *, unit: str = "image", show: bool | None = None
) -> Iterator[T]:
    """The same items, each counted by a `ProgressBar` when it has been worked on."""
    with ProgressBar(task, total, unit=unit, show=show) as bar:
        for item in stream:
            yield item
            bar.advance()


def say(text: str) -> None:
    """A line on stderr that leaves a bar whole; a run goes on where nobody can be told any more."""
    with suppress(OSError):
        tqdm.write(text, file=sys.stderr)
