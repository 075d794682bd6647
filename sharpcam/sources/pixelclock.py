"""A clock written into the pixels of a frame, to measure the delay from capture to any later place.

64 blocks in a row at the middle of the lower edge, black or white, most significant bit first: 48 bits of
time in microseconds and the CRC-16 (CCITT) of these. Blocks are squares of at least 4 pixels with even
sides on even places, so that blur, sharpening and compression leave their middles alone.
"""

from __future__ import annotations

import binascii

import numpy as np

from sharpcam.errors import FormatMismatch
from sharpcam.frame import Frame

_BITS = 64
_SIDE = 4  # of a block, in pixels, at least
_BLACK, _WHITE = 24, 226


def write_clock(frame: Frame, time_ns: int) -> None:
    """Writes `time_ns` (kept to the microsecond, modulo 2^48 of them: nine years) into `frame`."""
    top, left, side = _place(*frame.size)
    code = time_ns // 1000 % (1 << 48)
    data = code.to_bytes(6, "big")
    data += binascii.crc_hqx(data, 0xFFFF).to_bytes(2, "big")
    bits = np.unpackbits(np.frombuffer(data, np.uint8))
    row = np.where(bits, _WHITE, _BLACK).astype(np.uint8).repeat(side)
    y, u, v = frame.planes
    y[top : top + side, left : left + row.size] = row
    for plane in (u, v):
        plane[top // 2 : (top + side) // 2, left // 2 : (left + row.size) // 2] = 128


def read_clock(frame: Frame) -> int | None:
    """The time in ns that `write_clock` wrote (to the microsecond), or None when there is none to be read."""
    top, left, side = _place(*frame.size)
    rim = side // 4
    blocks = frame.planes[0][top : top + side, left : left + _BITS * side].reshape(side, _BITS, side)
    levels = blocks[rim : side - rim, :, rim : side - rim].mean((0, 2))
    low, high = float(levels.min()), float(levels.max())
    if high - low < 48:
        return None
    data = np.packbits(levels > (low + high) / 2).tobytes()
    if binascii.crc_hqx(data[:6], 0xFFFF) != int.from_bytes(data[6:], "big"):
        return None
    return int.from_bytes(data[:6], "big") * 1000


def has_room(size: tuple[int, int]) -> bool:
    """Whether frames of this (width, height) can have a clock in them."""
    return size[0] >= _BITS * _SIDE and size[1] >= _SIDE


def _place(width: int, height: int) -> tuple[int, int, int]:
    """Top, left and side of the row of blocks."""
    side = max(_SIDE, height // 90 // 2 * 2)
    while side > _SIDE and _BITS * side > width:
        side -= 2
    if not has_room((width, height)):
        raise FormatMismatch(
            f"a {width}x{height} frame is too small for the pixel clock",
            f"use {_BITS * _SIDE} pixels a row or more",
        )
    return height - side, (width - _BITS * side) // 2 // 2 * 2, side
