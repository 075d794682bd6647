"""What a picture's file tells before the picture: the segments of a JPEG, and the profile of its colours, by which the
numbers of a phone's wide ones are meant."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

_MOST = 1 << 22  # bytes of a profile; real ones have some hundred to some thousand
_JPEG_MARK = b"ICC_PROFILE\0"
PNG = b"\x89PNG\r\n\x1a\n"
_SCAN = 0xDA
_BARE = frozenset(range(0xD0, 0xD8)) | {0x01}  # markers without a segment


def rgb_profile(data: bytes) -> bytes | None:
    """The ICC profile in the bytes of a JPEG, PNG or WebP file, if it is one of RGB; None where there is none that can
    be read."""
    try:
        if data.startswith(b"\xff\xd8"):
            profile = _of_jpeg(data)
        elif data.startswith(PNG):
            profile = _of_png(data)
        elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            profile = _of_webp(data)
        else:
            return None
    except (struct.error, zlib.error):
        return None
    return profile if profile[16:20] == b"RGB " and profile[36:40] == b"acsp" else None


def with_profile(png: bytes, profile: bytes) -> bytes:
    """The PNG file with this profile."""
    head = len(PNG) + 25  # the header's chunk comes first
    content = b"ICC profile\0\0" + zlib.compress(profile)
    kind = b"iCCP"
    chunk = struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    return png[:head] + chunk + png[head:]


def jpeg_segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Marker and content of what comes before the picture itself in a JPEG (ITU-T T.81, annex B)."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF and (marker := data[at + 1]) != _SCAN:
        if marker == 0xFF:  # padding
            at += 1
        elif marker in _BARE:
            at += 2
        else:
            end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
            yield marker, data[at + 4 : end]
            at = end


def _of_jpeg(data: bytes) -> bytes:
    """Its segments, put together in their order."""
    told = [c for marker, c in jpeg_segments(data) if marker == 0xE2 and c.startswith(_JPEG_MARK)]
    start = len(_JPEG_MARK)  # then the part's number, and of how many
    return b"".join(content[start + 2 :] for content in sorted(told, key=lambda c: c[start : start + 1]))


def _of_png(data: bytes) -> bytes:
    at = len(PNG)
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
