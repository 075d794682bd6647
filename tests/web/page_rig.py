"""A page with a made-up daemon behind it, raw requests to it, and what a browser would send along."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest

pytest.importorskip("starlette", reason="the page is an extra: ui")
pytest.importorskip("uvicorn", reason="the page is an extra: ui")
wsproto = pytest.importorskip("wsproto", reason="the page is an extra: ui")

# ruff: noqa: E402
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, RejectConnection, TextMessage
from wsproto.events import Request as Upgrade

from sharpcam.errors import ConfigError
from sharpcam.frame import Frame
from sharpcam.web.page import Page

LIMIT = 60.0  # seconds after which a test that waits has failed
SIZE = (320, 180)
OLD = {"state": "live", "reason": "a test", "fps": 30.0, "latency_ms": 20.0, "strength": 1.0}


def until(condition: Callable[[], Any], what: str = "") -> Any:
    end = time.monotonic() + LIMIT
    while not (value := condition()):
        assert time.monotonic() < end, f"waited in vain {what}"
        time.sleep(0.01)
    return value


class Camera:
    """A pipeline that shows its watcher a new pair of frames again and again: before is dark, after is light."""

    def __init__(self) -> None:
        self.watcher: Callable[[Frame, Frame], None] | None = None
        self.before, self.after = Frame(*SIZE), Frame(*SIZE)
        self.before.fill(60)
        self.after.fill(180)
        self.shown = 0  # pairs that a watcher was there for
        self.steps = 0
        self.running = True
        self.over = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        while not self.over.wait(0.01):
            self.steps += 1
            if self.running and (watcher := self.watcher) is not None:
                self.shown += 1
                watcher(self.before, self.after)

    def close(self) -> None:
        self.over.set()
        self._thread.join()


class Orders:
    """What the daemon was asked; `status` is not counted."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, command: str, request: Mapping[str, Any]) -> Any:
        if command == "status":
            return OLD
        self.asked.append((command, dict(request)))
        if request.get("value") == "bad":
            raise ConfigError("it is not like that", "make it so")
        return "sharpcam_fps 30\n" if command == "metrics" else {}


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> str:
        return str(json.loads(self.body)["error"])


class Rig:
    """A page that is open, and the cookie that belongs to it."""

    def __init__(self, **settings: Any) -> None:
        self.camera, self.orders = Camera(), Orders()
        self.page = Page(self.orders, self.camera, **settings)
        self.enter()

    def enter(self) -> None:
        """Opens the page as a browser does that was given its link."""
        self.link = self.page.open()
        found = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/#(\S+)", self.link)
        assert found
        self.port, self.code = int(found[1]), found[2]
        self.host = f"127.0.0.1:{self.port}"
        answer = self.use_link()
        assert answer.status == 200
        self.prefix = json.loads(answer.body)["path"]
        self.set_cookie = answer.headers["set-cookie"]
        self.cookie = self.set_cookie.partition(";")[0]

    def use_link(self, code: str | None = None) -> Answer:
        data = json.dumps({"code": self.code if code is None else code}).encode()
        return self.send("POST", "/enter", data, Cookie=None)

    def headers(self, **other: str | None) -> dict[str, str]:
        """Those of the page's own requests; `other` replaces some (None: leaves them out), _ stands for -."""
        headers: dict[str, str | None] = {
            "Host": self.host,
            "Origin": f"http://{self.host}",
            "Sec-Fetch-Site": "same-origin",
            "Cookie": getattr(self, "cookie", None),
        }
        headers |= {name.replace("_", "-"): value for name, value in other.items()}
        return {name: value for name, value in headers.items() if value is not None}

    def send(self, method: str, path: str, body: bytes | None = None, **other: str | None) -> Answer:
        """What the server answers to what the page would send; `path` is relative to the page, or absolute."""
        more: dict[str, str | None] = {}
        if body is not None:
            more = {
                "X-SharpCam": "1",
                "Content-Type": "application/json",
                "Content-Length": str(len(body)),
            }
        lines = [f"{name}: {value}" for name, value in self.headers(**(more | other)).items()]
        return self.raw(method, path, lines, body or b"")

    def raw(self, method: str, path: str, lines: list[str], body: bytes = b"") -> Answer:
        path = path if path.startswith("/") else self.prefix + path
        text = "\r\n".join([f"{method} {path} HTTP/1.1", *lines, "Connection: close", "", ""])
        with self.connect() as connection:
            connection.sendall(text.encode() + body)
            return answer_of(connection)

    def connect(self) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.port))
        connection.settimeout(LIMIT)
        return connection

    def viewer(self, **other: str | None) -> Viewer:
        return Viewer(self, other)

    def close(self) -> None:
        self.page.close()
        self.camera.close()


def answer_of(connection: socket.socket) -> Answer:
    """Reads an answer to the end of the connection."""
    data = b""
    while True:
        try:
            more = connection.recv(1 << 16)
        except ConnectionResetError:
            break
        if not more:
            break
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    if headers.get("transfer-encoding") == "chunked":
        body = _unchunked(body)
    return Answer(int(first.split()[1]), headers, body)


def _unchunked(data: bytes) -> bytes:
    body = b""
    while data:
        size, _, data = data.partition(b"\r\n")
        body += data[: int(size, 16)]
        data = data[int(size, 16) + 2 :]
    return body


class Viewer:
    """A WebSocket to the live view; `refused` is the status when there is none."""

    def __init__(self, rig: Rig, other: dict[str, str | None]) -> None:
        self.socket = rig.connect()
        self._protocol = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)
        headers = rig.headers(**other)
        upgrade = Upgrade(
            host=headers.pop("Host"),
            target=f"{rig.prefix}live",
            extra_headers=[(name.encode(), value.encode()) for name, value in headers.items()],
        )
        self.socket.sendall(self._protocol.send(upgrade))
        self._events: list[Any] = []
        first = self._next()
        self.refused = first.status_code if isinstance(first, RejectConnection) else None
        assert self.refused or isinstance(first, AcceptConnection)

    def _next(self) -> Any:
        while not self._events:
            data = self.socket.recv(1 << 16)
            self._protocol.receive_data(data or None)
            self._events += self._protocol.events()
        return self._events.pop(0)

    def say(self, text: str) -> None:
        self.socket.sendall(self._protocol.send(TextMessage(data=text)))

    def status(self) -> dict[str, Any]:
        """The next report."""
        while True:
            told = self.message()
            if isinstance(told, str):
                return dict(json.loads(told))

    def picture(self) -> bytes:
        while True:
            told = self.message()
            if isinstance(told, bytes):
                return told

    def message(self) -> str | bytes | None:
        """What comes next; None at the end."""
        parts: list[Any] = []
        while True:
            event = self._next()
            if isinstance(event, CloseConnection):
                return None
            if isinstance(event, TextMessage | BytesMessage):
                parts.append(event.data)
                if event.message_finished:
                    text = isinstance(event, TextMessage)
                    return "".join(parts) if text else b"".join(bytes(part) for part in parts)

    def close(self) -> None:
        self.socket.close()


def noise(width: int, height: int, seed: int = 0) -> Any:
    """A picture (H, W, 3) that is not flat."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (max(2, height // 8), max(2, width // 8), 3), np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
