"""Where frames go: virtual camera, media file, null."""

from __future__ import annotations

from typing import Protocol

from sharpcam.frame import Frame


class Sink(Protocol):
    """Takes I420 frames of one size.

    A `live` sink must never be starved: the pipeline repeats the last good frame when no new one comes.
    The others (files) get every frame exactly once.
    """

    description: str  # for people: 'virtual camera "SharpCam" (/dev/video10), I420 1280x720 at 30 fps'
    size: tuple[int, int]
    fps: float
    live: bool

    def send(self, frame: Frame) -> None:
        """Delivers `frame`; does not keep a reference to its buffer after returning.

        Raises DeviceLost, MediaError (disk full, ...). Called from one thread.
        """

    def close(self) -> None:
        """Ends the stream; a media file becomes complete and appears under its name. May be called twice."""

    def abort(self) -> None:
        """Ends the stream after a failure; nothing half-written stays behind."""
