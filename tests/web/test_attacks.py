"""What other sites in the browser, other programs and other users may try against the page: all over raw sockets."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import time
import zlib
from typing import Any

import pytest
from page_rig import LIMIT, Rig, answer_of, until

import sharpcam.web.app
import sharpcam.web.live
import sharpcam.web.page
from sharpcam.web.guard import HEADERS, MAX_JSON, MAX_UPLOAD
from sharpcam.web.live import MAX_VIEWERS
from sharpcam.web.page import MAX_CONNECTIONS, Page

SETTING = json.dumps({"key": "strength", "value": "0.5"}).encode()


def test_the_page_itself_is_let_in(rig: Rig) -> None:
    assert rig.send("GET", "about").status == 200
    assert rig.send("POST", "set", SETTING).status == 200
    assert rig.orders.asked == [("set", {"key": "strength", "value": "0.5"})]
    viewer = rig.viewer()
    assert viewer.status()["state"] == "live"
    viewer.close()
    assert rig.send("GET", "about", Origin=None, Sec_Fetch_Site="none").status == 200  # typed by the user
    assert rig.send("GET", "about", Origin=None, Sec_Fetch_Site=None).status == 200  # an older browser


# -- names and origins


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "127.0.0.1.evil.example:{port}", ""],
)
def test_dns_rebinding(rig: Rig, host: str) -> None:
    host = host.format(port=rig.port)
    as_browser = {"Host": host, "Origin": f"http://{host}"}
    for method, path, body in (("GET", "/", None), ("GET", "about", None), ("POST", "set", SETTING)):
        answer = rig.send(method, path, body, **as_browser)
        assert (answer.status, answer.error) == (403, "wrong host")
    assert rig.viewer(**(as_browser | {"Host": host or "evil.example"})).refused == 403
    assert not rig.orders.asked


def test_two_hosts(rig: Rig) -> None:
    answer = rig.raw("GET", "about", [f"Host: {rig.host}", "Host: evil.example", f"Cookie: {rig.cookie}"])
    assert answer.status in (400, 403)


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "null", "https://{host}", "http://127.0.0.1:1", "http://localhost:{port}", ""],
)
def test_another_origin(rig: Rig, origin: str) -> None:
    origin = origin.format(host=rig.host, port=rig.port)
    for method, path, body in (("GET", "about", None), ("POST", "set", SETTING), ("POST", "/enter", b"{}")):
        answer = rig.send(method, path, body, Origin=origin)
        assert (answer.status, answer.error) == (403, "wrong origin")
    assert rig.viewer(Origin=origin).refused == 403
    assert not rig.orders.asked


def test_a_socket_needs_an_origin(rig: Rig) -> None:
    assert rig.viewer(Origin=None).refused == 403


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_another_site(rig: Rig, site: str) -> None:
    """`same-site` is another port of this machine."""
    for method, path, body in (("GET", "/", None), ("GET", "about", None), ("POST", "set", SETTING)):
        answer = rig.send(method, path, body, Origin=None, Sec_Fetch_Site=site)
        assert (answer.status, answer.error) == (403, "another site sent this")
    assert rig.viewer(Sec_Fetch_Site=site).refused == 403
    assert rig.send("POST", "set", SETTING, Sec_Fetch_Site="none").status == 403
    assert rig.viewer(Sec_Fetch_Site="none").refused == 403
    assert not rig.orders.asked


# -- who


@pytest.mark.parametrize("cookie", [None, "sharpcam=", "sharpcam=guess", "other={token}", "sharpcam=\xff"])
def test_without_the_token(rig: Rig, cookie: str | None) -> None:
    token = rig.cookie.partition("=")[2]
    cookie = cookie and cookie.format(token=token)
    for method, path, body in (("GET", "", None), ("GET", "about", None), ("POST", "set", SETTING)):
        assert rig.send(method, path, body, Cookie=cookie).status == 401
    assert rig.viewer(Cookie=cookie).refused == 401
    assert not rig.orders.asked


def test_an_old_token(rig: Rig) -> None:
    old = rig.prefix, rig.cookie
    rig.page.close()
    rig.enter()
    assert rig.prefix != old[0]
    assert rig.cookie != old[1]
    assert rig.send("GET", "about", Cookie=old[1]).status == 401
    assert rig.send("GET", f"{old[0]}about").status == 404
    assert rig.viewer(Cookie=old[1]).refused == 401
    assert rig.send("GET", "about").status == 200


def test_a_link_works_once(rig: Rig) -> None:
    assert rig.use_link().status == 401
    again = rig.page.open().partition("#")[2]
    for code in ("", "guess", rig.code, "\udcff"):
        assert rig.use_link(code).status in (401, 422)
    answer = rig.use_link(again)
    assert answer.status == 200
    assert rig.use_link(again).status == 401


def test_a_newer_link_ends_the_one_before(rig: Rig) -> None:
    first, second = (rig.page.open().partition("#")[2] for _ in range(2))
    assert rig.use_link(first).status == 401
    assert rig.use_link(second).status == 200


def test_the_cookie_goes_nowhere_else(rig: Rig) -> None:
    """To no script, no other site, and no other port: nobody else can guess its path."""
    attributes = {part.strip().lower() for part in rig.set_cookie.split(";")[1:]}
    assert {"httponly", "samesite=strict", f"path={rig.prefix}".lower()} <= attributes
    assert len(rig.prefix) > 20
    assert len(rig.cookie) > 40
    assert rig.cookie.partition("=")[2] not in rig.link


def test_another_user_of_the_machine(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The link stands on the browser's command line."""
    asked: list[Any] = []
    monkeypatch.setattr(sharpcam.web.app, "is_other_user", lambda *who: asked.append(who) or True)
    rig.code = rig.page.open().partition("#")[2]
    assert rig.use_link().status == 403
    assert asked[0][0][0] == "127.0.0.1"
    assert asked[0][1] == rig.port
    monkeypatch.setattr(sharpcam.web.app, "is_other_user", lambda *who: False)
    assert rig.use_link().status == 200  # the other one has not used it up


# -- writes


@pytest.mark.parametrize("path", ["set", "pause", "resume", "frame", "compare", "/enter"])
def test_get_writes_nothing(rig: Rig, path: str) -> None:
    for method in ("GET", "HEAD"):
        assert rig.send(method, f"{path}?key=strength&value=0").status == 405
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS"):
        assert rig.send(method, path, b"{}").status == 405
    assert not rig.orders.asked
    assert rig.camera.shown == 0


@pytest.mark.parametrize(
    "kind", ["application/x-www-form-urlencoded", "multipart/form-data", "text/plain", ""]
)
def test_a_form_of_another_site(rig: Rig, kind: str) -> None:
    """Even if the browser sent the cookie along and told nothing of where it comes from."""
    told = {"Origin": None, "Sec_Fetch_Site": None, "X_SharpCam": None, "Content_Type": kind}
    for path in ("set", "pause", "/enter"):
        assert rig.send("POST", path, SETTING, **told).status == 403
        assert rig.send("POST", path, SETTING, **(told | {"X_SharpCam": "1"})).status == 415
    assert not rig.orders.asked


def test_a_write_needs_the_header(rig: Rig) -> None:
    for value in (None, "", "0"):
        assert rig.send("POST", "pause", b"{}", X_SharpCam=value).status == 403
    assert not rig.orders.asked


def test_no_other_origin_is_ever_allowed(rig: Rig) -> None:
    preflight = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    answers = [rig.send("OPTIONS", "set", **preflight), rig.send("GET", "about", Origin="null")]
    answers += [rig.send("GET", "about"), rig.send("POST", "set", SETTING)]
    for answer in answers:
        assert not any(name.startswith("access-control") for name in answer.headers)


def test_nothing_else_can_be_ordered(rig: Rig) -> None:
    for path in ("stop", "ui", "status", "service", "live/../stop"):
        assert rig.send("POST", path, b"{}").status in (404, 405)
    assert rig.send("POST", "set", b'{"key": "model", "value": "x", "path": "/etc/passwd"}').status == 422
    assert not rig.orders.asked


def test_every_answer_has_the_headers(rig: Rig) -> None:
    answers = [
        rig.send("GET", "/"),
        rig.send("GET", ""),
        rig.send("GET", "app.js"),
        rig.send("GET", "about"),
        rig.send("GET", "nothing"),
        rig.send("GET", "about", Cookie=None),
        rig.send("GET", "/", Host="evil.example"),
        rig.send("POST", "set", SETTING),
        rig.send("POST", "set", b"no JSON"),
    ]
    for answer in answers:
        assert {name: answer.headers[name.lower()] for name in HEADERS} == HEADERS
        assert "server" not in answer.headers
    policy = answers[0].headers["content-security-policy"]
    assert "unsafe" not in policy
    assert "default-src 'none'" in policy


@pytest.mark.parametrize(
    "path",
    ["../page.py", "..%2fpage.py", "%2e%2e/page.py", "static/app.js", "app.js/", "//etc/passwd", "app.js%00"],
)
def test_no_request_names_a_file(rig: Rig, path: str) -> None:
    answer = rig.send("GET", rig.prefix + path)
    assert answer.status in (400, 404)


# -- too much


def test_a_huge_upload(rig: Rig) -> None:
    """It is refused before its body is read, and the rest of it is not."""
    with rig.connect() as connection:
        lines = rig.headers(
            X_SharpCam="1", Content_Type="application/octet-stream", Content_Length=str(100 << 20)
        )
        head = [f"POST {rig.prefix}compare HTTP/1.1", *(f"{n}: {v}" for n, v in lines.items()), "", ""]
        connection.sendall("\r\n".join(head).encode())
        sent = 0
        block = bytes(1 << 20)
        try:
            while sent < 100 << 20:
                connection.sendall(block)
                sent += len(block)
        except (BrokenPipeError, ConnectionResetError):
            pass
        assert sent < 100 << 20
    refused = rig.send(
        "POST", "compare", b"", Content_Type="application/octet-stream", Content_Length=str(100 << 20)
    )
    assert refused.status == 413


@pytest.mark.parametrize("path", ["/enter", "set", "pause", "frame", "/compare"])
def test_an_upload_where_none_belongs(rig: Rig, path: str) -> None:
    """A body is kept in memory, for as many connections as there may be; /enter even takes it from strangers."""
    large = {"Content_Type": "application/octet-stream", "Content_Length": str(MAX_UPLOAD)}
    for cookie in (None, rig.cookie):
        assert rig.send("POST", path, b"", Cookie=cookie, **large).status == 415
    assert not rig.orders.asked


def test_bodies_that_hide_their_size(rig: Rig) -> None:
    chunked = {"Transfer_Encoding": "chunked", "Content_Length": None}
    assert rig.send("POST", "set", b"5\r\nhello\r\n0\r\n\r\n", **chunked).status == 411
    assert rig.send("POST", "set", b" " * (MAX_JSON + 1)).status == 413
    assert rig.send("POST", "set", SETTING, Content_Length="-1").status in (400, 411)
    assert rig.send("POST", "set", b"1" * 100).status == 422
    assert not rig.orders.asked


def test_a_body_that_never_ends(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharpcam.web.app, "BODY_S", 0.2)
    assert rig.send("POST", "set", SETTING, Content_Length="1000").status == 408
    assert rig.send("POST", "set", SETTING).status == 200


def bomb(width: int, height: int) -> bytes:
    """A PNG that is small as a file: all of it is black."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1 << 20), 9)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("size", [(60000, 60000), (7680, 7680), (1 << 31, 1), (0, 0)])
def test_a_decompression_bomb(rig: Rig, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subprocess.Popen", None)  # none is started
    picture = bomb(*size)
    job = json.dumps({"source": "upload", "sizes": [len(picture)], "models": []}).encode()
    answer = rig.send("POST", "compare", job + b"\n" + picture, Content_Type="application/octet-stream")
    assert answer.status == 409
    assert "too large" in answer.error


def test_fifty_viewers(rig: Rig) -> None:
    viewers = [rig.viewer() for _ in range(50)]
    assert [viewer.refused for viewer in viewers] == [None] * MAX_VIEWERS + [403] * (50 - MAX_VIEWERS)
    for viewer in viewers[:MAX_VIEWERS]:
        viewer.say("look 320")
        assert viewer.picture()
    for viewer in viewers:
        viewer.close()
    until(lambda: rig.page.looking == 0)
    until(lambda: (one := rig.viewer()).refused is None or one.close())


def test_a_viewer_that_never_reads(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is dropped; meanwhile others see their pictures and the camera goes on."""
    monkeypatch.setattr(sharpcam.web.live, "SLOW_S", 3.0)
    monkeypatch.setattr(
        sharpcam.web.live, "encode", lambda *_: bytes(4 << 20)
    )  # more than the kernel buffers
    stuck, other = rig.viewer(), rig.viewer()
    stuck.say("look 320")
    until(lambda: rig.page.looking)
    steps, seen = rig.camera.steps, 0
    while rig.page.looking > bool(seen):
        other.say("look 320")
        assert other.picture()
        seen += 1
    assert seen > 1
    assert rig.camera.steps > steps
    stuck.close()
    other.close()


def test_a_viewer_that_only_asks(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharpcam.web.live, "SLOW_S", 1.0)
    monkeypatch.setattr(sharpcam.web.live, "encode", lambda *_: bytes(1 << 20))
    stuck = rig.viewer()
    stuck.say("look 1280")
    until(lambda: rig.page.looking)
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        end = time.monotonic() + LIMIT
        while time.monotonic() < end and rig.page.looking:
            stuck.say("look 1280")
    until(lambda: rig.page.looking == 0)
    stuck.close()


@pytest.mark.parametrize("said", ["look", "look x", "look 1e9", "look 999999", "rest ", "stop", "x" * 2000])
def test_a_viewer_that_talks_nonsense(rig: Rig, said: str) -> None:
    viewer = rig.viewer()
    viewer.say(said)
    while viewer.message() is not None:
        pass
    viewer.close()
    assert rig.page.looking == 0


def test_many_connections(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """So many programs cannot take the daemon's file descriptors: it needs one to open the camera again."""
    monkeypatch.setattr(sharpcam.web.page, "SILENT_S", LIMIT)
    held = [rig.connect() for _ in range(3 * MAX_CONNECTIONS)]
    for connection in held[MAX_CONNECTIONS:]:
        connection.settimeout(LIMIT / 4)
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(1) == b""
    for connection in held:
        connection.close()
    until(lambda: _status_or_none(rig) == 200)


def _status_or_none(rig: Rig) -> int | None:
    try:
        return rig.send("GET", "about").status
    except (ConnectionError, IndexError):
        return None


def test_connections_that_say_nothing(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharpcam.web.page, "SILENT_S", 0.2)
    for said in (b"", b"GET / HTTP/1.1\r\nHost: "):
        with rig.connect() as connection:
            connection.sendall(said)
            with contextlib.suppress(ConnectionResetError):
                assert connection.recv(1) == b""
    viewer = rig.viewer()
    time.sleep(0.5)
    assert viewer.status()  # one that has spoken stays
    viewer.close()


def test_headers_without_end(rig: Rig) -> None:
    with rig.connect() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nX: " + b"x" * (1 << 18))
        assert answer_of(connection).status == 400


# -- where


def test_only_this_machine_and_only_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    bound: list[Any] = []
    real = socket.socket.bind
    monkeypatch.setattr(socket.socket, "bind", lambda self, at: bound.append(at) or real(self, at))
    page = Page()
    try:
        assert not bound
        page.open()
        assert [at for at in bound if isinstance(at, tuple)] == [("127.0.0.1", 0)]
    finally:
        page.close()
