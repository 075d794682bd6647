"""Pictures from a camera through FFmpeg's device inputs: DirectShow on Windows, AVFoundation on macOS."""

from __future__ import annotations

import errno
import logging
import sys
import threading
import time
from collections.abc import Callable
from fractions import Fraction

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from sharpcam.devices import INPUT_FORMATS, VideoDevice
from sharpcam.errors import DeviceLost, FormatMismatch, SharpCamError
from sharpcam.sources.camera_stream import Grab, explain
from sharpcam.v4l2 import Mode

log = logging.getLogger(__name__)

Opener = Callable[[str, str, dict[str, str]], InputContainer]
_PAUSE = 0.002  # between looks at an input that has nothing yet: it does not block, it says EAGAIN
_JOIN = 2.0


def requests(system: str, size: tuple[int, int], fps: float) -> list[dict[str, str]]:
    """What to ask of the system's input, one after the other until it agrees; the last asks for nothing.

    FFmpeg does not list modes to programs. MJPEG goes first for large pictures, where raw is slow on USB 2.
    """
    shape = {"video_size": f"{size[0]}x{size[1]}"}
    rate = {"framerate": f"{fps:g}"}
    if system == "win32":
        kinds = (
            [{"vcodec": "mjpeg"}, {}]
            if size[0] * size[1] * fps > 640 * 480 * 31
            else [{}, {"vcodec": "mjpeg"}]
        )
        wanted = [{**kind, **shape, **rate} for kind in kinds]
        # four raw pictures: FFmpeg's 3 MB do not even hold one of 1080p, and it drops from 62 % on
        common = {"rtbufsize": str(size[0] * size[1] * 8)}
    else:
        wanted = [{**shape, **rate, "pixel_format": "nv12"}, {**shape, **rate}]
        common = {}
    return [{**common, **w} for w in (*wanted, shape, rate, {})]


def open_input(name: str, system_format: str, options: dict[str, str]) -> InputContainer:
    """Opens FFmpeg's input so that neither opening nor reading waits for a camera that hangs."""
    return av.open(
        name,
        "r",
        format=system_format,
        # 4: AVFMT_FLAG_NONBLOCK, which has no name among the options
        options={**options, "fflags": "nobuffer+4", "fpsprobesize": "0", "max_ts_probe": "0"},
        timeout=(5.0, None),
    )


class AvStream:
    """A camera that streams through FFmpeg: a thread takes its packets and the newest one wins.

    Only the taken packet is decoded. `grab` is for one thread, `close` for any.
    """

    def __init__(
        self, device: VideoDevice, size: tuple[int, int], fps: float, opener: Opener = open_input
    ) -> None:
        self._device = device
        self._container, self.rate = self._open(size, fps, opener)
        stream = self._container.streams.video[0]
        self._decoder = context = stream.codec_context
        context.thread_count = 1
        self._decoding = threading.Lock()
        self.mode = Mode(context.name, context.width, context.height, (self.rate,) if self.rate else ())
        self._news = threading.Condition()
        self._packet: tuple[av.Packet[VideoStream], int, int] | None = None
        self._failure: str | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._take, name="camera", daemon=True)
        self._thread.start()

    def _open(
        self, size: tuple[int, int], fps: float, opener: Opener
    ) -> tuple[InputContainer, Fraction | None]:
        system = INPUT_FORMATS.get(sys.platform, "dshow")
        # of two cameras of one name only DirectShow's path tells which; AVFoundation's numbers wander
        name = f"video={self._device.bus or self._device.name}" if system == "dshow" else self._device.name
        failure: SharpCamError | None = None
        for options in requests(sys.platform, size, fps):
            try:
                container = opener(name, system, options)
            except (av.FFmpegError, OSError) as error:
                number = getattr(error, "errno", None)
                log.info("mode refused device=%s options=%s error=%s", name, options, error)
                cause = OSError(number if isinstance(number, int) else errno.EIO, str(error))
                failure = failure or explain(cause, self._device, "open")
                if number in (errno.EBUSY, errno.EACCES, errno.EPERM):
                    break
                continue
            if container.streams.video:
                return container, container.streams.video[0].average_rate
            container.close()
            failure = FormatMismatch(f"camera {self._device} has no video", "choose another camera")
        assert failure
        raise failure

    def _take(self) -> None:
        """The thread: takes packets until told to stop or the camera is gone."""
        sequence = 0
        while not self._stop.is_set():
            try:
                for packet in self._container.demux(video=0):
                    if packet.size:
                        with self._news:
                            self._packet = packet, time.monotonic_ns(), sequence
                            self._news.notify_all()
                        sequence += 1
                    if self._stop.is_set():
                        break
                else:
                    self._fail("its stream ended")
                    break
            except BlockingIOError:
                time.sleep(_PAUSE)
            except (av.FFmpegError, OSError) as error:
                self._fail(str(error))
                break
        with self._news:
            self._packet = None
        with self._decoding:
            self._container.close()

    def _fail(self, reason: str) -> None:
        with self._news:
            self._failure = reason
            self._news.notify_all()

    def grab(self, timeout: float) -> Grab | None:
        """The newest picture, or None when none came within `timeout` seconds or the stream was closed.

        Raises DeviceLost when the camera is gone.
        """
        deadline = time.monotonic() + timeout
        while True:
            with self._news:
                self._news.wait_for(
                    lambda: self._packet or self._failure is not None or self._stop.is_set(),
                    max(0.0, deadline - time.monotonic()),
                )
                taken, self._packet = self._packet, None
                stopped, failure = self._stop.is_set(), self._failure
            if failure is not None:
                raise DeviceLost(f"camera {self._device} is gone: {failure}", "plug it in again")
            if stopped or taken is None:
                return None
            packet, captured_ns, sequence = taken
            picture = self._decode(packet)
            if picture is not None:
                return Grab(picture, captured_ns, sequence)
            log.info("corrupt picture device=%s sequence=%s", self._device.node, sequence)

    def _decode(self, packet: av.Packet[VideoStream]) -> av.VideoFrame | None:
        with self._decoding:  # so that the container is not closed meanwhile
            try:
                pictures = self._decoder.decode(packet) if not self._stop.is_set() else []
            except av.FFmpegError:
                return None
        return pictures[-1] if pictures else None

    def close(self) -> None:
        """Stops the camera. May be called twice, and while `grab` waits, which then returns None."""
        with self._news:
            self._stop.set()
            self._news.notify_all()
        # a driver that hangs keeps its thread, which closes the device if it ever wakes
        self._thread.join(_JOIN)
