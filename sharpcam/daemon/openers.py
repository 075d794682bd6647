"""Who watches a virtual camera whose driver does not tell (v4l2loopback before 0.13): inotify and /proc.

inotify says that somebody opened or closed the node, and /proc who has it open. A program that streams has
mapped the driver's buffers; one that only looks what cameras there are is gone again in a moment.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path

from sharpcam.holding import Holder, holders

OPEN_S = 1.0  # whoever keeps the node open for so long without mapping anything reads from it
LOOK_EVERY_S = 0.5  # at those that have it open: mapping causes no event
# they keep every camera open to know what it can do, and map the buffers when they stream for somebody; systemd keeps
# ours open for the SharpCam after this one (sharpcam.daemon.notify)
SESSION_SERVERS = ("pipewire", "wireplumber", "systemd")

_IN_OPEN, _IN_CLOSE, _IN_Q_OVERFLOW = 0x20, 0x08 | 0x10, 0x4000
_EVENT = struct.Struct("iIII")  # watch, mask, cookie, length of the name that follows


class Openers:
    """Tells how many programs watch `node`, as `sharpcam.v4l2.ClientUsage` does.

    Programs of other users are seen by their opening and closing alone: together they count as one.
    Raises OSError where there is no inotify, or no more of it for this user.
    """

    def __init__(self, node: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._node, self._clock = os.path.realpath(node), clock
        self._inotify = _inotify(self._node)
        self._since: dict[Holder, float] = {}  # who has it open, and since when we know
        self._balance = 0  # opens less closes since nobody whom /proc shows had it open
        self._next_look = 0.0
        self._told: int | None = None
        self._find()

    def wait(self, timeout: float) -> int | None:
        """The number of programs that watch, None when it is what it was; `timeout` has to be 0."""
        assert timeout == 0
        if self._read_events():
            self._find()
        elif self._since and self._clock() < self._next_look:
            return None
        self._next_look = self._clock() + LOOK_EVERY_S
        count = sum(self._watches(who, since) for who, since in self._since.items())
        if not self._since and self._balance > 0:
            count = 1
        if count == self._told:
            return None
        self._told = count
        return count

    def close(self) -> None:
        """May be called twice."""
        fd, self._inotify = self._inotify, -1
        if fd >= 0:
            os.close(fd)

    def _read_events(self) -> bool:
        """Whether anything happened; what did goes into the balance."""
        happened = False
        while True:
            try:
                data = os.read(self._inotify, 4096)
            except BlockingIOError:
                return happened
            happened = True
            while data:
                _, mask, _, name = _EVENT.unpack_from(data)
                data = data[_EVENT.size + name :]
                if mask & _IN_Q_OVERFLOW:
                    self._balance = 0
                # equal events in a row come as one, so this is a guess, which must not stay wrong for ever
                self._balance = max(0, self._balance + (mask & _IN_OPEN > 0) - (mask & _IN_CLOSE > 0))

    def _find(self) -> None:
        now, before = self._clock(), self._since
        self._since = {who: before.get(who, now) for who in holders(self._node)}
        if before and not self._since:
            self._balance = 0

    def _watches(self, who: Holder, since: float) -> bool:
        try:
            if f" {self._node}\n" in Path(f"/proc/{who.pid}/maps").read_text(errors="replace"):
                return True
        except OSError:  # it has gone: the next event tells
            return False
        return who.name not in SESSION_SERVERS and self._clock() - since >= OPEN_S


def _inotify(node: str) -> int:
    """A file descriptor that tells when `node` is opened or closed."""
    if sys.platform != "linux":
        raise OSError(errno.ENOSYS, "inotify is Linux's", node)
    libc = ctypes.CDLL(None, use_errno=True)
    fd = int(libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
    if fd < 0 or libc.inotify_add_watch(fd, os.fsencode(node), _IN_OPEN | _IN_CLOSE) < 0:
        number = ctypes.get_errno()
        if fd >= 0:
            os.close(fd)
        raise OSError(number, os.strerror(number), node)
    return fd
