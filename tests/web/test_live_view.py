"""The live picture: copied and encoded only while somebody looks, each viewer at its own pace."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable

import cv2
import numpy as np
import pytest
from page_rig import SIZE, Rig, until

import sharpcam.web.live
from sharpcam.frame import Color, ColorMatrix, ColorRange, Frame
from sharpcam.geometry import to_rgb
from sharpcam.web.live import FPS, SHARE, Tap, encode, lossless


def decoded(data: bytes) -> np.ndarray:
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    return np.asarray(picture[..., ::-1])


def split(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Before and after of a picture of the live view."""
    start, high = struct.unpack(">HH", data[:4])
    both = decoded(data[4:])
    assert both.shape[0] == start + high
    return both[:high], both[start:]


def test_a_tap_copies_only_what_is_waited_for(picture: Callable[..., Frame]) -> None:
    tap = Tap()
    before, after = picture(seed=1, sequence=7), picture(seed=2)
    tap(before, after)
    assert tap.take(0.01) is None  # nobody had waited
    tap(before, after)  # the wait is over, the wish is not
    pair = tap.take(0)
    assert pair is None
    tap(before, after)
    pair = tap._pair
    assert pair is not None
    assert np.array_equal(pair[0].buffer, before.buffer)
    assert np.array_equal(pair[1].buffer, after.buffer)
    assert pair[0].sequence == 7
    before.fill(0)
    tap(before, after)
    assert pair[0].buffer.any()  # it stays as it is until the next one is asked for


def test_a_tap_takes_frames_of_any_size(picture: Callable[..., Frame]) -> None:
    tap = Tap()
    for size in ((64, 48), (32, 64)):
        assert tap.take(0) is None
        tap(picture(*size), picture(*size))
        assert tap._pair is not None
        assert tap._pair[1].size == size


COLORS = [Color(), Color(ColorRange.FULL, ColorMatrix.BT709)]


@pytest.mark.parametrize("color", COLORS)
@pytest.mark.parametrize(
    ("width", "shown"),
    [(2000, (320, 180)), (320, (320, 180)), (161, (320, 180)), (160, (160, 90)), (100, (106, 60))],
)
def test_before_above_after(width: int, shown: tuple[int, int], color: Color) -> None:
    frames = Frame(*SIZE, color), Frame(*SIZE, color)
    frames[0].fill(60, 100, 150)
    frames[1].fill(180, 150, 100)
    for half, frame in zip(split(encode(*frames, width)), frames, strict=True):
        assert half.shape == (shown[1], shown[0], 3)
        assert np.abs(half.astype(int) - to_rgb(frame)[0, 0]).max() <= 4  # JPEG


def test_large_frames_are_halved() -> None:
    frame = Frame(1920, 1080)
    frame.fill(100)
    assert split(encode(frame, frame, 1280))[0].shape == (540, 960, 3)


@pytest.mark.parametrize("color", COLORS)
def test_a_frame_without_loss(picture: Callable[..., Frame], color: Color) -> None:
    frame = picture()
    frame.color = color
    assert np.array_equal(decoded(lossless(frame)), to_rgb(frame))


def test_pictures_come_when_they_are_asked_for(rig: Rig) -> None:
    viewer = rig.viewer()
    assert viewer.status()["latency_ms"] == 20.0
    assert viewer.status()  # again and again
    assert rig.camera.watcher is None
    assert rig.camera.shown == 0
    viewer.say("look 320")
    before, after = split(viewer.picture())
    assert before.shape == after.shape == (180, 320, 3)
    assert before.max() < 80 < 160 < after.min()
    until(lambda: rig.camera.watcher is None, "for the pipeline to be left alone")
    for _ in range(3):  # one picture for one wish, and nothing is queued meanwhile
        assert isinstance(viewer.message(), str)
    viewer.say("look 160")
    assert split(viewer.picture())[1].shape == (90, 160, 3)
    viewer.close()


def test_the_camera_is_left_alone_when_nobody_looks(rig: Rig) -> None:
    viewer = rig.viewer()
    viewer.say("look 320")
    viewer.picture()
    assert rig.page.looking == 1
    viewer.say("rest")
    until(lambda: rig.page.looking == 0)
    until(lambda: rig.camera.watcher is None)
    shown, steps = rig.camera.shown, rig.camera.steps
    until(lambda: rig.camera.steps > steps + 10)
    assert rig.camera.shown == shown
    viewer.say("look 320")
    viewer.picture()
    viewer.close()
    until(lambda: rig.page.looking == 0)
    until(lambda: rig.camera.watcher is None)


def test_who_waits_for_a_closed_camera_looks(rig: Rig) -> None:
    rig.camera.running = False
    viewer = rig.viewer()
    viewer.say("look 320")
    until(lambda: rig.page.looking == 1)
    for _ in range(4):
        assert viewer.status()  # nothing else comes
    rig.camera.running = True
    assert viewer.picture()
    viewer.close()


def test_one_encoding_for_all(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    widths: list[int] = []
    real = sharpcam.web.live.encode

    def counted(before: Frame, after: Frame, width: int) -> bytes:
        widths.append(width)
        return real(before, after, width)

    rig.camera.running = False
    monkeypatch.setattr(sharpcam.web.live, "encode", counted)
    viewers = [rig.viewer() for _ in range(3)]
    for viewer, width in zip(viewers, (200, 99999, 160), strict=True):
        viewer.say(f"look {width}")
    until(lambda: rig.page.looking == 3)
    time.sleep(0.1)  # they are heard before the next step of the event loop
    rig.camera.running = True
    assert len({viewer.picture() for viewer in viewers}) == 1
    assert widths == [1280]
    for viewer in viewers:
        viewer.close()


def test_no_more_than_so_many_pictures(rig: Rig) -> None:
    """However fast a viewer asks: each picture takes at least its share of a second."""
    viewer = rig.viewer()
    start = time.monotonic()
    for _ in range(10):
        viewer.say("look 160")
        viewer.picture()
    assert time.monotonic() - start > 9 / FPS - 0.01
    viewer.close()


def test_encoding_has_its_share_of_a_core_and_no_more(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture that costs twice as much comes half as often."""
    used = [0.0]

    def costly(*_: object) -> bytes:
        used[0] += 0.02
        return b"picture"

    monkeypatch.setattr(sharpcam.web.live, "encode", costly)
    monkeypatch.setattr(sharpcam.web.live.time, "thread_time", lambda: used[0])
    viewer = rig.viewer()
    start = time.monotonic()
    for _ in range(5):
        viewer.say("look 160")
        viewer.picture()
    assert time.monotonic() - start > 4 * 0.02 / SHARE - 0.01
    viewer.close()


def test_a_viewer_that_takes_pictures_and_asks_for_none(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its page hangs: the camera does not stay open for it."""
    monkeypatch.setattr(sharpcam.web.live, "SLOW_S", 0.5)
    viewer = rig.viewer()
    viewer.say("look 320")
    viewer.picture()
    while viewer.message() is not None:
        pass
    assert rig.page.looking == 0
    viewer.close()


def test_taking_a_frame(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = rig.send("POST", "frame", b"{}")
    assert answer.status == 200
    assert answer.headers["content-type"] == "image/png"
    assert np.array_equal(decoded(answer.body), to_rgb(rig.camera.before))
    until(lambda: rig.camera.watcher is None)
    rig.camera.running = False
    monkeypatch.setattr(sharpcam.web.live.Live.snapshot, "__defaults__", (0.2,))
    answer = rig.send("POST", "frame", b"{}")
    assert (answer.status, answer.error) == (409, "no picture comes from the camera")
    assert rig.page.looking == 0
