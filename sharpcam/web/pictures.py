"""What kind and size a picture has, before anything decodes it."""

from __future__ import annotations

from sharpcam.errors import MediaError
from sharpcam.frame import MAX_SIDE
from sharpcam.headers import PNG, jpeg_segments

MAX_PIXELS = 1 << 24  # 16 megapixels; the process that decodes more may fill the memory
_JPEG = b"\xff\xd8\xff"
_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # "start of frame", ITU-T T.81 table B.1


def check_picture(data: bytes) -> tuple[int, int]:
    """(width, height) as the file's header tells it; raises MediaError unless it is a PNG or JPEG to work on."""
    if data.startswith(PNG):
        size = _png_size(data)
    elif data.startswith(_JPEG):
        size = _jpeg_size(data)
    else:
        raise MediaError("this is no PNG and no JPEG", "choose another file")
    if size is None:
        raise MediaError("the picture is damaged or cut short", "get a whole copy of it")
    width, height = size
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE and width * height <= MAX_PIXELS):
        raise MediaError(
            f"a picture of {width}x{height} is too large",
            f"make it smaller: at most {MAX_SIDE} pixels a side and {MAX_PIXELS / 1e6:.0f} million in all",
        )
    return width, height


def _png_size(data: bytes) -> tuple[int, int] | None:
    if len(data) < 24 or data[12:16] != b"IHDR":
        return None
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    for marker, content in jpeg_segments(data):
        if marker in _SOF and len(content) >= 5:
            return int.from_bytes(content[3:5], "big"), int.from_bytes(content[1:3], "big")
    return None
