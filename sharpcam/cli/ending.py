"""Signals that end a command."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType

PATIENCE = 3  # as many of them end it wherever it is


class Signals:
    """Ctrl-C, SIGTERM and SIGHUP: KeyboardInterrupt, in the main thread, wherever it is, so that what has begun is
    tidied up; once `go_to` has named who heeds them, a word to that, and nothing is torn down half way."""

    def __init__(self) -> None:
        self._heed: Callable[[str], None] | None = None
        self._came = 0

    def go_to(self, heed: Callable[[str], None]) -> None:
        """`heed` is called with the reason in a signal handler: it may take no lock. It need not be heeded for ever."""
        self._heed = heed

    def end(self, number: int, frame: FrameType | None) -> None:
        reason = "interrupted" if number == signal.SIGINT else "terminated"
        self._came += 1
        if self._heed is None or self._came >= PATIENCE:
            raise KeyboardInterrupt(reason)
        self._heed(reason)


@contextlib.contextmanager
def ending_signals() -> Iterator[Signals]:
    """What of these signals is not ignored (nohup ignores SIGHUP) goes to the `Signals` that it gives."""
    signals = Signals()
    numbers = [getattr(signal, n) for n in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, n)]
    heard = [n for n in numbers if signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, signals.end) for number in heard}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
