"""Ten upright colour bars, and how far off they come back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

# primaries, secondaries, white, black and two more, as R, G, B
BARS = (
    *((255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 255, 255), (255, 0, 255)),
    *((255, 255, 0), (255, 255, 255), (0, 0, 0), (128, 128, 128), (200, 120, 60)),
)


def chart_rgb(width: int, height: int) -> NDArray[np.uint8]:
    picture = np.empty((height, width, 3), np.uint8)
    for index, color in enumerate(BARS):
        picture[:, width * index // len(BARS) : width * (index + 1) // len(BARS)] = color
    return picture


def bars_of(rgb: NDArray[np.uint8]) -> list[list[float]]:
    """The mean colour in the middle of each bar."""
    height, width = rgb.shape[:2]
    step, rows = width / len(BARS), slice(height // 4, height * 3 // 4)
    middles = [rgb[rows, int(step * (i + 0.3)) : int(step * (i + 0.7))] for i in range(len(BARS))]
    return [[round(float(c), 2) for c in m.reshape(-1, 3).mean(axis=0)] for m in middles]


def off_by(seen: Sequence[Sequence[float]], wanted: Sequence[Sequence[float]] = BARS) -> float:
    """The largest difference in any channel of any bar, in levels."""
    return max(abs(a - b) for s, w in zip(seen, wanted, strict=True) for a, b in zip(s, w, strict=True))
