"""From pictures as they come (any pixel format, size, rotation) to I420 frames, and to RGB and back."""

from __future__ import annotations

from functools import cache
from typing import Literal, cast

import av
import cv2
import numpy as np
from av.video.plane import VideoPlane
from av.video.reformatter import ColorRange as AvRange
from av.video.reformatter import Colorspace, Interpolation, VideoReformatter
from numpy.typing import NDArray

from sharpcam.errors import FormatMismatch
from sharpcam.frame import Color, ColorMatrix, ColorRange, Frame, check_size

Fit = Literal["letterbox", "crop", "stretch"]
U8 = NDArray[np.uint8]

# AVColorSpace numbers of pictures. swscale is bad at changing the matrix of YUV (it shifts luma by more than
# a code, or takes 12 ms), so the two matrices that matter are left to `_recolor` and the rest to swscale
_MATRICES = {1: ColorMatrix.BT709, 5: ColorMatrix.BT601, 6: ColorMatrix.BT601}
_RARE_MATRICES = {
    4: Colorspace.FCC,
    7: Colorspace.SMPTE240M,
    9: Colorspace.BT2020,
    10: Colorspace.BT2020,
}
_SWS_MATRIX = {ColorMatrix.BT601: Colorspace.ITU601, ColorMatrix.BT709: Colorspace.ITU709}
_EXACT = Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
_AV_MATRIX = {ColorMatrix.BT601: 6, ColorMatrix.BT709: 1}  # AVCOL_SPC_SMPTE170M, AVCOL_SPC_BT709
_AV_PRIMARIES = {ColorMatrix.BT601: 6, ColorMatrix.BT709: 1}
_AV_RANGE = {ColorRange.LIMITED: AvRange.MPEG, ColorRange.FULL: AvRange.JPEG}
_ROTATIONS = {90: cv2.ROTATE_90_COUNTERCLOCKWISE, 180: cv2.ROTATE_180, 270: cv2.ROTATE_90_CLOCKWISE}


def luma_weights(matrix: ColorMatrix) -> tuple[float, float, float]:
    """(Kr, Kg, Kb) of ITU-R BT.601 or BT.709."""
    kr, kb = (0.299, 0.114) if matrix is ColorMatrix.BT601 else (0.2126, 0.0722)
    return kr, 1.0 - kr - kb, kb


@cache
def yuv_to_rgb_matrix(color: Color) -> NDArray[np.float64]:
    """The affine map (3, 4) from Y, U, V codes (0..255) to R, G, B codes (0..255)."""
    kr, kg, kb = luma_weights(color.matrix)
    scale_y, scale_c, black = (1.0, 1.0, 0.0)
    if color.range is ColorRange.LIMITED:
        scale_y, scale_c, black = 255 / 219, 255 / 224, 16.0
    linear = np.array(
        [
            [scale_y, 0.0, scale_c * 2 * (1 - kr)],
            [scale_y, -scale_c * 2 * (1 - kb) * kb / kg, -scale_c * 2 * (1 - kr) * kr / kg],
            [scale_y, scale_c * 2 * (1 - kb), 0.0],
        ]
    )
    return np.column_stack([linear, -linear @ [black, 128.0, 128.0]])


@cache
def rgb_to_yuv_matrix(color: Color) -> NDArray[np.float64]:
    """The affine map (3, 4) from R, G, B codes to Y, U, V codes: the inverse of `yuv_to_rgb_matrix`."""
    forward = yuv_to_rgb_matrix(color)
    inverse = np.linalg.inv(forward[:, :3])
    return np.column_stack([inverse, -inverse @ forward[:, 3]])


def to_rgb(frame: Frame, out: U8 | None = None) -> U8:
    """`frame` as R, G, B codes, shape (H, W, 3) uint8, by the frame's own matrix and range.

    Chroma is taken as sited in the middle of its four pixels and interpolated linearly.
    """
    return _u8(cv2.transform(_merged(frame), yuv_to_rgb_matrix(frame.color), dst=out))


def _merged(frame: Frame) -> U8:
    """Y, U, V of `frame` at full size, (H, W, 3); chroma as in `to_rgb`."""
    y, u, v = frame.planes
    return _u8(cv2.merge([y, cv2.resize(u, frame.size), cv2.resize(v, frame.size)]))


def _split(yuv: U8, frame: Frame) -> None:
    """The other way; chroma as in `from_rgb`."""
    y, u, v = frame.planes
    cv2.extractChannel(yuv, 0, y)
    half = (frame.width // 2, frame.height // 2)
    cv2.resize(cv2.extractChannel(yuv, 1), half, u, interpolation=cv2.INTER_AREA)
    cv2.resize(cv2.extractChannel(yuv, 2), half, v, interpolation=cv2.INTER_AREA)


def _recolor(frame: Frame, source: Color) -> None:
    """Brings pixels of colour `source` in `frame` to the frame's own colour, without a stop in RGB."""
    linear, offset = np.split(yuv_to_rgb_matrix(source), [3], axis=1)
    back = rgb_to_yuv_matrix(frame.color)
    whole = np.hstack([back[:, :3] @ linear, back[:, :3] @ offset + back[:, 3:]])
    _split(_u8(cv2.transform(_merged(frame), whole)), frame)


def from_rgb(rgb: U8, frame: Frame) -> None:
    """Fills `frame` from `rgb`, (H, W, 3) uint8 of the same size, by the frame's matrix and range.

    Each chroma sample is the mean of its four pixels.
    """
    if rgb.shape != (frame.height, frame.width, 3) or rgb.dtype != np.uint8:
        raise FormatMismatch(
            f"an RGB picture of shape {rgb.shape}, {rgb.dtype} does not fit a {_x(frame.size)} frame"
        )
    _split(_u8(cv2.transform(rgb, rgb_to_yuv_matrix(frame.color))), frame)


def to_video_frame(frame: Frame) -> av.VideoFrame:
    """A copy of `frame` as a tagged yuv420p picture for an encoder (which may keep it: hence the copy)."""
    picture = av.VideoFrame(frame.width, frame.height, "yuv420p")
    for plane, target in zip(frame.planes, _planes(picture), strict=True):
        np.copyto(target, plane)
    picture.colorspace = _AV_MATRIX[frame.color.matrix]
    picture.color_primaries = _AV_PRIMARIES[frame.color.matrix]
    picture.color_trc = _AV_PRIMARIES[frame.color.matrix]
    picture.color_range = int(_AV_RANGE[frame.color.range])
    return picture


def picture_color(picture: av.VideoFrame, guess: ColorMatrix = ColorMatrix.BT601) -> Color:
    """Range and matrix of a decoded picture; `guess` is the matrix of one that does not say (or of RGB)."""
    return Color(_picture_range(picture), _MATRICES.get(picture.colorspace, guess))


class Converter:
    """Puts pictures of any kind into I420 frames of one size and colour.

    One swscale pass (none when the picture is I420 of that size already) and one pass over each plane, which
    is a copy, a range change, or a rotation. A picture whose odd side is one pixel longer than the frame's
    loses that pixel on the right or at the bottom, and nothing is resampled. YUV that does not tell its
    matrix is taken to have that of `color`; YUV that does not tell its range is limited, RGB is full.

    `fit` is what happens to another aspect ratio: `letterbox` adds black bars, `crop` cuts the longer sides,
    `stretch` distorts. Not thread-safe: one per thread.
    """

    def __init__(self, width: int, height: int, color: Color, fit: Fit = "letterbox") -> None:
        check_size(width, height)
        self.size = (width, height)
        self.color = color
        self.fit = fit
        # a VideoReformatter keeps its SwsContext between calls; VideoFrame.reformat makes one for each frame
        self._scaler = VideoReformatter()

    def into(self, picture: av.VideoFrame, frame: Frame) -> None:
        """Fills `frame` from `picture` and sets the frame's colour; sequence and time are the caller's.

        Raises FormatMismatch when the frame has another size or the picture's pixels cannot be converted.
        """
        if frame.size != self.size:
            raise FormatMismatch(f"a {_x(frame.size)} frame given to a converter to {_x(self.size)}")
        turn = round(picture.rotation) % 360 if picture.rotation % 90 == 0 else 0
        upright = turn in (0, 180)
        source = (picture.width, picture.height) if upright else (picture.height, picture.width)
        scaled = self._scaled_size(source)
        frame.color = self.color
        is_rgb = picture.format.is_rgb
        if scaled == source and picture.format.name in ("yuv422p", "yuvj422p") and picture.height % 2 == 0:
            # what MJPEG cameras send: averaging pairs of chroma rows is ten times as fast as swscale's pass
            y, u, v = _planes(picture)
            self._place_planes([y, _mean_of_row_pairs(u), _mean_of_row_pairs(v)], picture, turn, frame)
            return
        try:
            pixels = self._scaler.reformat(
                picture,
                *(scaled if upright else scaled[::-1]),
                "rgb24" if is_rgb else "yuv420p",
                **self._colors(picture, is_rgb),
                threads=1,
            )
        except (av.FFmpegError, ValueError) as error:
            raise FormatMismatch(
                f"cannot convert {picture.format.name} {picture.width}x{picture.height}: {error}",
                "choose another pixel format of the camera, or convert the file with ffmpeg first",
            ) from error
        if is_rgb:
            self._place_rgb(_rgb_array(pixels), turn, frame)
        else:
            self._place_planes(_planes(pixels), pixels, turn, frame)

    def _scaled_size(self, source: tuple[int, int]) -> tuple[int, int]:
        """The size to which swscale brings an upright picture of size `source`: before crop, without bars."""
        (w, h), (sw, sh) = self.size, source
        if 0 <= sw - w <= 1 and 0 <= sh - h <= 1:
            return source
        if self.fit == "stretch" or w * sh == h * sw:
            return self.size
        ratio = (min if self.fit == "letterbox" else max)(w / sw, h / sh)
        wide, high = _even(sw * ratio), _even(sh * ratio)
        if self.fit == "letterbox":
            return min(wide, w), min(high, h)
        return max(wide, w), max(high, h)

    def _colors(self, picture: av.VideoFrame, is_rgb: bool) -> dict[str, int]:
        """What swscale is told. It keeps the range as it is, for it would shift chroma by half a code."""
        if is_rgb:
            source = target = Colorspace.ITU601  # unused from RGB to RGB
            range_ = AvRange.JPEG
        else:
            range_ = _AV_RANGE[_picture_range(picture)]
            target = _SWS_MATRIX[_MATRICES.get(picture.colorspace, self.color.matrix)]
            source = _RARE_MATRICES.get(picture.colorspace, target)
        return {
            "src_colorspace": source,
            "dst_colorspace": target,
            "src_color_range": range_,
            "dst_color_range": range_,
            # exactness is slow, and where no colour changes there is nothing to be gained by it
            "interpolation": Interpolation.BICUBIC | (0 if source == target else _EXACT),
        }

    def _place_planes(self, planes: list[U8], picture: av.VideoFrame, turn: int, frame: Frame) -> None:
        color = picture_color(picture, self.color.matrix)
        recolor = color.matrix is not self.color.matrix
        tables = None if recolor else _range_tables(color.range, self.color.range)
        black = 16 if (color if recolor else self.color).range is ColorRange.LIMITED else 0
        for index, (source, target) in enumerate(zip(planes, frame.planes, strict=True)):
            if turn:
                source = _u8(cv2.rotate(source, _ROTATIONS[turn]))
            source, target = _overlap(source, target, 1 if index else 2, 128 if index else black)
            if tables is None:
                np.copyto(target, source)
            else:
                cv2.LUT(source, tables[min(index, 1)], target)
        if recolor:
            _recolor(frame, color)

    def _place_rgb(self, rgb: U8, turn: int, frame: Frame) -> None:
        if turn:
            rgb = _u8(cv2.rotate(rgb, _ROTATIONS[turn]))
        if rgb.shape[:2] != (frame.height, frame.width):
            whole = np.empty((frame.height, frame.width, 3), np.uint8)
            source, target = _overlap(rgb, whole, 2, 0)
            np.copyto(target, source)
            rgb = whole
        from_rgb(rgb, frame)


def _overlap(source: U8, target: U8, step: int, bar: int) -> tuple[U8, U8]:
    """The parts of `source` and `target` that lie on each other when both are centred.

    Bars of `target` are painted `bar`. Offsets are multiples of `step`: 2 for luma and 1 for chroma, so that
    the planes stay together and a single spare row or column goes at the end.
    """
    (high, wide), (height, width) = source.shape[:2], target.shape[:2]
    top, left = max(high - height, 0) // 2 // step * step, max(wide - width, 0) // 2 // step * step
    source = source[top : top + height, left : left + width]
    high, wide = source.shape[:2]
    if (high, wide) == (height, width):
        return source, target
    top, left = (height - high) // 2 // step * step, (width - wide) // 2 // step * step
    bottom, right = top + high, left + wide
    for strip in (target[:top], target[bottom:], target[top:bottom, :left], target[top:bottom, right:]):
        strip[...] = bar
    return source, target[top:bottom, left:right]


@cache
def _range_tables(source: ColorRange, target: ColorRange) -> tuple[U8, U8] | None:
    """Look-up tables for luma and chroma from one range to the other, None when they agree."""
    if source is target:
        return None
    codes = np.arange(256, dtype=np.float64)
    if target is ColorRange.LIMITED:
        luma, chroma = 16 + codes * 219 / 255, 128 + (codes - 128) * 224 / 255
    else:
        luma, chroma = (codes - 16) * 255 / 219, 128 + (codes - 128) * 255 / 224
    low, high = (np.clip(np.round(t), 0, 255).astype(np.uint8) for t in (luma, chroma))
    return low, high


def _picture_range(picture: av.VideoFrame) -> ColorRange:
    form = picture.format
    # swscale takes grey and paletted pictures for full range whatever they say
    if form.name.startswith(("yuvj", "gray", "pal8", "ya", "mono")) or form.is_rgb:
        return ColorRange.FULL
    return ColorRange.FULL if picture.color_range == AvRange.JPEG else ColorRange.LIMITED


def _planes(picture: av.VideoFrame) -> list[U8]:
    """Views (rows, columns) of an 8-bit picture's planes, without the padding of their lines."""
    return [_lines(plane)[:, : plane.width] for plane in picture.planes]


def _rgb_array(picture: av.VideoFrame) -> U8:
    return _lines(picture.planes[0])[:, : picture.width * 3].reshape(picture.height, picture.width, 3)


def _mean_of_row_pairs(plane: U8) -> U8:
    return _u8(cv2.addWeighted(plane[::2], 0.5, plane[1::2], 0.5, 0.0))


def _lines(plane: VideoPlane) -> U8:
    lines = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, abs(plane.line_size))
    return lines if plane.line_size > 0 else lines[::-1]


def _u8(array: object) -> U8:
    """OpenCV's stubs promise any kind of number; what goes in as uint8 comes out as uint8."""
    return cast(U8, array)


def _even(length: float) -> int:
    return max(2, round(length / 2) * 2)


def _x(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
