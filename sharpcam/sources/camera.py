"""A camera as a source of I420 frames."""

from __future__ import annotations

import logging
import sys
import threading

from sharpcam.devices import INPUT_FORMATS, VideoDevice, find_camera
from sharpcam.frame import Color, Frame, check_size
from sharpcam.geometry import Converter, Fit
from sharpcam.sources.av_stream import AvStream
from sharpcam.sources.camera_stream import Grab, Stream
from sharpcam.sources.v4l2_stream import V4l2Stream

log = logging.getLogger(__name__)

_TOLERANCE = 0.15  # of the promised rate, before we say that the camera is slow


class CameraSource:
    """A camera's pictures as limited-range BT.601 I420 frames of the asked size.

    `device` is an index, a node, a by-id path or a name (see `sharpcam.devices.find_camera`). The camera is
    asked for the mode nearest to `size` and `fps`; `fit` says how another aspect ratio fills the frame. What
    the driver really took stands in `description` and `fps`; what a user should know (another size, a rate
    that was promised and not kept) comes into `notes` and the log.

    Colour: cameras send YUYV or NV12 as limited-range BT.601 and MJPEG as full range; drivers and decoders
    tell when it is otherwise. Readers of a virtual camera are told nothing about colour (pyvirtualcam leaves
    the driver's fields at their defaults) and take I420 for limited BT.601, so this is what they get.

    Raises DeviceNotFound, DeviceBusy, DeviceDenied, FormatMismatch or ConfigError. `read` is for one thread,
    `close` for any.
    """

    live = True

    def __init__(
        self,
        device: str | int | None = None,
        size: tuple[int, int] = (1280, 720),
        fps: float = 30.0,
        *,
        fit: Fit = "letterbox",
    ) -> None:
        check_size(*size)
        self.size = size
        self.color = Color()
        self.device: VideoDevice = find_camera(device)
        self._converter = Converter(*size, self.color, fit)
        self._stream = self._open(size, fps)
        mode = self._stream.mode
        told = self._stream.rate
        self.fps = float(told) if told else float(fps)
        self.measured_fps: float | None = None
        self.notes: list[str] = []
        self.description = (
            f"camera {self.device}, {_codec(mode.fourcc)} {mode.width}x{mode.height} at {self.fps:g} fps"
        )
        self._first: tuple[int, int] | None = None
        self._closed = threading.Event()
        log.info("camera open %s", self.description)
        if (mode.width, mode.height) != size:
            self._note(
                f"{self.device} has no {size[0]}x{size[1]}; {mode.width}x{mode.height} is fitted to it"
            )
        if self.fps < fps * (1 - _TOLERANCE):
            self._note(f"{self.device} gives {self.fps:g} fps at this size, {fps:g} were asked for")

    def _open(self, size: tuple[int, int], fps: float) -> Stream:
        if sys.platform in INPUT_FORMATS:
            return AvStream(self.device, size, fps)
        return V4l2Stream(self.device, size, fps)

    @property
    def address(self) -> str:
        """The steadiest name with which this camera can be opened again after a replug."""
        return self.device.address

    def read(self, frame: Frame, timeout: float) -> bool:
        """Fills `frame` with the newest picture; gaps in `frame.sequence` are pictures that were lost.

        Returns False when none came within `timeout` seconds. Raises EOFError once closed, DeviceLost when
        the camera is gone, FormatMismatch when `frame` has another size.
        """
        if self._closed.is_set():
            raise EOFError("the camera was closed")
        grab = self._stream.grab(timeout)
        if grab is None:
            return False
        self._converter.into(grab.picture, frame)
        frame.sequence, frame.captured_ns = grab.sequence, grab.captured_ns
        if self.measured_fps is None:
            self._measure(grab)
        return True

    def _measure(self, grab: Grab) -> None:
        """Counts what the camera sends in its first second: many promise 30 and send 15 in poor light."""
        if self._first is None:
            self._first = grab.captured_ns, grab.sequence
            return
        seconds = (grab.captured_ns - self._first[0]) / 1e9
        if seconds < 1.0:
            return
        self.measured_fps = (grab.sequence - self._first[1]) / seconds
        log.info("camera rate promised=%.1f measured=%.1f", self.fps, self.measured_fps)
        if abs(self.measured_fps - self.fps) > self.fps * _TOLERANCE:
            self._note(
                f"{self.device} promised {self.fps:g} fps and sends {self.measured_fps:.1f}; many slow "
                "down in poor light (v4l2-ctl -c exposure_dynamic_framerate=0 forbids it)"
            )

    def _note(self, text: str) -> None:
        self.notes.append(text)
        log.warning("%s", text)

    def close(self) -> None:
        self._closed.set()
        self._stream.close()


def _codec(fourcc: str) -> str:
    return "MJPEG" if fourcc in ("MJPG", "JPEG") else fourcc
