"""Sprites that move by fractions of a pixel over an I420 picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

from sharpcam.frame import Color
from sharpcam.geometry import rgb_to_yuv_matrix
from sharpcam.sources.scene.canvas import U8, Box

Planes = tuple[U8, U8, U8]
Rect = tuple[int, int, int, int]  # left, top, right, bottom in luma pixels, all even


@dataclass(frozen=True)
class Pose:
    """Where a sprite is: turned by `angle` degrees and zoomed about `pivot`, then moved; lengths in units."""

    x: float
    y: float
    angle: float = 0.0
    zoom: float = 1.0
    pivot: tuple[float, float] = (0.0, 0.0)

    def matrix(self) -> NDArray[np.float64]:
        """Sprite units to scene units, (3, 3)."""
        c, s = np.cos(np.deg2rad(self.angle)) * self.zoom, np.sin(np.deg2rad(self.angle)) * self.zoom
        px, py = self.pivot
        move = [px - c * px + s * py + self.x, py - s * px - c * py + self.y]
        return np.array([[c, -s, move[0]], [s, c, move[1]], [0, 0, 1]])


class Sprite:
    """A drawn RGBA picture of `box`, `scale` pixels a unit, held as I420 that is multiplied by its alpha.

    Twice as fine as the frame it is laid on, so that bilinear reading in between does not blur.
    """

    def __init__(self, rgba: U8, box: Box, scale: float, color: Color) -> None:
        yuv = cv2.transform(np.ascontiguousarray(rgba[..., :3]), rgb_to_yuv_matrix(color))
        fine = np.asarray(cv2.GaussianBlur(np.dstack([yuv, rgba[..., 3]]), (0, 0), 0.6), np.uint8)
        alpha = np.ascontiguousarray(fine[..., 3])
        self.box = box
        self._scale = scale
        self._luma = _premultiplied(np.ascontiguousarray(fine[..., 0]), alpha)
        self._alpha = alpha
        size = (alpha.shape[1] // 2, alpha.shape[0] // 2)
        half = np.asarray(cv2.resize(fine, size, interpolation=cv2.INTER_AREA), np.uint8)
        u, v, cover = (np.ascontiguousarray(half[..., i]) for i in (1, 2, 3))
        # four channels are read twice as fast as three
        self._chroma = np.dstack([_premultiplied(u, cover), _premultiplied(v, cover), cover, cover])

    def patched(self, other: Sprite) -> Sprite:
        """This sprite with `other`, of a part of its box, in its place."""
        copy = Sprite.__new__(Sprite)
        copy.box, copy._scale = self.box, self._scale
        copy._luma, copy._alpha, copy._chroma = self._luma.copy(), self._alpha.copy(), self._chroma.copy()
        for plane, part, scale in (
            (copy._luma, other._luma, self._scale),
            (copy._alpha, other._alpha, self._scale),
            (copy._chroma, other._chroma, self._scale / 2),
        ):
            top, left = (round((other.box[i] - self.box[i]) * scale) for i in (1, 0))
            plane[top : top + part.shape[0], left : left + part.shape[1]] = part
        return copy

    def rect(self, pose: Pose, scale: float, size: tuple[int, int]) -> Rect:
        """The part of a picture of `size`, at `scale` pixels a unit, that the sprite may touch."""
        left, top, right, bottom = self.box
        corners = np.array([[left, top, 1], [right, top, 1], [left, bottom, 1], [right, bottom, 1]]).T
        x, y = (pose.matrix() @ corners)[:2] * scale
        low = [max(0, int(np.floor(v.min() / 2)) * 2 - 2) for v in (x, y)]
        high = [min(n, int(np.ceil(v.max() / 2)) * 2 + 2) for v, n in zip((x, y), size, strict=True)]
        return low[0], low[1], max(low[0], high[0]), max(low[1], high[1])

    def lay(self, planes: Planes, pose: Pose, scale: float, smear: float = 0.0, defocus: float = 0.0) -> None:
        """Lays the sprite over `planes`, a picture of `scale` pixels a unit.

        `smear` pixels of motion blur along x, then a Gaussian of `defocus` pixels.
        """
        height, width = planes[0].shape
        left, top, right, bottom = self.rect(pose, scale, (width, height))
        if left >= right or top >= bottom:
            return
        size = (right - left, bottom - top)
        into_sprite = self._from_pixels(pose, scale, self._scale, (left, top))
        luma, alpha = (
            _softened(_warped(part, into_sprite, size), smear, defocus) for part in (self._luma, self._alpha)
        )
        _over(planes[0][top:bottom, left:right], luma, alpha)
        half = (size[0] // 2, size[1] // 2)
        into_sprite = self._from_pixels(pose, scale / 2, self._scale / 2, (left // 2, top // 2))
        chroma = _softened(_warped(self._chroma, into_sprite, half), smear / 2, defocus / 2)
        u, v, cover = (np.asarray(cv2.extractChannel(chroma, i), np.uint8) for i in (0, 1, 2))
        for plane, colours in ((planes[1], u), (planes[2], v)):
            _over(plane[top // 2 : bottom // 2, left // 2 : right // 2], colours, cover)

    def _from_pixels(
        self, pose: Pose, scale: float, fine: float, corner: tuple[int, int]
    ) -> NDArray[np.float64]:
        """The affine map (2, 3) from pixels of the part that starts at `corner` to pixels of the sprite."""
        to_units = np.array(
            [[1 / scale, 0, (corner[0] + 0.5) / scale], [0, 1 / scale, (corner[1] + 0.5) / scale], [0, 0, 1]]
        )
        to_sprite = np.array(
            [[fine, 0, -self.box[0] * fine - 0.5], [0, fine, -self.box[1] * fine - 0.5], [0, 0, 1]]
        )
        return np.asarray((to_sprite @ np.linalg.inv(pose.matrix()) @ to_units)[:2])


def _premultiplied(plane: U8, alpha: U8) -> U8:
    return np.asarray(cv2.multiply(plane, alpha, scale=1 / 255), np.uint8)


def _warped(plane: U8, matrix: NDArray[np.float64], size: tuple[int, int]) -> U8:
    return cast(U8, cv2.warpAffine(plane, matrix, size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP))


def _softened(plane: U8, smear: float, defocus: float) -> U8:
    if smear >= 2:
        plane = cast(U8, cv2.blur(plane, (round(smear) | 1, 1)))
    if defocus > 0:
        plane = cast(U8, cv2.GaussianBlur(plane, (0, 0), defocus))
    return plane


def _over(under: U8, colours: U8, alpha: U8) -> None:
    """under = colours + under * (1 - alpha), for colours that are multiplied by alpha already."""
    cv2.multiply(under, cv2.bitwise_not(alpha), under, 1 / 255)
    cv2.add(under, colours, under)
