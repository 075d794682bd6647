"""Pictures: read from files, sharpened without harm to their full-resolution colour, written as PNG."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from sharpcam.errors import MediaError
from sharpcam.files import write_whole
from sharpcam.frame import Frame
from sharpcam.geometry import from_rgb, yuv_to_rgb_matrix
from sharpcam.headers import rgb_profile, with_profile

U8 = NDArray[np.uint8]

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
# OpenCV 5 has moved it; both give the level before
_set_log_level: Callable[[int], int] = getattr(cv2, "setLogLevel", None) or cv2.utils.logging.setLogLevel
# of a JPEG: neither a stuffed byte nor a restart within a scan, nor what has no length
_MARKER, _END = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]"), b"\xff\xd9"
_LEAST_SIDE = 16  # networks look at blocks of pixels; smaller pictures are continued at their edges


class Sharpener(Protocol):
    """What is needed of an Engine."""

    strength: float

    def process(self, frame: Frame, out: Frame) -> None: ...

    def reset(self) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Picture:
    """`rgb` (H, W, 3) uint8 and, where the file has them, `alpha` (H, W) uint8 and the ICC `profile` of its colours."""

    rgb: U8
    alpha: U8 | None = None
    profile: bytes | None = None


def read_picture(path: Path) -> Picture:
    """The picture in a file. Raises MediaError."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise MediaError(f"cannot read {path}: {error.strerror}", "check its name and permissions") from error
    return decode_picture(data, str(path), alpha=path.suffix.lower() in (".png", ".webp", ".tif", ".tiff"))


def decode_picture(data: bytes, name: str, alpha: bool = False) -> Picture:
    """The picture in a file's bytes, upright, 8 bits a channel; `name` is for the message of MediaError."""
    if _is_cut_short(data):
        raise MediaError(f"cannot read {name}: the file is cut short", "get a whole copy of it")
    codes = np.frombuffer(data, np.uint8)
    bgr = _decoded(codes, cv2.IMREAD_COLOR)
    if bgr is None:
        raise MediaError(
            f"cannot read {name}: not a picture, or damaged", f"pictures are {' '.join(SUFFIXES)}"
        )
    channel = None
    if alpha:
        whole = _decoded(codes, cv2.IMREAD_UNCHANGED)
        if whole is not None and whole.shape[2:] == (4,) and whole.dtype in (np.uint8, np.uint16):
            if whole.dtype == np.uint16:
                whole = (whole // 257).astype(np.uint8)
            channel = _turned_like(bgr, whole)
    return Picture(np.ascontiguousarray(bgr[..., ::-1]), channel, rgb_profile(data))


def write_picture(path: Path, picture: Picture) -> None:
    """Writes a lossless PNG, whole or not at all. Raises MediaError."""
    channels = picture.rgb[..., ::-1]
    if picture.alpha is not None:
        channels = np.dstack([channels, picture.alpha])
    done, data = cv2.imencode(".png", np.ascontiguousarray(channels))
    if not done:
        raise MediaError(f"cannot write {path}: {channels.shape[1]}x{channels.shape[0]} does not fit a PNG")
    png = data.tobytes()
    write_whole(path, png if picture.profile is None else with_profile(png, picture.profile))


def sharpen_picture(engine: Sharpener, rgb: U8, sequence: int = 0) -> U8:
    """`rgb` (H, W, 3) uint8 of any size, sharpened; `sequence` numbers the frames of a clip.

    The network sees I420, but of its answer only the change is used (`apply_change`): what a picture has
    beyond 4:2:0 stays.
    """
    height, width = rgb.shape[:2]
    down, right = max(height % 2, _LEAST_SIDE - height), max(width % 2, _LEAST_SIDE - width)
    if down or right:
        rgb = np.asarray(cv2.copyMakeBorder(rgb, 0, down, 0, right, cv2.BORDER_REPLICATE), np.uint8)
    before, after = (Frame(rgb.shape[1], rgb.shape[0]) for _ in range(2))
    from_rgb(rgb, before)
    before.sequence = sequence
    before.captured_ns = sequence * 33_000_000  # a clip goes on from frame to frame
    engine.process(before, after)
    return apply_change(rgb, before, after)[:height, :width]


def apply_change(rgb: U8, before: Frame, after: Frame) -> U8:
    """`rgb` (H, W, 3) plus what became of `before` in `after`, its two I420 versions of the same colour.

    Colour conversion is affine, so a difference in YUV is a difference in RGB whatever the colours are.
    That of chroma is interpolated to full size. Equal frames give `rgb` back bit for bit.
    """
    changes = [a.astype(np.float32) - b for a, b in zip(after.planes, before.planes, strict=True)]
    chroma = [cv2.resize(change, before.size, interpolation=cv2.INTER_LINEAR) for change in changes[1:]]
    linear = yuv_to_rgb_matrix(before.color)[:, :3].astype(np.float32)
    change = cv2.transform(cv2.merge([changes[0], *chroma]), linear)
    return np.asarray(np.clip(np.rint(rgb + change), 0, 255), np.uint8)


def beside(before: U8, after: U8, divider: int = 4) -> U8:
    """Two pictures of one size, `divider` white columns between."""
    height, width = before.shape[:2]
    both = np.full((height, 2 * width + divider, 3), 255, np.uint8)
    both[:, :width] = before
    both[:, width + divider :] = after
    return both


def _decoded(codes: U8, flags: int) -> NDArray[Any] | None:
    level = _set_log_level(0)  # what is wrong with a file we say ourselves
    try:
        return cv2.imdecode(codes, flags) if codes.size else None
    except cv2.error:  # sizes beyond its limits
        return None
    finally:
        _set_log_level(level)


def _turned_like(bgr: U8, whole: U8) -> U8:
    """The last channel of `whole` (H, W, 4), which is as it lies in the file, upright like `bgr`, its other three."""
    turned = (np.rot90(way, turns) for way in (whole, whole[:, ::-1]) for turns in range(4))
    fitting = [way for way in turned if way.shape[:2] == bgr.shape[:2]]
    # the nearest: 16 bits are rounded one way or the other
    upright = min(fitting, key=lambda way: cv2.norm(np.ascontiguousarray(way[..., :3]), bgr, cv2.NORM_L1))
    return np.ascontiguousarray(upright[..., 3])


def _is_cut_short(data: bytes) -> bool:
    """Whether a JPEG or PNG lacks its end; OpenCV would make up the rest in grey.

    What comes after the end, such as the film of a motion photo, does not matter."""
    if not data.startswith(b"\xff\xd8"):
        return data.startswith(b"\x89PNG") and b"IEND" not in data
    at = 2
    # a marker stands behind a segment at once, behind a scan's header after its codes
    while marker := _MARKER.search(data, at):
        if marker[0] == _END:
            return False
        at = marker.end() + int.from_bytes(data[marker.end() : marker.end() + 2], "big")
    return True
