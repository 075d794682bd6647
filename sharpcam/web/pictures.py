"""What kind and size a picture has, before anything decodes it."""

from __future__ import annotations

from sharpcam.errors import MediaError
from sharpcam.frame import MAX_SIDE

MAX_PIXELS = 1 << 24  # 16 megapixels; the process that decodes more may fill the memory
_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"
_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # "start of frame", ITU-T T.81 table B.1
_BARE = frozenset(range(0xD0, 0xD8)) | {0x01}  # markers without a segment


def check_picture(data: bytes) -> tuple[int, int]:
    """(width, height) as the file's header tells it; raises MediaError unless it is a PNG or JPEG to work on."""
    if data.startswith(_PNG):
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
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker in _SOF:
            return int.from_bytes(data[at + 7 : at + 9], "big"), int.from_bytes(data[at + 5 : at + 7], "big")
        if marker == 0xFF:  # padding
            at += 1
        elif marker in _BARE:
            at += 2
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None
