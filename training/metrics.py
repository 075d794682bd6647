"""How good pictures are, as numbers that can be compared: on uint8 RGB pictures, as people see them.

Pictures are numpy uint8 (H, W, 3), clips (T, H, W, 3) or sequences of pictures. Wrong kinds and sizes raise
ValueError. `unsharp` and `best_unsharp` are the baseline that every network has to beat.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from sharpcam.quality import Picture, check_pair, size_text
from sharpcam.quality import psnr as psnr
from sharpcam.quality import ssim as ssim

CEILING = 60.0  # dB: what identical pictures, whose PSNR is infinite, count as in a mean
CALM = 0.4  # share of a clip's pixels on which flicker is measured
MOVED = 8  # grey levels, mean of the channels, that a pixel changes by where something moves


def mae(output: Picture, truth: Picture) -> float:
    """Mean absolute error, as a share of the range: 0..1, one grey level is 1 / 255."""
    check_pair(output, truth)
    return cv2.norm(output, truth, cv2.NORM_L1) / truth.size / 255


def flicker(outputs: Sequence[Picture] | Picture, truth: Sequence[Picture] | Picture) -> float:
    """Mean absolute frame-to-frame change of `outputs`, in grey levels, where the true clip is calm.

    Calm are the 40 % of the pixels (with those that tie) whose own mean change over the whole of `truth` is
    smallest: what changes there is noise, or the network's doing. `flicker(truth, truth)` is the floor.
    """
    if len(outputs) != len(truth) or len(truth) < 2:
        raise ValueError(
            f"flicker wants two clips of 2 frames or more, not of {len(outputs)} and {len(truth)}"
        )
    if outputs[0].shape != truth[0].shape:
        raise ValueError(f"clips of {size_text(outputs[0])} and {size_text(truth[0])} cannot be compared")
    calm = calm_pixels(truth)
    return float(np.mean([change(before, after, calm) for before, after in _steps(outputs)]))


def calm_pixels(truth: Iterable[Picture]) -> NDArray[np.bool_]:
    """Where a clip of 2 frames or more is calm (see `flicker`), (H, W); it is read once, frame by frame."""
    total: NDArray[np.int64] | None = None
    for before, after in _steps(truth):
        step = cv2.absdiff(before, after).sum(axis=2, dtype=np.int64)
        total = step if total is None else total + step
    if total is None:
        raise ValueError("a clip of 2 frames or more is wanted")
    return np.asarray(total <= np.quantile(total, CALM, method="inverted_cdf"))


def change(before: Picture, after: Picture, where: NDArray[np.bool_]) -> float:
    """Mean absolute difference in grey levels, over the pixels `where`."""
    return float(cv2.absdiff(before, after)[where].mean())


def moving_pixels(before: Picture, after: Picture, reach: int = 2) -> NDArray[np.bool_]:
    """Where something moves between two true frames, (H, W): what has changed, and `reach` pixels around it.

    There a network that remembers leaves ghosts of what was.
    """
    check_pair(before, after)
    changed = cv2.absdiff(before, after).sum(axis=2, dtype=np.int64) >= 3 * MOVED
    square = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    return np.asarray(cv2.dilate(changed.astype(np.uint8), square) > 0)


def squared_error(output: Picture, truth: Picture, where: NDArray[np.bool_]) -> float:
    """Sum of the squared differences in grey levels, over the pixels `where` and all channels."""
    check_pair(output, truth)
    return float(np.square(output[where].astype(np.float64) - truth[where]).sum())


def overshoot(output: Picture, truth: Picture, edge: float = 16.0, reach: int = 4) -> float:
    """Halos: by how many grey levels the output leaves the truth's local range around strong edges.

    On luma. Strong edges are pixels of `truth` whose gradient (Sobel / 8) is `edge` grey levels per pixel or
    more; around them, as far as `reach` pixels, the output may lie between the smallest and the largest true
    value within `reach` pixels. The mean of what lies outside, over that area; 0 without a strong edge.
    """
    check_pair(output, truth)
    grey = cv2.cvtColor(truth, cv2.COLOR_RGB2GRAY)
    across = cv2.Sobel(grey, cv2.CV_32F, 1, 0) / 8
    down = cv2.Sobel(grey, cv2.CV_32F, 0, 1) / 8
    square = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    near = cv2.dilate((np.hypot(across, down) >= edge).astype(np.uint8), square) > 0
    if not near.any():
        return 0.0
    shown = cv2.cvtColor(output, cv2.COLOR_RGB2GRAY)
    above = cv2.subtract(shown, cv2.dilate(grey, square))  # saturates at 0
    below = cv2.subtract(cv2.erode(grey, square), shown)
    return float(cv2.add(above, below)[near].mean())


# -- the baseline ----------------------------------------------------------------------------------------


def unsharp(image: Picture, sigma: float, amount: float) -> Picture:
    """The unsharp mask: image + amount * (image - Gaussian blur of it), rounded and clipped."""
    check_pair(image, image)
    return _unsharp(image.astype(np.float32), sigma, [amount])[0]


@dataclass(frozen=True)
class BestUnsharp:
    sigma: float
    amount: float
    psnr: float  # mean over the pairs, dB


SIGMAS = (0.5, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0)
AMOUNTS = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0)


def best_unsharp(
    pairs: Iterable[tuple[Picture, Picture]],
    sigmas: Sequence[float] = SIGMAS,
    amounts: Sequence[float] = AMOUNTS,
) -> BestUnsharp:
    """The unsharp mask with the highest mean PSNR on these (soft, sharp) pairs, by trying all of a grid.

    It is tuned on the very set that it is judged on, which no network is: the strongest honest baseline.
    Amount 0, the input as it is, is among them, so it never loses to doing nothing.
    """
    total = np.zeros((len(sigmas), len(amounts)))
    count = 0
    for soft, sharp in pairs:
        check_pair(soft, sharp)
        wide = soft.astype(np.float32)
        for row, sigma in enumerate(sigmas):
            for column, picture in enumerate(_unsharp(wide, sigma, amounts)):
                total[row, column] += min(psnr(picture, sharp), CEILING)
        count += 1
    if not count:
        raise ValueError("no pairs to tune the unsharp mask on")
    row, column = divmod(int(np.argmax(total)), len(amounts))
    return BestUnsharp(sigmas[row], amounts[column], float(total[row, column] / count))


def _unsharp(image: NDArray[np.float32], sigma: float, amounts: Sequence[float]) -> list[Picture]:
    blurred = cv2.GaussianBlur(image, (0, 0), sigma)
    # in one pass each, and rounded and clipped by the way
    return [
        np.asarray(cv2.addWeighted(image, 1 + a, blurred, -a, 0, dtype=cv2.CV_8U), np.uint8) for a in amounts
    ]


# -- shared ----------------------------------------------------------------------------------------------


def _steps(clip: Iterable[Picture]) -> Iterable[tuple[Picture, Picture]]:
    for before, after in pairwise(clip):
        check_pair(before, after)
        yield before, after
