"""Pictures from a Linux camera, by four buffers of the driver's.

FFmpeg's own v4l2 input (through PyAV) is not used here: it asks for as many buffers as the driver gives, 32
with uvcvideo, which are 59 MB at 1280x720 and a second of old pictures; it does not tell the driver's frame
numbers, so lost frames are not seen; and it blocks, or spins, while a camera hangs.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import mmap
import os
import select
import threading
import time
from fractions import Fraction

import numpy as np

from sharpcam import v4l2
from sharpcam import v4l2_abi as abi
from sharpcam.devices import VideoDevice, bus_bytes
from sharpcam.errors import DeviceLost, FormatMismatch, SharpCamError
from sharpcam.sources.camera_stream import Grab, explain
from sharpcam.sources.v4l2_pictures import COMPRESSED, RAW, blank, decode, fill, mjpeg_decoder, rank
from sharpcam.v4l2 import CAPTURE, Caps, Mode

log = logging.getLogger(__name__)

BUFFERS = 4  # one fills, one waits, one is being copied, one spare
_BROKEN = 0x40  # V4L2_BUF_FLAG_ERROR
_CLOCK, _MONOTONIC = 0xE000, 0x2000
_MAX_AGE_NS = 2_000_000_000
_PAUSE = 0.005


class V4l2Stream:
    """A camera that streams: the newest picture wins, older ones are counted and given back to the driver.

    `mode` and `rate` are what the driver really took. `grab` is for one thread, `close` for any.
    """

    def __init__(self, device: VideoDevice, size: tuple[int, int], fps: float) -> None:
        self._device = device
        self._lock = threading.Lock()  # held while the buffers are in use
        self._closing = threading.Lock()
        self._maps: list[mmap.mmap] = []
        self._offset = 0  # from the driver's frame numbers to ours
        self._last = -1
        self._wake = -1
        try:
            self._node = v4l2.Node(device.node)
        except OSError as error:
            raise explain(error, device, "open") from None
        try:
            self._start(size, fps)
            self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        except BaseException:
            self._release()
            raise

    def _start(self, size: tuple[int, int], fps: float) -> None:
        try:
            self._check(self._node.capability().caps)
            offered = self._node.modes(size)
        except OSError as error:
            raise explain(error, self._device, "look into") from None
        candidates = rank(offered, size, fps, bus_bytes(self._device.node))
        if not candidates:
            kinds = ", ".join(sorted({m.fourcc for m in offered})) or "nothing"
            raise FormatMismatch(
                f"camera {self._device} offers no pixel format that SharpCam reads (it offers {kinds})",
                f"known are {', '.join((*COMPRESSED, *RAW))}",
            )
        failure: SharpCamError | None = None
        for mode, rate in candidates[:6]:
            try:
                self._configure(mode, rate)
                return
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EINVAL, errno.EPROTO, errno.EIO, errno.ERANGE):
                    raise explain(error, self._device, "start") from None
                log.warning(
                    "mode refused device=%s mode=%s error=%s", self._device.node, mode, error.strerror
                )
                failure = failure or explain(error, self._device, f"stream {_mode(mode)} from")
                self._free()
        assert failure
        raise failure

    def _check(self, caps: Caps) -> None:
        if Caps.CAPTURE not in caps or Caps.STREAMING not in caps:
            kind = "multi-planar capture" if Caps.CAPTURE_MPLANE in caps else "no streaming capture"
            raise FormatMismatch(
                f"{self._device} has {kind}, which SharpCam cannot read", "choose another camera"
            )

    def _configure(self, mode: Mode, rate: Fraction | None) -> None:
        """Pixel format, size, rate, in this order (drivers reset what follows); then buffers, then go."""
        pix = self._node.set_format(mode.fourcc, mode.width, mode.height)
        code = v4l2.fourcc_name(pix.pixelformat)
        if code not in RAW and code not in COMPRESSED:
            raise OSError(errno.EINVAL, f"the driver answers with {code}")
        if rate is not None:
            try:
                rate = self._node.set_rate(rate) or rate
            except OSError as error:
                log.info("rate refused device=%s fps=%s error=%s", self._device.node, rate, error.strerror)
                rate = None
        self.mode, self.rate = Mode(code, pix.width, pix.height, mode.rates), rate
        self._pix = pix
        self._decoder = mjpeg_decoder() if code in COMPRESSED else None
        self._picture = None if self._decoder else blank(code, pix)
        request = abi.RequestBuffers(count=BUFFERS, type=CAPTURE, memory=v4l2.MMAP)
        self._node.ioctl(abi.REQBUFS, request)
        for index in range(request.count):
            raw = _buffer(index)
            self._node.ioctl(abi.QUERYBUF, raw)
            # PROT_WRITE too: some drivers refuse a map that is only for reading
            self._maps.append(mmap.mmap(self._node.fileno(), raw.length, offset=raw.offset))
            self._node.ioctl(abi.QBUF, raw)
        self._node.stream_on(CAPTURE)

    def grab(self, timeout: float) -> Grab | None:
        """The newest picture, or None when none came within `timeout` seconds or the stream was closed.

        Raises DeviceLost when the camera is gone.
        """
        deadline = time.monotonic() + timeout
        poll = select.poll()
        with self._lock:
            if self._node.fileno() < 0:
                return None
            poll.register(self._node.fileno(), select.POLLIN)
            poll.register(self._wake, select.POLLIN)
        while True:
            left = deadline - time.monotonic()
            ready = poll.poll(max(0.0, left) * 1000)
            with self._lock:
                if self._node.fileno() < 0 or not ready:
                    return None
                try:
                    grab = self._newest()
                except OSError as error:
                    raise DeviceLost(
                        f"camera {self._device} is gone: {error.strerror}", "plug it in again"
                    ) from None
            if grab or left < 0:
                return grab
            if not any(events & select.POLLIN for _, events in ready):
                time.sleep(_PAUSE)  # an error that the driver does not explain must not become a busy loop

    def _newest(self) -> Grab | None:
        """Takes every full buffer, copies the newest good one out, gives all of them back."""
        full: list[abi.Buffer] = []
        while len(full) < len(self._maps):
            raw = _buffer(0)
            try:
                self._node.ioctl(abi.DQBUF, raw)
            except BlockingIOError:
                break
            full.append(raw)
        # with no buffer left the driver has thrown newer pictures away: what lies here is old, wait for fresh
        stale = len(full) == len(self._maps) > 2
        grab = None
        for raw in reversed(full):
            if grab is None and not stale and not raw.flags & _BROKEN and raw.bytesused:
                grab = self._copy(raw)
        for raw in full:
            self._node.ioctl(abi.QBUF, raw)
        return grab

    def _copy(self, raw: abi.Buffer) -> Grab | None:
        data = np.frombuffer(self._maps[raw.index], np.uint8, min(raw.bytesused, len(self._maps[raw.index])))
        if self._decoder is not None:
            picture = decode(self._decoder, data)
            if picture is None:
                log.info("corrupt picture device=%s sequence=%s", self._device.node, raw.sequence)
                return None
        else:
            assert self._picture is not None
            picture = self._picture
            if not fill(picture, self.mode.fourcc, data, self._pix.bytesperline):
                log.info("short picture device=%s bytes=%s", self._device.node, raw.bytesused)
                return None
        return Grab(picture, self._time(raw), self._number(raw.sequence))

    def _time(self, raw: abi.Buffer) -> int:
        now = time.monotonic_ns()
        told: int = raw.seconds * 1_000_000_000 + raw.microseconds * 1000
        if raw.flags & _CLOCK == _MONOTONIC and 0 <= now - told < _MAX_AGE_NS:
            return told
        return now  # another clock, or a driver that counts from elsewhere

    def _number(self, sequence: int) -> int:
        """Frame numbers that only rise, whatever drivers do: some count from anywhere, or not at all."""
        number = sequence + self._offset
        if number <= self._last or (self._last < 0 and number > BUFFERS):
            self._offset = self._last + 1 - sequence
            number = self._last + 1
        self._last = number
        return number

    def close(self) -> None:
        """Stops the camera. May be called twice, and while `grab` waits, which then returns None."""
        with self._closing:
            if self._wake < 0:
                return
            os.eventfd_write(self._wake, 1)
            with self._lock:
                self._release()

    def _release(self) -> None:
        self._free()
        self._node.close()
        if self._wake >= 0:
            os.close(self._wake)
            self._wake = -1

    def _free(self) -> None:
        # every step for itself: after an unplug the first ones fail, and the memory has to go all the same
        with contextlib.suppress(OSError):
            self._node.stream_off(CAPTURE)
        for memory in self._maps:
            with contextlib.suppress(BufferError):
                memory.close()
        self._maps.clear()
        with contextlib.suppress(OSError):
            self._node.ioctl(abi.REQBUFS, abi.RequestBuffers(type=CAPTURE, memory=v4l2.MMAP))


def _buffer(index: int) -> abi.Buffer:
    return abi.Buffer(index=index, type=CAPTURE, memory=v4l2.MMAP)


def _mode(mode: Mode) -> str:
    return f"{mode.fourcc} {mode.width}x{mode.height}"
