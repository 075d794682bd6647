"""A daemon over a real pipeline with fake parts: states by what happens, and orders."""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from test_live_engine import Fake
from test_pipeline import FakeSink, FakeSource, threads_end, until  # noqa: F401

import sharpcam.daemon.daemon
import sharpcam.daemon.live_engine
import sharpcam.kept_source
import sharpcam.pipeline
from sharpcam.config import Config
from sharpcam.daemon.control import ask
from sharpcam.daemon.daemon import IDLE_FPS, LISTEN_EVERY_S, SETTINGS, Daemon
from sharpcam.daemon.live_engine import RAMP_FRAMES, LiveEngine
from sharpcam.daemon.states import HOLD_OFF_S, State
from sharpcam.errors import ControlError, DeviceLost, SharpCamError
from sharpcam.frame import Frame
from sharpcam.governor import DOWN_AFTER_S, UP_AFTER_S, Step
from sharpcam.pipeline import Pipeline

PROMISED = "state model provider strength source sink clients fps latency_ms dropped reconnects uptime_s"


class Inner(Fake):
    def process(self, frame: Frame, out: Frame) -> None:
        super().process(frame, out)
        out.buffer[:] = frame.buffer
        out.copy_facts(frame)


class Usage:
    """A driver that tells the newest of `counts`."""

    def __init__(self, node: str) -> None:
        self.counts: list[int | OSError] = [0]
        self.closed = False

    def wait(self, timeout: float) -> int | None:
        assert timeout == 0
        step = self.counts[-1] if self.counts else None
        self.counts.clear()
        if isinstance(step, OSError):
            raise step
        return step

    def close(self) -> None:
        self.closed = True


class Rig:
    """A daemon, its pipeline with a camera that can be opened again and again, and a clock.

    It is its own ladder: "a" runs, "b" costs a quarter.
    """

    def __init__(
        self, node: str | None = "/dev/video10", always: str = "", governing: bool = False, **more: Any
    ) -> None:
        self.now = 100.0
        self.cameras = [FakeSource(10)]
        self.sink = FakeSink(live=True, fps=200)
        self.sink.node = node  # type: ignore[attr-defined]
        self.inner = Inner()
        self.engine = LiveEngine(self.inner)
        self.pipeline = Pipeline(self.cameras[0], self.engine, self.sink, reopen=self.open)
        self.loaded: list[Inner] = []
        self.daemon = Daemon(
            *(self.pipeline, self.engine),
            always=always,
            ladder=self,
            steps=self.steps("a"),
            governing=governing,
            clock=lambda: self.now,
            **more,
        )

    def open(self) -> FakeSource:
        self.cameras.append(FakeSource(20))
        return self.cameras[-1]

    def steps(self, name: str) -> tuple[Step, ...]:
        first = "a" if name == "auto" else name
        return Step(first, first, 1.0, 2000), Step("b", "b", 1.0, 500)

    def load(self, step: Step) -> Inner:
        self.loaded.append(Inner(step.name))
        return self.loaded[-1]

    def pass_frames(self, count: int) -> None:
        """One after another, so that none is dropped."""
        for _ in range(count):
            before = self.pipeline.telemetry["frames_out"]
            self.cameras[-1].give(1)
            until(lambda before=before: self.pipeline.telemetry["frames_out"] > before)  # type: ignore[misc]

    @property
    def usage(self) -> Usage:
        usage = self.daemon._usage
        assert isinstance(usage, Usage)
        return usage

    def tick(self, seconds: float = 0.0, clients: int | None = None) -> State:
        self.now += seconds
        if clients is not None:
            self.usage.counts.append(clients)
        self.daemon.tick()
        return self.daemon.state

    def __enter__(self) -> Rig:
        self.daemon.__enter__()
        self.pipeline.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.daemon.__exit__(None, None, None)
        self.pipeline.stop()
        until(lambda: self.pipeline.wait(0.05))
        self.pipeline.finish()


@pytest.fixture(autouse=True)
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    folder = tempfile.mkdtemp(prefix="sc-")
    monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
    monkeypatch.setattr(sharpcam.daemon.daemon, "ClientUsage", Usage)
    monkeypatch.setattr(sharpcam.pipeline, "TICK_S", 0.005)
    monkeypatch.setattr(sharpcam.kept_source, "BACKOFF_S", (0.01, 0.02))
    yield
    shutil.rmtree(folder)


def test_the_camera_is_open_only_while_somebody_watches() -> None:
    with Rig() as rig:
        assert rig.tick() is State.LIVE
        until(lambda: 10 in rig.sink.sent)
        assert rig.tick(HOLD_OFF_S) is State.IDLE
        until(lambda: rig.cameras[0].closed > 0)
        assert rig.pipeline._rest is not None
        assert rig.pipeline._rest.fps == IDLE_FPS
        assert len(rig.cameras) == 1
        assert rig.tick(100.0, clients=1) is State.LIVE
        until(lambda: 20 in rig.sink.sent)
        assert not rig.cameras[1].closed
        assert rig.tick(clients=0) is State.LIVE
        assert rig.tick(HOLD_OFF_S - 0.1) is State.LIVE, "the driver says nothing new, and that counts"
        assert rig.tick(0.1) is State.IDLE
        until(lambda: rig.cameras[1].closed > 0)


def test_a_pause_closes_the_camera_also_while_somebody_watches() -> None:
    with Rig() as rig:
        rig.tick(clients=1)
        until(lambda: 10 in rig.sink.sent)
        ask("pause")
        assert rig.tick() is State.PAUSED
        until(lambda: rig.cameras[0].closed > 0)
        assert rig.pipeline._rest is not None
        assert rig.pipeline._rest.fps == rig.sink.fps, "who watches gets it at the advertised rate"
        assert rig.tick(HOLD_OFF_S, clients=0) is State.PAUSED
        assert rig.tick(HOLD_OFF_S) is State.PAUSED
        assert rig.pipeline._rest.fps == IDLE_FPS
        ask("resume")
        assert rig.tick() is State.IDLE, "nobody watches any more"
        assert rig.tick(clients=1) is State.LIVE
        until(lambda: 20 in rig.sink.sent)


def test_a_pause_outlives_a_crash_and_no_orderly_end() -> None:
    with Rig() as crashed:
        crashed.tick(clients=1)
        ask("pause")
        crashed.daemon.__exit__(ValueError, ValueError(), None)
        note = crashed.daemon._pause_note
        assert note is not None
        assert note.stat().st_mode & 0o777 == 0o600
        with Rig() as rig:
            until(lambda: rig.cameras[0].closed == 1, "for the camera to close before the first tick")
            assert rig.tick(clients=1) is State.PAUSED
            assert 10 not in rig.sink.sent
            ask("resume")
            assert rig.tick() is State.LIVE
            until(lambda: 20 in rig.sink.sent)
            ask("pause")
        assert not note.exists()
        with Rig() as rig:
            assert rig.tick(clients=1) is State.LIVE
            until(lambda: 10 in rig.sink.sent)


def test_a_lost_camera_is_told() -> None:
    with Rig() as rig:

        def away() -> FakeSource:
            raise DeviceLost("no camera at usb-1")

        rig.pipeline._kept._reopen = away
        rig.tick(clients=1)
        rig.cameras[0].give(DeviceLost("unplugged"))
        until(lambda: rig.pipeline.lost is not None)
        assert rig.tick() is State.RECOVERING
        until(lambda: str(rig.pipeline.lost) == "no camera at usb-1")
        rig.tick()
        told = ask("status")
        assert (told["state"], told["reason"]) == ("recovering", "no camera at usb-1")
        rig.pipeline._kept._reopen = rig.open
        until(lambda: rig.pipeline.lost is None)
        assert rig.tick() is State.LIVE
        assert ask("status")["reconnects"] == 1


@pytest.mark.parametrize(
    ("node", "always", "reason"),
    [
        (None, "", "this sink does not tell who watches"),
        ("/dev/old", "", "this v4l2loopback does not tell who watches (0.13 does), nor inotify (No space)"),
        ("/dev/video10", "so it was set", "so it was set"),
    ],
)
def test_always_live_says_why(
    node: str | None, always: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if node == "/dev/old":

        def refuse(node: str) -> None:
            raise OSError(22, "Invalid argument")

        def refuse_too(node: str) -> None:
            raise OSError(28, "No space")

        monkeypatch.setattr(sharpcam.daemon.daemon, "ClientUsage", refuse)
        monkeypatch.setattr(sharpcam.daemon.daemon, "Openers", refuse_too)
    with Rig(node, always) as rig:
        for _ in range(3):
            assert rig.tick(100.0) is State.LIVE
        told = ask("status")
        assert told["reason"] == f"always live: {reason}"
        assert told["clients"] == (0 if always else None)
        assert not rig.cameras[0].closed


def test_where_the_driver_does_not_tell_who_has_the_device_open_does(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(node: str) -> None:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(sharpcam.daemon.daemon, "ClientUsage", refuse)
    monkeypatch.setattr(sharpcam.daemon.daemon, "Openers", Usage)
    with Rig() as rig:
        rig.tick(clients=0)
        assert rig.tick(HOLD_OFF_S) is State.IDLE
        assert "who has the device open" in ask("status")["clients_told_by"]
        assert rig.tick(clients=1) is State.LIVE


def test_a_driver_that_falls_silent_leaves_the_camera_open() -> None:
    with Rig() as rig:
        usage = rig.usage
        rig.tick(clients=0)
        assert rig.tick(HOLD_OFF_S) is State.IDLE
        usage.counts.append(OSError(19, "No such device"))
        assert rig.tick() is State.LIVE
        assert usage.closed
        told = ask("status")
        assert told["clients"] is told["clients_told_by"] is None
        assert rig.tick(100.0) is State.LIVE


def test_status_has_the_promised_keys() -> None:
    with Rig() as rig:
        rig.tick(clients=1)
        until(lambda: rig.pipeline.telemetry["frames_out"] == 1)
        told = ask("status")
    assert set(PROMISED.split()) <= told.keys()
    assert json.loads(json.dumps(told)) == told
    assert (told["state"], told["clients"], told["pid"]) == ("live", 1, os.getpid())
    assert (told["model"], told["provider"], told["strength"]) == ("a", "cpu", 1.0)
    assert (told["source"], told["sink"]) == ("fake source", "fake sink")
    assert (told["step"], told["governor"], told["load"], told["mirror"]) == ("a", "off", None, False)
    assert told["clients_told_by"] == "the driver"


def test_status_tells_of_a_model_that_fails() -> None:
    def fail(frame: Frame, out: Frame) -> None:
        raise SharpCamError("the model failed")

    rig = Rig()
    rig.inner.process = fail  # type: ignore[method-assign]
    with rig:
        rig.tick(clients=1)
        until(lambda: rig.pipeline.telemetry["frames_out"] == 1)
        told = ask("status")
        assert (told["bypassed"], told["fallbacks"]) == (1, 0)


def test_metrics_are_prometheus_text() -> None:
    with Rig() as rig:
        rig.tick(clients=1)
        lines = ask("metrics").splitlines()
    assert 'sharpcam_state{state="live"} 1' in lines
    assert 'sharpcam_state{state="idle"} 0' in lines
    assert "sharpcam_clients 1" in lines
    assert 'sharpcam_governor_steps_total{direction="down"} 0' in lines
    assert any(line.startswith("sharpcam_frames_in_total ") for line in lines)


def test_metrics_count_changes_of_state() -> None:
    with Rig() as rig:
        for clients in (0, 1, 0):
            rig.tick(HOLD_OFF_S, clients=clients)
            rig.tick(HOLD_OFF_S)
        lines = ask("metrics").splitlines()
    assert 'sharpcam_state_changes_total{to="idle"} 2' in lines
    assert 'sharpcam_state_changes_total{to="live"} 1' in lines
    assert 'sharpcam_state_changes_total{to="paused"} 0' in lines


def test_settings_change_at_once() -> None:
    with Rig() as rig:
        rig.tick(clients=1)
        ask("set", key="strength", value="0.25")
        ask("set", key="split", value="on")
        ask("set", key="mirror", value="on")
        told = ask("status")
        assert (told["strength"], told["split"], told["mirror"]) == (0.25, True, True)
        assert rig.engine.mirror
        ask("set", key="split", value="off")
        ask("set", key="mirror", value="off")
        rig.pass_frames(RAMP_FRAMES + 1)
        assert rig.inner.strength == 0.25
        assert not rig.inner.split
        assert not rig.engine.mirror


def test_settings_are_saved_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    saved = list[tuple[str, Any]]()

    def save(key: str, value: Any) -> Path:
        saved.append((key, value))
        return Path("/home/me/config.toml")

    monkeypatch.setattr(sharpcam.daemon.daemon, "find_models", lambda: ([SimpleNamespace(name="b")], []))
    with Rig(save=save) as rig:
        rig.tick(clients=1)
        settings = {"strength": "0.5", "split": "on", "mirror": "off", "model": "b", "governor": "off"}
        for key, value in settings.items():
            assert ask("set", key=key, value=value) == {}
            assert ask("set", key=key, value=value, save=False) == {}
        assert saved == []
        for key, value in settings.items():
            assert ask("set", key=key, value=value, save=True) == {"saved": "/home/me/config.toml"}
        with pytest.raises(ControlError):
            ask("set", key="strength", value="2", save=True)
    assert saved == [
        *(("model.strength", 0.5), ("output.split", True), ("camera.mirror", False)),
        *(("model.name", "b"), ("model.adapt", False)),
    ]
    known = {f"{table}.{name}" for table, keys in Config().model_dump().items() for name in keys}
    assert set(SETTINGS.values()) <= known


def test_nothing_changes_where_it_cannot_be_saved() -> None:
    with Rig() as rig:
        with pytest.raises(ControlError, match="no settings file"):
            ask("set", key="strength", value="0.5", save=True)
        assert rig.engine.strength == 1.0


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("strength", "2", "out of range"),
        ("strength", "nan", "out of range"),
        ("strength", "much", "should be a number"),
        ("strength", None, "should be a number"),
        pytest.param("strength", 10**400, "should be a number", id="huge"),
        ("strength", [], "should be a number"),
        ("split", "yes", "on or off"),
        ("split", {}, "on or off"),
        ("model", "../../etc/passwd", "there is no model"),
        ("model", "/tmp/model.onnx", "there is no model"),
        ("model", 7, "there is no model"),
        ("model", "unheard-of", "known models: auto, here"),
        ("mirror", "1", "mirror should be on or off"),
        ("governor", True, "governor should be on or off"),
        ("device", "/dev/video0", "cannot be set"),
        (None, "1", "cannot be set"),
        (["strength"], "1", "cannot be set"),
    ],
)
def test_settings_that_cannot_be(key: Any, value: Any, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    here = [SimpleNamespace(name="here")], []
    monkeypatch.setattr(sharpcam.daemon.daemon, "find_models", lambda: here)
    with Rig() as rig:
        with pytest.raises(ControlError) as caught:
            ask("set", key=key, value=value)
        assert text in f"{caught.value} {caught.value.hint}"
        assert (rig.engine.strength, rig.engine.split, rig.engine.mirror, rig.loaded) == (
            1.0,
            False,
            False,
            [],
        )


def test_another_model_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharpcam.daemon.daemon, "find_models", lambda: ([SimpleNamespace(name="here")], []))
    with Rig() as rig:
        rig.tick(clients=1)
        ask("set", key="model", value="here")
        rig.pass_frames(RAMP_FRAMES + 1)
        told = ask("status")
        assert (told["model"], told["step"]) == ("here", "here")
        assert rig.inner.closed
        rig.load = lambda step: (_ for _ in ()).throw(SharpCamError("damaged"))  # type: ignore[method-assign,assignment]
        with pytest.raises(ControlError, match="damaged"):
            ask("set", key="model", value="here")
        assert ask("status")["model"] == "here"


def test_stop_ends_the_run() -> None:
    with Rig() as rig:
        ask("stop")
        until(lambda: rig.pipeline.wait(0.05))
        assert rig.pipeline.exit == "stopped"


def test_unknown_orders_are_refused() -> None:
    with Rig(), pytest.raises(ControlError, match="not known") as caught:
        ask("fly")
    assert "pause" in caught.value.hint


def test_a_second_one_runs_without_taking_orders(caplog: pytest.LogCaptureFixture) -> None:
    with Rig() as first, Rig() as second:
        assert f"another SharpCam (pid {os.getpid()})" in caplog.text
        assert caplog.records[-1].levelname == "WARNING"
        ask("stop")
        until(lambda: first.pipeline.wait(0.05))
        assert second.pipeline.exit == ""
    assert not [t for t in threading.enumerate() if t.name == "sharpcam-control"]


def test_a_full_disk_leaves_it_without_orders_but_running(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    rig = Rig(always="always")
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        rig.daemon._listen(logging.WARNING)
    assert "not controllable: cannot make the lock" in caplog.text
    assert "No space left on device (free some space there, or set XDG_RUNTIME_DIR" in caplog.text
    assert rig.tick() is State.LIVE
    rig.tick(LISTEN_EVERY_S)
    assert ask("status")["state"] == "live", "there is room again"
    rig.daemon.__exit__(None, None, None)


def test_it_takes_the_orders_when_the_one_before_has_ended(caplog: pytest.LogCaptureFixture) -> None:
    second = Rig()
    with Rig():
        second.__enter__()
        second.tick(LISTEN_EVERY_S, clients=1)
    told = len(caplog.records)
    with pytest.raises(ControlError, match="does not run"):
        ask("status")
    second.tick(LISTEN_EVERY_S)
    assert ask("status")["clients"] == 1
    assert [r.levelname for r in caplog.records[:told]].count("WARNING") == 1, "it is said once"
    second.__exit__()


def test_what_cannot_listen_still_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / ("x" * 100)))
    with Rig() as rig:
        rig.tick(clients=1)
        until(lambda: 10 in rig.sink.sent)


def test_the_last_state_is_stopping() -> None:
    with Rig() as rig:
        rig.tick(clients=0)
        assert rig.tick(HOLD_OFF_S) is State.IDLE
        rest = rig.pipeline._rest
        ask("stop")
        assert rig.tick() is State.STOPPING
        assert rig.pipeline._rest is rest, "the camera is not opened for the end"


# The governor


def seconds(rig: Rig, count: int, frames: int = 10) -> None:
    """So many seconds with `frames` frames in each."""
    for _ in range(count):
        rig.pass_frames(frames)
        rig.tick(1.0)
        if rig.daemon._change is not None:
            rig.daemon._change.join(20)


class Slow:
    """Seconds of the engine's clock that each model takes, without taking them."""

    def __init__(self, rig: Rig, monkeypatch: pytest.MonkeyPatch, **seconds: float) -> None:
        self.now, self.seconds = 0.0, seconds
        monkeypatch.setattr(sharpcam.daemon.live_engine.time, "perf_counter", lambda: self.now)
        make = rig.load

        def slowed(inner: Inner, name: str) -> Inner:
            process = inner.process

            def slow(frame: Frame, out: Frame) -> None:
                self.now += self.seconds[name]
                process(frame, out)

            inner.process = slow  # type: ignore[method-assign]
            return inner

        slowed(rig.inner, "a")
        rig.load = lambda step: slowed(make(step), step.name)  # type: ignore[method-assign,assignment]


def governed() -> Rig:
    return Rig(always="always", governing=True)


def test_a_model_that_is_too_slow_makes_way_for_a_smaller_one_and_comes_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rig = governed()
    slow = Slow(rig, monkeypatch, a=0.2, b=0.05)  # 200 % and 50 % at ten frames a second
    with rig:
        until(lambda: 10 in rig.sink.sent)
        rig.tick()
        seconds(rig, 4)
        assert rig.engine.recent_s is None, "so few frames tell nothing"
        seconds(rig, 1)
        assert rig.engine.recent_s == pytest.approx((0.2, 0.2))
        assert rig.daemon._change is None, "it may pass"
        seconds(rig, int(DOWN_AFTER_S) + 3)
        told = ask("status")
        assert (told["model"], told["step"], told["governor"]) == ("b", "b", "on")
        assert rig.inner.closed
        seconds(rig, int(UP_AFTER_S) + 10)
        assert ask("status")["load"] == pytest.approx(0.5)
        assert len(rig.loaded) == 1, "there is no room to go back"
        slow.seconds |= {"a": 0.05, "b": 0.0125}
        seconds(rig, int(UP_AFTER_S) + 10)
        assert ask("status")["model"] == "a"
        lines = ask("metrics").splitlines()
        assert 'sharpcam_governor_steps_total{direction="down"} 1' in lines
        assert 'sharpcam_governor_steps_total{direction="up"} 1' in lines


def test_a_camera_that_gives_less_than_it_promised_leaves_more_time(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = governed()
    Slow(rig, monkeypatch, a=0.2, b=0.05)
    with rig:
        rig.tick()
        seconds(rig, 20, frames=4)
        assert rig.engine.recent_s is not None
        assert not rig.loaded


def test_while_nothing_comes_the_governor_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = governed()
    Slow(rig, monkeypatch, a=0.2, b=0.05)
    with rig:
        rig.tick()
        rig.pass_frames(50)
        for _ in range(6):  # overloaded for two seconds each time
            seconds(rig, 2)
            ask("pause")
            rig.tick(10.0)
            assert ask("status")["load"] is None
            ask("resume")
            rig.tick()
            until(lambda: not rig.cameras[-1].closed and rig.cameras[-1].script.empty())
            seconds(rig, 1, frames=0)
        assert not rig.loaded


def test_a_model_that_somebody_sets_stays_until_the_governor_is_switched_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sharpcam.daemon.daemon, "find_models", lambda: ([SimpleNamespace(name="a")], []))
    rig = governed()
    Slow(rig, monkeypatch, a=0.2, b=0.05)
    with rig:
        rig.tick()
        ask("set", key="model", value="a")
        seconds(rig, 10)
        assert rig.engine.recent_s == pytest.approx((0.2, 0.2))
        assert [engine.model.name for engine in rig.loaded] == ["a"]
        assert ask("status")["governor"] == "off"
        ask("set", key="governor", value="on")
        seconds(rig, int(DOWN_AFTER_S) + 3)
        assert ask("status")["step"] == "b"
        ask("set", key="governor", value="off")
        seconds(rig, 10)
        told = ask("status")
        assert (told["model"], told["step"], told["governor"]) == ("a", "a", "off"), "back to what was wanted"


def test_a_model_that_cannot_be_had_leaves_the_governor_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharpcam.daemon.daemon, "find_models", lambda: ([SimpleNamespace(name="a")], []))
    rig = governed()
    Slow(rig, monkeypatch, a=0.2, b=0.05)
    load = rig.load

    def damaged(step: Step) -> Inner:
        raise SharpCamError("its checksum is wrong")

    with rig:
        rig.tick()
        rig.load = damaged  # type: ignore[method-assign]
        with pytest.raises(ControlError, match="checksum"):
            ask("set", key="model", value="a")
        assert ask("status")["governor"] == "on"
        rig.load = load  # type: ignore[method-assign]
        seconds(rig, 5 + int(DOWN_AFTER_S) + 3)
        assert ask("status")["step"] == "b"


def test_set_model_auto_governs_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharpcam.daemon.daemon, "find_models", lambda: ([SimpleNamespace(name="b")], []))
    rig = governed()
    Slow(rig, monkeypatch, a=0.2, b=0.05)
    with rig:
        rig.tick()
        ask("set", key="model", value="b")
        assert ask("status")["governor"] == "off"
        ask("set", key="model", value="auto")
        seconds(rig, 3)
        told = ask("status")
        assert (told["model"], told["governor"]) == ("a", "on")


def test_without_a_cheaper_way_there_is_nothing_to_govern() -> None:
    with Rig(always="always") as rig:
        rig.daemon._steps = rig.daemon._steps[:1]
        with pytest.raises(ControlError, match="nothing to govern"):
            ask("set", key="governor", value="on")


def test_a_smaller_model_that_is_damaged_is_done_without(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rig = governed()
    Slow(rig, monkeypatch, a=0.2, b=0.05)
    tries: list[str] = []

    def damaged(step: Step) -> Inner:
        tries.append(step.name)
        raise SharpCamError("its checksum is wrong")

    rig.load = damaged  # type: ignore[method-assign]
    with rig:
        rig.tick()
        seconds(rig, 9)
        until(lambda: "governor cannot='b' error=its checksum is wrong" in caplog.text)
        seconds(rig, 8)
        assert ask("status")["model"] == "a"
        assert tries == ["b"]
