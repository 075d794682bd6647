"""Tells systemd how it goes, by the protocol of sd_notify(3); does nothing when nobody asked for it."""

from __future__ import annotations

import contextlib
import os
import socket
import sys


class Notifier:
    """Sends lines such as READY=1 to the socket that systemd named in the environment."""

    def __init__(self) -> None:
        self._address = os.environ.get("NOTIFY_SOCKET", "")
        self._socket: socket.socket | None = None
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

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
