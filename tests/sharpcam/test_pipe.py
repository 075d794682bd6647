"""The named pipe's server and client, over a Unix socket: what carries the bytes is the library's."""

from __future__ import annotations

import errno
import json
import os
import sys
import threading
from collections.abc import Iterator
from multiprocessing.connection import Client
from pathlib import Path
from typing import Any

import pytest
from test_pipeline import threads_end  # noqa: F401

from sharpcam.daemon import control, pipe
from sharpcam.daemon.pipe import MAX_REQUEST, PipeServer, exchange, key_file
from sharpcam.errors import ControlError, MediaError

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="stands in for a pipe")
FAMILY = "AF_UNIX"


@pytest.fixture
def where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path))
    folder = f"/tmp/sc-pipe-{os.getpid()}"
    return folder


@pytest.fixture
def server(where: str) -> Iterator[PipeServer]:
    made = PipeServer(lambda request: b"to " + request, where, FAMILY)
    yield made
    made.close()
    made.close()


@pytest.mark.usefixtures("server")
def test_a_request_has_its_answer(where: str) -> None:
    assert exchange(b"one", 20, where, FAMILY) == b"to one"
    assert exchange(b"two", 20, where, FAMILY) == b"to two"


@pytest.mark.usefixtures("server")
def test_who_does_not_know_the_key_is_refused(where: str) -> None:
    right = key_file().read_bytes()
    key_file().write_bytes(b"guessed")
    with pytest.raises(ControlError):
        exchange(b"one", 20, where, FAMILY)
    key_file().write_bytes(right)
    assert exchange(b"one", 20, where, FAMILY) == b"to one", "and the next one is answered"


@pytest.mark.usefixtures("server")
def test_a_request_without_end_is_not_read(where: str) -> None:
    with Client(where, FAMILY, authkey=key_file().read_bytes()) as connection:
        connection.send_bytes(bytes(MAX_REQUEST + 1))
        with pytest.raises((EOFError, ConnectionResetError)):
            connection.recv_bytes()
    assert exchange(b"one", 20, where, FAMILY) == b"to one"


@pytest.mark.usefixtures("server")
def test_a_second_server_is_refused(where: str) -> None:
    with pytest.raises(ControlError, match="another SharpCam"):
        PipeServer(lambda request: request, where, FAMILY)
    assert exchange(b"one", 20, where, FAMILY) == b"to one"


def test_nobody_there(where: str) -> None:
    assert exchange(b"one", 20, where, FAMILY) is None


def test_closing_does_not_wait_for_a_thread_that_has_ended(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PipeServer, "_accept", lambda _: None)
    server = PipeServer(lambda request: request, where, FAMILY)
    closing = threading.Thread(target=server.close, daemon=True)
    closing.start()
    closing.join(20)
    assert not closing.is_alive()


def test_a_key_that_cannot_be_kept_is_explained(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    with monkeypatch.context() as patch:
        patch.setenv("LOCALAPPDATA", str(tmp_path / "file"))
        with pytest.raises(MediaError, match="its folder is a file"):
            PipeServer(lambda request: request, where, FAMILY)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(MediaError, match="the disk is full") as caught:
            PipeServer(lambda request: request, where, FAMILY)
    assert caught.value.hint
    PipeServer(lambda request: request, where, FAMILY).close()  # the pipe was let go


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_who_does_not_answer_is_not_waited_for(where: str) -> None:
    gate = threading.Event()

    def slow(request: bytes) -> bytes:
        gate.wait(20)
        return b""

    server = PipeServer(slow, where, FAMILY)
    try:
        with pytest.raises(ControlError, match="does not answer"):
            exchange(b"one", 0.05, where, FAMILY)
    finally:
        gate.set()
        server.close()


def test_on_windows_orders_go_through_the_pipe(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control.sys, "platform", "win32")
    monkeypatch.setattr(pipe, "address", lambda: where)
    monkeypatch.setattr(PipeServer.__init__, "__defaults__", ("", FAMILY))
    monkeypatch.setattr(exchange, "__defaults__", ("", FAMILY))
    with pytest.raises(ControlError, match="does not run"):
        control.ask("status")
    asked: list[Any] = []

    def answer(command: str, request: Any) -> Any:
        asked.append(json.loads(json.dumps(request)))
        if command == "refuse":
            raise ControlError("no", "way out")
        return {"echo": command}

    server = control.serve(answer)
    try:
        assert isinstance(server, PipeServer)
        assert control.ask("status", key="a") == {"echo": "status"}
        with pytest.raises(ControlError, match="no") as caught:
            control.ask("refuse")
        assert caught.value.hint == "way out"
    finally:
        server.close()
    assert asked[0] == {"v": 1, "cmd": "status", "key": "a"}
