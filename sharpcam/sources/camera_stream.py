"""What every system's way to its cameras has in common: the stream's shape, and what errors mean."""

from __future__ import annotations

import errno
from fractions import Fraction
from typing import NamedTuple, Protocol

import av

from sharpcam.devices import VideoDevice
from sharpcam.errors import DeviceBusy, DeviceDenied, DeviceNotFound, FormatMismatch, SharpCamError
from sharpcam.holding import held_by, holders
from sharpcam.v4l2 import Mode


class Grab(NamedTuple):
    """A camera's picture, valid until the next one is grabbed."""

    picture: av.VideoFrame
    captured_ns: int
    sequence: int


class Stream(Protocol):
    """A camera that streams: the newest picture wins. `grab` is for one thread, `close` for any."""

    mode: Mode  # what the driver really took
    rate: Fraction | None  # what it promises; None when it does not tell

    def grab(self, timeout: float) -> Grab | None:
        """The newest picture, or None when none came within `timeout` seconds or the stream was closed.

        Raises DeviceLost when the camera is gone.
        """

    def close(self) -> None:
        """Stops the camera. May be called twice, and while `grab` waits, which then returns None."""


def explain(error: OSError, device: VideoDevice, action: str) -> SharpCamError:
    """Says what an OSError of a camera means and what to do."""
    what = f"cannot {action} camera {device}: "
    match error.errno:
        case errno.ENOENT | errno.ENODEV | errno.ENXIO:
            return DeviceNotFound(
                what + "no such device", "plug it in; `sharpcam devices` lists what is there"
            )
        case errno.EACCES | errno.EPERM:
            return DeviceDenied(
                what + "permission denied", "run: sudo usermod -aG video $USER, then log out and in again"
            )
        case errno.EBUSY:
            who = held_by(holders(device.node))
            return DeviceBusy(what + f"{who} is using it", "close that program, or choose another camera")
        case errno.ENOSPC:
            return FormatMismatch(
                what + "the USB bus has no bandwidth left", "use another port, or a smaller --size or --fps"
            )
        case _:
            return FormatMismatch(
                what + (error.strerror or "unknown error"), "try another --size or --fps; replug the camera"
            )
