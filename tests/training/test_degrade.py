"""The webcam simulator: kernels and noise by their formulas, conversions by the standard's, all by seed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from made_data import drawn

from training import degrade
from training.degrade import Image, Webcam


def picture(height: int = 48, width: int = 64, seed: int = 3) -> Image:
    return degrade.as_float(drawn(height, width, seed))


def flat(*rgb: float, height: int = 32, width: int = 48) -> Image:
    image = np.empty((height, width, 3), np.float32)
    image[:] = rgb
    return image


def moments(kernel: np.ndarray) -> tuple[float, float, float, float, float]:
    """Means and variances of x and y, and their covariance."""
    r = kernel.shape[0] // 2
    y, x = np.mgrid[-r : r + 1, -r : r + 1]
    mx, my = (kernel * x).sum(), (kernel * y).sum()
    dx, dy = x - mx, y - my
    return mx, my, (kernel * dx * dx).sum(), (kernel * dy * dy).sum(), (kernel * dx * dy).sum()


# -- kernels -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kernel",
    [
        degrade.gaussian_kernel(0.3),
        degrade.gaussian_kernel(1.7),
        degrade.gaussian_kernel(2.0, 0.7, 0.6),
        degrade.disk_kernel(0.1),
        degrade.disk_kernel(1.0),
        degrade.disk_kernel(3.45),
        degrade.motion_kernel(0.5, 0.0),
        degrade.motion_kernel(7.0, np.pi),
        degrade.motion_kernel(10.5, 2.1),
    ],
)
def test_kernels_keep_the_light_and_the_place(kernel: np.ndarray) -> None:
    assert kernel.dtype == np.float32
    assert kernel.shape[0] == kernel.shape[1]
    assert kernel.shape[0] % 2 == 1
    assert kernel.min() >= 0
    assert kernel.sum() == pytest.approx(1, abs=1e-5)
    assert moments(kernel)[:2] == pytest.approx((0, 0), abs=1e-4)


def test_gaussian_has_its_sigmas_along_its_axes() -> None:
    _, _, xx, yy, xy = moments(degrade.gaussian_kernel(2.0, 1.0, np.pi / 6))
    c, s = np.cos(np.pi / 6), np.sin(np.pi / 6)
    assert xx == pytest.approx(4 * c * c + s * s, rel=0.03)
    assert yy == pytest.approx(4 * s * s + c * c, rel=0.03)
    assert xy == pytest.approx(3 * s * c, rel=0.03)


@pytest.mark.parametrize("radius", [1.6, 2.3, 3.5])
def test_disk_is_flat_inside_empty_outside_and_has_its_spread(radius: float) -> None:
    kernel = degrade.disk_kernel(radius)
    r = kernel.shape[0] // 2
    y, x = np.mgrid[-r : r + 1, -r : r + 1]
    distance = np.hypot(x, y)
    assert kernel[distance > radius + 0.75].max(initial=0) == 0
    inside = kernel[distance < radius - 0.75]
    assert inside == pytest.approx(1 / (np.pi * radius**2), rel=0.05)
    _, _, xx, yy, _ = moments(kernel)
    assert (xx, yy) == pytest.approx((radius**2 / 4 + 1 / 12,) * 2, rel=0.1)  # a disk, and pixels of side 1


@pytest.mark.parametrize("angle", [0.0, np.pi / 4, np.pi / 2, 2.5])
def test_motion_is_a_line_of_its_length_at_its_angle(angle: float) -> None:
    _, _, xx, yy, xy = moments(degrade.motion_kernel(9.0, angle))
    # a line of length L has the variance L^2 / 12; linear interpolation adds at most a quarter
    assert -0.01 < xx - 81 / 12 * np.cos(angle) ** 2 < 0.26
    assert -0.01 < yy - 81 / 12 * np.sin(angle) ** 2 < 0.26
    assert xy == pytest.approx(81 / 12 * np.sin(angle) * np.cos(angle), abs=0.02)
    longest = np.argwhere(degrade.motion_kernel(9.0, 0.0) > 1e-4)
    assert set(longest[:, 0]) == {5}
    assert np.ptp(longest[:, 1]) in (8, 9, 10)


def test_convolution_keeps_flat_areas_up_to_the_border() -> None:
    out = degrade.convolve(flat(0.2, 0.5, 0.8), degrade.disk_kernel(3.0))
    assert out == pytest.approx(flat(0.2, 0.5, 0.8), abs=1e-5)


# -- sensor and processor --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shot", "read", "level"), [(0.008, 0.0, 0.5), (0.0, 0.016, 0.5), (0.004, 0.01, 0.05)]
)
def test_noise_has_the_variance_of_the_formula(shot: float, read: float, level: float) -> None:
    linear = flat(level, level, level, height=128, width=128)
    noise = degrade.sensor_noise(linear, shot, read, np.random.default_rng(0)) - level
    assert noise.dtype == np.float32
    assert noise.mean() == pytest.approx(0, abs=4 * np.sqrt((shot * level + read**2) / noise.size))
    assert noise.var() == pytest.approx(shot * level + read**2, rel=0.03)
    r, g, b = noise.reshape(-1, 3).T
    assert abs(np.corrcoef([r, g, b])[np.triu_indices(3, 1)]).max() < 0.03


def test_linear_light_and_back() -> None:
    image = picture()
    assert degrade.to_gamma(degrade.to_linear(image)) == pytest.approx(image, abs=1e-6)
    assert degrade.to_linear(flat(0.5, 0, 1))[0, 0] == pytest.approx([0.5**2.2, 0, 1])
    assert degrade.to_gamma(flat(-0.1, 0.25, 1.2))[0, 0] == pytest.approx([0, 0.25 ** (1 / 2.2), 1])


def test_smear_takes_noise_and_leaves_edges() -> None:
    edge = flat(0.2, 0.2, 0.2)
    edge[:, 24:] = 0.8
    noisy = edge + np.float32(0.02) * np.random.default_rng(1).standard_normal(edge.shape, np.float32)
    out = degrade.smear(noisy, 0.1, 2.0)
    assert out[:, :20].std() < 0.5 * noisy[:, :20].std()
    assert (out[:, 24] - out[:, 23]).mean() > 0.55


def test_oversharpening_overshoots_at_edges_and_nowhere_else() -> None:
    edge = flat(0.3, 0.3, 0.3)
    edge[:, 24:] = 0.7
    out = degrade.oversharpen(edge, 1.0, 0.8)
    assert out[:, 24].min() > 0.72
    assert out[:, 23].max() < 0.28
    assert out[:, :16] == pytest.approx(0.3, abs=1e-3)


# -- codecs ----------------------------------------------------------------------------------------------


def psnr(a: Image, b: Image) -> float:
    return float(-10 * np.log10(np.mean((a - b) ** 2)))


@pytest.mark.parametrize("chroma_422", [False, True])
def test_jpeg_is_better_at_higher_quality(chroma_422: bool) -> None:
    image = picture()
    low, high = (degrade.mjpeg(image, quality, chroma_422) for quality in (30, 95))
    assert low.shape == high.shape == image.shape
    assert low.dtype == np.float32
    assert psnr(image, high) > psnr(image, low) + 3


def test_jpeg_422_keeps_colour_rows_that_420_mixes() -> None:
    stripes = flat(1, 0, 0)
    stripes[1::2] = (0, 0, 1)
    wide, square = degrade.mjpeg(stripes, 98, True), degrade.mjpeg(stripes, 98, False)
    assert psnr(stripes, wide) > psnr(stripes, square) + 10


@pytest.mark.parametrize("codec", ["libx264", "libvpx"])
def test_video_codec_returns_the_clip_without_a_shift_of_colour(codec: str) -> None:
    clip = [flat(0.7, 0.3, 0.2, height=32, width=64) for _ in range(4)]
    for frame in clip:
        frame[:, 32:] = (0.1, 0.3, 0.8)
    out = degrade.video_codec(clip, codec, bits_per_pixel=4.0)
    assert len(out) == 4
    assert out[0].shape == clip[0].shape
    assert out[-1][:, :24].mean((0, 1)) == pytest.approx([0.7, 0.3, 0.2], abs=1.5 / 255)
    assert out[-1][:, 40:].mean((0, 1)) == pytest.approx([0.1, 0.3, 0.8], abs=1.5 / 255)
    # colour moves by no pixel either: the edge lies where 4:2:0 alone leaves it
    assert out[-1] == pytest.approx(degrade.from_i420(degrade.to_i420(clip[0])), abs=0.03)


def test_video_codec_is_worse_at_a_lower_rate() -> None:
    clip = [degrade.from_i420(degrade.to_i420(picture(64, 64, 1)))] * 4
    low, high = (degrade.video_codec(clip, "libx264", rate)[-1] for rate in (0.05, 4.0))
    assert psnr(high, clip[0]) > psnr(low, clip[0]) + 5


# -- 4:2:0 -----------------------------------------------------------------------------------------------


def textbook(rgb: np.ndarray, full_range: bool) -> np.ndarray:
    """BT.601 from its constants Kr and Kb, in float64, one pixel."""
    kr, kb = 0.299, 0.114
    r, g, b = (float(v) for v in rgb)
    y = kr * r + (1 - kr - kb) * g + kb * b
    u, v = (b - y) / (2 * (1 - kb)), (r - y) / (2 * (1 - kr))
    luma, chroma, black = (255, 255, 0) if full_range else (219, 224, 16)
    return np.array([luma * y + black, chroma * u + 128, chroma * v + 128])


@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize("rgb", [(0, 0, 0), (1, 1, 1), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0.4, 0.6, 0.8)])
def test_i420_is_that_of_the_standard(rgb: tuple[float, float, float], full_range: bool) -> None:
    buffer = degrade.to_i420(flat(*rgb), full_range)
    assert buffer.shape == (48, 48)
    assert buffer.dtype == np.uint8
    planes = buffer[:32], buffer[32:40], buffer[40:]
    wanted = np.clip(textbook(np.array(rgb), full_range), 0, 255)
    assert [float(p.mean()) for p in planes] == pytest.approx(wanted, abs=0.51)
    assert [float(np.ptp(p)) for p in planes] == [0, 0, 0]
    assert degrade.from_i420(buffer, full_range)[0, 0] == pytest.approx(rgb, abs=2.1 / 255)


def test_i420_chroma_is_the_mean_of_four_and_comes_back_in_place() -> None:
    image = flat(0.5, 0.5, 0.5, height=16, width=16)
    image[4:6, 8:10] = (0.9, 0.3, 0.3)
    buffer = degrade.to_i420(image)
    u, v = buffer[16:].reshape(2, 8, 8)
    assert np.argwhere(v != v[0, 0]).tolist() == [[2, 4]]
    assert np.argwhere(u != u[0, 0]).tolist() == [[2, 4]]
    out = degrade.from_i420(buffer)
    redness = out[..., 0] - out[..., 2]
    rows, columns = np.mgrid[:16, :16]
    middle = (redness * rows).sum() / redness.sum(), (redness * columns).sum() / redness.sum()
    assert middle == pytest.approx((4.5, 8.5), abs=0.05)


# -- whole cameras ---------------------------------------------------------------------------------------

HARSH = Webcam(
    blur="aniso", blur_size=1.5, blur_ratio=0.5, blur_angle=0.4, motion=4.0, motion_angle=1.0, scale=1.5,
    shot=0.004, read=0.01, smear_color=0.05, sharpen_amount=0.5, temporal=0.3, jpeg=70, drift=0.1,
)  # fmt: skip


@pytest.mark.parametrize(
    "webcam",
    [
        HARSH,
        replace(HARSH, codec="libx264", codec_rate=0.2),
        Webcam(blur="gauss", blur_size=1.0),
        Webcam(blur="disk", blur_size=2.0, drift=0.1),
        Webcam(scale=1.7, shot=0.001),
    ],
)
def test_a_camera_returns_its_clip_damaged_and_the_same_by_seed(webcam: Webcam) -> None:
    clip = [picture(seed=s) for s in (1, 1, 2)]
    kept = [f.copy() for f in clip]
    out = degrade.degrade_clip(clip, webcam, np.random.default_rng(5))
    again = degrade.degrade_clip(clip, webcam, np.random.default_rng(5))
    assert [f.shape for f in out] == [f.shape for f in clip]
    assert all(f.dtype == np.float32 and f.min() >= 0 and f.max() <= 1 for f in out)
    assert all(np.array_equal(a, b) for a, b in zip(out, again, strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(clip, kept, strict=True))
    assert psnr(out[0], clip[0]) < 40
    if webcam.shot or webcam.drift:
        other = degrade.degrade_clip(clip, webcam, np.random.default_rng(6))
        assert not np.array_equal(out[1], other[1])
    if webcam.shot:  # two frames of one scene differ by the noise of the moment
        assert not np.array_equal(out[0], out[1])


def test_perfect_cameras_leave_every_pixel() -> None:
    clip = [picture(seed=s) for s in (1, 2)]
    for webcam in (Webcam(identity=True), Webcam(identity=True, blur="disk", blur_size=3, jpeg=50)):
        out = degrade.degrade_clip(clip, webcam, np.random.default_rng(0))
        assert all(np.array_equal(a, b) for a, b in zip(out, clip, strict=True))
    out = degrade.degrade_clip(clip, Webcam(), np.random.default_rng(0))  # no damage: two powers remain
    assert np.stack(out) == pytest.approx(np.stack(clip), abs=1e-5)


def test_grey_grain_is_of_brightness_alone() -> None:
    for grey in (False, True):
        webcam = Webcam(grain=0.04, grey=grey)
        (out,) = degrade.degrade_clip([flat(0.4, 0.4, 0.4)], webcam, np.random.default_rng(0))
        assert out[..., 0].std() > 0.02
        assert (out[..., 0] - out[..., 2]).std() == pytest.approx(0, abs=1e-5) or not grey
        assert (out[..., 0] - out[..., 2]).std() > 0.02 or grey


def test_grain_grows_with_brightness_on_encoded_values() -> None:
    for level in (0.25, 0.64):
        image = flat(level, level, level, height=128, width=128)
        (out,) = degrade.degrade_clip([image], Webcam(grain=0.02, encoded=True), np.random.default_rng(0))
        assert out.std() == pytest.approx(0.02 * (0.5 + 0.5 * np.sqrt(level)), rel=0.03)
        assert out.mean() == pytest.approx(level, abs=1e-3)


def test_blur_is_of_light_unless_a_camera_blurs_what_is_encoded() -> None:
    edge = flat(0.1, 0.1, 0.1)
    edge[:, 24:] = 0.9
    blur = Webcam(blur="gauss", blur_size=2.0)
    light, encoded = (
        degrade.degrade_clip([edge], camera, np.random.default_rng(0))[0].mean()
        for camera in (blur, replace(blur, encoded=True))
    )
    assert encoded == pytest.approx(0.5, abs=0.005)
    assert light > 0.505  # bright light spreads over the dark


def test_the_camera_s_own_recursion_carries_what_was_before() -> None:
    clip = [flat(0.0, 0.0, 0.0), flat(1.0, 1.0, 1.0), flat(1.0, 1.0, 1.0)]
    out = degrade.degrade_clip(clip, Webcam(temporal=0.5), np.random.default_rng(0))
    assert [float(f.mean()) for f in out] == pytest.approx([0, 0.5, 0.75], abs=1e-3)


def test_random_cameras_are_by_seed_and_as_often_perfect_as_asked() -> None:
    cameras = [degrade.sample_webcam(np.random.default_rng(i), identity=0.25) for i in range(400)]
    assert cameras[:20] == [degrade.sample_webcam(np.random.default_rng(i), identity=0.25) for i in range(20)]
    assert 0.18 < np.mean([c.identity for c in cameras]) < 0.32
    assert not any(degrade.sample_webcam(np.random.default_rng(i), identity=0).identity for i in range(100))
    rest = [c for c in cameras if not c.identity]
    assert {c.blur for c in rest} == {"none", "gauss", "aniso", "disk"}
    assert {c.codec for c in rest} == {"", "libx264", "libvpx"}
    assert {bool(c.jpeg) for c in rest} == {True, False}
    assert all(c.jpeg == 0 or 50 <= c.jpeg <= 96 for c in rest)


# -- a lens on the planes ------------------------------------------------------------------------------


def test_a_soft_lens_takes_detail_and_no_light() -> None:
    rng = np.random.default_rng(0)
    clip = rng.integers(0, 256, (2, 96, 64), dtype=np.uint8)
    clip[:, :, 32:] = 90  # a wall beside noise: planes of U and V, too
    seen = [degrade.soft_lens(clip, np.random.default_rng(seed)) for seed in range(24)]
    for out in seen:
        assert out.shape == clip.shape
        assert out.dtype == np.uint8
        # inside, where kernels do not reach over the border
        fine, soft = (np.abs(np.diff(c[:, 8:56, 8:24].astype(float), axis=2)).mean() for c in (clip, out))
        assert soft < 0.8 * fine
        assert abs(out[:, :64].mean() - clip[:, :64].mean()) < 2
        assert np.abs(out[:, 8:56, 44:].astype(int) - 90).max() <= 10
    walls = np.array([np.abs(out[:, 8:56, 44:].astype(int) - 90).max() for out in seen])
    assert 6 < (walls == 0).sum() < 23  # most lenses are without noise, some are not
    first, second = seen[0], degrade.soft_lens(clip, np.random.default_rng(0))
    assert np.array_equal(first, second)


def test_a_soft_lens_blurs_chroma_half_as_far() -> None:
    """U and V have half of luma's pixels: a point spreads as far on the screen."""
    clip = np.zeros((1, 96, 64), np.uint8)
    clip[0, 32, 32] = 255
    clip[0, 64:].reshape(2, 32, 32)[0, 16, 16] = 255
    measured = 0
    for seed in range(24):
        out = degrade.soft_lens(clip, np.random.default_rng(seed)).astype(float)
        y, u = out[0, :64], out[0, 64:].reshape(2, 32, 32)[0]
        if min(y.max(), u.max()) < 25 or y[:8].max() > 0:  # too wide to measure in whole levels, or noisy
            continue

        def spread(plane: np.ndarray, centre: int) -> float:
            at = np.arange(len(plane)) - centre
            return float(np.sqrt((plane.sum(0) * at**2).sum() / plane.sum()))

        if spread(y, 32) > 0.7:  # below, levels are too coarse
            measured += 1
            assert spread(u, 16) == pytest.approx(spread(y, 32) / 2, abs=0.25)
    assert measured >= 3
