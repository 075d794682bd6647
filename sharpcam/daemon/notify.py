"""Tells systemd how it goes, by the protocol of sd_notify(3); does nothing when nobody asked for it.

systemd also keeps an open file for us (its file descriptor store), and gives it to the process that it starts
after this one has died: so the virtual camera stays open for the meeting. What it gives it keeps, too, until it is
told to forget: a process that fails on the way from taking it to showing pictures leaves it to the next one.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from array import array

_FIRST_FD = 3  # SD_LISTEN_FDS_START
CAMERA = "virtual-camera"  # the name of what is kept


class Notifier:
    """Sends lines such as READY=1 to the socket that systemd named in the environment."""

    def __init__(self) -> None:
        self._address = os.environ.get("NOTIFY_SOCKET", "")
        self._socket: socket.socket | None = None
        self._kept: int | None = None  # what systemd keeps is a duplicate of this
        if self._address and sys.platform != "win32":
            if self._address.startswith("@"):  # a name that is no file
                self._address = "\0" + self._address[1:]
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.setblocking(False)

    def tell(self, *lines: str) -> None:
        """Such as "READY=1", "STATUS=live", "WATCHDOG=1", "STOPPING=1"."""
        if self._socket is None:
            return
        with contextlib.suppress(OSError):  # it is restarting, or its queue is full: it is told again soon
            self._socket.sendto("\n".join(lines).encode(), self._address)

    def keep(self, fd: int) -> None:
        """Has systemd keep a duplicate of `fd` for the one that comes after us; of what was taken it does already.

        It keeps one: anything else has to be forgotten before.
        """
        if self._socket is None or fd == self._kept:
            return
        with contextlib.suppress(OSError):
            message = f"FDSTORE=1\nFDNAME={CAMERA}\nFDPOLL=0".encode()
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [fd]))
            self._socket.sendmsg([message], [rights], 0, self._address)  # send_fds ignores the address

    def take(self) -> int | None:
        """What the one before us had kept, a duplicate that belongs to the caller; None for nothing.

        systemd keeps it still: who cannot use it has to say `forget`. The variables that tell of it are taken
        out of the environment: they are not meant for our children.
        """
        told = {name: os.environ.pop(name, "") for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")}
        if told["LISTEN_PID"] != str(os.getpid()) or not told["LISTEN_FDS"].isdigit():
            return None
        names = told["LISTEN_FDNAMES"].split(":")
        found = None
        for fd, name in zip(range(_FIRST_FD, _FIRST_FD + int(told["LISTEN_FDS"])), names, strict=False):
            os.set_inheritable(fd, False)
            if name == CAMERA and found is None:
                found = fd
            else:
                os.close(fd)
        self._kept = found
        return found

    def forget(self) -> None:
        """Has systemd keep nothing any more."""
        self._kept = None
        self.tell("FDSTOREREMOVE=1", f"FDNAME={CAMERA}")

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
