"""How near one picture is to another, as numbers that can be compared: on uint8 RGB pictures (H, W, 3).

Wrong kinds and sizes raise ValueError.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]

_RADIUS, _SIGMA = 5, 1.5  # of SSIM's Gaussian: 11 taps
_TAPS = np.exp(-0.5 * (np.arange(-_RADIUS, _RADIUS + 1) / _SIGMA) ** 2)
_TAPS /= _TAPS.sum()


def psnr(output: Picture, truth: Picture) -> float:
    """Peak signal-to-noise ratio in dB over all channels; infinite for identical pictures."""
    check_pair(output, truth)
    error = cv2.norm(output, truth, cv2.NORM_L2SQR) / truth.size
    return 10 * math.log10(255**2 / error) if error else math.inf


def ssim(output: Picture, truth: Picture) -> float:
    """Structural similarity (Wang et al., 2004), mean over the three channels.

    Gaussian window 11 with sigma 1.5, population covariance, data range 255, pixels whose window lies wholly
    inside: the figure of `skimage.metrics.structural_similarity(gaussian_weights=True, sigma=1.5,
    use_sample_covariance=False, data_range=255, channel_axis=2)`. Other windows give other figures.
    """
    check_pair(output, truth)
    if min(truth.shape[:2]) < 2 * _RADIUS + 1:
        raise ValueError(f"SSIM's window of 11 does not fit a picture of {size_text(truth)}")
    # one channel after another: the float64 maps of a whole photo take gigabytes
    return float(np.mean([_channel_ssim(output[..., c], truth[..., c]) for c in range(3)]))


def _channel_ssim(output: Picture, truth: Picture) -> float:
    x, y = output.astype(np.float64), truth.astype(np.float64)
    mean_x, mean_y = _gaussian(x), _gaussian(y)
    squares = mean_x**2 + mean_y**2
    variances = _gaussian(x * x + y * y) - squares  # the sum of both
    product = mean_x * mean_y
    covariance = _gaussian(x * y) - product
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    similar = (2 * product + c1) * (2 * covariance + c2) / ((squares + c1) * (variances + c2))
    return float(similar.mean())


def check_pair(output: Picture, truth: Picture) -> None:
    """Raises ValueError unless both are uint8 (H, W, 3) of one size."""
    for picture in (output, truth):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
            raise ValueError(f"uint8 (H, W, 3) pictures are wanted, not {picture.dtype} {picture.shape}")
    if output.shape != truth.shape:
        raise ValueError(f"pictures of {size_text(output)} and {size_text(truth)} cannot be compared")


def size_text(picture: Picture) -> str:
    """Width x height."""
    return f"{picture.shape[1]}x{picture.shape[0]}"


def _gaussian(x: NDArray[np.float64]) -> NDArray[np.float64]:
    filtered = cv2.sepFilter2D(x, cv2.CV_64F, _TAPS, _TAPS)
    return np.asarray(filtered, np.float64)[_RADIUS:-_RADIUS, _RADIUS:-_RADIUS]
