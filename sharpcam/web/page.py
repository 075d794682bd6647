"""The page's server: it listens on loopback from `open` on, until nobody has used it for a while."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
import time
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from sharpcam.errors import ControlError
from sharpcam.web.app import Answer, make_app
from sharpcam.web.compare import Comparisons
from sharpcam.web.live import Live, Watchable
from sharpcam.web.session import Session

log = logging.getLogger(__name__)

UNUSED_S = 600.0  # after which it closes
MAX_CONNECTIONS = 64
SILENT_S = 10.0  # in which a connection has to bring its first request
STOP_S = 5.0


class Page:
    """Opens and closes the page. `answer` and `pipeline` are the daemon's; without them there is no live view.

    A comparison may use `threads` CPU threads, `nice` steps behind other programs. May be called from any thread.
    """

    def __init__(
        self,
        answer: Answer | None = None,
        pipeline: Watchable | None = None,
        *,
        threads: int = 1,
        nice: int = 10,
        unused_s: float = UNUSED_S,
    ) -> None:
        self._answer, self._pipeline = answer, pipeline
        self._comparing, self._unused_s = (threads, nice), unused_s
        self._lock = threading.Lock()
        self._running: _Server | None = None

    def open(self, port: int = 0) -> str:
        """A link to the page that works once, within a minute; the page listens at `port`, 0 for any.

        Raises ControlError when it cannot.
        """
        with self._lock:
            server = self._running
            if server is None or server.ended.is_set():
                server = _Server(port, self._answer, self._pipeline, self._comparing, self._unused_s)
                server.start()
                self._running = server
            elif port not in (0, server.session.port):
                raise ControlError(
                    f"the page is open already, at port {server.session.port}", "leave --port out"
                )
            return server.session.link()

    @property
    def looking(self) -> int:
        """How many look at the live picture now."""
        server = self._running
        return server.live.looking if server is not None and server.live is not None else 0

    def wait(self) -> None:
        """Until the page is closed, or has closed itself."""
        if self._running is not None:
            self._running.ended.wait()

    def close(self) -> None:
        """May be called twice, and without `open`."""
        with self._lock:
            server, self._running = self._running, None
        if server is not None:
            server.stop()


class _Server(threading.Thread):
    """One start of the page, with secrets of its own."""

    def __init__(
        self,
        port: int,
        answer: Answer | None,
        pipeline: Watchable | None,
        comparing: tuple[int, int],
        unused_s: float,
    ) -> None:
        super().__init__(name="sharpcam-page", daemon=True)
        self.ended = threading.Event()  # what `join` tells after a signal is not to be trusted (Python 3.11)
        self._socket = _listen(port)
        self.session = Session(self._socket.getsockname()[1])
        self.live = Live(pipeline, lambda: _status(answer)) if answer and pipeline else None
        self._comparisons = Comparisons(*comparing)
        self._unused_s, self._used_at = unused_s, time.monotonic()
        config = uvicorn.Config(
            make_app(self.session, answer, self.live, self._comparisons, self._used),
            http=_Protocol,
            ws="wsproto",
            ws_max_size=1024,
            ws_per_message_deflate=False,  # pictures are compressed already
            loop="asyncio",
            lifespan="off",
            log_config=None,
            log_level="error",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=1,
        )
        self._uvicorn = uvicorn.Server(config)

    def run(self) -> None:
        log.info("page: listening at port %d", self.session.port)
        try:
            asyncio.run(self._serve())
        except Exception:
            log.exception("page: broke down")
        finally:
            self._socket.close()
            if self.live is not None:
                self.live.stop()
            log.info("page: closed")
            self.ended.set()

    def stop(self) -> None:
        self._uvicorn.should_exit = True
        self.ended.wait(STOP_S)

    async def _serve(self) -> None:
        if self.live is not None:
            self.live.start()
        watch = asyncio.ensure_future(self._watch())
        try:
            await self._uvicorn.serve(sockets=[self._socket])
        finally:
            watch.cancel()

    async def _watch(self) -> None:
        """Ends the server when it has been of no use for long."""
        while True:
            await asyncio.sleep(min(1.0, self._unused_s / 4))
            now = time.monotonic()
            if self._comparisons.running or (self.live is not None and self.live.connected):
                self._used_at = now
            elif now > self._used_at + self._unused_s:
                self._uvicorn.should_exit = True

    def _used(self) -> None:
        self._used_at = time.monotonic()


def _listen(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))  # loopback, and no setting changes that
        listener.listen()
    except (OSError, OverflowError, TypeError) as error:
        listener.close()
        cause = getattr(error, "strerror", None) or error
        raise ControlError(
            f"cannot listen at port {port}: {cause}", "leave --port out for a free one"
        ) from None
    return listener


def _status(answer: Answer) -> dict[str, Any]:
    return dict(answer("status", {}))


class _Protocol(H11Protocol):
    """Bounds what Uvicorn does not: how many connections there are, and how long one may say nothing."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            transport.abort()
        else:
            self.loop.call_later(SILENT_S, self._close_if_silent)

    def _close_if_silent(self) -> None:
        scope: object = self.scope  # Uvicorn's annotation leaves out that it is None at first
        if scope is None:
            self.transport.abort()
