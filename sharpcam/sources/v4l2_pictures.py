"""From a V4L2 driver's buffers to pictures, and which of a camera's modes brings the best ones."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple, cast

import av
import numpy as np
from av.video.codeccontext import VideoCodecContext
from av.video.reformatter import ColorRange as AvRange
from numpy.typing import NDArray

from sharpcam import v4l2_abi as abi
from sharpcam.v4l2 import Mode


class Plane(NamedTuple):
    """A plane in a driver's buffer: which one of the picture it is, and how many times fewer its rows and
    shorter its lines are than the first one's."""

    which: int
    fewer: int = 1
    shorter: int = 1


class Layout(NamedTuple):
    """A raw pixel format: PyAV's name for it, bytes per pixel, planes as they lie in the buffer."""

    name: str
    bytes: float
    planes: tuple[Plane, ...] = (Plane(0),)


COMPRESSED = ("MJPG", "JPEG")
RAW = {
    "YUYV": Layout("yuyv422", 2),
    "UYVY": Layout("uyvy422", 2),
    "YVYU": Layout("yvyu422", 2),
    "422P": Layout("yuv422p", 2, (Plane(0), Plane(1, 1, 2), Plane(2, 1, 2))),
    "NV12": Layout("nv12", 1.5, (Plane(0), Plane(1, 2))),
    "NV21": Layout("nv21", 1.5, (Plane(0), Plane(1, 2))),
    "YU12": Layout("yuv420p", 1.5, (Plane(0), Plane(1, 2, 2), Plane(2, 2, 2))),
    "YV12": Layout("yuv420p", 1.5, (Plane(0), Plane(2, 2, 2), Plane(1, 2, 2))),
    "BGR3": Layout("bgr24", 3),
    "RGB3": Layout("rgb24", 3),
    "GREY": Layout("gray", 1),
}
# V4L2_COLORSPACE_* and V4L2_YCBCR_ENC_* in the terms of AVColorSpace
_COLORSPACES = {2: 7, 3: 1, 10: 9}
_ENCODINGS = {1: 6, 2: 1, 3: 6, 4: 1, 6: 9, 8: 7}
_UNSPECIFIED = 2
_FULL_RANGE, _COLORSPACE_JPEG = 1, 7


def rank(
    modes: Sequence[Mode], size: tuple[int, int], fps: float, bus: int | None = None
) -> list[tuple[Mode, Fraction | None]]:
    """The modes that SharpCam can decode, each with the rate to ask for; the best for `size` at `fps` first.

    Best is what brings the most true pixels into a letterboxed picture of `size`, times its share of the rate
    to the power 1.5 (so that 640x480 at 30 is taken before 1280x720 at 10, but not before it at 15). Of
    equals, raw goes before MJPEG, which costs decoding and artefacts, and fewer pixels before more; so MJPEG
    is taken where raw cannot reach the size or the rate. Some cameras list raw modes that their bus cannot
    carry: `bus` is what it can, in bytes per second. Grey, which infrared cameras send, comes last.
    """

    def rate(mode: Mode) -> Fraction | None:
        enough = [r for r in mode.rates if r >= fps * 0.99]
        return min(enough) if enough else max(mode.rates, default=None)

    def worth(mode: Mode) -> tuple[bool, float, bool, int]:
        width, height = size
        scale = min(width / mode.width, height / mode.height)
        shown = (mode.width * scale) * (mode.height * scale) / (width * height)
        detail = min(1.0, 1 / scale) ** 2
        reach = float(rate(mode) or fps)
        if bus and mode.fourcc in RAW:
            reach = min(reach, bus / (mode.width * mode.height * RAW[mode.fourcc].bytes))
        reach = min(1.0, reach / fps)
        return (
            mode.fourcc != "GREY",
            round(shown * detail * reach**1.5, 2),
            mode.fourcc in RAW,
            -mode.width * mode.height,
        )

    usable = [m for m in modes if m.fourcc in RAW or m.fourcc in COMPRESSED]
    return [(m, rate(m)) for m in sorted(usable, key=worth, reverse=True)]


def decode(decoder: VideoCodecContext, data: NDArray[np.uint8]) -> av.VideoFrame | None:
    """One picture out of one packet of intra-coded video, None when it is corrupt."""
    try:
        pictures = decoder.decode(av.Packet(cast(bytes, data)))  # any buffer will do
    except av.FFmpegError:
        return None
    return pictures[-1] if pictures else None


def mjpeg_decoder() -> VideoCodecContext:
    """Refuses cut and broken pictures, which would show as grey or garbage; takes what cameras get wrong all
    the time (no end marker, padding, no Huffman tables, odd APP fields)."""
    decoder = av.CodecContext.create("mjpeg", "r")
    decoder.thread_count = 1
    decoder.options = {"err_detect": "explode"}
    return decoder


def blank(code: str, pix: abi.PixelFormat) -> av.VideoFrame:
    """A picture for raw video of a driver's format, tagged with the colours that the driver tells.

    Webcams leave all of that at the defaults, which mean limited-range BT.601; HDMI grabbers do not.
    """
    picture = av.VideoFrame(pix.width, pix.height, RAW[code].name)
    picture.colorspace = _ENCODINGS.get(pix.ycbcr_enc, _COLORSPACES.get(pix.colorspace, _UNSPECIFIED))
    is_full = pix.quantization == _FULL_RANGE or (not pix.quantization and pix.colorspace == _COLORSPACE_JPEG)
    picture.color_range = int(AvRange.JPEG if is_full else AvRange.MPEG)
    return picture


def fill(picture: av.VideoFrame, code: str, data: NDArray[np.uint8], pitch: int) -> bool:
    """Copies a driver's buffer with lines of `pitch` bytes into `picture`; False when it is too short."""
    at = 0
    for part in RAW[code].planes:
        plane = picture.planes[part.which]
        rows, line = picture.height // part.fewer, pitch // part.shorter
        if at + rows * line > len(data):
            return False
        lines = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)
        wide = min(line, plane.line_size)
        np.copyto(lines[:rows, :wide], data[at : at + rows * line].reshape(rows, line)[:, :wide])
        at += rows * line
    return True
