"""A slot for one frame between two threads."""

from __future__ import annotations

import threading
import time

from sharpcam.frame import Frame


class MailboxClosed(Exception):
    """Nothing will come any more."""


class Mailbox:
    """One frame at a time, from one thread to another.

    `newest_wins`: a frame that is put while the last one still lies there takes its place, and the old one
    is given back to the putter. Otherwise `put` waits until the slot is free, and no frame is lost.
    """

    def __init__(self, newest_wins: bool) -> None:
        self._newest_wins = newest_wins
        self._frame: Frame | None = None
        self._put_ns = 0
        self._closed = False
        self._changed = threading.Condition()

    def put(self, frame: Frame, timeout: float) -> tuple[bool, Frame | None]:
        """(taken, replaced): whether `frame` lies in the slot now, and the older one that did until now."""
        with self._changed:
            if not self._newest_wins and not self._changed.wait_for(lambda: self._frame is None, timeout):
                return False, None
            replaced, self._frame = self._frame, frame
            self._put_ns = time.monotonic_ns()
            self._changed.notify_all()
            return True, replaced

    def get(self, timeout: float) -> tuple[Frame | None, int]:
        """(frame, ns that it lay here), or (None, 0) when none came within `timeout` seconds.

        Raises MailboxClosed once the mailbox is closed and empty.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._frame is not None or self._closed, max(timeout, 0.0))
            frame, self._frame = self._frame, None
            if frame is None:
                if self._closed:
                    raise MailboxClosed
                return None, 0
            self._changed.notify_all()
            return frame, time.monotonic_ns() - self._put_ns

    def close(self) -> None:
        """No more frames will be put; the one that lies here can still be had."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
