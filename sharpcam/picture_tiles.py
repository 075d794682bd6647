"""Pictures piece by piece, for models that take gigabytes and minutes for a whole photo."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from sharpcam.models import Model
from sharpcam.stills import Sharpener, sharpen_picture

U8 = NDArray[np.uint8]

COSTLY = 50_000.0  # multiply-accumulates per pixel: a teacher of hundreds of layers
TILE, MARGIN = 384, 32  # pixels; the margin of each tile is thrown away


def goes_in_tiles(model: Model) -> bool:
    """Whether whole photos are too much for `model`."""
    return (model.manifest.macs_per_pixel or 0) > COSTLY


def tile_size(size: tuple[int, int]) -> tuple[int, int]:
    """Width and height of the tiles of a picture of this size."""
    return min(size[0], TILE), min(size[1], TILE)


def in_tiles(engine: Sharpener, rgb: U8, progress: Callable[[float], None] = lambda share: None) -> U8:
    """`rgb` (H, W, 3), sharpened piece by piece, all of one size, each on its own.

    As Restormer's published demo does it, but with the margin cut off instead of averaged.
    """
    height, width = rgb.shape[:2]
    high, wide = min(height, TILE), min(width, TILE)
    tops, lefts = _starts(height, high), _starts(width, wide)
    out = np.empty_like(rgb)
    for number, (top, left) in enumerate((t, x) for t in tops for x in lefts):
        engine.reset()
        tile = sharpen_picture(engine, np.ascontiguousarray(rgb[top : top + high, left : left + wide]))
        above, before = (MARGIN if top else 0), (MARGIN if left else 0)
        out[top + above : top + high, left + before : left + wide] = tile[above:, before:]
        progress((number + 1) / (len(tops) * len(lefts)))
    return out


def _starts(length: int, tile: int) -> list[int]:
    """Where tiles begin that overlap by two margins and end where the picture ends."""
    if length == tile:
        return [0]
    step = tile - 2 * MARGIN
    return [*range(0, length - tile, step), length - tile]
