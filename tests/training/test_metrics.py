"""The figures against their definitions in plain numpy, and against scikit-image."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from training.metrics import (
    AMOUNTS,
    CEILING,
    SIGMAS,
    best_unsharp,
    flicker,
    mae,
    moving_pixels,
    overshoot,
    psnr,
    squared_error,
    ssim,
    unsharp,
)

Picture = NDArray[np.uint8]


def noise(seed: int = 0, shape: tuple[int, ...] = (40, 56, 3)) -> Picture:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def scene(height: int = 64, width: int = 80) -> Picture:
    """Something with flat parts, ramps, edges and texture."""
    y, x = np.mgrid[:height, :width]
    red = np.where((x // 16 + y // 16) % 2, 190, 60) + 20 * np.sin(x / 2)
    green = 40 + 2 * x + 0 * y
    blue = np.where(np.hypot(x - width / 2, y - height / 2) < 20, 220, 90) + noise(9, x.shape) % 8
    return np.stack([red, green, blue], axis=2).clip(0, 255).astype(np.uint8)


def degraded(picture: Picture, sigma: float = 12.0, seed: int = 1) -> Picture:
    rng = np.random.default_rng(seed)
    return (picture + rng.normal(0, sigma, picture.shape)).clip(0, 255).round().astype(np.uint8)


def gaussian(x: NDArray[np.float64], sigma: float, radius: int) -> NDArray[np.float64]:
    """By definition, on pictures mirrored at the border without repeating it."""
    taps = np.exp(-(np.arange(-radius, radius + 1) ** 2) / (2 * sigma**2))
    taps /= taps.sum()
    padded = np.pad(x, ((radius, radius), (radius, radius), (0, 0)), "reflect")
    rows = sum(t * padded[i : i + x.shape[0]] for i, t in enumerate(taps))
    return np.asarray(sum(t * rows[:, i : i + x.shape[1]] for i, t in enumerate(taps)))


# --- psnr, mae, ssim ---------------------------------------------------------------------------------------


def test_psnr_and_mae_by_definition() -> None:
    a, b = noise(1), noise(2)
    difference = a.astype(float) - b.astype(float)
    assert psnr(a, b) == pytest.approx(10 * math.log10(255**2 / np.mean(difference**2)), abs=1e-9)
    assert mae(a, b) == pytest.approx(np.abs(difference).mean() / 255, abs=1e-12)
    one_level = np.full((720, 1280, 3), 7, np.uint8)
    assert psnr(one_level, one_level + 1) == pytest.approx(48.1308, abs=1e-4)
    assert mae(one_level, one_level + 1) == pytest.approx(1 / 255)


def test_identical_pictures() -> None:
    assert psnr(noise(), noise()) == math.inf
    assert mae(noise(), noise()) == 0
    assert ssim(noise(), noise()) == pytest.approx(1)


@pytest.mark.parametrize("sigma", [2, 12, 60])
def test_ssim_is_scikit_images_on_its_valid_pixels(sigma: float) -> None:
    skimage = pytest.importorskip("skimage.metrics")
    truth = scene()
    output = degraded(truth, sigma)
    want, full = skimage.structural_similarity(
        truth,
        output,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=255,
        channel_axis=2,
        full=True,
    )
    assert ssim(output, truth) == pytest.approx(want, abs=1e-9)
    assert ssim(output, truth) == pytest.approx(full[5:-5, 5:-5].mean(), abs=1e-9)
    assert ssim(output, truth) == ssim(truth, output)


def test_ssim_by_definition_on_one_window() -> None:
    a, b = noise(3, (11, 11, 3)), noise(4, (11, 11, 3))
    x = np.arange(11) - 5
    window = np.exp(-(x[:, None] ** 2 + x[None] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    values = []
    for channel in range(3):
        p, q = a[:, :, channel].astype(float), b[:, :, channel].astype(float)
        mp, mq = (window * p).sum(), (window * q).sum()
        vp, vq = (window * (p - mp) ** 2).sum(), (window * (q - mq) ** 2).sum()
        cov = (window * (p - mp) * (q - mq)).sum()
        c1, c2 = 2.55**2, 7.65**2
        values.append((2 * mp * mq + c1) * (2 * cov + c2) / ((mp**2 + mq**2 + c1) * (vp + vq + c2)))
    assert ssim(a, b) == pytest.approx(np.mean(values), abs=1e-9)


@pytest.mark.parametrize("metric", [psnr, mae, ssim, overshoot])
def test_pictures_that_cannot_be_compared_are_refused(metric: object) -> None:
    assert callable(metric)
    with pytest.raises(ValueError, match="56x40 and 40x56 cannot be compared"):
        metric(noise(), noise(0, (56, 40, 3)))
    with pytest.raises(ValueError, match="uint8"):
        metric(noise().astype(np.float32), noise().astype(np.float32))
    with pytest.raises(ValueError, match="uint8"):
        metric(noise(0, (40, 56)), noise(0, (40, 56)))


def test_ssim_refuses_what_is_smaller_than_its_window() -> None:
    with pytest.raises(ValueError, match=r"window of 11 does not fit a picture of 20x10"):
        ssim(noise(0, (10, 20, 3)), noise(0, (10, 20, 3)))


# --- flicker and overshoot ---------------------------------------------------------------------------------


def test_flicker_is_measured_where_the_truth_is_calm() -> None:
    rng = np.random.default_rng(0)
    truth = np.repeat(scene(20, 50)[None], 6, axis=0)
    truth[:, :, 20:] = rng.integers(0, 256, (6, 20, 30, 3), np.uint8)  # 60 % moves, 40 % stands still
    outputs = rng.integers(0, 256, truth.shape, np.uint8)
    outputs[:, :, :20] = truth[:, :, :20]
    assert flicker(truth, truth) == 0
    assert flicker(outputs, truth) == 0  # wild, but only where the truth is
    outputs[1::2, :, :20] = np.minimum(truth[1::2, :, :20], 250) + 5
    want = np.abs(np.diff(outputs[:, :, :20].astype(int), axis=0)).mean()
    assert want > 4
    assert flicker(outputs, truth) == pytest.approx(want)
    assert flicker(list(outputs), list(truth)) == pytest.approx(want)


def test_moving_is_what_changes_by_eight_levels_and_its_surroundings() -> None:
    before = np.full((20, 24, 3), 100, np.uint8)
    after = before.copy()
    after[5, 6] = (108, 108, 108)
    after[5, 20] = (100, 100, 124)  # the mean of the channels
    after[15, 12] = (107, 108, 108)
    expected = np.zeros((20, 24), bool)
    expected[3:8, 4:9] = expected[3:8, 18:23] = True
    assert (moving_pixels(before, after) == expected).all()
    assert not moving_pixels(before, before).any()


def test_squared_error_counts_only_where_it_is_asked() -> None:
    output, truth = noise(1), noise(2)
    where = noise(3)[..., 0] > 200
    expected = ((output.astype(float) - truth) ** 2)[where].sum()
    assert squared_error(output, truth, where) == pytest.approx(expected)


def test_flicker_takes_the_calmest_two_fifths() -> None:
    # column c of the truth changes by c levels at each step; of ten columns the calmest four are 0..3
    truth = np.zeros((3, 4, 10, 3), np.uint8)
    truth[1] += np.arange(10, dtype=np.uint8)[:, None]
    assert flicker(truth, truth) == pytest.approx((0 + 1 + 2 + 3) / 4)
    brighter = truth * 2
    assert flicker(brighter, truth) == pytest.approx(3)


def test_flicker_wants_two_clips_of_one_shape() -> None:
    clip = noise(0, (3, 8, 8, 3))
    with pytest.raises(ValueError, match="2 frames or more, not of 1 and 1"):
        flicker(clip[:1], clip[:1])
    with pytest.raises(ValueError, match="not of 3 and 2"):
        flicker(clip, clip[:2])
    with pytest.raises(ValueError, match="cannot be compared"):
        flicker(noise(0, (3, 8, 10, 3)), clip)


def step(low: int = 60, high: int = 180) -> Picture:
    picture = np.full((24, 40, 3), low, np.uint8)
    picture[:, 20:] = high
    return picture


def test_overshoot_counts_halos_and_nothing_else() -> None:
    truth = step()
    assert overshoot(truth, truth) == 0
    soft = truth.copy()
    soft[:, 19:21] = 120
    assert overshoot(soft, truth) == 0  # blur stays between the sides
    halo = truth.copy()
    halo[:, 19] -= 10
    halo[:, 20] += 30
    # the edge's gradient touches columns 19 and 20; with a reach of 4 the area is 15..24: 10 columns
    assert overshoot(halo, truth) == pytest.approx((10 + 30) / 10)
    assert overshoot(halo, truth, reach=2) == pytest.approx((10 + 30) / 6)
    assert overshoot(halo, truth, edge=100) == 0  # no edge is that strong


def test_overshoot_ignores_flat_parts() -> None:
    flat = np.full((24, 40, 3), 100, np.uint8)
    assert overshoot(flat + 50, flat) == 0
    far = step()
    far[:, :10] = 0  # an error, but far from the edge
    assert overshoot(far, step()) == 0


def test_more_sharpening_overshoots_more() -> None:
    truth = scene()
    figures = [overshoot(unsharp(truth, 1.5, amount), truth) for amount in (0.0, 0.5, 1.0, 2.0)]
    assert figures[0] == 0
    assert figures == sorted(figures)
    assert figures[-1] > figures[1] > 0


# --- the unsharp mask --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sigma", "amount"), [(1.0, 0.5), (1.5, 1.0), (3.0, 2.5)])
def test_unsharp_by_definition(sigma: float, amount: float) -> None:
    picture = scene()
    x = picture.astype(np.float64)
    # far more taps than the implementation: the ends of the Gaussian may differ by a level, no more
    want = (x + amount * (x - gaussian(x, sigma, 20))).clip(0, 255)
    got = unsharp(picture, sigma, amount)
    assert got.dtype == np.uint8
    assert np.abs(got - want).max() < 1
    assert np.abs(got - want).mean() < 0.3


def test_unsharp_of_amount_0_is_the_picture() -> None:
    assert np.array_equal(unsharp(noise(), 2.0, 0.0), noise())


def test_best_unsharp_finds_the_best_of_the_grid() -> None:
    pairs = []
    for seed in range(2):
        sharp = scene()[:, seed * 8 : 64 + seed * 8]
        blurred = gaussian(sharp.astype(np.float64), 1.2, 6).round().astype(np.uint8)
        pairs.append((degraded(blurred, 1.0, seed), sharp))
    best = best_unsharp(iter(pairs))
    grid = {
        (sigma, amount): np.mean([psnr(unsharp(soft, sigma, amount), sharp) for soft, sharp in pairs])
        for sigma in SIGMAS
        for amount in AMOUNTS
    }
    assert best.psnr == pytest.approx(max(grid.values()))
    assert grid[best.sigma, best.amount] == pytest.approx(best.psnr)
    assert best.psnr > np.mean([psnr(soft, sharp) for soft, sharp in pairs]) + 0.5


def test_best_unsharp_leaves_alone_what_it_cannot_mend() -> None:
    truth = scene()
    assert best_unsharp([(degraded(truth, 20), truth)]).amount == 0
    perfect = best_unsharp([(truth, truth)])
    assert (perfect.amount, perfect.psnr) == (0, CEILING)


def test_best_unsharp_wants_pairs() -> None:
    with pytest.raises(ValueError, match="no pairs"):
        best_unsharp([])
    with pytest.raises(ValueError, match="cannot be compared"):
        best_unsharp([(noise(), noise(0, (40, 40, 3)))])
