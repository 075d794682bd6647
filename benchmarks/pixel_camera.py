"""A camera whose pictures carry their number in their pixels, and a watcher that reads it from a virtual camera.

Both are v4l2loopback devices: the camera's is written to at its rate with pictures that lie ready (as they come from
a webcam: YUYV, or MJPEG), so that a picture costs one write. The time of each picture is kept apart, by its number;
what the watcher sees of it, and when, tells the delay and what was lost.
"""

from __future__ import annotations

import bisect
import contextlib
import ctypes
import multiprocessing as mp
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import av
import numpy as np

from sharpcam import v4l2
from sharpcam import v4l2_abi as abi
from sharpcam.devices import video_devices
from sharpcam.errors import DeviceNotFound
from sharpcam.frame import Color, ColorRange, Frame
from sharpcam.geometry import Converter, to_video_frame
from sharpcam.sources.pixelclock import read_clock, write_clock
from sharpcam.sources.testcard import TestCard
from sharpcam.sources.v4l2_stream import V4l2Stream
from sharpcam.v4l2 import Caps

FOURCCS = ("YUYV", "MJPG")
CYCLE = 240  # pictures, after which their numbers begin again: eight seconds, longer than any delay
_SCENES = 60  # different ones; numbers change more often than the rest of a picture
_QUANTISER = 4  # about 160 kB a picture at 1280x720, as webcams send
_STRIP_ROWS = 40  # from the bottom, more than the numbers take
_MOST = 100_000  # pictures whose times are kept: an hour's


def scenes(size: tuple[int, int], fps: float, count: int = _SCENES) -> list[Frame]:
    """Soft frames of the test card."""
    card = TestCard(size, fps)
    return [card.soft(n) for n in range(count)]


def numbered(frames: Sequence[Frame], cycle: int = CYCLE) -> Iterator[Frame]:
    """`cycle` frames, each with its number in its pixels; every one is valid until the next is asked for."""
    frame = Frame(*frames[0].size, frames[0].color)
    for n in range(cycle):
        np.copyto(frame.buffer, frames[n % len(frames)].buffer)
        write_clock(frame, n * 1000)
        yield frame


def number_of(frame: Frame) -> int | None:
    """The number that `numbered` wrote, None where none can be read."""
    written = read_clock(frame)
    return None if written is None else written // 1000


def yuyv(frame: Frame) -> bytes:
    return bytes(to_video_frame(frame).reformat(format="yuyv422").planes[0])


def mjpeg(frames: Iterable[Frame], size: tuple[int, int]) -> list[bytes]:
    """Full-range 4:2:0 JPEG, as webcams send it."""
    full = Frame(*size, Color(ColorRange.FULL))
    converter = Converter(*size, full.color)
    encoder = av.CodecContext.create("mjpeg", "w")
    encoder.width, encoder.height = size
    encoder.pix_fmt, encoder.time_base = "yuvj420p", Fraction(1, 30)
    encoder.qmin = encoder.qmax = _QUANTISER
    packets = []
    for n, frame in enumerate(frames):
        converter.into(to_video_frame(frame), full)
        picture = to_video_frame(full).reformat(format="yuvj420p")
        picture.pts = n
        packets += encoder.encode(picture)
    packets += encoder.encode(None)
    return [bytes(packet) for packet in packets]


class Pictures:
    """What the camera sends: `CYCLE` numbered pictures, ready to be written."""

    def __init__(self, frames: Sequence[Frame], fourcc: str) -> None:
        size = frames[0].size
        if fourcc == "MJPG":
            self._whole = mjpeg(numbered(frames), size)
            self._strips: list[bytes] = []
        else:  # raw ones are large: only the rows with the number are kept for every number
            self._whole = [yuyv(frame) for frame in frames]
            self._strips = [yuyv(frame)[-2 * size[0] * _STRIP_ROWS :] for frame in numbered(frames)]
        self._buffer = bytearray(len(self._whole[0]))
        self.largest = max(map(len, self._whole))

    def __getitem__(self, n: int) -> bytes | bytearray:
        """Picture `n`, valid until the next is asked for."""
        picture = self._whole[n % len(self._whole)]
        if not self._strips:
            return picture
        strip = self._strips[n % CYCLE]
        self._buffer[:] = picture
        self._buffer[-len(strip) :] = strip
        return self._buffer


class Sent:
    """When each picture left the camera (ns of the monotonic clock), for all processes."""

    def __init__(self) -> None:
        self._times: Any = mp.RawArray(ctypes.c_int64, _MOST)
        self._count: Any = mp.RawValue(ctypes.c_int64, 0)

    def add(self, time_ns: int) -> None:
        self._times[self._count.value] = time_ns
        self._count.value += 1

    def times(self) -> list[int]:
        return list(self._times[: self._count.value])


@contextlib.contextmanager
def pixel_camera(node: str, frames: Sequence[Frame], fps: float, fourcc: str) -> Iterator[Sent]:
    """Feeds the v4l2loopback device `node` with `frames` until the end of the block, from a process of its own.

    Raises DeviceNotFound when the device does not take them.
    """
    pictures, size = Pictures(frames, fourcc), frames[0].size
    sent, over, ready = Sent(), mp.Event(), mp.Event()
    feeder = mp.get_context("fork").Process(
        target=_feed, args=(node, size, fps, fourcc, pictures, sent, over, ready), daemon=True
    )
    feeder.start()
    try:
        if not ready.wait(10) or not feeder.is_alive():
            raise DeviceNotFound(f"{node} takes no {fourcc} pictures", "it has to be a v4l2loopback device")
        yield sent
    finally:
        over.set()
        feeder.join(5)
        feeder.kill()


def _feed(
    node: str,
    size: tuple[int, int],
    fps: float,
    fourcc: str,
    pictures: Pictures,
    sent: Sent,
    over: Any,
    ready: Any,
) -> None:
    _be_hardware()
    with v4l2.Node(node, os.O_RDWR) as device:
        raw = abi.Format(type=v4l2.OUTPUT)
        raw.fmt.pix = abi.PixelFormat(*size, v4l2.fourcc(fourcc), 1, sizeimage=pictures.largest)
        device.ioctl(abi.S_FMT, raw)
        if v4l2.fourcc_name(raw.fmt.pix.pixelformat) != fourcc:
            return
        with contextlib.suppress(OSError):
            device.set_rate(Fraction(fps).limit_denominator(1001), v4l2.OUTPUT)
        due, n = time.monotonic(), 0
        while not over.wait(max(0.0, due - time.monotonic())):
            sent.add(time.monotonic_ns())
            os.write(device.fileno(), pictures[n])
            ready.set()
            n += 1
            due = max(due + 1 / fps, time.monotonic())  # what could not be sent in time is not made up for


def _be_hardware() -> None:
    """Goes before the programs that are measured, where that is allowed: a camera does not wait for them."""
    with contextlib.suppress(OSError, AttributeError):
        os.nice(-10)


class Sight(NamedTuple):
    """A picture at the virtual camera: its number (None: none can be read), and when it was handed over, in ns."""

    number: int | None
    time_ns: int


class Watcher:
    """What a meeting would get from the virtual camera `node`; one that nobody writes to yet is waited for.

    Raises DeviceNotFound when nobody does within `timeout` seconds.
    """

    def __init__(self, node: str, size: tuple[int, int], fps: float, timeout: float) -> None:
        end = time.monotonic() + timeout
        while not _is_fed(node):
            if time.monotonic() > end:
                raise DeviceNotFound(f"nobody writes to {node} after {timeout:.0f} s")
            time.sleep(0.02)
        (device,) = (d for d in video_devices() if d.node == node)
        self._stream = V4l2Stream(device, size, fps)
        self._frame = Frame(*size)

    def watch(self, seconds: float, until_number: bool = False) -> list[Sight]:
        """Looks for so long, or until the first number was seen."""
        sights: list[Sight] = []
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            grab = self._stream.grab(min(left, 0.1))
            if grab is None:
                continue
            for plane, rows in zip(grab.picture.planes, self._frame.planes, strict=True):
                lines = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)
                np.copyto(rows, lines[:, : rows.shape[1]])
            # the driver's time: when the writer handed the picture over, however late this process is woken
            sights.append(Sight(number_of(self._frame), grab.captured_ns))
            if until_number and sights[-1].number is not None:
                break
        return sights

    def close(self) -> None:
        self._stream.close()


def _is_fed(node: str) -> bool:
    try:
        with v4l2.Node(node, os.O_RDONLY | os.O_NONBLOCK) as opened:
            return Caps.CAPTURE in opened.capability().caps and bool(opened.format().pixelformat)
    except OSError:
        return False


class Delivered(NamedTuple):
    """What became of the pictures: delays in ms of those that arrived, in order; pictures sent and lost."""

    delays_ms: list[float]
    sent: int
    lost: int
    unreadable: int


def judge(sights: Sequence[Sight], sent: Sequence[int], cycle: int = CYCLE) -> Delivered:
    """Joins what was seen with what was sent; a picture that was seen again counts once.

    Pictures lost are those between the first and the last that were seen, and were not.
    """
    seen: dict[int, float] = {}
    for number, time_ns in sights:
        if number is None or not 0 <= number < cycle:
            continue
        last = bisect.bisect_right(sent, time_ns) - 1  # the newest picture that can have been seen then
        which = last - (last - number) % cycle
        if which >= 0 and which not in seen:
            seen[which] = (time_ns - sent[which]) / 1e6
    span = max(seen) - min(seen) + 1 if seen else 0
    unreadable = sum(number is None for number, _ in sights)
    return Delivered([seen[n] for n in sorted(seen)], span, span - len(seen), unreadable)
