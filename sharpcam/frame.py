"""The one thing that passes through SharpCam: an I420 frame in one contiguous buffer, and a pool of them."""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from sharpcam.errors import FormatMismatch

MAX_SIDE = 7680


Allocate = Callable[[tuple[int, int], type[np.uint8]], NDArray[np.uint8]]  # as numpy.empty


class ColorRange(StrEnum):
    LIMITED = "limited"  # luma 16..235, what cameras' YUYV and nearly all video carries
    FULL = "full"  # 0..255, what MJPEG carries


class ColorMatrix(StrEnum):
    BT601 = "bt601"
    BT709 = "bt709"


@dataclass(frozen=True, slots=True)
class Color:
    """How the numbers of a frame stand for colours."""

    range: ColorRange = ColorRange.LIMITED
    matrix: ColorMatrix = ColorMatrix.BT601


class Frame:
    """One I420 picture.

    `buffer` is C-contiguous uint8 of shape (H * 3 // 2, W): H rows of luma, then the U plane, then the V
    plane, each (H // 2, W // 2). `y`, `uv` and `planes` are views of it, never copies.

    `sequence` counts the source's frames (a gap means that some were lost before us), `captured_ns` is
    `time.monotonic_ns()` at capture; `media_ns` is when it is due in the file that it came from, after the
    first one.
    """

    __slots__ = ("_pool", "buffer", "captured_ns", "color", "media_ns", "sequence", "uv", "y")

    def __init__(
        self, width: int, height: int, color: Color | None = None, *, allocate: Allocate = np.empty
    ) -> None:
        check_size(width, height)
        self.buffer: NDArray[np.uint8] = allocate((height * 3 // 2, width), np.uint8)
        self.y: NDArray[np.uint8] = self.buffer[:height].reshape(1, 1, height, width)
        self.uv: NDArray[np.uint8] = self.buffer[height:].reshape(1, 2, height // 2, width // 2)
        self.color = color or Color()
        self.sequence = 0
        self.captured_ns = self.media_ns = 0
        # weak, so that pool and frames go as soon as nobody needs them and not when the collector comes by
        self._pool: weakref.ref[FramePool] | None = None

    @property
    def width(self) -> int:
        return int(self.y.shape[3])

    @property
    def height(self) -> int:
        return int(self.y.shape[2])

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.width, self.height

    @property
    def planes(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]:
        """Y (H, W), U (H/2, W/2) and V (H/2, W/2)."""
        return self.y[0, 0], self.uv[0, 0], self.uv[0, 1]

    def copy_facts(self, other: Frame) -> None:
        """Takes over sequence, times and colour of `other`, not its pixels."""
        self.sequence, self.color = other.sequence, other.color
        self.captured_ns, self.media_ns = other.captured_ns, other.media_ns

    def fill(self, y: int, u: int = 128, v: int = 128) -> None:
        """Paints the frame in one colour."""
        for plane, value in zip(self.planes, (y, u, v), strict=True):
            plane[:] = value

    def release(self) -> None:
        """Gives the frame back to its pool; a frame that belongs to none is left to the garbage collector."""
        if self._pool is not None and (pool := self._pool()) is not None:
            pool._put(self)


def check_size(width: int, height: int) -> None:
    """Raises FormatMismatch unless (width, height) can be an I420 frame."""
    if not (2 <= width <= MAX_SIDE and 2 <= height <= MAX_SIDE):
        raise FormatMismatch(
            f"frame size {width}x{height} is out of range (2 to {MAX_SIDE} a side)",
            "ask for a size such as 1280x720",
        )
    if width % 2 or height % 2:
        raise FormatMismatch(
            f"frame size {width}x{height} is odd; YUV 4:2:0 needs even sides",
            f"use {width - width % 2}x{height - height % 2}",
        )


def show_left_half(before: Frame, after: Frame) -> None:
    """Puts the left half of `before` into `after`, of the same size, with a white line at the seam."""
    middle = after.width // 4 * 2
    white = 255 if after.color.range is ColorRange.FULL else 235
    for source, target, value in zip(before.planes, after.planes, (white, 128, 128), strict=True):
        seam = middle * target.shape[1] // after.width
        target[:, :seam] = source[:, :seam]
        target[:, seam : seam + max(1, 2 * target.shape[1] // after.width)] = value


class FramePool:
    """A few frames of one size, used again and again so that nothing is allocated per frame.

    `acquire` makes a new frame when all are in use, so a leak shows as `allocated` growing and never as a
    deadlock. `allocate` gives the memory. Thread-safe.
    """

    def __init__(
        self, width: int, height: int, color: Color | None = None, *, allocate: Allocate = np.empty
    ) -> None:
        check_size(width, height)
        self._size = (width, height)
        self._color = color
        self._allocate = allocate
        self._free: deque[Frame] = deque()
        self._lock = threading.Lock()
        self.allocated = 0

    def acquire(self) -> Frame:
        with self._lock:
            if self._free:
                return self._free.pop()
            self.allocated += 1
        frame = Frame(*self._size, self._color, allocate=self._allocate)
        frame._pool = weakref.ref(self)
        return frame

    def _put(self, frame: Frame) -> None:
        with self._lock:
            if any(f is frame for f in self._free):
                raise RuntimeError("frame released twice")
            self._free.append(frame)
