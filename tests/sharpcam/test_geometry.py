"""Conversions against a slow float reference, geometry against pictures whose every pixel is known."""

from __future__ import annotations

import io

import av
import cv2
import numpy as np
import pytest

from sharpcam.errors import FormatMismatch
from sharpcam.frame import Color, ColorMatrix, ColorRange, Frame
from sharpcam.geometry import Converter, from_rgb, picture_color, to_rgb, to_video_frame

LIMITED, FULL = Color(), Color(ColorRange.FULL)
HD = Color(matrix=ColorMatrix.BT709)
COLORS = [Color(r, m) for r in ColorRange for m in ColorMatrix]


def scene(width=64, height=48):
    """A smooth colourful picture (H, W, 3): chroma subsampling loses little of it."""
    small = np.random.default_rng(1).integers(20, 236, (4, 6, 3)).astype(np.float32)
    big = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
    return big.round().astype(np.uint8)


def reference_yuv(rgb, color):
    """Float Y (H, W), U and V (H/2, W/2) by the textbook."""
    kr, kb = (0.299, 0.114) if color.matrix is ColorMatrix.BT601 else (0.2126, 0.0722)
    r, g, b = np.moveaxis(rgb.astype(np.float64), 2, 0)
    y = kr * r + (1 - kr - kb) * g + kb * b
    u, v = (b - y) / (2 - 2 * kb), (r - y) / (2 - 2 * kr)
    if color.range is ColorRange.LIMITED:
        y, u, v = 16 + y * 219 / 255, u * 224 / 255, v * 224 / 255
    h, w = y.shape
    u, v = (c.reshape(h // 2, 2, w // 2, 2).mean((1, 3)) + 128 for c in (u, v))
    return y, u, v


def planes_of(picture):
    return [
        np.frombuffer(memoryview(p), np.uint8).reshape(p.height, p.line_size)[:, : p.width]
        for p in picture.planes
    ]


def numbered(width, height, fmt="yuv420p"):
    """A planar picture whose bytes tell their place."""
    picture = av.VideoFrame(width, height, fmt)
    for index, plane in enumerate(planes_of(picture)):
        rows, cols = np.mgrid[: plane.shape[0], : plane.shape[1]]
        plane[...] = (rows * 7 + cols * 3 + index * 50) % 200 + 20
    return picture


def converted(picture, size, color=LIMITED, fit="letterbox"):
    frame = Frame(*size)
    frame.buffer[...] = 77  # what a used frame of the pool would hold
    Converter(*size, color, fit).into(picture, frame)
    return frame


@pytest.mark.parametrize("color", COLORS, ids=lambda c: f"{c.range}-{c.matrix}")
def test_rgb_to_i420_is_the_textbook_and_unbiased(color):
    frame = Frame(64, 48, color)
    rgb = scene()
    from_rgb(rgb, frame)
    for got, want in zip(frame.planes, reference_yuv(rgb, color), strict=True):
        assert np.abs(got - want).max() < 1.6
        assert abs((got - want).mean()) < 0.2


@pytest.mark.parametrize("color", COLORS, ids=lambda c: f"{c.range}-{c.matrix}")
def test_rgb_survives_the_round_trip(color):
    frame = Frame(64, 48, color)
    rgb = scene()
    from_rgb(rgb, frame)
    back = to_rgb(frame)
    difference = back.astype(int) - rgb
    assert np.abs(difference).mean() < 1.5
    assert np.abs(difference.mean((0, 1))).max() < 0.4  # chroma is rounded twice


@pytest.mark.parametrize("color", COLORS, ids=lambda c: f"{c.range}-{c.matrix}")
@pytest.mark.parametrize("grey", [0, 1, 127, 128, 254, 255])
def test_grey_stays_grey(color, grey):
    frame = Frame(16, 16, color)
    from_rgb(np.full((16, 16, 3), grey, np.uint8), frame)
    assert set(np.unique(frame.uv)) == {128}
    black, white = (16, 235) if color.range is ColorRange.LIMITED else (0, 255)
    assert abs(int(frame.y[0, 0, 0, 0]) - (black + grey / 255 * (white - black))) <= 0.5
    assert np.abs(to_rgb(frame).astype(int) - grey).max() <= 1


def test_to_rgb_writes_into_the_given_array():
    frame = Frame(8, 8)
    frame.fill(200)
    out = np.zeros((8, 8, 3), np.uint8)
    assert to_rgb(frame, out) is out
    assert out.min() > 200


@pytest.mark.parametrize("shape", [(8, 10, 3), (10, 8, 3), (8, 8), (8, 8, 4)])
def test_from_rgb_refuses_other_shapes(shape):
    with pytest.raises(FormatMismatch):
        from_rgb(np.zeros(shape, np.uint8), Frame(8, 8))


@pytest.mark.parametrize(
    "fmt",
    [
        "rgb24",
        "bgr24",
        "rgba",
        "bgr0",
        "gbrp",
        "rgb48le",
        "yuv420p",
        "yuv422p",
        "yuv444p",
        "yuyv422",
        "uyvy422",
        "nv12",
        "nv21",
        "yuvj420p",
        "yuvj422p",
        "yuv420p10le",
        "p010le",
    ],
)
@pytest.mark.parametrize("color", COLORS, ids=lambda c: f"{c.range}-{c.matrix}")
def test_every_pixel_format_gives_the_same_picture(fmt, color):
    rgb = scene()
    picture = av.VideoFrame.from_ndarray(rgb, "rgb24").reformat(
        format=fmt, dst_colorspace=5, dst_color_range=2 if fmt.startswith("yuvj") else 1
    )
    picture.colorspace = 6 if not picture.format.is_rgb else 0
    frame = converted(picture, (64, 48), color)
    assert frame.color == color
    for got, want in zip(frame.planes, reference_yuv(rgb, color), strict=True):
        assert np.abs(got - want).mean() < 1.6
        assert abs((got - want).mean()) < 1.0


def test_wide_gamut_video_is_brought_to_the_asked_matrix():
    rgb = scene()
    picture = av.VideoFrame.from_ndarray(rgb, "rgb24").reformat(
        format="yuv444p", dst_colorspace=9, dst_color_range=1
    )
    picture.colorspace, picture.color_range = 9, 1
    frame = converted(picture, (64, 48), HD)
    for got, want in zip(frame.planes, reference_yuv(rgb, HD), strict=True):
        assert np.abs(got - want).mean() < 1.6


def test_grey_pictures_of_infrared_cameras():
    ramp = np.tile(np.arange(64, dtype=np.uint8) * 4, (48, 1))
    frame = converted(av.VideoFrame.from_ndarray(ramp, "gray"), (64, 48))
    y, u, v = frame.planes
    assert np.abs(y - (16 + ramp * (219 / 255))).max() <= 1
    assert set(np.unique(u)) | set(np.unique(v)) == {128}


@pytest.mark.parametrize("width", [64, 66, 70, 1278])  # lines are padded to 16 and more bytes
def test_the_same_size_and_colour_is_a_copy(width):
    picture = numbered(width, 48)
    frame = converted(picture, (width, 48))
    for got, want in zip(frame.planes, planes_of(picture), strict=True):
        np.testing.assert_array_equal(got, want)


def test_mjpeg_422_keeps_luma_and_averages_chroma_rows():
    picture = numbered(66, 48, "yuvj422p")
    frame = converted(picture, (66, 48), FULL)
    y, u, v = planes_of(picture)
    np.testing.assert_array_equal(frame.planes[0], y)
    for got, chroma in ((frame.planes[1], u), (frame.planes[2], v)):
        assert np.abs(got - (chroma[::2].astype(float) + chroma[1::2]) / 2).max() <= 0.5


@pytest.mark.parametrize(("source", "target"), [(1, FULL), (2, LIMITED)])
def test_a_change_of_range_is_exact_and_unbiased(source, target):
    picture = av.VideoFrame(512, 2, "yuv420p")
    y, u, v = planes_of(picture)
    y[...] = np.arange(512) % 256
    u[...] = np.arange(256)
    v[...] = 128
    picture.color_range = source
    frame = converted(picture, (512, 2), target)
    codes = np.arange(256.0)
    to_full = source == 1
    luma = (codes - 16) * 255 / 219 if to_full else 16 + codes * 219 / 255
    chroma = 128 + (codes - 128) * (255 / 224 if to_full else 224 / 255)
    assert np.abs(frame.planes[0][0, :256] - luma.clip(0, 255)).max() <= 0.5
    assert np.abs(frame.planes[1][0] - chroma.clip(0, 255)).max() <= 0.5
    assert set(np.unique(frame.planes[2])) == {128}


def test_an_untagged_matrix_is_not_converted_but_a_tagged_one_is():
    picture = numbered(64, 48)
    untouched = converted(picture, (64, 48), HD)
    np.testing.assert_array_equal(untouched.planes[1], planes_of(picture)[1])
    picture.colorspace = 6
    assert np.abs(converted(picture, (64, 48), HD).planes[0].astype(int) - untouched.planes[0]).max() > 4
    assert picture.colorspace == 6


@pytest.mark.parametrize("fmt", ["yuv420p", "yuvj422p", "rgb24"])
@pytest.mark.parametrize("odd", [(65, 48), (64, 49), (65, 49)])
def test_a_spare_row_or_column_is_cut_not_resampled(fmt, odd):
    if fmt == "rgb24":
        rgb = np.random.default_rng(0).integers(0, 256, (odd[1], odd[0], 3), dtype=np.uint8)
        expected = Frame(64, 48)
        from_rgb(np.ascontiguousarray(rgb[:48, :64]), expected)
        picture, luma = av.VideoFrame.from_ndarray(rgb, "rgb24"), expected.planes[0]
        color = LIMITED
    else:
        picture = numbered(*odd, fmt)
        luma = planes_of(picture)[0][:48, :64]
        color = FULL if fmt == "yuvj422p" else LIMITED
    frame = converted(picture, (64, 48), color)
    np.testing.assert_array_equal(frame.planes[0], luma)


@pytest.mark.parametrize(("color", "black"), [(LIMITED, 16), (FULL, 0)])
@pytest.mark.parametrize("fmt", ["yuv420p", "rgb24", "yuyv422"])
@pytest.mark.parametrize("size", [(128, 48), (64, 96), (70, 48), (102, 60)])
def test_letterbox_bars_are_black_even_and_centred(size, fmt, color, black):
    picture = av.VideoFrame(64, 48, fmt)
    for plane in picture.planes:
        np.frombuffer(memoryview(plane), np.uint8)[...] = 160
    frame = converted(picture, size, color)
    y, u, v = frame.planes
    for plane, bar in ((y, black), (u, 128), (v, 128)):
        lit = plane == plane[plane.shape[0] // 2, plane.shape[1] // 2]
        rows, cols = np.flatnonzero(lit.any(1)), np.flatnonzero(lit.any(0))
        top, left = rows[0], cols[0]
        inner = np.zeros_like(lit)
        inner[top : rows[-1] + 1, left : cols[-1] + 1] = True
        if plane is y:
            assert lit[inner].all()
            assert (plane[~inner] == black).all()
            assert top % 2 == 0
            assert left % 2 == 0
            assert abs((size[1] - rows[-1] - 1) - top) <= 2
            assert abs((size[0] - cols[-1] - 1) - left) <= 2
            assert abs(len(cols) / len(rows) - 64 / 48) < 0.06
        elif fmt != "rgb24":  # grey RGB gives 128 everywhere
            assert (plane[~inner] == bar).all()


def test_crop_keeps_the_middle_and_covers_everything():
    picture = av.VideoFrame(96, 48, "yuv420p")
    y, u, v = planes_of(picture)
    y[...], u[...], v[...] = 50, 100, 100
    y[:, 24:72], u[:, 12:36], v[:, 12:36] = 150, 200, 200
    frame = converted(picture, (48, 48), fit="crop")
    assert (frame.planes[0] == 150).all()
    assert (frame.planes[1] == 200).all()
    assert (converted(picture, (48, 48), fit="stretch").planes[0][:, [0, -1]] == 50).all()


@pytest.mark.parametrize("size", [(50, 48), (48, 50)])
def test_a_crop_keeps_chroma_with_its_luma(size):
    picture = numbered(*size)
    frame = converted(picture, (48, 48), fit="crop")
    y, u, v = planes_of(picture)
    for got, want in zip(frame.planes, (y[:48, :48], u[:24, :24], v[:24, :24]), strict=True):
        np.testing.assert_array_equal(got, want)


def test_scaling_keeps_positions_and_levels():
    rgb = scene(128, 96)
    frame = converted(av.VideoFrame.from_ndarray(rgb, "rgb24"), (64, 48))
    want = cv2.resize(reference_yuv(rgb, LIMITED)[0], (64, 48), interpolation=cv2.INTER_AREA)
    assert np.abs(frame.planes[0] - want).mean() < 1.0


# --- rotation -------------------------------------------------------------------------------------------


def rotated_picture(degrees_clockwise, width=64, height=48):
    """A decoded picture that carries a display matrix, as phones write it into the mp4 track header."""
    target = io.BytesIO()
    with av.open(target, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=25, width=width, height=height, pix_fmt="yuv420p")
        stream.bit_rate = 8_000_000
        picture = numbered(width, height)
        y, _, _ = planes_of(picture)
        y[...] = 60
        y[:24, :32] = 200  # the top left quarter is bright
        container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    data = bytearray(target.getvalue())
    header = data.index(b"tkhd") + 4 + 4 + 20 + 16  # version, times, ids, duration, layer, volume
    a, b = {0: (1, 0), 90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees_clockwise]
    one = 1 << 16
    matrix = [a * one, b * one, 0, -b * one, a * one, 0, 0, 0, 1 << 30]
    for i, value in enumerate(matrix):
        data[header + 4 * i : header + 4 * i + 4] = value.to_bytes(4, "big", signed=True)
    with av.open(io.BytesIO(bytes(data))) as container:
        return next(container.decode(video=0))


@pytest.mark.parametrize(("turn", "corner"), [(0, (0, 0)), (90, (0, 1)), (180, (1, 1)), (270, (1, 0))])
@pytest.mark.parametrize("fit", ["letterbox", "crop"])
def test_rotation_metadata_is_honoured(turn, corner, fit):
    picture = rotated_picture(turn)
    assert round(picture.rotation) % 360 == -turn % 360
    size = (64, 48) if turn in (0, 180) else (48, 64)
    y = converted(picture, size, fit=fit).planes[0].astype(int)
    h, w = y.shape
    quarters = {
        (r, c): y[r * h // 2 + 4 : (r + 1) * h // 2 - 4, c * w // 2 + 4 : (c + 1) * w // 2 - 4]
        for r in (0, 1)
        for c in (0, 1)
    }
    assert {place for place, part in quarters.items() if part.mean() > 150} == {corner}


def test_a_portrait_clip_is_letterboxed_upright():
    y = converted(rotated_picture(90), (128, 64)).planes[0]
    assert (y[:, :38] == 16).all()
    assert (y[:, 90:] == 16).all()
    assert y[16, 74] > 150 > y[16, 54]


# --- the rest -------------------------------------------------------------------------------------------


def test_one_converter_takes_changing_pictures():
    converter, frame = Converter(64, 48, LIMITED), Frame(64, 48)
    for picture in (numbered(64, 48), numbered(128, 96), rotated_picture(90), numbered(64, 48)):
        converter.into(picture, frame)
    np.testing.assert_array_equal(frame.planes[0], planes_of(numbered(64, 48))[0])


def test_a_frame_of_another_size_is_refused():
    with pytest.raises(FormatMismatch, match="64x48"):
        Converter(64, 48, LIMITED).into(numbered(64, 48), Frame(32, 48))


def test_an_impossible_picture_is_explained():
    with pytest.raises(FormatMismatch, match="gray32le 64x48") as caught:
        converted(av.VideoFrame(64, 48, "gray32le"), (64, 48))
    assert caught.value.hint


@pytest.mark.parametrize("color", COLORS, ids=lambda c: f"{c.range}-{c.matrix}")
def test_video_frames_for_encoders_are_tagged_copies(color):
    frame = Frame(66, 48, color)
    from_rgb(scene(66, 48), frame)
    picture = to_video_frame(frame)
    assert picture_color(picture) == color
    before = planes_of(picture)[0].copy()
    np.testing.assert_array_equal(before, frame.planes[0])
    frame.fill(0)
    np.testing.assert_array_equal(planes_of(picture)[0], before)


def test_picture_color_reads_tags_and_guesses_only_without_them():
    picture = numbered(16, 16)
    assert picture_color(picture) == LIMITED
    assert picture_color(picture, ColorMatrix.BT709) == HD
    picture.colorspace, picture.color_range = 1, 2
    assert picture_color(picture) == Color(ColorRange.FULL, ColorMatrix.BT709)
    assert picture_color(numbered(16, 16, "yuvj420p")) == FULL
