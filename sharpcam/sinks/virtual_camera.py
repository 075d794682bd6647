"""A virtual camera as a sink: v4l2loopback on Linux, OBS's virtual camera on Windows and macOS."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sys
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharpcam import v4l2
from sharpcam.devices import (
    LABEL,
    VideoDevice,
    find_virtual_camera,
    is_old_loopback,
    loopback_format,
)
from sharpcam.errors import (
    DeviceBusy,
    DeviceDenied,
    DeviceLost,
    DeviceNotFound,
    FormatMismatch,
    ProviderUnavailable,
    SharpCamError,
)
from sharpcam.frame import Color, Frame, check_size
from sharpcam.geometry import Converter, to_video_frame
from sharpcam.holding import WriterLock, held_by, holders

if sys.platform != "win32":
    import fcntl

log = logging.getLogger(__name__)

_CHECK_EVERY = 1.0  # seconds; a check is one read of a sysfs attribute


class VirtualCameraSink:
    """Writes I420 frames to a virtual camera through pyvirtualcam.

    `device` is None or "auto" (on Linux the v4l2loopback device labelled `label`, else the first), a node or
    a label. Meeting programs see the camera from the first frame on.

    pyvirtualcam never looks at the format that the driver really took, tells it no rate, and reports failed
    writes on stderr only. So the rate is set on a handle of our own beforehand, and the driver's format is
    read back after opening, with the first frame, and once per second.

    Colour: readers are told nothing, take I420 for limited-range BT.601, and get this; frames in other
    colours are converted, which costs an extra pass.

    `send` holds the interpreter lock while it writes.

    On Linux a writer that has died may have left the open device behind with somebody (`kept`, its file
    descriptor, which is owned from now on): then frames go on through that, and readers notice nothing. Where it is
    of no use, `forget` is called, so that nobody else keeps it open: the device takes one writer. When no frames
    come, the driver gives readers the last one again.

    Raises DeviceNotFound, DeviceBusy, DeviceDenied, FormatMismatch or ProviderUnavailable.
    """

    live = True

    def __init__(
        self,
        device: str | None = None,
        size: tuple[int, int] = (1280, 720),
        fps: float = 30.0,
        label: str = LABEL,
        *,
        backend: str | None = None,
        kept: int | None = None,
        forget: Callable[[], None] = lambda: None,
    ) -> None:
        check_size(*size)
        self.size, self.fps = size, fps
        self.notes: list[str] = []
        self.color = Color()
        self._camera: Any = None
        self._lock: WriterLock | None = None
        self._converter: Converter | None = None
        self._converted: Frame | None = None
        self._loopback: VideoDevice | None = None
        self._next_check = 0.0
        try:
            if sys.platform == "linux" and backend is None:
                self._loopback = find_virtual_camera(device, label)
                self._open_loopback(self._loopback, kept, forget)
                name = str(self._loopback)
            else:
                self._camera = self._pyvirtualcam(None if device == "auto" else device, backend)
                name = f'"{self._camera.device}"'
        except BaseException:
            self.close()
            raise
        self.description = f"virtual camera {name}, I420 {size[0]}x{size[1]} at {fps:g} fps"
        log.info("virtual camera open %s", self.description)

    @property
    def node(self) -> str | None:
        """The /dev/videoN that is written to; None where there is no such thing."""
        return self._loopback.node if self._loopback else None

    def fileno(self) -> int | None:
        """The file descriptor that frames are written to; None where there is no such thing."""
        if isinstance(self._camera, _Kept):
            return self._camera.fd
        if self._loopback is None or self._camera is None:
            return None
        return _descriptor_for_writing(self._loopback.node)  # pyvirtualcam does not tell

    def _open_loopback(self, device: VideoDevice, left: int | None, forget: Callable[[], None]) -> None:
        self._lock = WriterLock(device.node)
        kept = False
        try:
            if left is not None and not self._take(left, device):
                forget()
                left = None
            if left is None:
                kept = self._unlock_format(device)
                self._prepare(device)
                self._camera = self._pyvirtualcam(device.node, None)
            self._sustain(device)
        except SharpCamError:  # some are OSErrors too
            raise
        except OSError as error:
            raise _explain(error, device) from None
        finally:
            if kept:
                with v4l2.Node(device.node) as node:
                    node.set_control(v4l2.KEEP_FORMAT, 1)
        self._verify()
        told = loopback_format(device.node)
        if told and told[3] and abs(float(told[3]) - self.fps) > 0.01 * self.fps:
            self.notes.append(f"{device} advertises {float(told[3]):g} fps: the driver refused {self.fps:g}")
            log.warning("%s", self.notes[-1])

    def _take(self, left: int, device: VideoDevice) -> bool:
        """Goes on with what a dead writer left, when it is this device in this format; else closes it."""
        told = loopback_format(device.node)
        if _is_open(left, device.node) and told is not None and told[:3] == ("YU12", *self.size):
            self._camera = _Kept(left)
            return True
        os.close(left)
        return False

    def _sustain(self, device: VideoDevice) -> None:
        """Has the driver repeat frames while none come: readers give a camera up that is silent."""
        try:
            with v4l2.Node(device.node) as node:
                node.set_control(v4l2.SUSTAIN_FRAMERATE, 1)
        except OSError as error:
            log.info("frames are not sustained device=%s error=%r", device.node, error.strerror)

    def _unlock_format(self, device: VideoDevice) -> bool:
        """A format that is kept hides the output capability. True when it was freed for a writer of just that
        format, and has to be kept again afterwards."""
        with v4l2.Node(device.node) as node:
            if v4l2.Caps.OUTPUT in node.capability().caps or not _keeps_format(device.node):
                return False
            self._compare(loopback_format(device.node))
            node.set_control(v4l2.KEEP_FORMAT, 0)
            return True

    def _prepare(self, device: VideoDevice) -> None:
        """Makes sure that the node takes a writer, and tells it the rate."""
        with v4l2.Node(device.node) as node:
            caps = node.capability().caps & (v4l2.Caps.CAPTURE | v4l2.Caps.OUTPUT)
        # with 0.12 a reader that outlived its writer hides that there is none, and repeated frames that it is dead
        _stop_sustaining(device.node)
        orphan = caps == v4l2.Caps.CAPTURE and is_old_loopback(device.node) and not v4l2.is_fed(device.node)
        if not caps or orphan:
            log.info("virtual camera revived device=%s", device.node)
            v4l2.revive(device.node)
        with v4l2.Node(device.node) as node:
            if v4l2.Caps.OUTPUT not in node.capability().caps:
                who = held_by(holders(device.node))
                raise DeviceBusy(
                    f"virtual camera {device} is being written to by another program (it is held by {who})",
                    "stop the program that writes to it (OBS, ffmpeg, ...), or create another device: "
                    "sudo v4l2loopback-ctl add -n SharpCam -x 1",
                )
            try:
                node.set_rate(Fraction(self.fps).limit_denominator(1001), v4l2.OUTPUT)
            except OSError as error:  # `keep_format` locks it; what is advertised then comes into the notes
                log.info("rate refused device=%s error=%s", device.node, error.strerror)

    def _pyvirtualcam(self, device: str | None, backend: str | None) -> Any:
        try:
            import pyvirtualcam
        except ImportError as error:
            raise ProviderUnavailable(
                f"cannot write to a virtual camera: pyvirtualcam does not load here ({error})",
                "run: pip install pyvirtualcam",
            ) from None
        try:
            return pyvirtualcam.Camera(
                *self.size, self.fps, fmt=pyvirtualcam.PixelFormat.I420, device=device, backend=backend
            )
        except RuntimeError as error:
            raise _explain_backend(" ".join(str(error).split()), device) from None

    def _verify(self) -> None:
        """Compares what the driver has with what we write: it answers another format without any error."""
        if self._loopback is None:
            return
        if not os.path.exists(self._loopback.node):
            raise DeviceLost(f"virtual camera {self._loopback} is gone", "load v4l2loopback again")
        # empty before the first frame with v4l2loopback 0.12
        self._compare(loopback_format(self._loopback.node))

    def _compare(self, told: tuple[str, int, int, Fraction | None] | None) -> None:
        if told is None or told[:3] == ("YU12", *self.size):
            return
        assert self._loopback
        node = self._loopback.node
        readers = holders(node)
        ways = []
        if readers:
            ways.append(f"close {', '.join(map(str, readers))}")
        if _keeps_format(node) or not readers:
            ways.append(f"run: v4l2-ctl -d {node} -c keep_format=0")
        if told[0] == "YU12":  # another size can be met, another pixel format cannot
            ways.append(f"use --size {told[1]}x{told[2]}")
        raise FormatMismatch(
            f"virtual camera {self._loopback} keeps {told[0]} {told[1]}x{told[2]}; "
            f"it does not take I420 {self.size[0]}x{self.size[1]}",
            "; or ".join(ways),
        )

    def send(self, frame: Frame) -> None:
        """Shows `frame` to whoever reads the camera.

        Raises FormatMismatch when the frame, or suddenly the device, has another size, and DeviceLost when
        the device is gone or the sink was closed.
        """
        if self._camera is None:
            raise DeviceLost("the virtual camera was closed")
        if frame.size != self.size:
            raise FormatMismatch(
                f"a {frame.width}x{frame.height} frame sent to a {self.size[0]}x{self.size[1]} virtual camera"
            )
        if frame.color != self.color:
            frame = self._convert(frame)
        self._camera.send(frame.buffer)
        now = time.monotonic()
        if now >= self._next_check:
            self._next_check = now + _CHECK_EVERY
            self._verify()

    def _convert(self, frame: Frame) -> Frame:
        if self._converter is None or self._converted is None:
            log.info("virtual camera converts colours from=%s to=%s", frame.color, self.color)
            self._converter, self._converted = Converter(*self.size, self.color), Frame(*self.size)
        self._converter.into(to_video_frame(frame), self._converted)
        return self._converted

    def close(self) -> None:
        """Ends the stream; the camera vanishes from meeting programs. May be called twice."""
        camera, self._camera = self._camera, None
        if camera is not None:
            if self._loopback:
                _stop_sustaining(self._loopback.node)
            camera.close()
            if self._loopback:
                _leave_usable(self._loopback.node)
        if self._lock is not None:
            self._lock.release()

    def abort(self) -> None:
        """The same as `close`: a live sink leaves nothing behind."""
        self.close()


class _Kept:
    """The open device of a writer that has died, in its format: all that pyvirtualcam's camera is used for."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def send(self, picture: NDArray[np.uint8]) -> None:
        try:
            os.write(self.fd, picture.data)
        except OSError as error:
            raise DeviceLost(
                f"the virtual camera takes no more pictures: {error.strerror}", "start SharpCam again"
            ) from None

    def close(self) -> None:
        os.close(self.fd)


def _descriptor_for_writing(node: str) -> int | None:
    for entry in Path("/proc/self/fd").iterdir():
        try:
            flags = fcntl.fcntl(int(entry.name), fcntl.F_GETFL)
            if os.readlink(entry) == node and flags & os.O_ACCMODE == os.O_WRONLY:
                return int(entry.name)
        except OSError:  # closed meanwhile, such as that of the folder itself
            continue
    return None


def _is_open(fd: int, node: str) -> bool:
    return os.fstat(fd).st_rdev == os.stat(node).st_rdev


def _stop_sustaining(path: str) -> None:
    with contextlib.suppress(OSError), v4l2.Node(path) as node:
        node.set_control(v4l2.SUSTAIN_FRAMERATE, 0)


def _keeps_format(path: str) -> bool:
    try:
        with v4l2.Node(path) as node:
            return bool(node.control(v4l2.KEEP_FORMAT))
    except OSError:
        return False


def _leave_usable(node: str) -> None:
    """v4l2loopback 0.12 would refuse the next writer, whoever that is."""
    try:
        with v4l2.Node(node) as opened:
            lost = v4l2.Caps.OUTPUT not in opened.capability().caps
        if lost and not _keeps_format(node) and is_old_loopback(node):
            v4l2.revive(node)
    except OSError as error:
        log.info("not revived device=%s error=%s", node, error.strerror)


def _explain(error: OSError, device: VideoDevice) -> SharpCamError:
    what = f"cannot open virtual camera {device}: "
    if error.errno in (errno.EACCES, errno.EPERM):
        return DeviceDenied(
            what + "permission denied", "run: sudo usermod -aG video $USER, then log out and in again"
        )
    if error.errno == errno.EBUSY:
        who = held_by(holders(device.node))
        return DeviceBusy(what + f"it is held by {who}", "close that program, or choose another device")
    return DeviceNotFound(
        what + (error.strerror or "unknown error"), "`sharpcam devices` lists what is there"
    )


def _explain_backend(text: str, device: str | None) -> SharpCamError:
    """What pyvirtualcam's one error class means on each system."""
    what = f"cannot open virtual camera{f' {device}' if device else ''}: {text}"
    if sys.platform == "win32":
        if "could not be started" in text:
            return DeviceBusy(
                what, "stop the virtual camera in OBS (and every other program that writes to it)"
            )
        return DeviceNotFound(
            what, "install OBS Studio (https://obsproject.com): it brings the virtual camera"
        )
    if sys.platform == "darwin":
        return DeviceNotFound(
            what,
            "install OBS 30 or newer, start its virtual camera once, allow it in System Settings, stop it",
        )
    return DeviceNotFound(what, "`sharpcam devices` lists what is there")
