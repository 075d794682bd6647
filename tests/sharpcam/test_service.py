"""The systemd unit, what is asked of systemctl, and what systemd is told."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from test_daemon import Rig, runtime  # noqa: F401
from test_pipeline import FakeSink, threads_end, until  # noqa: F401
from typer.testing import CliRunner

import sharpcam.cli.run
import sharpcam.daemon.daemon
from sharpcam.cli import app
from sharpcam.config import Config
from sharpcam.daemon import notify, unit
from sharpcam.daemon.daemon import ALIVE_EVERY_S
from sharpcam.daemon.notify import CAMERA, Notifier
from sharpcam.daemon.states import HOLD_OFF_S
from sharpcam.errors import DeviceBusy
from sharpcam.sources import Source

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="systemd is Linux's")


@pytest.fixture
def systemctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A systemctl that writes down what it is asked and fails at the words in `fails`."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("SHARPCAM_CONFIG", "")
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "systemctl").write_text(
        f'#!/bin/sh\necho "$@" >> {folder}/asked\n'
        f'for w in $(cat {folder}/fails); do case " $* " in *" $w "*) echo "no bus" >&2; exit 1;; esac; done\n'
        'case "$2" in is-enabled) echo enabled;; is-active) echo active;; esac\n'
    )
    (folder / "systemctl").chmod(0o755)
    (folder / "fails").write_text("")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def asked(systemctl: Path) -> list[str]:
    file = systemctl / "asked"
    return file.read_text().splitlines() if file.exists() else []


def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["service", *map(str, arguments)])
    return result.exit_code, result.stdout, result.stderr


def test_install_writes_the_unit_and_starts_it(systemctl: Path, tmp_path: Path) -> None:
    settings = tmp_path / "my settings.toml"
    settings.write_text("[model]\nstrength = 0.5\n")
    code, out, err = run("install", "--config", settings)
    assert (code, err) == (0, "")
    file = tmp_path / "config/systemd/user/sharpcam.service"
    assert str(file) in out
    text = file.read_text()
    assert f'ExecStart={sys.executable} -P -m sharpcam run --wait --config "{settings}"\n' in text
    assert "Type=notify\n" in text
    assert "SuccessExitStatus=130\n" in text, "stopped before the first frame, it has not failed"
    assert "NoNewPrivileges=yes\n" in text
    name = "--user {} sharpcam.service"
    assert asked(systemctl) == ["--user daemon-reload", name.format("enable"), name.format("restart")]


def test_the_file_that_the_environment_names_goes_along(
    systemctl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tmp_path / "settings.toml"
    settings.write_text("")
    run("install")
    assert "run --wait\n" in unit.unit_path().read_text()
    monkeypatch.setenv("SHARPCAM_CONFIG", str(settings))
    run("install")
    assert f"run --wait --config {settings}\n" in unit.unit_path().read_text()


def test_settings_that_cannot_be_used_are_refused_before(systemctl: Path, tmp_path: Path) -> None:
    settings = tmp_path / "bad.toml"
    settings.write_text("[model]\nstrength = 5\n")
    code, _, err = run("install", "--config", settings)
    assert code == 1
    assert "line 2" in err
    assert not unit.unit_path().exists()
    assert asked(systemctl) == []


def test_uninstall_stops_and_removes(systemctl: Path) -> None:
    assert run("uninstall") == (0, "the service is not installed\n", "")
    run("install")
    (systemctl / "asked").unlink()
    code, out, _ = run("uninstall")
    assert (code, out) == (0, f"removed {unit.unit_path()}\n")
    assert not unit.unit_path().exists()
    assert asked(systemctl) == ["--user disable --now sharpcam.service", "--user daemon-reload"]


def test_a_unit_that_cannot_be_written_is_explained(
    systemctl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config").touch()
    code, _, err = run("install")
    assert code == 1
    assert err.startswith(
        f"sharpcam: cannot write {tmp_path}/config/systemd/user: its folder is a file\n  hint: "
    )
    assert asked(systemctl) == []


def test_a_unit_that_cannot_be_removed_is_explained(systemctl: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("install")

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "unlink", refuse)
    code, _, err = run("uninstall")
    assert code == 1
    assert (
        err
        == f"sharpcam: cannot remove {unit.unit_path()}: Read-only file system\n  hint: remove it by hand\n"
    )


def test_status_is_systemds(systemctl: Path) -> None:
    code, out, _ = run("status")
    assert code == 0
    assert "not installed; run: sharpcam service install" in out
    assert "login   enabled\nnow     active\n" in out


@pytest.mark.parametrize("verb", ["daemon-reload", "enable", "restart"])
def test_what_systemd_refuses_is_told(systemctl: Path, verb: str) -> None:
    (systemctl / "fails").write_text(verb)
    code, _, err = run("install")
    assert code == 1
    assert f"systemctl --user {verb}" in err
    assert "no bus" in err
    assert "hint: journalctl --user -u sharpcam.service" in err


def test_without_systemd_it_is_said(systemctl: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    for command in ("install", "status"):
        code, _, err = run(command)
        assert code == 1
        assert "there is no systemctl here" in err


@pytest.mark.parametrize(
    ("word", "quoted"),
    [
        ("/usr/bin/python3", "/usr/bin/python3"),
        ("/my home/p", '"/my home/p"'),
        ("100%", "100%%"),
        ("$HOME", "$$HOME"),
        ('a"b', '"a\\"b"'),
        ("a\\b", '"a\\\\b"'),
    ],
)
def test_words_are_quoted_for_systemd(word: str, quoted: str) -> None:
    assert unit._quoted(word) == quoted


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_finds_no_fault_in_the_unit(tmp_path: Path) -> None:
    file = tmp_path / unit.NAME
    file.write_text(unit.unit_text(tmp_path / "my settings.toml"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--user", str(file)],
        capture_output=True,
        text=True,
        env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)},
    )
    assert unit.NAME not in done.stderr, done.stderr
    file.write_text(file.read_text().replace("Restart=on-failure", "Restart=sometimes"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--user", str(file)],
        capture_output=True,
        text=True,
        env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)},
    )
    assert unit.NAME in done.stderr, "else the check above tells nothing"


# sd_notify


@pytest.fixture
def manager(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Where systemd would listen."""
    folder = tempfile.mkdtemp(prefix="sn-")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(f"{folder}/notify")
        listening.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", f"{folder}/notify")
        yield listening
    shutil.rmtree(folder)


def heard(manager: socket.socket) -> list[str]:
    return manager.recv(4096).decode().splitlines()


def silent(manager: socket.socket) -> bool:
    manager.setblocking(False)
    try:
        manager.recv(4096)
    except BlockingIOError:
        return True
    finally:
        manager.settimeout(5)
    return False


def test_systemd_is_told_when_it_runs_what_it_does_and_that_it_ends(manager: socket.socket) -> None:
    with Rig() as rig:
        assert silent(manager), "not ready before the first tick"
        rig.tick(clients=1)
        assert heard(manager) == ["READY=1", "STATUS=live: somebody watches", "WATCHDOG=1"]
        rig.tick(0.1)
        assert silent(manager), "nothing new"
        rig.tick(5.0)
        assert "WATCHDOG=1" in heard(manager), "still alive"
        rig.tick(clients=0)
        heard(manager)
        rig.tick(HOLD_OFF_S)
        assert heard(manager)[1] == "STATUS=idle: nobody watches the virtual camera"
    assert heard(manager) == ["FDSTOREREMOVE=1", f"FDNAME={CAMERA}"]
    assert heard(manager) == ["STOPPING=1"]


def test_a_thread_that_hangs_is_a_case_for_the_watchdog(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Rig() as rig:
        rig.tick(clients=1)
        assert "WATCHDOG=1" in heard(manager)
        rig.sink.inside.clear()
        rig.sink.gate.clear()
        until(rig.sink.inside.is_set)
        monkeypatch.setattr(sharpcam.daemon.daemon, "HUNG_S", 0.3)
        until(lambda: rig.pipeline.hung_s > 0.3)
        rig.tick(ALIVE_EVERY_S)
        assert heard(manager) == ["READY=1", "STATUS=live: somebody watches"]
        rig.tick(30.0)
        assert "WATCHDOG=1" in heard(manager), "the whole process stood still, as in a suspended machine"
        rig.sink.gate.set()
        until(lambda: rig.pipeline.hung_s < 0.3)
        rig.tick(ALIVE_EVERY_S)
        assert "WATCHDOG=1" in heard(manager)


def test_abstract_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        name = f"sharpcam-test-{os.getpid()}"
        listening.bind(f"\0{name}")
        listening.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
        notifier = Notifier()
        notifier.tell("READY=1")
        notifier.close()
        assert heard(listening) == ["READY=1"]


def test_without_systemd_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    Notifier().tell("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", "/nowhere/at/all")
    notifier = Notifier()
    notifier.tell("READY=1")
    notifier.close()


# What systemd keeps for the one after us


def test_the_open_device_is_kept_by_systemd(manager: socket.socket, tmp_path: Path) -> None:
    file = (tmp_path / "device").open("w")
    rig = Rig()
    rig.sink.fileno = file.fileno  # type: ignore[attr-defined]
    with rig:
        data, (kept,), _, _ = socket.recv_fds(manager, 4096, 4)
        assert data.decode().splitlines() == ["FDSTORE=1", f"FDNAME={CAMERA}", "FDPOLL=0"]
        assert os.path.samestat(os.fstat(kept), os.fstat(file.fileno()))
        os.close(kept)
    file.close()


def test_after_a_failure_it_stays_kept(manager: socket.socket) -> None:
    with Rig() as rig:
        rig.daemon.__exit__(ValueError, ValueError(), None)
        assert heard(manager) == ["STOPPING=1"]


PROGRAM = """
import os, sys
from sharpcam.daemon.notify import Notifier
os.environ["LISTEN_PID"] = sys.argv[1].replace("me", str(os.getpid()))
for name, value in zip(("LISTEN_FDS", "LISTEN_FDNAMES"), sys.argv[2:]):
    os.environ[name] = value
os.dup2(os.open(sys.argv[4], os.O_RDONLY), 4)
os.dup2(4, 3)
taken = Notifier().take()
left = [fd for fd in (3, 4) if os.path.exists(f"/proc/self/fd/{fd}")]
print(taken, left, [os.get_inheritable(fd) for fd in left], [n for n in os.environ if "LISTEN" in n])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="systemd")
@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (("me", "1", CAMERA), "3 [3, 4] [False, True] []"),
        (("me", "2", f"other:{CAMERA}"), "4 [4] [False] []"),
        (("me", "2", f"{CAMERA}:{CAMERA}"), "3 [3] [False] []"),
        (("me", "1", "other"), "None [4] [True] []"),
        (("1", "1", CAMERA), "None [3, 4] [True, True] []"),
        (("", "", ""), "None [3, 4] [True, True] []"),
        (("me", "many", CAMERA), "None [3, 4] [True, True] []"),
    ],
)
def test_what_was_kept_is_taken(arguments: tuple[str, ...], answer: str, tmp_path: Path) -> None:
    file = tmp_path / "device"
    file.touch()
    command = [sys.executable, "-c", PROGRAM, *arguments, str(file)]
    environment = {k: v for k, v in os.environ.items() if k != "NOTIFY_SOCKET"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.stdout.strip() == answer, done.stderr


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The descriptor that systemd gives to this process, of a pipe that is no camera."""
    reading, writing = os.pipe()
    monkeypatch.setattr(notify, "_FIRST_FD", reading)
    for name, value in (("PID", os.getpid()), ("FDS", 1), ("FDNAMES", CAMERA)):
        monkeypatch.setenv(f"LISTEN_{name}", str(value))
    yield reading
    os.close(writing)
    with contextlib.suppress(OSError):
        os.close(reading)


def test_what_was_taken_stays_kept_until_it_is_of_no_use(manager: socket.socket, given: int) -> None:
    notifier = Notifier()
    assert notifier.take() == given
    assert notifier.take() is None
    notifier.keep(given)
    assert silent(manager), "systemd has it still, and takes one only"
    notifier.forget()
    assert heard(manager) == ["FDSTOREREMOVE=1", f"FDNAME={CAMERA}"]
    notifier.keep(given)  # another file may have got its number
    assert heard(manager)[0] == "FDSTORE=1"
    notifier.close()


def test_a_daemon_over_what_was_taken_leaves_it_kept_until_an_orderly_end(
    manager: socket.socket, given: int
) -> None:
    notifier = Notifier()
    rig = Rig(systemd=notifier)
    rig.sink.fileno = lambda: given  # type: ignore[attr-defined]
    assert notifier.take() == given
    with rig:
        assert silent(manager)
    assert heard(manager) == ["FDSTOREREMOVE=1", f"FDNAME={CAMERA}"]
    assert heard(manager) == ["STOPPING=1"]


@pytest.mark.parametrize("what", ["open_sink", "Pipeline", "make_daemon"])
def test_a_start_that_fails_leaves_the_camera_to_the_next(
    what: str, manager: socket.socket, given: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Camera(FakeSink):
        size = (128, 128)

    def opened(config: Config, source: Source, kept: int | None, forget: Callable[[], None]) -> Camera:
        taken.append(kept)
        return Camera()

    def fail(*_: object, **__: object) -> None:
        raise DeviceBusy("made up", "wait")

    taken: list[int | None] = []
    monkeypatch.setattr(sharpcam.cli.run, "open_sink", opened)
    monkeypatch.setattr(sharpcam.cli.run, what, fail)
    arguments = ["run", "--source", "testcard", "--size", "128x128", "--sink", "null", "--model", "s"]
    result = CliRunner().invoke(app, arguments)
    assert (result.exit_code, result.stderr) == (1, "sharpcam: made up\n  hint: wait\n")
    assert taken == ([] if what == "open_sink" else [given])
    assert silent(manager), "nothing was forgotten"
