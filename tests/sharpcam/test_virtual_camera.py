"""The virtual camera sink on a fake backend and a fake v4l2loopback; the real one is in tests/vm."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sharpcam import holding, v4l2
from sharpcam.devices import VideoDevice
from sharpcam.errors import (
    DeviceBusy,
    DeviceDenied,
    DeviceLost,
    DeviceNotFound,
    FormatMismatch,
    ProviderUnavailable,
    SharpCamError,
)
from sharpcam.frame import Color, ColorMatrix, ColorRange, Frame
from sharpcam.geometry import from_rgb, to_rgb
from sharpcam.sinks import virtual_camera
from sharpcam.sinks.virtual_camera import VirtualCameraSink
from sharpcam.v4l2 import CAPTURE, OUTPUT, Caps

pyvirtualcam = pytest.importorskip("pyvirtualcam")

SIZE = (64, 48)
Picture = Callable[..., Frame]


class FakeBackend:
    """What pyvirtualcam's own backends look like; the last one made is kept."""

    last: FakeBackend
    failure: str | None = None

    def __init__(self, **facts: Any) -> None:
        if FakeBackend.failure:
            raise RuntimeError(FakeBackend.failure)
        self.facts, self.sent, self.closed = facts, [], 0
        FakeBackend.last = self

    def send(self, frame: Any) -> None:
        assert frame.flags.c_contiguous
        self.sent.append(frame.copy())

    def device(self) -> str:
        return str(self.facts["device"] or "Fake Virtual Camera")

    def native_fourcc(self) -> int:
        return int(self.facts["fourcc"])

    def close(self) -> None:
        self.closed += 1


@pytest.fixture(autouse=True)
def backend(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> type[FakeBackend]:
    monkeypatch.setattr(pyvirtualcam.camera, "BACKENDS", {})
    pyvirtualcam.register_backend("fake", FakeBackend)
    monkeypatch.setattr(FakeBackend, "failure", None)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    return FakeBackend


def open_fake(**options: Any) -> VirtualCameraSink:
    return VirtualCameraSink(None, SIZE, 30, backend="fake", **options)


# -- any backend


def test_frames_arrive_as_they_stand(backend: type[FakeBackend], picture: Picture) -> None:
    sink = open_fake()
    frame = picture(*SIZE)
    sink.send(frame)
    sink.send(picture(*SIZE, seed=1))
    first, second = backend.last.sent
    assert np.array_equal(first, frame.buffer.reshape(-1))
    assert not np.array_equal(first, second)
    facts = backend.last.facts
    assert (facts["width"], facts["height"], facts["fps"]) == (64, 48, 30)
    assert facts["fourcc"].to_bytes(4, "little") == b"I420"
    assert sink.description == 'virtual camera "Fake Virtual Camera", I420 64x48 at 30 fps'
    assert (sink.live, sink.size, sink.fps, sink.node) == (True, SIZE, 30, None)
    sink.close()


@pytest.mark.parametrize(
    "color",
    [Color(ColorRange.FULL), Color(matrix=ColorMatrix.BT709), Color(ColorRange.FULL, ColorMatrix.BT709)],
)
def test_frames_in_other_colours_look_the_same_to_readers(backend: type[FakeBackend], color: Color) -> None:
    rgb = np.zeros((48, 64, 3), np.uint8)
    rgb[:, :32], rgb[:, 32:] = (220, 40, 30), (20, 90, 200)
    frame = Frame(*SIZE, color)
    from_rgb(rgb, frame)
    before = frame.buffer.copy()
    sink = open_fake()
    sink.send(frame)
    seen = Frame(*SIZE)  # readers take it for limited BT.601
    seen.buffer[:] = backend.last.sent[0].reshape(seen.buffer.shape)
    off = np.abs(to_rgb(seen).astype(int) - rgb)
    assert off[:, 4:28].max() <= 3
    assert off[:, 36:60].max() <= 3
    assert np.array_equal(frame.buffer, before), "the frame is not ours to change"
    sink.close()


def test_a_frame_of_another_size_is_refused(backend: type[FakeBackend]) -> None:
    sink = open_fake()
    with pytest.raises(FormatMismatch, match="32x32"):
        sink.send(Frame(32, 32))
    assert backend.last.sent == []
    sink.close()


@pytest.mark.parametrize("end", ["close", "abort"])
def test_it_closes_once_and_takes_nothing_afterwards(backend: type[FakeBackend], end: str) -> None:
    sink = open_fake()
    getattr(sink, end)()
    getattr(sink, end)()
    assert backend.last.closed == 1
    with pytest.raises(DeviceLost, match="closed"):
        sink.send(Frame(*SIZE))


@pytest.mark.parametrize("size", [(63, 48), (0, 0)])
def test_an_odd_size_is_refused_before_the_device_is_touched(size: tuple[int, int]) -> None:
    with pytest.raises(FormatMismatch):
        VirtualCameraSink(None, size, backend="nonesuch")


@pytest.mark.parametrize(
    ("platform", "text", "error", "hint"),
    [
        ("win32", "OBS Virtual Camera device not found! Did you install OBS?", DeviceNotFound, "install OBS"),
        ("win32", "virtual camera output could not be started", DeviceBusy, "stop the virtual camera in OBS"),
        ("darwin", "OBS Virtual Camera is not installed", DeviceNotFound, "start its virtual camera once"),
        ("linux", "something\nnew", DeviceNotFound, "sharpcam devices"),
    ],
)
def test_what_each_systems_backend_says_is_explained(
    monkeypatch: pytest.MonkeyPatch, platform: str, text: str, error: type[SharpCamError], hint: str
) -> None:
    monkeypatch.setattr(virtual_camera, "sys", SimpleNamespace(platform=platform))
    monkeypatch.setattr(FakeBackend, "failure", text)
    with pytest.raises(error) as caught:
        open_fake()
    assert hint in caught.value.hint
    assert " ".join(text.split()) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_on_other_systems_auto_is_the_backends_own_choice(
    monkeypatch: pytest.MonkeyPatch, backend: type[FakeBackend]
) -> None:
    monkeypatch.setattr(virtual_camera, "sys", SimpleNamespace(platform="win32"))
    VirtualCameraSink("auto", SIZE).close()
    assert backend.last.facts["device"] is None


def test_without_pyvirtualcam_the_way_out_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyvirtualcam", None)
    with pytest.raises(ProviderUnavailable, match="pyvirtualcam") as caught:
        open_fake()
    assert "pip install" in caught.value.hint


# -- a fake v4l2loopback

NODE = "/dev/video10"
DEVICE = VideoDevice(NODE, "SharpCam", "v4l2 loopback", caps=Caps.OUTPUT)


class Loopback:
    """The driver's state, and a stand-in for v4l2.Node that reads and changes it."""

    def __init__(self) -> None:
        self.caps = Caps.OUTPUT
        self.kept = 0  # the control keep_format
        self.sustains: int | None = 0  # the control sustain_framerate; None: it has none
        self.format: tuple[str, int, int, Fraction | None] | None = None
        self.fps = Fraction(30)
        self.holds: tuple[str, int, int] | None = None  # a format that it does not give up
        self.locked_rate = False
        self.failure = 0
        self.old = False
        self.fed = False
        self.log: list[str] = []
        self.people: list[holding.Holder] = []
        self.exists = True

    def node(self, path: str, flags: int = 0) -> Any:
        assert path == NODE
        if self.failure:
            raise OSError(self.failure, os.strerror(self.failure))
        return FakeNode(self)

    def written(self, size: tuple[int, int]) -> None:
        """A writer opened it."""
        self.format = (*(self.holds or ("YU12", *size)), self.fps)


class FakeNode:
    def __init__(self, state: Loopback) -> None:
        self.state = state

    def __enter__(self) -> FakeNode:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def capability(self) -> v4l2.Capability:
        return v4l2.Capability("v4l2 loopback", "SharpCam", "platform", self.state.caps)

    def control(self, number: int) -> int:
        if number == v4l2.SUSTAIN_FRAMERATE:
            if self.state.sustains is None:
                raise OSError(errno.EINVAL, "no such control")
            return self.state.sustains
        assert number == v4l2.KEEP_FORMAT
        return self.state.kept

    def set_control(self, number: int, value: int) -> None:
        if number == v4l2.SUSTAIN_FRAMERATE:
            if self.state.sustains is None:
                raise OSError(errno.EINVAL, "no such control")
            self.state.sustains = value
            return
        assert number == v4l2.KEEP_FORMAT
        self.state.log.append(f"keep_format={value}")
        self.state.kept = value
        self.state.caps = Caps.CAPTURE if value else Caps.OUTPUT

    def set_rate(self, fps: Fraction, kind: int = CAPTURE) -> Fraction:
        assert kind == OUTPUT
        if self.state.locked_rate:
            raise OSError(errno.EINVAL, "locked")
        self.state.log.append(f"rate={fps}")
        self.state.fps = fps
        return fps


@pytest.fixture
def loopback(monkeypatch: pytest.MonkeyPatch) -> Loopback:
    if sys.platform != "linux":
        pytest.skip("v4l2loopback")
    state = Loopback()

    def revive(path: str) -> None:
        state.log.append("revive")
        state.caps = Caps.OUTPUT

    class Backend(FakeBackend):
        def __init__(self, **facts: Any) -> None:
            super().__init__(**facts)
            assert Caps.OUTPUT in state.caps
            state.log.append("open")
            state.written((facts["width"], facts["height"]))

    pyvirtualcam.register_backend("fake", Backend)
    for module, name, value in (
        (v4l2, "Node", state.node),
        (v4l2, "revive", revive),
        (v4l2, "is_fed", lambda _: state.fed),
        (virtual_camera, "find_virtual_camera", lambda device, label: DEVICE),
        (virtual_camera, "loopback_format", lambda _: state.format),
        (virtual_camera, "is_old_loopback", lambda _: state.old),
        (virtual_camera, "holders", lambda _: state.people),
        (virtual_camera.os.path, "exists", lambda path: state.exists or path != NODE),
    ):
        monkeypatch.setattr(module, name, value)
    return state


def test_the_rate_is_told_before_the_writer_opens(loopback: Loopback) -> None:
    sink = VirtualCameraSink(None, SIZE, 59.94)
    assert loopback.log == ["rate=2997/50", "open"]
    assert sink.notes == []
    assert sink.description == 'virtual camera "SharpCam" (/dev/video10), I420 64x48 at 59.94 fps'
    assert sink.node == NODE
    assert holding.writer(NODE) == os.getpid()
    sink.close()
    assert holding.writer(NODE) is None


def test_a_rate_that_the_driver_refuses_is_noted(loopback: Loopback) -> None:
    loopback.locked_rate = True
    sink = VirtualCameraSink(None, SIZE, 60)
    (note,) = sink.notes
    assert "advertises 30 fps" in note
    sink.close()


@pytest.mark.parametrize("holds", [("YU12", 640, 480), ("YUYV", 64, 48)])
def test_another_format_than_asked_for_is_noticed_though_the_driver_says_nothing(
    loopback: Loopback, holds: tuple[str, int, int]
) -> None:
    loopback.holds = holds
    with pytest.raises(FormatMismatch, match=f"keeps {holds[0]} {holds[1]}x{holds[2]}") as caught:
        VirtualCameraSink(None, SIZE)
    assert "keep_format=0" in caught.value.hint
    assert ("--size 640x480" in caught.value.hint) == (holds[0] == "YU12")
    assert FakeBackend.last.closed == 1, "the device is given back"
    assert holding.writer(NODE) is None


def test_with_a_reader_attached_the_reader_is_named(loopback: Loopback) -> None:
    loopback.holds = ("YU12", 640, 480)
    loopback.people = [holding.Holder(4711, "chromium")]
    with pytest.raises(FormatMismatch) as caught:
        VirtualCameraSink(None, SIZE)
    assert "close chromium (pid 4711)" in caught.value.hint
    assert "keep_format" not in caught.value.hint


def test_a_driver_that_tells_its_format_only_with_the_first_frame_is_checked_then(loopback: Loopback) -> None:
    """v4l2loopback 0.12 does so."""
    loopback.written = lambda size: None  # type: ignore[method-assign]
    sink = VirtualCameraSink(None, SIZE)
    loopback.format = ("YU12", 640, 480, None)
    with pytest.raises(FormatMismatch):
        sink.send(Frame(*SIZE))
    sink.close()


def test_a_format_that_changes_while_it_runs_is_noticed(
    loopback: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(virtual_camera, "time", SimpleNamespace(monotonic=lambda: clock.now))
    sink = VirtualCameraSink(None, SIZE)
    sink.send(Frame(*SIZE))
    loopback.format = ("YU12", 640, 480, None)
    sink.send(Frame(*SIZE))  # not looked at with every frame
    clock.now += 1.1
    with pytest.raises(FormatMismatch):
        sink.send(Frame(*SIZE))
    sink.close()


def test_a_node_that_vanishes_is_lost(loopback: Loopback) -> None:
    sink = VirtualCameraSink(None, SIZE)
    loopback.exists = False
    with pytest.raises(DeviceLost, match="is gone"):
        sink.send(Frame(*SIZE))
    sink.close()


def test_a_kept_format_of_ours_is_freed_for_us_and_kept_again(loopback: Loopback) -> None:
    loopback.caps, loopback.kept, loopback.format = Caps.CAPTURE, 1, ("YU12", *SIZE, None)
    VirtualCameraSink(None, SIZE).close()
    assert loopback.log == ["keep_format=0", "rate=30", "open", "keep_format=1"]


def test_a_kept_format_of_somebody_else_is_left_alone(loopback: Loopback) -> None:
    loopback.caps, loopback.kept, loopback.format = Caps.CAPTURE, 1, ("YU12", 640, 480, None)
    with pytest.raises(FormatMismatch):
        VirtualCameraSink(None, SIZE)
    assert loopback.log == []
    assert loopback.kept == 1


def test_a_kept_format_is_kept_again_when_opening_fails(
    loopback: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    loopback.caps, loopback.kept, loopback.format = Caps.CAPTURE, 1, ("YU12", *SIZE, None)
    monkeypatch.setattr(FakeBackend, "failure", "no")
    with pytest.raises(DeviceNotFound):
        VirtualCameraSink(None, SIZE)
    assert loopback.kept == 1


def test_a_node_without_any_capability_is_revived(loopback: Loopback) -> None:
    loopback.caps = Caps(0)
    VirtualCameraSink(None, SIZE).close()
    assert loopback.log[:2] == ["revive", "rate=30"]


@pytest.mark.parametrize(
    ("old", "fed", "revived"), [(True, False, True), (True, True, False), (False, False, False)]
)
def test_an_orphaned_reader_of_an_old_driver_is_told_from_a_writer(
    loopback: Loopback, old: bool, fed: bool, revived: bool
) -> None:
    loopback.caps, loopback.old, loopback.fed = Caps.CAPTURE, old, fed
    if revived:
        VirtualCameraSink(None, SIZE).close()
    else:
        with pytest.raises(DeviceBusy):
            VirtualCameraSink(None, SIZE)
    assert ("revive" in loopback.log) == revived


def test_another_writer_is_named(loopback: Loopback) -> None:
    loopback.caps = Caps.CAPTURE
    loopback.people = [holding.Holder(4711, "obs")]
    with pytest.raises(DeviceBusy, match=r"obs \(pid 4711\)") as caught:
        VirtualCameraSink(None, SIZE)
    assert "v4l2loopback-ctl add" in caught.value.hint
    assert "open" not in loopback.log
    assert holding.writer(NODE) is None


def test_a_second_sharpcam_is_refused_and_the_first_undisturbed(loopback: Loopback) -> None:
    first = VirtualCameraSink(None, SIZE)
    log = list(loopback.log)
    with pytest.raises(DeviceBusy, match=f"another SharpCam .pid {os.getpid()}"):
        VirtualCameraSink(None, SIZE)
    assert loopback.log == log
    first.send(Frame(*SIZE))
    first.close()
    VirtualCameraSink(None, SIZE).close()


def test_a_full_disk_under_the_lock_is_explained(loopback: Loopback, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(DeviceDenied, match=f"the lock .* for {NODE}: No space left") as caught:
            VirtualCameraSink(None, SIZE)
    assert "free some space" in caught.value.hint
    assert loopback.log == [], "the device was not touched"
    VirtualCameraSink(None, SIZE).close()


@pytest.mark.parametrize(
    ("number", "error"),
    [(errno.EACCES, DeviceDenied), (errno.EBUSY, DeviceBusy), (errno.ENOENT, DeviceNotFound)],
)
def test_a_node_that_does_not_open_says_why(
    loopback: Loopback, number: int, error: type[SharpCamError]
) -> None:
    loopback.failure = number
    with pytest.raises(error) as caught:
        VirtualCameraSink(None, SIZE)
    assert '"SharpCam" (/dev/video10)' in str(caught.value)
    assert caught.value.hint
    assert holding.writer(NODE) is None


@pytest.mark.parametrize(
    ("old", "caps", "revived"), [(True, Caps(0), True), (True, Caps.OUTPUT, False), (False, Caps(0), False)]
)
def test_an_old_driver_is_left_usable_for_the_next_writer(
    loopback: Loopback, old: bool, caps: Caps, revived: bool
) -> None:
    sink = VirtualCameraSink(None, SIZE)
    loopback.log.clear()
    loopback.old, loopback.caps = old, caps
    sink.close()
    assert loopback.log == ["revive"] * revived


# What a dead one left


@pytest.fixture
def left(loopback: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """The descriptor of a writer that has died: of a file that stands in for the device."""
    file = tmp_path / "device"
    file.touch()
    monkeypatch.setattr(virtual_camera, "_is_open", lambda fd, node: node == NODE)
    loopback.format, loopback.caps, loopback.sustains = ("YU12", *SIZE, Fraction(30)), Caps.CAPTURE, 1
    return os.open(file, os.O_WRONLY | os.O_APPEND)


def test_frames_go_on_through_what_a_dead_one_left(
    loopback: Loopback, left: int, tmp_path: Path, picture: Picture
) -> None:
    sink = VirtualCameraSink(None, SIZE, kept=left, forget=lambda: loopback.log.append("forgotten"))
    assert loopback.log == [], "nothing was opened: the node is not even free for a writer"
    assert sink.fileno() == left
    frame = picture(*SIZE)
    sink.send(frame)
    sink.send(frame)
    assert (tmp_path / "device").read_bytes() == frame.buffer.tobytes() * 2
    sink.close()
    assert loopback.sustains == 0, "that it was on was the dead one's doing"
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(left)


def test_what_was_left_and_takes_no_more_is_lost(loopback: Loopback, left: int, picture: Picture) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    os.dup2(writing, left)
    os.close(writing)
    sink = VirtualCameraSink(None, SIZE, kept=left)
    with pytest.raises(DeviceLost, match="takes no more pictures: Broken pipe"):
        sink.send(picture(*SIZE))
    sink.close()


@pytest.mark.parametrize("held", [("YU12", 640, 480), ("YUYV", *SIZE), None])
def test_what_was_left_in_another_format_is_closed(
    loopback: Loopback, left: int, held: tuple[str, int, int] | None
) -> None:
    loopback.format = (*held, Fraction(30)) if held else None
    loopback.caps = Caps.OUTPUT  # as the driver has it then
    sink = VirtualCameraSink(None, SIZE, kept=left, forget=lambda: loopback.log.append("forgotten"))
    assert loopback.log == ["forgotten", "rate=30", "open"], "the device takes one writer"
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(left)
    sink.close()


def test_what_was_left_of_another_device_is_closed(
    loopback: Loopback, left: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(virtual_camera, "_is_open", lambda fd, node: False)
    loopback.caps = Caps.OUTPUT
    VirtualCameraSink(None, SIZE, kept=left).close()
    assert "open" in loopback.log


@pytest.mark.parametrize("before", [0, 1])
def test_the_driver_repeats_frames_while_it_is_open(loopback: Loopback, before: int) -> None:
    loopback.sustains = before
    sink = VirtualCameraSink(None, SIZE)
    assert loopback.sustains == 1
    sink.close()
    assert loopback.sustains == 0, "a kept picture of ours is nothing to repeat for ever"


def test_a_driver_that_cannot_repeat_does_without(loopback: Loopback) -> None:
    loopback.sustains = None
    VirtualCameraSink(None, SIZE).close()
    assert loopback.log == ["rate=30", "open"]


def test_the_descriptor_is_found_that_the_library_does_not_tell(tmp_path: Path) -> None:
    if sys.platform != "linux":
        pytest.skip("/proc")
    file = tmp_path / "device"
    file.touch()
    find = virtual_camera._descriptor_for_writing
    with file.open("rb"), file.open("r+b"):
        assert find(str(file)) is None
        with file.open("wb") as writing:
            assert find(str(file)) == writing.fileno()
