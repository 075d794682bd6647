"""The few Video4Linux ioctls that no library gives, by ctypes and fcntl alone.

Nothing here explains failures: the kernel's OSError comes through as it is, and who knows what was wanted
says what it means. Importable on every system, usable on Linux (of the architectures with the generic ioctl
numbers: x86, Arm, RISC-V).
"""

from __future__ import annotations

import enum
import errno
import os
import select
import sys
import time
from collections.abc import Iterator
from ctypes import c_int32
from dataclasses import dataclass
from fractions import Fraction
from types import TracebackType
from typing import Any, Self

from sharpcam import v4l2_abi as abi

if sys.platform != "win32":
    import fcntl

CAPTURE, OUTPUT = 1, 2  # enum v4l2_buf_type
MMAP = 1  # enum v4l2_memory
DISCRETE = 1  # of frame sizes and intervals; the other kinds are ranges

KEEP_FORMAT, SUSTAIN_FRAMERATE = 0x0098F900, 0x0098F901  # controls of v4l2loopback
CLIENT_USAGE = 0x08000000 + 0x08E00000 + 1  # event of v4l2loopback since 0.13: readers that stream
_SEND_INITIAL = 1
# pictures that v4l2loopback 0.12 gives to who begins to read, also of a writer that is long dead: its last one, and
# at most two repeats of it that were due while `sustain_framerate` was on
_STALE = 3


class Caps(enum.IntFlag):
    """Bits of `device_caps` that matter here."""

    CAPTURE = 0x1
    OUTPUT = 0x2
    CAPTURE_MPLANE = 0x1000
    READWRITE = 0x01000000
    STREAMING = 0x04000000


def fourcc(code: str) -> int:
    """The number of a pixel format such as "YUYV"."""
    return int.from_bytes(code.encode("ascii").ljust(4), "little")


def fourcc_name(number: int) -> str:
    """The name of a pixel format; bit 31, which marks big-endian ones, is left out."""
    return (number & 0x7FFFFFFF).to_bytes(4, "little").decode("ascii", "replace").rstrip()


@dataclass(frozen=True, slots=True)
class Capability:
    driver: str
    card: str
    bus_info: str
    caps: Caps


@dataclass(frozen=True, slots=True)
class Mode:
    """One way in which a device can stream: pixel format, size in pixels, frames per second (falling).

    `rates` is empty when the driver does not tell.
    """

    fourcc: str
    width: int
    height: int
    rates: tuple[Fraction, ...]


class Node:
    """An open device node; every method is one ioctl or an enumeration, and raises OSError."""

    def __init__(self, path: str, flags: int | None = None) -> None:
        """Opens `path`, for reading and writing and never blocking unless `flags` say otherwise."""
        if sys.platform == "win32":
            raise OSError(errno.ENOSYS, "Video4Linux is a Linux interface", path)
        self.path = path
        self._fd = os.open(path, (os.O_RDWR | os.O_NONBLOCK if flags is None else flags) | os.O_CLOEXEC)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the node; may be called twice."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def fileno(self) -> int:
        return self._fd

    def ioctl(self, code: int, argument: Any) -> None:
        """Calls the kernel until no signal interrupts it; the answer is in `argument`."""
        while True:
            try:
                fcntl.ioctl(self._fd, code, argument)
                return
            except InterruptedError:
                continue

    def capability(self) -> Capability:
        raw = abi.Capability()
        self.ioctl(abi.QUERYCAP, raw)
        caps = raw.device_caps if raw.capabilities & 0x80000000 else raw.capabilities
        driver, card, bus = (bytes(n).decode(errors="replace") for n in (raw.driver, raw.card, raw.bus_info))
        return Capability(driver, card, bus, Caps(caps))

    def modes(self, wanted: tuple[int, int] = (1280, 720), kind: int = CAPTURE) -> list[Mode]:
        """All formats, sizes and rates; of a range of sizes, the one nearest to `wanted` and the largest."""
        found = []
        for pixels in self._pixel_formats(kind):
            for width, height in dict.fromkeys(self._sizes(pixels, wanted)):
                rates = tuple(sorted(set(self._rates(pixels, width, height)), reverse=True))
                found.append(Mode(fourcc_name(pixels), width, height, rates))
        return found

    def _enumerate(self, code: int, raw: Any) -> Iterator[Any]:
        for index in range(1000):  # a broken driver must not keep us for ever
            raw.index = index
            try:
                self.ioctl(code, raw)
            except OSError as error:
                # EINVAL: no more; ENOTTY, ENODATA: this driver or input has nothing to tell
                if error.errno in (errno.EINVAL, errno.ENOTTY, errno.ENODATA):
                    return
                raise
            yield raw

    def _pixel_formats(self, kind: int) -> list[int]:
        raw = abi.FormatDescription(type=kind)
        return [r.pixelformat for r in self._enumerate(abi.ENUM_FMT, raw)]

    def _sizes(self, pixels: int, wanted: tuple[int, int]) -> Iterator[tuple[int, int]]:
        for raw in self._enumerate(abi.ENUM_FRAMESIZES, abi.FrameSize(pixel_format=pixels)):
            if raw.type == DISCRETE:
                yield raw.sizes[0], raw.sizes[1]
                continue
            low_w, high_w, step_w, low_h, high_h, step_h = raw.sizes
            yield _step(wanted[0], low_w, high_w, step_w), _step(wanted[1], low_h, high_h, step_h)
            yield high_w, high_h
            return

    def _rates(self, pixels: int, width: int, height: int) -> Iterator[Fraction]:
        raw = abi.FrameInterval(pixel_format=pixels, width=width, height=height)
        for answer in self._enumerate(abi.ENUM_FRAMEINTERVALS, raw):
            # of a range the shortest and the longest interval stand for it
            for interval in answer.intervals[: 1 if answer.type == DISCRETE else 2]:
                if interval.numerator and interval.denominator:
                    yield Fraction(interval.denominator, interval.numerator)
            if answer.type != DISCRETE:
                return

    def format(self, kind: int = CAPTURE) -> abi.PixelFormat:
        """The format that the driver has now."""
        raw = abi.Format(type=kind)
        self.ioctl(abi.G_FMT, raw)
        pix: abi.PixelFormat = raw.fmt.pix
        return pix

    def set_format(self, code: str, width: int, height: int) -> abi.PixelFormat:
        """Asks for a capture format; returns what the driver made of it, which may be something else."""
        raw = abi.Format(type=CAPTURE)
        raw.fmt.pix = abi.PixelFormat(width=width, height=height, pixelformat=fourcc(code), field=1)
        self.ioctl(abi.S_FMT, raw)
        pix: abi.PixelFormat = raw.fmt.pix
        return pix

    def rate(self, kind: int = CAPTURE) -> Fraction | None:
        """Frames per second that the driver has now, None when it does not tell."""
        raw = abi.StreamParameters(type=kind)
        self.ioctl(abi.G_PARM, raw)
        return _rate(raw)

    def set_rate(self, fps: Fraction, kind: int = CAPTURE) -> Fraction | None:
        """Asks for a rate; returns what the driver took, None when it does not tell."""
        raw = abi.StreamParameters(type=kind)
        raw.timeperframe = abi.Fraction(fps.denominator, fps.numerator)
        self.ioctl(abi.S_PARM, raw)
        return _rate(raw)

    def stream_on(self, kind: int) -> None:
        self.ioctl(abi.STREAMON, c_int32(kind))

    def stream_off(self, kind: int) -> None:
        self.ioctl(abi.STREAMOFF, c_int32(kind))

    def control(self, number: int) -> int:
        raw = abi.Control(id=number)
        self.ioctl(abi.G_CTRL, raw)
        return int(raw.value)

    def set_control(self, number: int, value: int) -> None:
        self.ioctl(abi.S_CTRL, abi.Control(id=number, value=value))


def revive(path: str) -> None:
    """Gives a v4l2loopback 0.12 node with `exclusive_caps` its output capability back.

    There, a writer that closes leaves the node with neither capability, and every next writer refuses it.
    STREAMON for output on a fresh handle mends that, whatever it answers, also with a reader attached.
    """
    with Node(path) as node:
        try:
            node.stream_on(OUTPUT)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise


def is_fed(path: str, seconds: float = 0.7) -> bool:
    """Whether somebody writes pictures to a v4l2loopback 0.12 node: reads from it and sees if more come.

    Only for that version, where any number may read and nothing else tells.
    """
    with Node(path, os.O_RDONLY | os.O_NONBLOCK) as node:
        size, seen, end = node.format().sizeimage, 0, time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                seen += bool(os.read(node.fileno(), size))
            except BlockingIOError:
                time.sleep(0.02)
            except OSError:  # it does not let us look: then somebody may well be writing
                return True
            if seen > _STALE:
                return True
    return False


class ClientUsage:
    """Tells when readers of a v4l2loopback device (0.13 or later) begin and end to stream.

    Opens the node for itself, which other programs see as one more opener. Raises OSError with ENOTTY or
    EINVAL when the driver has no such event.
    """

    def __init__(self, path: str) -> None:
        self._node = Node(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            request = abi.EventSubscription(type=CLIENT_USAGE, flags=_SEND_INITIAL)
            self._node.ioctl(abi.SUBSCRIBE_EVENT, request)
        except OSError:
            self._node.close()
            raise

    def wait(self, timeout: float) -> int | None:
        """The newest number of streaming readers (since 0.14 it is 0 or 1), None when nothing changed.

        The first call answers at once with the present number.
        """
        poll = select.poll()
        poll.register(self._node.fileno(), select.POLLPRI)
        if not poll.poll(timeout * 1000):
            return None
        event = abi.Event()
        count = None
        while True:
            try:
                self._node.ioctl(abi.DQEVENT, event)
            except OSError as error:
                if error.errno == errno.ENOENT:  # no more of them
                    return count
                raise
            if event.type == CLIENT_USAGE:
                count = int(event.data[0] & 0xFFFFFFFF)

    def fileno(self) -> int:
        """For `select.poll` with POLLPRI together with other things."""
        return self._node.fileno()

    def close(self) -> None:
        self._node.close()


def _step(wanted: int, low: int, high: int, step: int) -> int:
    """The value nearest to `wanted` that a range with steps has."""
    clamped = min(max(wanted, low), high)
    return low + round((clamped - low) / step) * step if step else clamped


def _rate(raw: abi.StreamParameters) -> Fraction | None:
    interval = raw.timeperframe
    if not interval.numerator or not interval.denominator:
        return None
    return Fraction(interval.denominator, interval.numerator)
