"""The control socket: who may use it, what it withstands, and the commands that speak to it."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sharpcam.cli import app
from sharpcam.daemon import control
from sharpcam.daemon.control import ControlServer, ask, socket_path
from sharpcam.errors import ConfigError, ControlError

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs Unix sockets")


@pytest.fixture(autouse=True)
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A runtime folder with a short path: that of a socket has 107 bytes."""
    folder = Path(tempfile.mkdtemp(prefix="sc-"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    yield folder
    shutil.rmtree(folder)


class Echo:
    """Answers with what it was asked; refuses the command "refuse", fails at "fail"."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, command: str, request: Any) -> Any:
        self.asked.append((command, dict(request)))
        self.gate.wait(20)
        if command == "refuse":
            raise ConfigError("it is not like that", "make it so")
        if command == "fail":
            raise ZeroDivisionError("division by zero")
        return {"echo": command}


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture
def server(echo: Echo) -> Iterator[ControlServer]:
    made = ControlServer(echo)
    yield made
    made.close()


def talk(data: bytes) -> list[dict[str, Any]]:
    """The answers to raw bytes, up to the end of the connection or of what was sent."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(20)
        connection.connect(str(socket_path()))
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        told = b""
        while more := connection.recv(4096):
            told += more
    return [json.loads(line) for line in told.splitlines()]


def request(**more: Any) -> bytes:
    return json.dumps({"v": 1, "cmd": "hello", **more}).encode() + b"\n"


# Who may use it


def test_folder_and_socket_are_the_users_alone(server: ControlServer, runtime: Path) -> None:
    assert stat.S_IMODE((runtime / "sharpcam").stat().st_mode) == 0o700
    mode = (runtime / "sharpcam/control.sock").stat().st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600


def test_a_folder_that_others_may_enter_is_closed_to_them(runtime: Path, echo: Echo) -> None:
    (runtime / "sharpcam").mkdir()
    (runtime / "sharpcam").chmod(0o777)
    ControlServer(echo).close()
    assert stat.S_IMODE((runtime / "sharpcam").stat().st_mode) == 0o700


def test_a_linked_folder_is_refused(runtime: Path, echo: Echo) -> None:
    (runtime / "elsewhere").mkdir()
    (runtime / "sharpcam").symlink_to(runtime / "elsewhere")
    with pytest.raises(ControlError, match="does not belong to this user"):
        ControlServer(echo)
    with pytest.raises(ControlError, match="does not belong to this user"):
        ask("hello")
    assert not list((runtime / "elsewhere").iterdir())


def test_a_folder_of_somebody_else_is_refused(
    runtime: Path, echo: Echo, monkeypatch: pytest.MonkeyPatch
) -> None:
    (runtime / "sharpcam").mkdir()
    uid = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: uid + 1)
    with pytest.raises(ControlError, match="does not belong to this user"):
        ControlServer(echo)
    with pytest.raises(ControlError, match="does not belong to this user"):
        ask("hello")


def test_another_users_process_is_turned_away(
    server: ControlServer, echo: Echo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "peer", lambda connection: os.getuid() + 1)
    with pytest.raises(ControlError):
        ask("hello")
    assert not echo.asked
    monkeypatch.undo()


@pytest.mark.skipif(not hasattr(socket, "SO_PEERCRED"), reason="only Linux tells")
def test_the_kernel_tells_who_is_there() -> None:
    one, other = socket.socketpair(socket.AF_UNIX)
    with one, other:
        assert control.peer(one) == os.getuid()


# What it withstands


def test_question_and_answer(server: ControlServer, echo: Echo) -> None:
    assert ask("hello", key="x") == {"echo": "hello"}
    assert echo.asked == [("hello", {"v": 1, "cmd": "hello", "key": "x"})]


def test_several_lines_on_one_connection(server: ControlServer) -> None:
    answers = talk(request() + request(cmd="again"))
    assert answers == [{"v": 1, "ok": True, "result": {"echo": name}} for name in ("hello", "again")]


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"nonsense",
        b"\xff\xfe",
        b'"status"',
        b"[1]",
        b"{}",
        b'{"v": 1}',
        b'{"v": 1, "cmd": 7}',
        b"",
        b"[" * 4000,
    ],
)
def test_what_is_no_request_gets_an_error_and_the_next_one_an_answer(
    server: ControlServer, echo: Echo, line: bytes
) -> None:
    bad, good = talk(line + b"\n" + request())
    assert bad["ok"] is False
    assert "the request is" in bad["error"]
    assert good["ok"] is True
    assert len(echo.asked) == 1


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_another_version_is_refused(server: ControlServer, echo: Echo, version: Any) -> None:
    (answer,) = talk(request(v=version))
    assert answer["ok"] is False
    assert "version 1" in answer["error"]
    assert not echo.asked


@pytest.mark.parametrize("end", [b"\n", b""])
def test_a_line_that_is_too_long_ends_the_connection(server: ControlServer, echo: Echo, end: bytes) -> None:
    answers = talk(request(filler="x" * control.MAX_LINE)[:-1] + end)
    assert [a["ok"] for a in answers] == [False]
    assert "longer than 4096 bytes" in answers[0]["error"]
    assert not echo.asked
    just_fits = request(filler="")
    just_fits = request(filler="x" * (control.MAX_LINE - len(just_fits) + 1))
    assert [a["ok"] for a in talk(just_fits)] == [True]


def test_refusals_reach_who_asked_with_their_hint(server: ControlServer) -> None:
    with pytest.raises(ControlError, match="it is not like that") as caught:
        ask("refuse")
    assert caught.value.hint == "make it so"


def test_a_bug_in_an_answer_does_not_end_the_server(server: ControlServer) -> None:
    with pytest.raises(ControlError, match="division by zero"):
        ask("fail")
    assert ask("hello")


def test_only_so_many_at_once(server: ControlServer, echo: Echo) -> None:
    echo.gate.clear()
    asking = [threading.Thread(target=ask, args=("hello", 20.0)) for _ in range(control.MAX_CONNECTIONS)]
    for thread in asking:
        thread.start()
    while len(echo.asked) < control.MAX_CONNECTIONS:
        threading.Event().wait(0.005)
    with pytest.raises(ControlError):
        ask("hello", 20.0)
    echo.gate.set()
    for thread in asking:
        thread.join()
    assert len(echo.asked) == control.MAX_CONNECTIONS


def test_who_does_not_answer_is_named(server: ControlServer, echo: Echo) -> None:
    echo.gate.clear()
    with pytest.raises(ControlError, match=rf"pid {os.getpid()}\) does not answer"):
        ask("hello", 0.05)
    echo.gate.set()


# Coming and going


def test_nobody_there() -> None:
    for _ in range(2):
        with pytest.raises(ControlError, match="does not run") as caught:
            ask("hello")
        assert "sharpcam run" in caught.value.hint
        ControlServer(Echo()).close()  # and gone again


def test_closing_takes_the_socket_away(echo: Echo, runtime: Path) -> None:
    server = ControlServer(echo)
    server.close()
    server.close()
    assert not (runtime / "sharpcam/control.sock").exists()


def test_closing_waits_for_the_answer_that_is_on_its_way(
    server: ControlServer, echo: Echo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`stop` ends the process: who sent it must still hear that it was done."""
    monkeypatch.setattr(control, "_LAST_ANSWERS_S", 20.0)
    echo.gate.clear()
    told: list[Any] = []
    asking = threading.Thread(target=lambda: told.append(ask("stop", 20.0)))
    asking.start()
    while not echo.asked:
        threading.Event().wait(0.005)
    closing = threading.Thread(target=server.close)
    closing.start()
    closing.join(0.1)
    assert closing.is_alive()
    echo.gate.set()
    closing.join(20)
    asking.join(20)
    assert told == [{"echo": "stop"}]


def test_a_second_one_is_told_the_pid_of_the_first(server: ControlServer, echo: Echo) -> None:
    with pytest.raises(ControlError, match=rf"another SharpCam \(pid {os.getpid()}\)"):
        ControlServer(echo)
    assert ask("hello"), "the first one is not disturbed"


def test_what_a_killed_process_left_is_replaced(echo: Echo, runtime: Path) -> None:
    code = (
        "from sharpcam.daemon.control import ControlServer\n"
        "server = ControlServer(lambda *_: 'first')\nprint('ready', flush=True)\ninput()"
    )
    first = subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1, text=True)
    assert first.stdout
    assert first.stdout.readline() == "ready\n"
    assert ask("hello") == "first"
    with pytest.raises(ControlError, match=rf"pid {first.pid}"):
        ControlServer(echo)
    first.send_signal(signal.SIGKILL)
    first.wait()
    first.communicate()
    assert (runtime / "sharpcam/control.sock").exists(), "a dead socket"
    with pytest.raises(ControlError, match="does not run"):
        ask("hello")
    second = ControlServer(echo)
    assert ask("hello") == {"echo": "hello"}
    second.close()


def test_a_path_that_is_too_long_is_explained(
    echo: Echo, runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime / ("x" * 100)))
    with pytest.raises(ControlError, match="cannot listen") as caught:
        ControlServer(echo)
    assert "short path" in caught.value.hint


def failing(number: int) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize(
    ("call", "number", "said", "way_out"),
    [
        ("os.write", errno.ENOSPC, "the lock", "free some space there, or set XDG_RUNTIME_DIR"),
        ("os.write", errno.EDQUOT, "the lock", "free some space there, or set XDG_RUNTIME_DIR"),
        ("os.open", errno.EROFS, "the lock", "set XDG_RUNTIME_DIR"),
        ("os.open", errno.EACCES, "the lock", "remove what is there, or set XDG_RUNTIME_DIR"),
        ("socket.socket.bind", errno.ENOSPC, "listen", "free some space there, or set XDG_RUNTIME_DIR"),
    ],
)
def test_a_folder_that_takes_no_file_is_explained(
    call: str, number: int, said: str, way_out: str, echo: Echo, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(call, failing(number))
        with pytest.raises(ControlError) as caught:
            ControlServer(echo)
    assert said in str(caught.value)
    assert str(caught.value).endswith(os.strerror(number))
    assert caught.value.hint.startswith(way_out)
    ControlServer(echo).close()  # the lock was let go


def test_a_socket_that_cannot_be_removed_does_not_disturb_the_end(
    echo: Echo, runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = ControlServer(echo)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", failing(errno.EROFS))
        server.close()
    assert (runtime / "sharpcam/control.sock").exists()
    ControlServer(echo).close()


# The commands

STATUS = {
    "state": "idle",
    "reason": "nobody watches the virtual camera",
    "model": "m",
    "provider": "cpu",
    "strength": 0.5,
    "split": True,
    "mirror": True,
    "step": "s at half size",
    "governor": "on",
    "load": 0.614,
    "clients_told_by": "the driver",
    "source": "camera",
    "sink": "virtual camera",
    "clients": 0,
    "fps": 0.0,
    "latency_ms": 0.0,
    "dropped": 3,
    "reconnects": 1,
    "bypassed": 7,
    "fallbacks": 0,
    "uptime_s": 3723.4,
    "pid": 12,
    "version": "0",
}


def command(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, arguments)
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize(
    "arguments", [("status",), ("set", "strength", "1"), ("pause",), ("resume",), ("stop",)]
)
def test_without_a_running_one_commands_say_so(arguments: tuple[str, ...]) -> None:
    code, out, err = command(*arguments)
    assert (code, out) == (1, "")
    assert err == "sharpcam: SharpCam does not run\n  hint: start it: sharpcam run\n"


def test_status_for_people_and_programs(echo: Echo) -> None:
    server = ControlServer(lambda name, _: STATUS if name == "status" else "sharpcam_fps 30\n")
    try:
        code, out, _ = command("status")
        assert code == 0
        assert "idle (nobody watches the virtual camera)" in out
        assert "strength 0.5, split, mirror" in out
        assert "on, now s at half size, load 61 %" in out
        assert "0, by the driver" in out
        assert "1:02:03, pid 12" in out
        assert "3 frames, 1 reconnects, 7 passed as they came, because the model failed\n" in out
        assert json.loads(command("status", "--json")[1]) == STATUS
        assert command("status", "--metrics") == (0, "sharpcam_fps 30\n", "")
        assert command("status", "--metrics", "--json")[0] == 2
    finally:
        server.close()


def test_orders_are_passed_on(server: ControlServer, echo: Echo) -> None:
    for arguments in (("pause",), ("resume",), ("stop",), ("set", "strength", "0.5")):
        assert command(*arguments) == (0, "", "")
    assert [name for name, _ in echo.asked] == ["pause", "resume", "stop", "set"]
    asked = {"v": 1, "cmd": "set", "key": "strength", "value": "0.5", "save": False}
    assert echo.asked[-1][1] == asked


def test_a_setting_is_saved_when_asked(echo: Echo) -> None:
    asked: list[dict[str, Any]] = []

    def answer(name: str, request: Any) -> Any:
        asked.append(dict(request))
        return {"saved": "/home/me/config.toml"}

    server = ControlServer(answer)
    try:
        assert command("set", "mirror", "on", "--save") == (0, "saved in /home/me/config.toml\n", "")
    finally:
        server.close()
    assert asked == [{"v": 1, "cmd": "set", "key": "mirror", "value": "on", "save": True}]


def test_a_real_run_is_asked_changed_and_stopped(yuv_model: Path, tmp_path: Path) -> None:
    program = [sys.executable, "-m", "sharpcam"]
    source = ("--source", "testcard", "--sink", "null", "--size", "320x240")
    model = ("--model", str(yuv_model), "--provider", "cpu", "--threads", "1")
    settings = tmp_path / "my.toml"
    settings.write_text("# mine\n")
    run = [*program, "run", *source, *model, "--config", str(settings)]
    running = subprocess.Popen(run, stdout=-1, stderr=-1, text=True)
    assert running.stdout
    assert [running.stdout.readline().split(":")[0] for _ in range(3)] == ["source", "model", "sink"]
    while not socket_path().exists() and running.poll() is None:
        threading.Event().wait(0.01)
    assert command("set", "strength", "0.5", "--save") == (0, f"saved in {settings}\n", "")
    assert settings.read_text() == "# mine\n\n[model]\nstrength = 0.5\n"
    code, out, _ = command("status", "--json")
    told = json.loads(out)
    assert (code, told["pid"], told["strength"]) == (0, running.pid, 0.5)
    assert told["reason"] in ("starting", "always live: the source is no camera")
    assert command("set", "strength", "two")[2].startswith("sharpcam: strength should be a number")
    assert command("stop") == (0, "", "")
    out, err = running.communicate(timeout=30)
    assert running.returncode == 0, err
    assert "ended: stopped" in out
    assert not socket_path().exists()
