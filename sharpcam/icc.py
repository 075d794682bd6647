"""Colour profiles of pictures: what the numbers of a phone's wide colours mean. Found in files, and put into PNGs."""

from __future__ import annotations

import struct
import zlib

_MOST = 1 << 22  # bytes of a profile; real ones have some hundred to some thousand
_JPEG_MARK = b"ICC_PROFILE\0"
_PNG = b"\x89PNG\r\n\x1a\n"


def rgb_profile(data: bytes) -> bytes | None:
    """The ICC profile in the bytes of a JPEG, PNG or WebP file, if it is one of RGB; None where there is none that can
    be read."""
    try:
        if data.startswith(b"\xff\xd8"):
            profile = _of_jpeg(data)
        elif data.startswith(_PNG):
            profile = _of_png(data)
        elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            profile = _of_webp(data)
        else:
            return None
    except (struct.error, IndexError, zlib.error):
        return None
    return profile if profile[16:20] == b"RGB " and profile[36:40] == b"acsp" else None


def with_profile(png: bytes, profile: bytes) -> bytes:
    """The PNG file with this profile."""
    head = len(_PNG) + 25  # the header's chunk comes first
    content = b"ICC profile\0\0" + zlib.compress(profile)
    kind = b"iCCP"
    chunk = struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    return png[:head] + chunk + png[head:]


def _of_jpeg(data: bytes) -> bytes:
    """Its segments, put together in their order."""
    parts: dict[int, bytes] = {}
    at = 2
    while data[at] == 0xFF and data[at + 1] != 0xDA:  # up to the picture itself
        (length,) = struct.unpack_from(">H", data, at + 2)
        content = data[at + 4 : at + 2 + length]
        if data[at + 1] == 0xE2 and content.startswith(_JPEG_MARK):
            parts[content[len(_JPEG_MARK)]] = content[len(_JPEG_MARK) + 2 :]
        at += 2 + length
    return b"".join(parts[number] for number in sorted(parts))


def _of_png(data: bytes) -> bytes:
    at = len(_PNG)
    while (kind := data[at + 4 : at + 8]) not in (b"IDAT", b"IEND", b""):
        (length,) = struct.unpack_from(">I", data, at)
        if kind == b"iCCP":
            _, _, packed = data[at + 8 : at + 8 + length].partition(b"\0")
            return zlib.decompressobj().decompress(packed[1:], _MOST)
        at += 12 + length
    return b""


def _of_webp(data: bytes) -> bytes:
    at = 12
    while at + 8 <= len(data):
        (length,) = struct.unpack_from("<I", data, at + 4)
        if data[at : at + 4] == b"ICCP":
            return data[at + 8 : at + 8 + length]
        at += 8 + length + length % 2
    return b""
