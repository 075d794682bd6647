"""Whether a frame goes on from the last one, or what was remembered of it is of no use any more."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from sharpcam.frame import Frame

# where things were is of no use after such a gap: half a second of a talking head is another picture. Time in
# which the engine itself was at work is no gap: a file's next frame waits for it, however slow the model is
MAX_GAP_NS = 500_000_000
MAX_GAP_FRAMES = 5
# mean absolute luma change, in grey levels, between one frame and the next that only another scene brings:
# a waved hand makes 5 to 15, a change of picture 40 to 90
SCENE_CUT = 30.0
_ROWS = 16


class Glance:
    """So much of a frame as it takes to tell whether the next one goes on from it: some rows of luma.

    Whole rows, because reading single pixels all over a frame costs a cache miss each: ten times the time.
    """

    __slots__ = ("done_ns", "rows", "sequence", "time_ns")

    def __init__(self, frame: Frame) -> None:
        self.sequence, self.time_ns = frame.sequence, frame.captured_ns
        self.done_ns = 0
        step = max(1, frame.height // _ROWS)
        self.rows: NDArray[np.uint8] = frame.y[0, 0, step // 2 :: step].copy()

    def is_after_a_gap(self, last: Glance) -> bool:
        """Whether so much is missing in between that pixels are elsewhere by now."""
        return (
            self.sequence - last.sequence > MAX_GAP_FRAMES
            or self.time_ns > max(last.time_ns, last.done_ns) + MAX_GAP_NS
        )

    def is_another_scene(self, last: Glance) -> bool:
        """Whether it shows something else, or counts anew."""
        return (
            self.sequence < last.sequence
            or self.time_ns < last.time_ns
            or cv2.norm(self.rows, last.rows, cv2.NORM_L1) > SCENE_CUT * self.rows.size
        )
