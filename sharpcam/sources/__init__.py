"""Where frames come from: camera, media file, test card."""

from __future__ import annotations

from typing import Protocol

from sharpcam.frame import Color, Frame


class Source(Protocol):
    """A stream of I420 frames of one size.

    `live` sources set the pace: a frame that nobody takes in time is lost. The others (files) wait, and
    keep every frame.
    """

    description: str  # for people: 'camera "HD Webcam" (/dev/video0), MJPEG 1280x720 at 30 fps'
    size: tuple[int, int]  # (width, height) of the frames that `read` fills
    fps: float  # advertised rate
    color: Color
    live: bool

    def read(self, frame: Frame, timeout: float) -> bool:
        """Fills `frame` (of this source's size) with the next picture and its facts.

        Returns False when nothing came within `timeout` seconds. Raises EOFError at the end of the
        stream, DeviceLost when a camera is gone, MediaError when a file is broken. Called from one thread.
        """

    def close(self) -> None:
        """Frees the device. May be called twice, and from another thread while `read` waits."""
