from __future__ import annotations

import errno
import io
import json
import logging
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import write_yuv_model
from typer.testing import CliRunner

import sharpcam.cli.run
import sharpcam.daemon.ladder
from sharpcam import __version__
from sharpcam.cli import app
from sharpcam.cli.ending import ending_signals
from sharpcam.config import load_config
from sharpcam.engine import Engine
from sharpcam.errors import DeviceBusy, MediaError
from sharpcam.frame import Color, Frame

SIZE = (64, 48)
REPORT_KEYS = (
    "source sink model provider size frames_in frames_out dropped repeated reconnects fps latency_ms"
)
REPORT_KEYS += " cpu_ms_per_frame rss_mb exit"


def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.stdout, result.stderr


def spawn(*arguments: object, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "sharpcam", *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env={**os.environ, **(env or {})})


class Camera:
    """A live source of flat frames; what `script` says happens at a frame happens there."""

    description = "fake camera"
    size, fps, color, live = SIZE, 100.0, Color(), True

    def __init__(self, script: dict[int, Callable[[], None]] | None = None) -> None:
        self.script = script or {}
        self.next = 0
        self.closed = 0

    def read(self, frame: Frame, timeout: float) -> bool:
        if action := self.script.get(self.next):
            action()
        time.sleep(0.005)
        frame.fill(100)
        frame.sequence, frame.captured_ns = self.next, time.monotonic_ns()
        self.next += 1
        return True

    def close(self) -> None:
        self.closed += 1


class Sink:
    description = "fake sink"
    size, fps, live = SIZE, 100.0, False

    def __init__(self) -> None:
        self.sent: list[int] = []
        self.calls: list[str] = []
        self.fail_at: dict[int, Exception] = {}

    def send(self, frame: Frame) -> None:
        if failure := self.fail_at.get(len(self.sent)):
            raise failure
        self.sent.append(int(frame.y[0, 0, 0, 0]))

    def close(self) -> None:
        self.calls.append("close")

    def abort(self) -> None:
        self.calls.append("abort")


@pytest.fixture
def camera() -> Camera:
    return Camera()


@pytest.fixture
def sink() -> Sink:
    return Sink()


@pytest.fixture(autouse=True)
def fakes(
    camera: Camera, sink: Sink, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[dict[str, Any]]:
    """`sharpcam run` gets the fake camera and sink; the user has no settings of their own."""
    seen: dict[str, Any] = {}

    def open_source(config: Any, source: str | None) -> Camera:
        seen["config"], seen["source"] = config, source
        return camera

    monkeypatch.setattr(sharpcam.cli.run, "open_source", open_source)
    monkeypatch.setattr(sharpcam.cli.run, "check_sink", lambda _: None)
    monkeypatch.setattr(sharpcam.cli.run, "open_sink", lambda *_: sink)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "no-config"))
    with tempfile.TemporaryDirectory(
        prefix="sc-"
    ) as folder:  # short enough for a socket, and of this test alone
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        yield seen


@pytest.fixture
def model(yuv_model: Path) -> tuple[object, ...]:
    return ("--model", yuv_model, "--provider", "cpu", "--threads", 1)


# The surface


def test_version() -> None:
    assert run("--version") == (0, f"sharpcam {__version__}\n", "")


def test_help_lists_the_commands() -> None:
    code, out, _ = run("--help")
    assert code == 0
    commands = "run process bench devices doctor models config service status set pause resume stop ui"
    for command in commands.split():
        assert f"\n  {command} " in out


def test_help_of_run_has_every_flag() -> None:
    out = run("run", "--help")[1]
    flags = "device source sink size fps model strength provider threads frames duration no-temporal"
    for flag in (*flags.split(), "report", "config"):
        assert f"--{flag} " in out or f"--{flag}\n" in out


def test_help_does_not_load_what_is_heavy() -> None:
    """Time would tell nothing on a busy machine; these make it slow."""
    code = "import sys, sharpcam.cli\ntry: sharpcam.cli.main()\nexcept SystemExit: pass\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True, check=True)
    loaded = done.stdout.split()
    assert "typer" in loaded
    heavy = {"numpy", "cv2", "onnxruntime", "av", "pydantic", "rich", "torch", "pyvirtualcam"}
    assert not heavy & set(loaded)


def test_run_does_not_load_what_only_some_runs_need() -> None:
    code = "import sys, sharpcam.cli.run\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = done.stdout.split()
    assert "sharpcam.pipeline" in loaded
    assert not [
        name for name in loaded if name.startswith(("sharpcam.sources.testcard", "sharpcam.sources.scene"))
    ]
    assert not {"rich", "pyvirtualcam"} & set(loaded)


def test_sharpcam_never_loads_torch_or_the_training() -> None:
    code = "import sys, sharpcam.cli.run, sharpcam.cli.bench, sharpcam.cli.models\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "training", "onnx"} & set(done.stdout.split())


@pytest.mark.parametrize(
    "arguments",
    [
        ["fly"],
        ["run", "--speed", "3"],
        ["run", "--strength", "2"],
        ["run", "--strength", "much"],
        ["run", "--size", "1281x720"],
        ["run", "--size", "big"],
        ["run", "--fps", "0"],
        ["run", "--frames", "0"],
        ["run", "--duration", "-1"],
        ["run", "--threads", "0"],
        ["run", "--provider", "tpu"],
        ["run", "--source", "x.mp4", "--device", "0"],
        ["process", "in.mp4"],
        ["bench", "--frames", "1"],
        ["bench", "--size", "0x0"],
    ],
)
def test_wrong_usage_is_exit_2(arguments: list[str]) -> None:
    code, out, err = run(*arguments)
    assert code == 2
    assert out == ""
    assert "Error: " in err
    assert "Traceback" not in err


# How it ends


def test_a_failure_is_one_line_and_a_hint(no_models: object) -> None:
    code, _, err = run("run", "--model", "xl")
    assert code == 1
    assert err.splitlines() == [
        'sharpcam: there is no model "xl"',
        "  hint: known models: none is installed; or give the path of an .onnx file",
    ]


def test_a_mistake_of_ours_is_no_traceback(
    monkeypatch: pytest.MonkeyPatch, model: tuple[object, ...]
) -> None:
    def broken(*args: object) -> None:
        raise ZeroDivisionError("division\nby zero")

    monkeypatch.setattr(sharpcam.cli.run, "open_source", broken)
    code, _, err = run("run", *model)
    assert code == 1
    assert err.startswith("sharpcam: unexpected failure: ZeroDivisionError: division by zero\n")
    assert "Traceback" not in err
    code, _, err = run("--verbose", "run", *model)
    assert code == 1
    assert "Traceback" in err


@pytest.mark.skipif(os.name == "nt", reason="names may be longer there")
def test_what_may_not_even_be_looked_at_is_named(tmp_path: Path) -> None:
    name = tmp_path / ("x" * 300 + ".mp4")
    code, _, err = run("process", name, tmp_path / "y.mp4")
    assert code == 1
    assert err.startswith(f"sharpcam: cannot use {name}: File name too long\n  hint: check its name")


def test_mistakes_in_settings_are_explained(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text("[model]\nstrength = 3\n")
    code, _, err = run("run", "--config", path)
    assert code == 1
    assert f"{path}, line 2: model.strength" in err


def test_ctrl_c_before_the_first_frame_is_130(
    fakes: object, monkeypatch: pytest.MonkeyPatch, model: tuple[object, ...]
) -> None:
    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sharpcam.daemon.ladder, "load_engine", interrupted)
    assert run("run", *model)[0] == 130


def test_for_the_journal_there_are_levels_and_what_happened(
    fakes: dict[str, Any], monkeypatch: pytest.MonkeyPatch, model: tuple[object, ...]
) -> None:
    monkeypatch.setattr(sharpcam.cli, "to_journal", lambda: True)
    _, _, err = run("run", *model, "--frames", 1)
    lines = [line for line in err.splitlines() if line.startswith("<")]
    assert any(re.match(r"<6>control listening path=\S+ module=sharpcam.daemon.control$", li) for li in lines)
    assert (
        logging.getLogger("sharpcam")
        .handlers[0]
        .format(logging.LogRecord("sharpcam.x", logging.ERROR, "", 0, "two\nlines", None, None))
        == "<3>two | lines module=sharpcam.x"
    )


def test_only_the_stream_that_systemd_names_is_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "journal").open("w") as file:
        monkeypatch.setattr(sys, "stderr", file)
        facts = os.fstat(file.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{facts.st_dev}:{facts.st_ino}")
        assert sharpcam.cli.to_journal()
        monkeypatch.setenv("JOURNAL_STREAM", "8:1234")  # as in a terminal that systemd started
        assert not sharpcam.cli.to_journal()
        monkeypatch.delenv("JOURNAL_STREAM")
        assert not sharpcam.cli.to_journal()
        monkeypatch.setattr(sys, "stderr", io.StringIO())
        assert not sharpcam.cli.to_journal()


# Run


def test_settings_reach_their_places(fakes: dict[str, Any], model: tuple[object, ...]) -> None:
    flags = ["--size", "640x480", "--fps", 25, "--strength", 0.5, "--sink", "null", "--no-temporal"]
    code, out, _ = run("run", *model, *flags, "--source", "testcard", "--frames", 3)
    assert code == 0
    config = fakes["config"]
    assert fakes["source"] == "testcard"
    assert (config.camera.size, config.camera.fps, config.output.sink) == ((640, 480), 25, "null")
    assert (config.model.strength, config.model.temporal, config.model.threads) == (0.5, False, 1)
    assert "fake camera" in out
    assert "tiny 1.0 (uint8) on CPU, 1 thread, strength 0.5" in out
    assert "ended: frames" in out


def test_frames_and_report(sink: Sink, camera: Camera, tmp_path: Path, model: tuple[object, ...]) -> None:
    path = tmp_path / "report.json"
    path.write_text("old")
    code, _, err = run("run", *model, "--frames", 20, "--report", path)
    assert (code, err) == (0, "")
    assert len(sink.sent) == 20
    assert sink.calls == ["close"]
    assert camera.closed
    report = json.loads(path.read_text())
    assert report.keys() >= set(REPORT_KEYS.split())
    assert (report["source"], report["sink"], report["model"]) == ("fake camera", "fake sink", "tiny")
    assert (report["provider"], report["size"], report["exit"]) == ("cpu", [64, 48], "frames")
    assert report["frames_out"] == 20 == report["frames_in"] - report["dropped"]
    assert set(report["latency_ms"]) == {"p50", "p95", "p99"}
    assert report["rss_mb"] > 10
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_strength_reaches_the_engine(camera: Camera, sink: Sink, model: tuple[object, ...]) -> None:
    camera.live = False  # else the first frame may be dropped on a busy machine
    # the graph's first frame: 100 + strength * (100 - 128) / 2
    for strength, value in ((1, 86), (0.5, 93), (0, 100)):
        sink.sent.clear()
        assert run("run", *model, "--frames", 2, "--strength", strength)[0] == 0
        assert sink.sent[0] == value


def test_split_shows_before_and_after(sink: Sink, model: tuple[object, ...]) -> None:
    run("run", *model, "--frames", 1, "--split")
    assert sink.sent == [100]  # the top left pixel is as it came


def test_no_temporal_reaches_the_engine(camera: Camera, sink: Sink, model: tuple[object, ...]) -> None:
    camera.live = False  # as above
    run("run", *model, "--frames", 3)
    assert sink.sent == [86, 100, 100]
    sink.sent.clear()
    run("run", *model, "--frames", 3, "--no-temporal")
    assert sink.sent == [86, 86, 86]


def test_duration(sink: Sink, model: tuple[object, ...]) -> None:
    code, out, _ = run("run", *model, "--duration", 0.1)
    assert code == 0
    assert "ended: duration" in out


@pytest.mark.parametrize(
    ("number", "reason"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "terminated")]
)
def test_signals_end_it_cleanly(
    number: int, reason: str, camera: Camera, sink: Sink, tmp_path: Path, model: tuple[object, ...]
) -> None:
    camera.script[10] = lambda: os.kill(os.getpid(), number)
    path = tmp_path / "report.json"
    before = signal.getsignal(number)
    code, out, err = run("run", *model, "--report", path)
    assert (code, err) == (0, "")
    assert sink.calls == ["close"]
    assert json.loads(path.read_text())["exit"] == reason
    assert f"ended: {reason}" in out
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_what_is_being_closed_is_closed_in_peace(
    number: int, camera: Camera, sink: Sink, monkeypatch: pytest.MonkeyPatch, model: tuple[object, ...]
) -> None:
    """An impatient second Ctrl-C must not cost the film."""
    camera.script[10] = lambda: os.kill(os.getpid(), number)

    def close() -> None:
        os.kill(os.getpid(), number)
        time.sleep(0.05)
        sink.calls.append("closed")

    monkeypatch.setattr(sink, "close", close)
    code, out, err = run("run", *model)
    assert (code, err) == (0, "")
    assert sink.calls == ["closed"]
    assert "ended: " in out


def test_two_signals_at_once_end_it_like_one(camera: Camera, sink: Sink, model: tuple[object, ...]) -> None:
    def both() -> None:
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGTERM)

    camera.script[10] = both
    code, out, err = run("run", *model)
    assert (code, err) == (0, "")
    assert sink.calls == ["close"]
    assert "ended: terminated" in out


def test_three_signals_end_what_hangs() -> None:
    with ending_signals() as signals:
        heard: list[str] = []
        signals.go_to(heard.append)
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt, match="interrupted"):
            os.kill(os.getpid(), signal.SIGINT)
        assert heard == ["terminated", "terminated"]


def test_what_is_ignored_stays_so() -> None:
    """`nohup` does no more than that."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with ending_signals():
            os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_before_the_first_frame(
    number: int, camera: Camera, sink: Sink, monkeypatch: pytest.MonkeyPatch, model: tuple[object, ...]
) -> None:
    def dark(frame: Frame, timeout: float) -> bool:
        if not camera.next:
            os.kill(os.getpid(), number)
        camera.next += 1
        time.sleep(timeout)
        return False

    monkeypatch.setattr(camera, "read", dark)
    assert run("run", *model)[0] == 130
    assert sink.sent == []
    assert sink.calls == ["close"]


def test_full_disk(sink: Sink, tmp_path: Path, model: tuple[object, ...]) -> None:
    sink.fail_at[5] = MediaError("cannot write out.mp4: no space left on device", "free some space")
    path = tmp_path / "report.json"
    code, _, err = run("run", *model, "--report", path)
    assert code == 1
    assert err.splitlines() == [
        "sharpcam: cannot write out.mp4: no space left on device",
        "  hint: free some space",
    ]
    assert sink.calls == ["abort"]
    report = json.loads(path.read_text())
    assert (report["exit"], report["frames_out"]) == ("failed", 5)
    assert "no space left" in report["error"]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere pyvirtualcam looks for it")
def test_no_camera_lights_up_for_a_virtual_camera_that_is_not_there(
    camera: Camera, monkeypatch: pytest.MonkeyPatch, fakes: dict[str, Any]
) -> None:
    monkeypatch.setattr(sharpcam.cli.run, "check_sink", sharpcam.wiring.check_sink)
    monkeypatch.setattr(sharpcam.devices, "video_devices", list)
    code, _, err = run("run")
    assert code == 1
    assert "v4l2loopback is not loaded" in err
    assert "config" not in fakes, "nobody has asked for the source"


@pytest.mark.parametrize("what", ["open_source", "load_engine", "open_sink"])
def test_what_was_opened_is_closed_when_a_later_part_fails(
    what: str, camera: Camera, sink: Sink, monkeypatch: pytest.MonkeyPatch, model: tuple[object, ...]
) -> None:
    def fail(*args: object) -> None:
        raise DeviceBusy("camera 0 is held by zoom", "close zoom")

    module = sharpcam.daemon.ladder if what == "load_engine" else sharpcam.cli.run
    monkeypatch.setattr(module, what, fail)
    code, _, err = run("run", *model)
    assert code == 1
    assert "held by zoom" in err
    assert camera.closed == (0 if what == "open_source" else 1)
    assert sink.calls == []
    assert not [t for t in threading.enumerate() if t.name.startswith("sharpcam-")]


def test_what_was_opened_is_closed_when_nobody_reads(
    camera: Camera, sink: Sink, monkeypatch: pytest.MonkeyPatch, model: tuple[object, ...]
) -> None:
    def gone(*args: object, **more: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(sharpcam.cli.run, "print", gone, raising=False)
    monkeypatch.setattr(os, "dup2", lambda *_: None)  # it is not this program's output that has gone
    assert run("run", *model)[0] == 0
    assert camera.closed == 1
    assert sink.calls == ["abort"]


def test_sizes_that_do_not_agree_close_everything(
    camera: Camera, sink: Sink, monkeypatch: pytest.MonkeyPatch, model: tuple[object, ...]
) -> None:
    closed: list[Engine] = []
    monkeypatch.setattr(Engine, "close", lambda engine: closed.append(engine))
    sink.size = (32, 32)  # type: ignore[misc]
    code, _, err = run("run", *model)
    assert code == 1
    assert "the sink takes 32x32" in err
    assert sink.calls == ["abort"]
    assert camera.closed
    assert len(closed) == 1


@pytest.mark.parametrize("path", ["gone/report.json", "."])
def test_report_that_cannot_be_written_is_told_at_once(
    path: str, tmp_path: Path, camera: Camera, model: tuple[object, ...]
) -> None:
    code, _, err = run("run", *model, "--report", tmp_path / path)
    assert code == 1
    assert "cannot write" in err
    assert camera.next == 0


def test_report_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "r.json"
    path.write_text("old")

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(MediaError, match="the disk is full"):
        sharpcam.cli.run.write_json(path, {})
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["r.json"]


def test_what_cannot_be_removed_hides_no_cause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(*args: object, **kwargs: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "replace", read_only)
    monkeypatch.setattr(Path, "unlink", read_only)
    with pytest.raises(MediaError, match="the disk can only be read"):
        sharpcam.cli.run.write_json(tmp_path / "r.json", {})


def test_a_report_that_cannot_be_written_hides_no_failure(
    camera: Camera, sink: Sink, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: tuple[object, ...]
) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def lost() -> None:
        raise DeviceBusy("camera 0 is held by zoom", "close zoom")

    monkeypatch.setattr(os, "replace", full)
    code, _, err = run("run", *model, "--frames", 3, "--report", tmp_path / "r.json")
    assert code == 1
    assert err.startswith(f"sharpcam: cannot write {tmp_path}/r.json: the disk is full\n  hint: ")
    camera.__init__({1: lost})  # type: ignore[misc]
    code, _, err = run("run", *model, "--frames", 3, "--report", tmp_path / "r.json")
    assert code == 1
    assert "no report: " in err
    assert err.endswith("sharpcam: camera 0 is held by zoom\n  hint: close zoom\n")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux has it")
@pytest.mark.parametrize("arguments", [("models",), ("config", "show", "--json"), ("doctor",)])
def test_output_that_finds_no_room_is_explained(arguments: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "sharpcam", *arguments]
    with open("/dev/full", "w") as room:
        done = subprocess.run(command, stdout=room, stderr=subprocess.PIPE, text=True)
    told = "sharpcam: cannot write the output: the disk is full\n  hint: free some space, or write to another disk\n"
    assert (done.returncode, done.stderr) == (1, told)


def test_plain_status_lines(monkeypatch: pytest.MonkeyPatch, model: tuple[object, ...]) -> None:
    monkeypatch.setattr(sharpcam.cli.run, "_PLAIN_EVERY_S", 0.1)
    _, _, err = run("run", *model, "--duration", 0.6)
    lines = err.splitlines()
    assert 1 <= len(lines) <= 6
    assert "dropped" in lines[-1]
    assert "tiny on cpu" in lines[-1]
    monkeypatch.setattr(sharpcam.cli.run, "to_journal", lambda: True)
    assert run("run", *model, "--duration", 0.6)[2] == ""


def test_live_status_on_a_terminal(
    camera: Camera, monkeypatch: pytest.MonkeyPatch, yuv_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    camera.script[20] = lambda: logging.getLogger("sharpcam.x").warning("something happened")
    config = load_config(flags={"model.name": str(yuv_model), "model.provider": "cpu"}, env={})
    assert sharpcam.cli.run.run_run(config, Path("/nowhere"), duration=0.6) == 0
    shown = screen.getvalue()
    assert " fps" in shown
    assert "tiny on cpu" in shown
    assert "\x1b[?25h" in shown  # the cursor is shown again
    assert "ended: duration" in capsys.readouterr().out


def test_the_meeting_goes_on_when_nobody_reads_the_status(
    monkeypatch: pytest.MonkeyPatch, yuv_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written: list[str] = []

    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            written.append(text)
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stderr", Gone())
    monkeypatch.setattr(sharpcam.cli.run, "_PLAIN_EVERY_S", 0.1)
    config = load_config(flags={"model.name": str(yuv_model), "model.provider": "cpu"}, env={})
    assert sharpcam.cli.run.run_run(config, Path("/nowhere"), duration=0.6) == 0
    assert len(written) > 1
    assert "ended: duration" in capsys.readouterr().out


def test_a_terminal_that_takes_nothing_stops_nothing(
    sink: Sink, monkeypatch: pytest.MonkeyPatch, yuv_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-S stops it for as long as one likes; orders are followed all the while."""
    resumed = threading.Event()

    class Stopped(io.StringIO):
        def write(self, text: str) -> int:
            resumed.wait(30)
            return len(text)

    monkeypatch.setattr(sys, "stderr", Stopped())
    monkeypatch.setattr(sharpcam.cli.run, "_PLAIN_EVERY_S", 0.05)
    monkeypatch.setattr(sharpcam.cli.run, "_WAIT_S", 0.1)
    config = load_config(flags={"model.name": str(yuv_model), "model.provider": "cpu"}, env={})
    try:
        assert sharpcam.cli.run.run_run(config, Path("/nowhere"), duration=0.4) == 0
        assert not resumed.is_set()
    finally:
        resumed.set()
    assert sink.calls == ["close"]
    assert "ended: duration" in capsys.readouterr().out


@pytest.mark.skipif(sys.platform == "win32", reason="a POSIX shell closes them")
def test_standard_files_may_be_closed(tmp_path: Path) -> None:
    command = f"exec {shlex.quote(sys.executable)} -m sharpcam models >&- 2>&-"
    assert subprocess.run(["sh", "-c", command]).returncode == 0


def test_a_report_may_go_where_no_file_is(tmp_path: Path, model: tuple[object, ...]) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()), daemon=True)
    reader.start()
    assert run("run", *model, "--frames", 3, "--report", pipe)[0] == 0
    reader.join(10)
    assert json.loads(read[0])["exit"] == "frames"
    assert pipe.is_fifo()
    (tmp_path / "real.json").write_text("old")
    link = tmp_path / "link.json"
    link.symlink_to("real.json")
    assert run("run", *model, "--frames", 3, "--report", link)[0] == 0
    assert link.is_symlink()
    assert json.loads((tmp_path / "real.json").read_text())["exit"] == "frames"


# Models


def test_models_table_and_json(no_models: tuple[Path, Path]) -> None:
    bundled, user = no_models
    code, out, _ = run("models")
    assert code == 0
    assert "No model is installed" in out
    write_yuv_model(bundled / "m", macs_per_pixel=2400.0, parameters=123456)
    mine = write_yuv_model(user / "mine")
    (mine / "model.onnx").write_bytes(b"changed")
    (bundled / "m" / "CARD.md").write_text("# The card of m\n")
    broken = write_yuv_model(user / "broken")
    (broken / "model.toml").write_text("name = 3\n")
    code, out, err = run("models")
    assert code == 0
    assert "m (default)" in out
    assert "2,400" in out
    assert "refused" in out
    assert "broken" in err
    found = json.loads(run("models", "--json")[1])
    facts = {f["name"]: f for f in found["models"]}
    assert facts["m"]["default"]
    assert facts["m"]["card"] == "# The card of m\n"
    assert facts["m"]["problem"] is None
    assert "checksum" in facts["mine"]["problem"]
    assert len(found["broken"]) == 1
    assert run("models", "m")[1] == "# The card of m\n\n"
    assert "has no card" in run("models", "mine")[1]
    assert run("models", "nope")[0] == 1


# As a program


def test_closed_pipe_is_no_failure(tmp_path: Path) -> None:
    env = {"XDG_DATA_HOME": str(tmp_path / "data")}
    write_yuv_model(tmp_path / "data" / "sharpcam" / "models" / "tiny")
    process = spawn("models", "--json", env=env)
    assert process.stdout
    assert process.stderr
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(30) == 0


def test_card_to_nowhere_and_ctrl_c(yuv_model: Path, tmp_path: Path) -> None:
    """The whole program, from the test card, ended by a real Ctrl-C after the first frames."""
    report = tmp_path / "report.json"
    process = spawn(
        *("run", "--source", "testcard", "--sink", "null", "--size", "320x240", "--report", report),
        *("--model", yuv_model, "--provider", "cpu", "--threads", 1),
    )
    assert process.stdout
    for line in process.stdout:
        if line.startswith("sink:"):
            break
    time.sleep(1.0)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, "")
    assert "ended: interrupted" in out
    numbers = json.loads(report.read_text())
    assert numbers["exit"] == "interrupted"
    assert numbers["frames_out"] > 5
    assert numbers["bypassed"] == 0
    assert np.isfinite(numbers["latency_ms"]["p95"])
