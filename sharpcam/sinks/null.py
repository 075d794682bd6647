"""A sink that goes nowhere, for measuring."""

from __future__ import annotations

from sharpcam.frame import Frame


class NullSink:
    """Takes frames of any number and keeps none; `frames` counts them."""

    live = False

    def __init__(self, size: tuple[int, int], fps: float) -> None:
        self.size, self.fps = size, fps
        self.description = "nowhere"
        self.frames = 0

    def send(self, frame: Frame) -> None:
        self.frames += 1

    def close(self) -> None:
        pass

    def abort(self) -> None:
        pass
