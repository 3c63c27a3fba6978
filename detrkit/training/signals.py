"""Signals that ask a run to stop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def noticing_signals(note: Callable[[int], None]) -> Iterator[None]:
    """While this lasts, the first SIGINT or SIGTERM is only noted; a second one acts as it did before.

    Only the main thread may catch signals; in another one nothing changes.
    """

    def handler(signum: int, _: FrameType | None) -> None:
        note(signum)
        signal.signal(signum, before[signal.Signals(signum)])

    is_main = threading.current_thread() is threading.main_thread()
    before = {s: signal.signal(s, handler) for s in (signal.SIGINT, signal.SIGTERM)} if is_main else {}
    try:
        yield
    finally:
        for signum, old in before.items():
            signal.signal(signum, old)
