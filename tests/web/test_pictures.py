"""Sizes are read from the header, as the decoder will read them, and nothing is decoded for it."""

from __future__ import annotations

import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
from page_rig import noise

from sharpcam.errors import MediaError
from sharpcam.web.pictures import check_picture


def encoded(suffix: str, width: int, height: int, *options: int) -> bytes:
    done, data = cv2.imencode(suffix, noise(width, height), list(options))
    assert done
    return data.tobytes()


@pytest.mark.parametrize("size", [(1, 1), (640, 360), (359, 641)])
@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        (".png", ()),
        (".jpg", ()),
        (".jpg", (cv2.IMWRITE_JPEG_PROGRESSIVE, 1)),
        (".jpg", (cv2.IMWRITE_JPEG_RST_INTERVAL, 2)),
    ],
)
def test_the_size_is_what_the_decoder_makes(
    suffix: str, options: tuple[int, ...], size: tuple[int, int]
) -> None:
    data = encoded(suffix, *size, *options)
    assert check_picture(data) == size
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert decoded is not None
    assert decoded.shape[1::-1] == size


def test_a_thumbnail_in_front_is_not_the_picture() -> None:
    thumbnail = encoded(".jpg", 16, 16)
    segment = b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    data = encoded(".jpg", 64, 48)
    assert check_picture(data[:2] + segment + data[2:]) == (64, 48)
    assert check_picture(data[:2] + b"\xff\xff" + data[2:]) == (
        64,
        48,
    )  # fill bytes may stand before a marker


def test_too_large() -> None:
    small = encoded(".png", 8, 8)
    for width, height in ((7682, 8), (8, 7682), (5000, 5000), (0, 8), (2**31, 2**31)):
        data = small[:16] + struct.pack(">II", width, height) + small[24:]
        with pytest.raises(MediaError, match="too large") as caught:
            check_picture(data)
        assert "17 million" in caught.value.hint
    jpeg = bytearray(encoded(".jpg", 8, 8))
    at = jpeg.index(b"\xff\xc0")
    jpeg[at + 5 : at + 9] = b"\xff\xff\xff\xff"
    with pytest.raises(MediaError, match="65535x65535 is too large"):
        check_picture(bytes(jpeg))


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_damaged(suffix: str) -> None:
    data = encoded(suffix, 64, 48)
    for end in (4, 12, 20):
        with pytest.raises(MediaError):
            check_picture(data[:end])


def test_no_other_kinds(tmp_path: Path) -> None:
    for data in (b"", b"GIF89a", encoded(".bmp", 8, 8), encoded(".tiff", 8, 8), encoded(".webp", 8, 8)):
        with pytest.raises(MediaError, match="no PNG and no JPEG"):
            check_picture(data)


def test_a_jpeg_that_goes_in_circles() -> None:
    """A segment of length 0 would bring the reader back to where it was, but for its marker."""
    with pytest.raises(MediaError):
        check_picture(b"\xff\xd8\xff\xe0\x00\x00" * 1000)
