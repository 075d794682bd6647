"""A camera that is not there yet."""

from __future__ import annotations

from sharpcam.errors import DeviceLost, SharpCamError
from sharpcam.frame import Color, Frame


class AwaySource:
    """Stands in for a camera that could not be opened at the start: lost from the first `read` on."""

    live = True

    def __init__(self, why: SharpCamError, size: tuple[int, int], fps: float) -> None:
        self.size, self.fps, self.color = size, fps, Color()
        self.description = f"camera not there yet: {why}"
        self._why = why

    def read(self, frame: Frame, timeout: float) -> bool:
        """Raises DeviceLost."""
        raise DeviceLost(str(self._why), self._why.hint)

    def close(self) -> None:
        pass
