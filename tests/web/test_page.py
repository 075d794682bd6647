"""Opening and closing: by the daemon's control socket, by `sharpcam ui`, and by itself."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import subprocess
import sys
import webbrowser
from pathlib import Path
from typing import Any

import pytest
from page_rig import Camera, Orders, Rig, until
from typer.testing import CliRunner

from sharpcam import __version__
from sharpcam.cli import app
from sharpcam.daemon.control import ControlServer
from sharpcam.errors import ControlError
from sharpcam.web import LazyPage
from sharpcam.web.page import Page

LINK = re.compile(r"http://127\.0\.0\.1:(\d+)/#[\w-]{43}")
needs_sockets = pytest.mark.skipif(sys.platform == "win32", reason="needs Unix sockets")


def test_one_page_at_a_time() -> None:
    page = Page()
    try:
        port = int(LINK.fullmatch(page.open())[1])
        assert int(LINK.fullmatch(page.open())[1]) == port
        assert int(LINK.fullmatch(page.open(port))[1]) == port
        with pytest.raises(ControlError, match=f"open already, at port {port}"):
            page.open(port - 1)
    finally:
        page.close()
    page.close()
    again = page.open()
    assert LINK.fullmatch(again)
    page.close()


@pytest.mark.parametrize("port", [-1, 65536, "x", None, 1.5])
def test_ports_that_cannot_be(port: Any) -> None:
    with pytest.raises(ControlError, match="cannot listen at port"):
        Page().open(port)


def test_a_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        with pytest.raises(ControlError, match="in use") as caught:
            Page().open(other.getsockname()[1])
        assert "--port" in caught.value.hint


def test_it_closes_when_nobody_uses_it() -> None:
    rig = Rig(unused_s=0.5)
    server = rig.page._running
    assert server is not None
    viewer = rig.viewer()
    for _ in range(4):
        assert viewer.status()
    assert server.is_alive()  # somebody looks
    viewer.close()
    until(lambda: not server.is_alive())
    with pytest.raises(ConnectionRefusedError):
        rig.connect()
    rig.enter()  # and can be opened again
    assert rig.send("GET", "about").status == 200
    rig.close()


def test_what_is_refused_is_no_use_of_it() -> None:
    rig = Rig(unused_s=0.5)
    server = rig.page._running
    assert server is not None

    def knock() -> bool:
        with contextlib.suppress(ConnectionError, IndexError):
            rig.send("GET", "about", Cookie=None)
        return not server.is_alive()

    until(knock)
    rig.close()


def test_what_the_page_is_told(rig: Rig, tiny_installed: str) -> None:
    about = json.loads(rig.send("GET", "about").body)
    assert (about["version"], about["daemon"]) == (__version__, True)
    tiny = next(model for model in about["models"] if model["name"] == "tiny")
    assert tiny["macs_per_pixel"] == 2.5
    assert "file" not in tiny
    assert rig.send("GET", "metrics").body == b"sharpcam_fps 30\n"


def test_orders_and_their_failures(rig: Rig) -> None:
    for order in ("pause", "resume"):
        assert rig.send("POST", order, b"{}").status == 200
    answer = rig.send("POST", "set", b'{"key": "split", "value": "bad"}')
    assert answer.status == 409
    assert json.loads(answer.body) == {"error": "it is not like that", "hint": "make it so"}
    assert [command for command, _ in rig.orders.asked] == ["pause", "resume", "set"]


def test_without_a_daemon() -> None:
    rig = Rig.__new__(Rig)
    rig.camera, rig.orders, rig.page = Camera(), Orders(), Page()
    rig.enter()
    try:
        assert json.loads(rig.send("GET", "about").body)["daemon"] is False
        for method, path, body in (
            ("POST", "pause", b"{}"),
            ("POST", "frame", b"{}"),
            ("GET", "metrics", None),
        ):
            answer = rig.send(method, path, body)
            assert (answer.status, answer.error) == (409, "SharpCam does not run behind this page")
        assert rig.viewer().refused in (403, 404)
        assert rig.page.looking == 0
    finally:
        rig.close()


def test_every_file_that_the_page_names_is_there(rig: Rig) -> None:
    seen: set[str] = set()
    wanted = {"", "enter.html"}
    while wanted - seen:
        name = sorted(wanted - seen)[0]
        seen.add(name)
        answer = rig.send("GET", name)
        assert answer.status == 200, name
        text = answer.body.decode()
        wanted |= set(re.findall(r'(?:href|src)="([^"]+)"', text))
        wanted |= set(re.findall(r'from "\./([^"]+)"', text))
        kinds = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
        kind = kinds.get(name.rpartition(".")[2], "text/html")
        assert answer.headers["content-type"].split(";")[0] == kind
        assert "http:" not in text.replace("http://www.w3.org/2000/svg", "")  # it needs nobody else
        assert "https:" not in text
    assert {"app.js", "live.js", "plan.js", "icon.svg"} <= seen


def test_nothing_is_loaded_before_it_is_opened() -> None:
    script = (
        "import sys, sharpcam.daemon.daemon, sharpcam.cli.ui;"
        "print([m for m in ('starlette', 'uvicorn', 'asyncio', 'sharpcam.web.page') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[]", done.stderr


def test_where_the_extra_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "sharpcam.web.page", raising=False)
    with pytest.raises(ControlError, match="the page needs uvicorn, which is not installed") as caught:
        LazyPage().open()
    assert caught.value.hint == "pip install 'sharpcam[ui]'"


# -- the command


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["ui", *arguments])


def test_no_daemon_runs(runtime: Path) -> None:
    done = run()
    assert done.exit_code == 1
    assert done.stderr.splitlines() == [
        "sharpcam: SharpCam does not run",
        "  hint: start it: sharpcam run; or, to compare pictures alone: sharpcam ui --standalone",
    ]


@needs_sockets
@pytest.mark.parametrize(
    ("screen", "flags", "opened"), [(":0", (), 1), ("", (), 0), (":0", ("--no-browser",), 0)]
)
def test_it_asks_the_daemon(
    runtime: Path, monkeypatch: pytest.MonkeyPatch, screen: str, flags: tuple[str, ...], opened: int
) -> None:
    asked: list[tuple[str, Any]] = []
    browsers: list[str] = []
    monkeypatch.setattr(webbrowser, "open", browsers.append)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("DISPLAY", screen)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)

    def answer(command: str, request: Any) -> Any:
        asked.append((command, request["port"]))
        return {"url": "http://127.0.0.1:1/#x"}

    server = ControlServer(answer)
    try:
        done = run("--port", "8123", *flags)
    finally:
        server.close()
    assert done.exit_code == 0
    assert done.stdout.startswith("http://127.0.0.1:1/#x\n")
    assert asked == [("ui", 8123)]
    assert browsers == ["http://127.0.0.1:1/#x"] * opened


@needs_sockets
def test_the_daemon_refuses(runtime: Path) -> None:
    def answer(command: str, request: Any) -> Any:
        raise ControlError("the page is open already, at port 5", "leave --port out")

    server = ControlServer(answer)
    try:
        done = run("--no-browser")
    finally:
        server.close()
    assert done.exit_code == 1
    assert done.stderr.startswith("sharpcam: the page is open already, at port 5\n  hint: leave --port out")


def test_standalone(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C ends it; the page is closed then."""
    pages: list[LazyPage] = []

    def interrupted(self: LazyPage) -> None:
        pages.append(self)
        assert self._page is not None
        assert self._page._running is not None
        raise KeyboardInterrupt

    monkeypatch.setattr(LazyPage, "wait", interrupted)
    done = run("--standalone", "--no-browser")
    assert done.exit_code == 130
    assert LINK.match(done.stdout)
    assert pages[0]._page is not None
    assert pages[0]._page._running is None
