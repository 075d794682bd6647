"""Who may use the page: whoever opened its one-time link, from this machine, as this user."""

from __future__ import annotations

import hmac
import os
import secrets
import socket
import struct
import time
from collections.abc import Callable, Sequence
from pathlib import Path

LINK_S = 60.0  # for which a link can be opened


class Session:
    """The secrets of one start of the page.

    `token` is what the browser's cookie has to hold. `prefix` is the path under which everything lies: a cookie
    is sent to every port of a host, so without a path that nobody can guess, other local servers would get it.
    """

    def __init__(self, port: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.port = port
        self.token = secrets.token_urlsafe(32)
        self.prefix = f"/{secrets.token_urlsafe(16)}"
        self._clock = clock
        self._code, self._until = "", 0.0

    @property
    def hosts(self) -> tuple[str, str]:
        """What a request's Host header may say; any other name was made to point here (DNS rebinding)."""
        return f"127.0.0.1:{self.port}", f"localhost:{self.port}"

    def link(self) -> str:
        """A link that works once, within a minute, and ends the one before.

        The secret is in the fragment, which browsers send nowhere.
        """
        self._code, self._until = secrets.token_urlsafe(32), self._clock() + LINK_S
        return f"http://127.0.0.1:{self.port}/#{self._code}"

    def enter(self, code: str) -> bool:
        """Whether `code` is that of the link, which it ends."""
        fits = bool(self._code) and _same(code, self._code)
        if fits:
            fits, self._code = self._clock() < self._until, ""
        return fits

    def knows(self, token: str) -> bool:
        return _same(token, self.token)


def is_other_user(
    client: tuple[str, int],
    server_port: int,
    tables: Sequence[Path] = (Path("/proc/net/tcp"), Path("/proc/net/tcp6")),
) -> bool:
    """Whether another user's process is at the other end of a loopback connection; False where unknown.

    The link stands on the browser's command line, which other users of the machine can read. A socket for IPv6
    can connect to ::ffff:127.0.0.1, and stands in the second table then, with just that as its address.
    """
    host, port = client
    try:
        address = struct.unpack("=I", bytes(int(part) for part in host.split(".")))[0]
    except (ValueError, struct.error):
        return False  # no address of IPv4
    plain = f"{address:08X}:{port:04X}"
    wanted = plain, f"0000000000000000{socket.htonl(0xFFFF):08X}{plain}"
    for table in tables:
        try:
            for line in table.read_text(encoding="ascii").splitlines()[1:]:
                fields = line.split()
                if fields[1] in wanted and fields[2].endswith(f":{server_port:04X}"):
                    return int(fields[7]) != os.getuid()
        except (OSError, ValueError, IndexError):
            pass  # another system, or not to be read
    return False


def _same(given: str, secret: str) -> bool:
    return hmac.compare_digest(given.encode(errors="replace"), secret.encode())
