"""The camera source on a fake driver and on FFmpeg inputs made of files; real drivers are in tests/vm."""

from __future__ import annotations

import errno
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest

from sharpcam import v4l2
from sharpcam import v4l2_abi as abi
from sharpcam.devices import VideoDevice
from sharpcam.errors import (
    DeviceBusy,
    DeviceDenied,
    DeviceLost,
    DeviceNotFound,
    FormatMismatch,
    SharpCamError,
)
from sharpcam.frame import Color, ColorMatrix, ColorRange, Frame
from sharpcam.geometry import from_rgb, to_rgb, to_video_frame
from sharpcam.sources import av_stream, camera, camera_stream, v4l2_stream
from sharpcam.sources.av_stream import AvStream, requests
from sharpcam.sources.camera import CameraSource
from sharpcam.sources.camera_stream import Grab
from sharpcam.sources.v4l2_pictures import RAW, blank, decode, fill, mjpeg_decoder, rank
from sharpcam.sources.v4l2_stream import V4l2Stream
from sharpcam.v4l2 import Mode

DEVICE = VideoDevice("/dev/video0", "HD Webcam", "uvcvideo", "usb-1")
HD = (1280, 720)
COLORS = ((255, 0, 0), (0, 200, 0), (30, 60, 255), (250, 250, 250), (128, 128, 128))


def rates(*fps: float) -> tuple[Fraction, ...]:
    return tuple(Fraction(f).limit_denominator(1001) for f in fps)


def mode(code: str, width: int, height: int, *fps: float) -> Mode:
    return Mode(code, width, height, rates(*fps))


# -- which mode


def chosen(modes: list[Mode], size: tuple[int, int] = HD, fps: float = 30, bus: int | None = None) -> str:
    best, rate = rank(modes, size, fps, bus)[0]
    return f"{best.fourcc} {best.width}x{best.height}" + (f"@{float(rate):g}" if rate else "")


USB2 = [
    mode("YUYV", 640, 480, 30, 15),
    mode("YUYV", 1280, 720, 10, 5),
    mode("YUYV", 1920, 1080, 5),
    mode("MJPG", 640, 480, 60, 30),
    mode("MJPG", 1280, 720, 60, 30, 15),
    mode("MJPG", 1920, 1080, 30),
]


@pytest.mark.parametrize(
    ("size", "fps", "wanted"),
    [
        ((640, 480), 30, "YUYV 640x480@30"),  # raw, where it reaches the rate
        ((640, 480), 60, "MJPG 640x480@60"),
        ((1280, 720), 30, "MJPG 1280x720@30"),
        ((1280, 720), 60, "MJPG 1280x720@60"),
        ((1280, 720), 24, "MJPG 1280x720@30"),  # the next rate above
        ((1280, 720), 10, "YUYV 1280x720@10"),
        ((1920, 1080), 30, "MJPG 1920x1080@30"),
        ((3840, 2160), 30, "MJPG 1920x1080@30"),  # the largest there is
        ((1600, 900), 30, "MJPG 1920x1080@30"),  # rather down than up
        ((320, 240), 30, "YUYV 640x480@30"),  # the fewest pixels that will do
    ],
)
def test_a_usual_webcam(size: tuple[int, int], fps: float, wanted: str) -> None:
    assert chosen(USB2, size, fps) == wanted


def test_without_mjpeg_rate_is_weighed_against_size() -> None:
    small = mode("YUYV", 640, 480, 30)
    assert chosen([small, mode("YUYV", 1280, 720, 15)]) == "YUYV 1280x720@15"
    assert chosen([small, mode("YUYV", 1280, 720, 12)]) == "YUYV 640x480@30"


def test_a_raw_mode_that_the_bus_cannot_carry_is_not_believed() -> None:
    lies = [mode("YUYV", 1280, 720, 30), mode("MJPG", 1280, 720, 30)]
    assert chosen(lies) == chosen(lies[::-1]) == "YUYV 1280x720@30"
    assert chosen(lies, bus=53_248_000) == "MJPG 1280x720@30"
    assert chosen(lies, bus=500_000_000) == "YUYV 1280x720@30"
    assert chosen([mode("NV12", 1280, 720, 30), lies[1]], bus=53_248_000) == "NV12 1280x720@30", "fewer bytes"


def test_the_same_shape_is_preferred_among_sizes_that_will_do() -> None:
    assert chosen([mode("YUYV", 1280, 960, 30), mode("YUYV", 1280, 720, 30)]) == "YUYV 1280x720@30"
    assert chosen([mode("MJPG", 1024, 768, 30), mode("MJPG", 1920, 1080, 30)]) == "MJPG 1920x1080@30"


def test_what_cannot_be_decoded_is_left_out_and_grey_is_last() -> None:
    assert rank([mode("H264", 1280, 720, 30), mode("Y16", 640, 480, 30)], (1280, 720), 30) == []
    infrared = [mode("GREY", 1280, 720, 30), mode("MJPG", 320, 240, 30)]
    assert chosen(infrared) == "MJPG 320x240@30"
    assert chosen(infrared[:1]) == "GREY 1280x720@30"


def test_a_driver_that_tells_no_rates_is_taken_at_its_word() -> None:
    assert chosen([mode("YUYV", 640, 480), mode("YUYV", 1280, 720)]) == "YUYV 1280x720"
    assert chosen([mode("YUYV", 1280, 720, 29.97)]) == "YUYV 1280x720@29.97", "29.97 is 30"


# -- from buffers to pictures


def chart(width: int = 64, height: int = 48, color: Color | None = None) -> Frame:
    """Upright bars, each an even number of pixels wide."""
    rgb = np.zeros((height, width, 3), np.uint8)
    for index, bar in enumerate(COLORS):
        rgb[:, index * 12 : (index + 1) * 12] = bar
    frame = Frame(width, height, color)
    from_rgb(rgb, frame)
    return frame


def packed(code: str, frame: Frame, padding: int = 0) -> tuple[bytes, abi.PixelFormat]:
    """`frame` as a driver's buffer of that format, its lines `padding` bytes longer than they need to be."""
    y, u, v = frame.planes
    full = [np.repeat(plane, 2, axis=0) for plane in (u, v)]  # 4:2:2: chroma for every row
    height, width = y.shape
    if code in ("YUYV", "UYVY", "YVYU"):
        lines = np.empty((height, width * 2), np.uint8)
        at = {"Y": code.index("Y"), "U": code.index("U"), "V": code.index("V")}
        lines[:, at["Y"] :: 2] = y
        lines[:, at["U"] :: 4], lines[:, at["V"] :: 4] = full
        planes = [lines]
    elif code in ("NV12", "NV21"):
        pair = (u, v) if code == "NV12" else (v, u)
        planes = [y, np.dstack(pair).reshape(height // 2, width)]
    elif code == "GREY":
        planes = [y]
    elif code in ("RGB3", "BGR3"):
        rgb = to_rgb(frame)[:, :, :: 1 if code == "RGB3" else -1]
        planes = [rgb.reshape(height, width * 3)]
    else:
        planes = [y, *{"YU12": (u, v), "YV12": (v, u), "422P": full}[code]]
    pitch = planes[0].shape[1] + padding
    data = b""
    for plane in planes:
        wide = pitch // (planes[0].shape[1] // plane.shape[1])
        data += np.pad(plane, ((0, 0), (0, wide - plane.shape[1])), constant_values=77).tobytes()
    size = {"width": width, "height": height, "pixelformat": v4l2.fourcc(code)}
    return data, abi.PixelFormat(**size, bytesperline=pitch, sizeimage=len(data), colorspace=8)


@pytest.mark.parametrize("padding", [0, 32])
@pytest.mark.parametrize("code", RAW)
def test_every_raw_format_becomes_the_same_picture(code: str, padding: int) -> None:
    frame = chart()
    data, pix = packed(code, frame, padding)
    picture = blank(code, pix)
    assert fill(picture, code, np.frombuffer(data, np.uint8), pix.bytesperline)
    out = Frame(*frame.size)
    camera.Converter(*frame.size, Color()).into(picture, out)
    if code == "GREY":
        # taken for full range: that is what the infrared sensors send
        assert np.ptp(out.planes[1]) == 0
        return
    off = np.abs(to_rgb(out)[8:-8, 4:60:12].astype(int) - to_rgb(frame)[8:-8, 4:60:12])
    assert off.max() <= 3, code


def test_a_buffer_that_is_too_short_is_refused() -> None:
    data, pix = packed("NV12", chart())
    short = np.frombuffer(data[:-1], np.uint8)
    assert not fill(blank("NV12", pix), "NV12", short, pix.bytesperline)


@pytest.mark.parametrize(
    ("told", "color"),
    [
        ({"colorspace": 8}, Color()),
        ({}, Color()),
        ({"colorspace": 3}, Color(matrix=ColorMatrix.BT709)),
        ({"colorspace": 8, "ycbcr_enc": 2}, Color(matrix=ColorMatrix.BT709)),
        ({"colorspace": 3, "ycbcr_enc": 1}, Color()),
        ({"colorspace": 8, "quantization": 1}, Color(range=ColorRange.FULL)),
        ({"colorspace": 7}, Color(range=ColorRange.FULL)),
        ({"colorspace": 7, "quantization": 2}, Color()),
    ],
)
def test_what_the_driver_tells_of_colours_is_believed(told: dict[str, int], color: Color) -> None:
    """The numbers are those of linux/videodev2.h."""
    frame = chart(color=color)
    data, pix = packed("YU12", frame)
    for name, value in told.items():
        setattr(pix, name, value)
    picture = blank("YU12", pix)
    fill(picture, "YU12", np.frombuffer(data, np.uint8), pix.bytesperline)
    out = Frame(*frame.size)
    camera.Converter(*frame.size, Color()).into(picture, out)
    assert np.abs(to_rgb(out)[8:-8, 4:60:12].astype(int) - to_rgb(frame)[8:-8, 4:60:12]).max() <= 3


def jpeg(frame: Frame) -> bytes:
    encoder = av.CodecContext.create("mjpeg", "w")
    encoder.width, encoder.height, encoder.pix_fmt = *frame.size, "yuvj422p"
    encoder.time_base = Fraction(1, 30)
    encoder.options = {"qmin": "1", "qmax": "1"}
    picture = to_video_frame(frame).reformat(format="yuvj422p", src_color_range=1, dst_color_range=2)
    return b"".join(bytes(p) for p in [*encoder.encode(picture), *encoder.encode(None)])


def as_array(data: bytes) -> Any:
    return np.frombuffer(data, np.uint8)


def test_a_jpeg_as_cameras_get_it_wrong_is_read_and_a_broken_one_refused() -> None:
    rng = np.random.default_rng(0)
    frame = chart(320, 240)
    frame.planes[0][:] = rng.integers(16, 235, (240, 320), np.uint8)
    good = jpeg(frame)
    assert decode(mjpeg_decoder(), as_array(good)) is not None
    odd = {
        "no end": good[:-2],
        "padded": good + bytes(500),
        "rubbish behind": good + b"\x12\x34" * 50,
        "bad APP": good[:2] + b"\xff\xe1\x00\x20Exif\0\0" + bytes(24) + good[2:],
    }
    for name, data in odd.items():
        assert decode(mjpeg_decoder(), as_array(data)) is not None, name
    broken = {
        "cut": good[: len(good) // 2],
        "headless": good[300:],
        "two bytes": good[:2],
        "text": b"hello" * 9,
    }
    for name, data in broken.items():
        assert decode(mjpeg_decoder(), as_array(data)) is None, name


# -- a fake driver


class FakeDriver:
    """Stands for v4l2.Node: a camera whose buffers the test fills."""

    def __init__(self, modes: list[Mode], padding: int = 0) -> None:
        self.offered, self.padding = modes, padding
        self.caps = v4l2.Caps.CAPTURE | v4l2.Caps.STREAMING
        self.failures: dict[str, list[int]] = {}  # step -> errors of its next calls
        self.asked: list[str] = []
        self.queued: list[int] = []
        self.full: list[dict[str, int]] = []
        self.fd = -1
        self.gone = 0
        self.allocated = 0
        self.pix = abi.PixelFormat()

    def __call__(self, path: str, flags: int = 0) -> FakeDriver:
        self._may_fail("open")
        self.fd = os.memfd_create("buffers")
        return self

    def _may_fail(self, step: str) -> None:
        if self.failures.get(step):
            number = self.failures[step].pop(0)
            if number:
                raise OSError(number, os.strerror(number))

    def fileno(self) -> int:
        return self.fd

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1

    def capability(self) -> v4l2.Capability:
        return v4l2.Capability("fake", "Fake", "usb", self.caps)

    def modes(self, wanted: tuple[int, int]) -> list[Mode]:
        return self.offered

    def set_format(self, code: str, width: int, height: int) -> abi.PixelFormat:
        self.asked.append(f"format {code} {width}x{height}")
        assert not self.allocated, "EBUSY: buffers are allocated"
        self._may_fail("format")
        if code in RAW:
            self.pix = packed(code, chart(width, height), self.padding)[1]
        else:
            self.pix = abi.PixelFormat(width, height, v4l2.fourcc(code), sizeimage=width * height * 2)
        return self.pix

    def set_rate(self, fps: Fraction) -> Fraction | None:
        self.asked.append(f"rate {float(fps):g}")
        self._may_fail("rate")
        return fps

    def stream_on(self, kind: int) -> None:
        self._may_fail("stream")

    def stream_off(self, kind: int) -> None:
        if self.gone:
            raise OSError(self.gone, os.strerror(self.gone))

    def ioctl(self, code: int, raw: Any) -> None:
        if self.gone:
            raise OSError(self.gone, os.strerror(self.gone))
        page = -(-self.pix.sizeimage // 4096) * 4096
        if code == abi.REQBUFS:
            self.allocated, self.queued = raw.count, []
            os.ftruncate(self.fd, page * max(raw.count, 1))
        elif code == abi.QUERYBUF:
            raw.length, raw.offset = page, raw.index * page
        elif code == abi.QBUF:
            assert raw.index not in self.queued
            self.queued.append(raw.index)
        elif code == abi.DQBUF:
            if not self.full:
                raise BlockingIOError(errno.EAGAIN, "none yet")
            for name, value in self.full.pop(0).items():
                setattr(raw, name, value)

    def deliver(self, data: bytes, sequence: int, flags: int = 0x2000, at_ns: int | None = None) -> None:
        """The camera fills a buffer; without a queued one the picture is lost."""
        if not self.queued:
            return
        index = self.queued.pop(0)
        page = -(-self.pix.sizeimage // 4096) * 4096
        os.pwrite(self.fd, data, index * page)
        at_ns = time.monotonic_ns() if at_ns is None else at_ns
        facts = {"index": index, "sequence": sequence, "bytesused": len(data), "flags": flags}
        seconds = {"seconds": at_ns // 10**9, "microseconds": at_ns % 10**9 // 1000}
        self.full.append(facts | seconds)


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> FakeDriver:
    if sys.platform != "linux":
        pytest.skip("needs memfd and eventfd")
    made = FakeDriver([mode("YUYV", 64, 48, 30)])
    monkeypatch.setattr(v4l2_stream.v4l2, "Node", made)
    monkeypatch.setattr(v4l2_stream, "bus_bytes", lambda _: None)
    monkeypatch.setattr(camera_stream, "holders", lambda _: [SimpleNamespace(pid=4711)])
    monkeypatch.setattr(camera, "find_camera", lambda _: DEVICE)
    return made


def grey(level: int, size: tuple[int, int] = (64, 48)) -> bytes:
    frame = Frame(*size)
    frame.fill(level)
    return packed("YUYV", frame)[0]


def level_of(grab: Grab | None) -> int:
    assert grab is not None
    return int(np.frombuffer(memoryview(grab.picture.planes[0]), np.uint8)[0])


def open_stream(size: tuple[int, int] = (64, 48), fps: float = 30) -> V4l2Stream:
    return V4l2Stream(DEVICE, size, fps)


def test_the_newest_picture_wins_and_lost_ones_leave_a_gap(driver: FakeDriver) -> None:
    stream = open_stream()
    driver.deliver(grey(50), 0)
    first = stream.grab(1)
    assert first
    assert (level_of(first), first.sequence) == (50, 0)
    driver.deliver(grey(60), 1)
    driver.deliver(grey(70), 2)
    second = stream.grab(1)
    assert second
    assert (level_of(second), second.sequence) == (70, 2)
    assert sorted(driver.queued) == [0, 1, 2, 3], "all buffers are back"
    stream.close()


def test_when_all_buffers_were_full_it_waits_for_a_fresh_picture(driver: FakeDriver) -> None:
    stream = open_stream()
    for sequence in range(9):
        driver.deliver(grey(50), sequence)
    threading.Timer(0.05, lambda: driver.deliver(grey(90), 9)).start()
    grab = stream.grab(2)
    assert grab
    assert level_of(grab) == 90
    stream.close()


def test_broken_and_short_buffers_are_skipped(driver: FakeDriver) -> None:
    stream = open_stream()
    driver.deliver(grey(50), 0)
    driver.deliver(grey(60), 1, flags=0x2040)
    driver.deliver(grey(70)[:-4], 2)
    grab = stream.grab(1)
    assert grab
    assert (level_of(grab), grab.sequence) == (50, 0)
    driver.deliver(b"", 3)
    assert stream.grab(0.02) is None
    stream.close()


def test_padding_behind_the_lines_is_not_in_the_picture(driver: FakeDriver) -> None:
    driver.padding = 64
    stream = open_stream()
    frame = chart()
    driver.deliver(packed("YUYV", frame, 64)[0], 0)
    grab = stream.grab(1)
    assert grab
    out = Frame(64, 48)
    camera.Converter(64, 48, Color()).into(grab.picture, out)
    assert np.array_equal(out.planes[0], frame.planes[0])
    stream.close()


def test_the_time_is_the_drivers_when_its_clock_is_ours(driver: FakeDriver) -> None:
    stream = open_stream()
    past = time.monotonic_ns() - 40_000_000
    driver.deliver(grey(50), 0, at_ns=past)
    grab = stream.grab(1)
    assert grab
    assert abs(grab.captured_ns - past) < 1000
    for flags, at in ((0x0000, past), (0x2000, past - 10**10), (0x2000, time.monotonic_ns() + 10**9)):
        driver.deliver(grey(50), 1, flags=flags, at_ns=at)
        before = time.monotonic_ns()
        grab = stream.grab(1)
        assert grab
        assert before <= grab.captured_ns <= time.monotonic_ns()
    stream.close()


def test_an_empty_buffer_does_not_end_an_mjpeg_stream(driver: FakeDriver) -> None:
    driver.offered = [mode("MJPG", 64, 48, 30)]
    stream = open_stream()
    driver.deliver(b"", 0)
    assert stream.grab(0.02) is None
    driver.deliver(jpeg(chart()), 1)
    grab = stream.grab(1)
    assert grab
    assert (grab.picture.width, grab.picture.height) == (64, 48)
    stream.close()


@pytest.mark.parametrize(
    ("told", "ours"),
    [
        ([0, 1, 4], [0, 1, 4]),
        ([0, 0, 0], [0, 1, 2]),  # a driver that does not count
        ([700, 701, 705], [0, 1, 5]),  # one that counts on from the last time
        ([5, 6, 0, 3], [0, 1, 2, 5]),  # one that starts anew
    ],
)
def test_frame_numbers_only_rise(driver: FakeDriver, told: list[int], ours: list[int]) -> None:
    stream = open_stream()
    numbers = []
    for sequence in told:
        driver.deliver(grey(50), sequence)
        grab = stream.grab(1)
        assert grab
        numbers.append(grab.sequence)
    assert numbers == ours
    stream.close()


def test_no_picture_in_time_is_none(driver: FakeDriver) -> None:
    stream = open_stream()
    assert stream.grab(0.02) is None
    assert stream.grab(0) is None
    stream.close()


@pytest.mark.parametrize("number", [errno.ENODEV, errno.EINVAL, errno.EIO])
def test_a_camera_that_goes_away_is_lost(driver: FakeDriver, number: int) -> None:
    stream = open_stream()
    driver.gone = number
    with pytest.raises(DeviceLost, match="HD Webcam") as caught:
        stream.grab(1)
    assert caught.value.hint
    stream.close()


def test_close_frees_everything_even_of_a_lost_camera(driver: FakeDriver) -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    for gone in (0, errno.ENODEV):
        stream = open_stream()
        driver.deliver(grey(50), 0)
        stream.grab(1)
        driver.gone = gone
        stream.close()
        stream.close()
        assert stream.grab(1) is None
        driver.gone, driver.allocated, driver.queued = 0, 0, []
    assert sorted(os.listdir("/proc/self/fd")) == before
    with open("/proc/self/maps") as maps:
        assert "memfd:buffers" not in maps.read()


def test_close_ends_a_grab_that_waits(driver: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    """A memfd is always readable; here it is a pipe that is polled, as silent as a camera that hangs."""
    stream = open_stream()
    reader, writer = os.pipe()
    monkeypatch.setattr(driver, "fileno", lambda: reader if driver.fd >= 0 else -1)
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(stream.grab(30)))
    thread.start()
    time.sleep(0.05)
    stream.close()
    thread.join(5)
    assert answers == [None]
    os.close(reader)
    os.close(writer)


def test_format_goes_before_rate_and_the_answer_counts(driver: FakeDriver) -> None:
    driver.offered = USB2[4:5]
    stream = V4l2Stream(DEVICE, (1280, 720), 30)
    assert driver.asked == ["format MJPG 1280x720", "rate 30"]
    assert (stream.mode.fourcc, stream.rate) == ("MJPG", 30)
    stream.close()


def test_a_refused_rate_is_no_failure(driver: FakeDriver) -> None:
    driver.failures["rate"] = [errno.ENOTTY]
    stream = open_stream()
    assert stream.rate is None
    stream.close()


@pytest.mark.parametrize(
    ("step", "number"), [("stream", errno.ENOSPC), ("format", errno.EINVAL), ("stream", errno.EIO)]
)
def test_a_mode_that_fails_gives_way_to_the_next(driver: FakeDriver, step: str, number: int) -> None:
    driver.offered = [mode("YUYV", 64, 48, 30), mode("NV12", 64, 48, 30)]
    driver.failures[step] = [number]
    stream = open_stream()
    assert [a for a in driver.asked if a.startswith("format")] == ["format YUYV 64x48", "format NV12 64x48"]
    assert stream.mode.fourcc == "NV12"
    stream.close()


@pytest.mark.parametrize(
    ("step", "number", "error", "says"),
    [
        ("open", errno.ENOENT, DeviceNotFound, "no such device"),
        ("open", errno.ENODEV, DeviceNotFound, "no such device"),
        ("open", errno.EACCES, DeviceDenied, "permission"),
        ("open", errno.EBUSY, DeviceBusy, "4711"),
        ("format", errno.EBUSY, DeviceBusy, "4711"),
        ("stream", errno.EBUSY, DeviceBusy, "4711"),
        ("stream", errno.ENOSPC, FormatMismatch, "bandwidth"),
        ("format", errno.EINVAL, FormatMismatch, "YUYV 64x48"),
        ("open", errno.EIO, FormatMismatch, "Input/output"),
    ],
)
def test_every_failure_has_its_class_and_hint(
    driver: FakeDriver, step: str, number: int, error: type[SharpCamError], says: str
) -> None:
    driver.failures[step] = [number] * 9
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(error, match=says) as caught:
        open_stream()
    assert '"HD Webcam" (/dev/video0)' in str(caught.value)
    assert caught.value.hint
    assert "\n" not in str(caught.value) + caught.value.hint
    assert len(os.listdir("/proc/self/fd")) == before, "nothing stays open"


def test_a_camera_of_formats_unknown_to_us_tells_them(driver: FakeDriver) -> None:
    driver.offered = [mode("H264", 64, 48, 30), mode("Y16", 64, 48, 30)]
    with pytest.raises(FormatMismatch, match="it offers H264, Y16"):
        open_stream()
    driver.offered = []
    with pytest.raises(FormatMismatch, match="it offers nothing"):
        open_stream()


def test_a_node_that_does_not_stream_is_refused(driver: FakeDriver) -> None:
    driver.caps = v4l2.Caps.CAPTURE_MPLANE | v4l2.Caps.STREAMING
    with pytest.raises(FormatMismatch, match="multi-planar"):
        open_stream()


# -- the source


class FakeStream:
    """A camera that promises a rate and sends at another; we get every second picture."""

    def __init__(self, promised: float | None = 30, sends: float = 30) -> None:
        self.mode = mode("YUYV", 64, 48, 30)
        self.rate = Fraction(promised) if promised else None
        self.sends, self.n, self.closed = sends, 0, 0

    def grab(self, timeout: float) -> Grab | None:
        if self.closed:
            return None
        picture = to_video_frame(chart(self.mode.width, self.mode.height))
        self.n += 1
        return Grab(picture, 10**9 + int(self.n * 2e9 / self.sends), self.n * 2)

    def close(self) -> None:
        self.closed += 1


Make = Callable[..., tuple[CameraSource, FakeStream]]


@pytest.fixture
def make_source(monkeypatch: pytest.MonkeyPatch) -> Make:
    def make(size: tuple[int, int] = (64, 48), **stream: Any) -> tuple[CameraSource, FakeStream]:
        fake = FakeStream(**stream)
        monkeypatch.setattr(camera, "find_camera", lambda _: DEVICE)
        monkeypatch.setattr(CameraSource, "_open", lambda *_: fake)
        return CameraSource(0, size, 30), fake

    return make


def test_frames_carry_picture_colour_number_and_time(make_source: Make) -> None:
    source, _ = make_source()
    frame = Frame(64, 48, Color(ColorRange.FULL, ColorMatrix.BT709))
    assert source.read(frame, 1)
    assert np.array_equal(frame.buffer, chart().buffer)
    assert (frame.sequence, frame.captured_ns) == (2, 10**9 + 66_666_666)
    assert frame.color == source.color == Color()
    assert source.description == 'camera "HD Webcam" (/dev/video0), YUYV 64x48 at 30 fps'
    assert (source.live, source.size, source.fps, source.address) == (True, (64, 48), 30.0, "usb-1")
    assert source.notes == []


def test_another_size_is_fitted_and_noted(make_source: Make) -> None:
    source, _ = make_source((64, 64))
    frame = Frame(64, 64)
    assert source.read(frame, 1)
    assert np.array_equal(frame.planes[0][8:56], chart().planes[0])
    assert (frame.planes[0][:8] == 16).all()
    (note,) = source.notes
    assert "has no 64x64" in note
    assert "64x48" in note


def test_a_slow_mode_is_noted_at_once_and_a_slow_camera_after_a_second(make_source: Make) -> None:
    source, _ = make_source(promised=10)
    assert "gives 10 fps" in source.notes[0]
    source, _ = make_source(sends=15)
    frame = Frame(64, 48)
    for _ in range(8):
        source.read(frame, 1)
        assert source.measured_fps is None
        assert source.notes == []
    source.read(frame, 1)
    assert source.measured_fps == pytest.approx(15)
    (note,) = source.notes
    assert "promised 30 fps and sends 15.0" in note
    for _ in range(30):
        source.read(frame, 1)
    assert len(source.notes) == 1, "said once"


def test_a_camera_that_keeps_its_promise_is_not_talked_about(make_source: Make) -> None:
    source, _ = make_source(sends=30)
    frame = Frame(64, 48)
    for _ in range(40):
        source.read(frame, 1)
    assert source.measured_fps == pytest.approx(30)
    assert source.notes == []


def test_an_untold_rate_is_the_asked_one(make_source: Make) -> None:
    assert make_source(promised=None)[0].fps == 30


def test_a_closed_source_has_ended(make_source: Make) -> None:
    source, stream = make_source()
    source.close()
    source.close()
    assert stream.closed
    with pytest.raises(EOFError):
        source.read(Frame(64, 48), 1)


def test_a_frame_of_another_size_is_refused(make_source: Make) -> None:
    with pytest.raises(FormatMismatch):
        make_source()[0].read(Frame(32, 32), 1)


@pytest.mark.parametrize("size", [(63, 48), (0, 0), (10000, 48)])
def test_a_size_that_no_frame_has_is_refused_before_the_camera_is_touched(size: tuple[int, int]) -> None:
    with pytest.raises(FormatMismatch):
        CameraSource("nonesuch", size)


def test_the_whole_way_through_the_fake_driver(driver: FakeDriver) -> None:
    source = CameraSource(0, (64, 48))
    frame = Frame(64, 48)
    driver.deliver(packed("YUYV", chart())[0], 0)
    assert source.read(frame, 1)
    assert np.array_equal(frame.planes[0], chart().planes[0])
    assert not source.read(frame, 0.02)
    driver.gone = errno.ENODEV
    with pytest.raises(DeviceLost):
        source.read(frame, 1)
    source.close()


# -- through FFmpeg, as on Windows and macOS


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """Ten MJPEG pictures of rising grey."""
    path = tmp_path / "clip.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", 30)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj422p"
        for level in range(10):
            picture = av.VideoFrame(64, 48, "yuvj422p")
            for plane, value in zip(picture.planes, (20 * level, 128, 128), strict=True):
                plane.update(bytes([value]) * plane.buffer_size)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return path


class Tap:
    """A container whose packets come one by one when the test lets them; otherwise it says EAGAIN."""

    def __init__(self, path: Path, failure: Exception | None = None) -> None:
        self.inner = av.open(str(path))
        self.streams = self.inner.streams
        self.packets = [p for p in self.inner.demux(video=0) if p.size]
        self.allowed, self.given, self.failure, self.closed = 0, 0, failure, False

    def demux(self, video: int) -> Iterator[Any]:
        while True:
            if self.given < self.allowed:
                self.given += 1
                yield self.packets[self.given - 1]
            elif self.given == len(self.packets):
                if self.failure:
                    raise self.failure
                return
            else:
                raise BlockingIOError(errno.EAGAIN, "none yet")

    def close(self) -> None:
        self.closed = True
        self.inner.close()


def luma(grab: Grab | None) -> int:
    assert grab is not None
    return int(np.frombuffer(memoryview(grab.picture.planes[0]), np.uint8)[0])


def read_to_the_end(stream: AvStream) -> None:
    while stream.grab(5):
        pass


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.001)


def test_av_only_the_newest_packet_is_decoded(clip: Path) -> None:
    tap = Tap(clip)
    stream = AvStream(DEVICE, (64, 48), 30, opener=lambda *_: tap)  # type: ignore[arg-type,return-value]
    assert (stream.mode.width, stream.mode.height, stream.rate) == (64, 48, 30)
    assert stream.grab(0.02) is None
    tap.allowed = 1
    first = stream.grab(5)
    assert first
    assert first.sequence == 0
    tap.allowed = 6
    until(lambda: stream._packet is not None and stream._packet[2] == 5)
    sixth = stream.grab(5)
    assert sixth
    assert sixth.sequence == 5
    assert abs(luma(sixth) - 100) <= 3
    assert 0 <= time.monotonic_ns() - sixth.captured_ns < 10**10
    stream.close()
    stream.close()
    assert tap.closed
    assert stream.grab(1) is None


@pytest.mark.parametrize("failure", [None, OSError(errno.EIO, "pulled out")])
def test_av_a_camera_that_goes_away_is_lost(clip: Path, failure: Exception | None) -> None:
    tap = Tap(clip, failure)
    stream = AvStream(DEVICE, (64, 48), 30, opener=lambda *_: tap)  # type: ignore[arg-type,return-value]
    tap.allowed = 10
    with pytest.raises(DeviceLost, match="pulled out" if failure else "stream ended"):
        read_to_the_end(stream)
    until(lambda: tap.closed)
    stream.close()


def test_av_a_broken_packet_is_skipped(clip: Path) -> None:
    tap = Tap(clip)
    tap.packets[0] = av.Packet(b"\xff\xd8 this is no picture")
    stream = AvStream(DEVICE, (64, 48), 30, opener=lambda *_: tap)  # type: ignore[arg-type,return-value]
    tap.allowed = 1
    assert stream.grab(0.1) is None
    tap.allowed = 2
    grab = stream.grab(5)
    assert grab
    assert grab.sequence == 1
    stream.close()


def test_av_close_ends_a_grab_that_waits(clip: Path) -> None:
    stream = AvStream(DEVICE, (64, 48), 30, opener=lambda *_: Tap(clip))  # type: ignore[arg-type,return-value]
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(stream.grab(30)))
    thread.start()
    time.sleep(0.05)
    stream.close()
    thread.join(5)
    assert answers == [None]


def test_av_asks_for_less_and_less(clip: Path) -> None:
    asked: list[dict[str, str]] = []

    def opener(name: str, system: str, options: dict[str, str]) -> Any:
        asked.append(options)
        if len(asked) < 3:
            raise OSError(errno.EINVAL, "no such mode")
        return Tap(clip)

    stream = AvStream(DEVICE, (1280, 720), 30, opener=opener)
    stream.close()
    assert len(asked) == 3
    assert asked[0]["video_size"] == "1280x720"
    assert asked[0]["framerate"] == "30"
    assert "framerate" not in asked[2]


@pytest.mark.parametrize(
    ("number", "error", "tries"),
    [(errno.EACCES, DeviceDenied, 1), (errno.EBUSY, DeviceBusy, 1), (errno.EIO, FormatMismatch, 4)],
)
def test_av_failures_are_explained(
    monkeypatch: pytest.MonkeyPatch, number: int, error: type[SharpCamError], tries: int
) -> None:
    asked = []
    monkeypatch.setattr(av_stream, "requests", lambda *_: [{"a": "b"}] * 4)
    monkeypatch.setattr(camera_stream, "holders", lambda _: [])

    def opener(*arguments: Any) -> Any:
        asked.append(arguments)
        raise OSError(number, os.strerror(number))

    with pytest.raises(error, match="HD Webcam"):
        AvStream(DEVICE, (64, 48), 30, opener=opener)
    assert len(asked) == tries


@pytest.mark.parametrize(("platform", "name"), [("win32", "video=@device_pnp_1"), ("darwin", "HD Webcam")])
def test_av_names_the_camera_as_each_system_wants(
    monkeypatch: pytest.MonkeyPatch, clip: Path, platform: str, name: str
) -> None:
    monkeypatch.setattr(av_stream, "sys", SimpleNamespace(platform=platform))
    asked = []

    def opener(*arguments: Any) -> Any:
        asked.append(arguments[:2])
        return Tap(clip)

    AvStream(VideoDevice("HD Webcam", "HD Webcam", bus="@device_pnp_1"), (64, 48), 30, opener=opener).close()
    assert asked == [(name, {"win32": "dshow", "darwin": "avfoundation"}[platform])]


def test_av_mjpeg_goes_first_for_large_pictures_on_windows() -> None:
    assert requests("win32", (1280, 720), 30)[0]["vcodec"] == "mjpeg"
    assert "vcodec" not in requests("win32", (640, 480), 30)[0]
    assert requests("win32", (640, 480), 30)[1]["vcodec"] == "mjpeg"
    for system in ("win32", "darwin"):
        assert "video_size" not in requests(system, (640, 480), 30)[-1], "the last takes what there is"


def test_av_opens_ffmpegs_inputs_with_our_options() -> None:
    """FFmpeg's own test source stands for a camera: the options are known to it, and reading goes on."""
    container = av_stream.open_input("testsrc2=size=64x48:rate=30", "lavfi", {})
    picture = next(container.decode(video=0))
    assert (picture.width, picture.height) == (64, 48)
    container.close()
