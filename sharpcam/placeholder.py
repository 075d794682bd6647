"""What a virtual camera shows when there is no picture."""

from __future__ import annotations

import cv2

from sharpcam.frame import Color, Frame


def text_frame(width: int, height: int, text: str = "SharpCam", color: Color | None = None) -> Frame:
    """A dark frame with one line of text in the middle: what a live sink shows when there is no picture."""
    frame = Frame(width, height, color)
    frame.fill(32)
    scale = height / 480
    thickness = max(1, round(2 * scale))
    (wide, high), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, thickness)
    origin = (max(0, (width - wide) // 2), (height + high) // 2)
    cv2.putText(frame.y[0, 0], text, origin, cv2.FONT_HERSHEY_SIMPLEX, scale, 180, thickness, cv2.LINE_AA)
    return frame
