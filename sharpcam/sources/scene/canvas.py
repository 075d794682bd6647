"""What the scene is drawn with: OpenCV's anti-aliased primitives, addressed in units, and a little light."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray

U8 = NDArray[np.uint8]
Field = NDArray[np.floating[Any]]  # float32 wherever it matters
Points = Sequence[tuple[float, float] | NDArray[np.floating[Any]]] | NDArray[np.floating[Any]]
Ink = Sequence[float] | NDArray[np.floating[Any]]
Box = tuple[float, float, float, float]  # left, top, right, bottom

_SHIFT = 5  # fractional bits of OpenCV's coordinates
_KEY = np.array([0.60, -0.42, 0.68], np.float32)  # towards the window
_FILL = np.array([-0.72, -0.1, 0.68], np.float32)


class Canvas:
    """An RGB or RGBA picture, `pixels` (H, W, 3 or 4) uint8, `scale` pixels a unit, from `origin` on.

    RGBA holds colours that are not multiplied by alpha; what is drawn in three numbers is opaque.
    """

    def __init__(self, pixels: U8, scale: float, origin: tuple[float, float] = (0.0, 0.0)) -> None:
        self.pixels = pixels
        self.scale = scale
        self.origin = origin

    @classmethod
    def clear(cls, box: Box, scale: float, fill: Ink) -> Canvas:
        """A transparent canvas of `box`; `fill` is what shows through half-covered edges."""
        left, top, right, bottom = box
        pixels = np.empty((round((bottom - top) * scale), round((right - left) * scale), 4), np.uint8)
        pixels[...] = (*fill, 0)
        return cls(pixels, scale, (left, top))

    def part(self, left: float, top: float, right: float, bottom: float) -> Canvas:
        """The canvas of a box inside this one: a view, cut where this one ends."""
        rows, cols = self.pixels.shape[:2]
        x0, y0 = (min(max(round(v), 0), n) for v, n in zip(self._pixel(left, top), (cols, rows), strict=True))
        x1, y1 = (
            min(max(round(v), 0), n) for v, n in zip(self._pixel(right, bottom), (cols, rows), strict=True)
        )
        origin = self.origin[0] + x0 / self.scale, self.origin[1] + y0 / self.scale
        return Canvas(self.pixels[y0:y1, x0:x1], self.scale, origin)

    def around(self, points: Points, margin: float) -> Canvas:
        """The part that holds `points` and `margin` units more on each side."""
        every = np.asarray(points, np.float64)
        low, high = every.min(0) - margin, every.max(0) + margin
        return self.part(float(low[0]), float(low[1]), float(high[0]), float(high[1]))

    def grid(self) -> tuple[Field, Field]:
        """x (1, W) and y (H, 1) of the pixels' middles in units."""
        rows, cols = self.pixels.shape[:2]
        x = (np.arange(cols, dtype=np.float32) + 0.5) / self.scale + self.origin[0]
        y = (np.arange(rows, dtype=np.float32) + 0.5) / self.scale + self.origin[1]
        return x[None, :].astype(np.float32), y[:, None].astype(np.float32)

    # --- hard-edged, anti-aliased ---

    def line(self, points: Points, ink: Ink, width: float = 0.5, closed: bool = False) -> None:
        """A polyline, `width` units wide; one pixel is the thinnest there is."""
        thick = max(1, int(width * self.scale + 0.4))
        cv2.polylines(self.pixels, [self._fixed(points)], closed, self._ink(ink), thick, cv2.LINE_AA, _SHIFT)

    def polygon(self, points: Points, ink: Ink) -> None:
        cv2.fillPoly(self.pixels, [self._fixed(points)], self._ink(ink), cv2.LINE_AA, _SHIFT)

    def ellipse(self, center: Ink, axes: tuple[float, float], ink: Ink, angle: float = 0.0) -> None:
        self.polygon(ellipse(center, axes, angle), ink)

    def box(self, left: float, top: float, right: float, bottom: float, ink: Ink) -> None:
        self.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], ink)

    def text(self, words: str, at: tuple[float, float], height: float, ink: Ink, bold: bool = False) -> None:
        """Words whose baseline starts at `at`; capitals are `height` units tall."""
        font = cv2.FONT_HERSHEY_DUPLEX if bold else cv2.FONT_HERSHEY_SIMPLEX
        size = height * self.scale / 21.0  # capitals are 21 pixels tall at size 1
        x, y = self._pixel(*at)
        cv2.putText(self.pixels, words, (round(x), round(y)), font, size, self._ink(ink), 1, cv2.LINE_AA)

    # --- coverage, shade and tint ---

    def mask(self, points: Points, soft: float = 0.0) -> Field:
        """Coverage 0..1 (H, W) of a polygon, blurred by `soft` units."""
        cover = np.zeros(self.pixels.shape[:2], np.uint8)
        cv2.fillPoly(cover, [self._fixed(points)], (255,), cv2.LINE_AA, _SHIFT)
        return self._soften(cover, soft)

    def stroke(self, points: Points, width: float, soft: float, closed: bool = False) -> Field:
        """Coverage 0..1 (H, W) of a polyline `width` units wide, blurred by `soft` units."""
        cover = np.zeros(self.pixels.shape[:2], np.uint8)
        thick = max(1, int(width * self.scale + 0.4))
        cv2.polylines(cover, [self._fixed(points)], closed, (255,), thick, cv2.LINE_AA, _SHIFT)
        return self._soften(cover, soft)

    def soft_line(self, points: Points, ink: Ink, width: float, soft: float, amount: float) -> None:
        """A blurred stroke of `ink`, at most `amount` (0..1) of it."""
        near = self.around(points, width + 3 * soft)
        near.tint(ink, near.stroke(points, width, soft) * np.float32(amount))

    def soft_polygon(self, points: Points, ink: Ink, soft: float, amount: float) -> None:
        near = self.around(points, 3 * soft)
        near.tint(ink, near.mask(points, soft) * np.float32(amount))

    def shade(self, factor: Field) -> None:
        """Multiplies the colours by `factor`, which broadcasts to (H, W)."""
        colours = self.pixels[..., :3]
        np.copyto(colours, np.clip(colours * factor[..., None], 0, 255), casting="unsafe")

    def tint(self, ink: Ink, cover: Field) -> None:
        """Lays `ink` over the colours by `cover` (H, W, 0..1); alpha stays."""
        colours = self.pixels[..., :3]
        over = np.asarray(ink, np.float32)
        np.copyto(colours, colours + (over - colours) * cover[..., None], casting="unsafe")

    def lay(self, colours: Field, cover: Field) -> None:
        """Puts `colours` (H, W, 3) over the canvas by `cover` (H, W, 0..1), alpha too."""
        under = self.pixels[..., :3]
        np.copyto(under, np.clip(under + (colours - under) * cover[..., None], 0, 255), casting="unsafe")
        if self.pixels.shape[2] == 4:
            alpha = self.pixels[..., 3]
            np.maximum(alpha, np.round(cover * 255).astype(np.uint8), out=alpha)

    def _soften(self, cover: U8, soft: float) -> Field:
        if soft > 0:
            cover = cast(U8, cv2.GaussianBlur(cover, (0, 0), soft * self.scale))
        return cover.astype(np.float32) * np.float32(1 / 255)

    def _pixel(self, x: float, y: float) -> tuple[float, float]:
        return (x - self.origin[0]) * self.scale, (y - self.origin[1]) * self.scale

    def _fixed(self, points: Points) -> NDArray[np.int32]:
        pixels = (np.asarray(points, np.float64) - self.origin) * self.scale - 0.5
        return np.round(pixels * (1 << _SHIFT)).astype(np.int32).reshape(-1, 1, 2)

    def _ink(self, ink: Ink) -> tuple[float, ...]:
        numbers = [min(255.0, max(0.0, float(c))) for c in ink]
        return (*numbers, 255.0)[: self.pixels.shape[2]]


# --- curves -----------------------------------------------------------------------------------------------


def ellipse(center: Ink, axes: tuple[float, float], angle: float = 0.0) -> NDArray[np.float64]:
    """48 points of an ellipse with half `axes`, turned by `angle` degrees."""
    t = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    rim = np.stack([axes[0] * np.cos(t), axes[1] * np.sin(t)], 1)
    return np.add(turned(rim, angle), np.asarray(center, np.float64))


def turned(points: Points, angle: float) -> NDArray[np.float64]:
    """Points turned by `angle` degrees (clockwise on the screen) about (0, 0)."""
    c, s = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    x, y = np.asarray(points, np.float64).T
    return np.stack([c * x - s * y, s * x + c * y], 1)


def spline(points: Points, per_segment: int = 12, closed: bool = False) -> NDArray[np.float64]:
    """A Catmull-Rom curve through `points`."""
    p = np.asarray(points, np.float64)
    p = np.vstack([p[-1:], p, p[:2]]) if closed else np.vstack([2 * p[0] - p[1], p, 2 * p[-1] - p[-2]])
    a, b, c, d = p[:-3, None], p[1:-2, None], p[2:-1, None], p[3:, None]
    t = np.linspace(0, 1, per_segment, endpoint=False)[None, :, None]
    curve = 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
    curve = curve.reshape(-1, 2)
    return curve if closed else np.vstack([curve, p[-2]])


# --- fields -----------------------------------------------------------------------------------------------


def smooth(low: float, high: float, value: Field) -> Field:
    """0 at `low`, 1 at `high`, a smooth step between."""
    t = np.clip((value - np.float32(low)) * np.float32(1 / (high - low)), 0, 1)
    return cast(Field, t * t * (3 - 2 * t))


def bell(value: Field, width: float) -> Field:
    """exp(-(value / width)^2)"""
    return cast(Field, np.exp(-((value * np.float32(1 / width)) ** 2)))


def noise(rng: np.random.Generator, shape: tuple[int, int], grain: float = 0.0) -> Field:
    """Normal noise of deviation 1, its grains about `grain` pixels wide."""
    if grain < 1.5:
        field = rng.standard_normal(shape, np.float32)
        return field if grain <= 0 else _normal(cast(Field, cv2.GaussianBlur(field, (0, 0), grain)))
    small = rng.standard_normal((max(4, int(shape[0] / grain)), max(4, int(shape[1] / grain))), np.float32)
    return _normal(cast(Field, cv2.resize(small, shape[::-1], interpolation=cv2.INTER_CUBIC)))


def _normal(field: Field) -> Field:
    return field * np.float32(1 / max(float(field.std()), 1e-6))


def lit(height: Field, scale: float) -> tuple[Field, Field]:
    """How a surface of `height` (units; (H, W) at `scale` pixels a unit) is lit by the scene's window.

    Returns colour factors (H, W, 3) and gloss (H, W).
    """
    slope_x = cast(Field, cv2.Sobel(height, cv2.CV_32F, 1, 0, ksize=3, scale=scale / 8))
    slope_y = cast(Field, cv2.Sobel(height, cv2.CV_32F, 0, 1, ksize=3, scale=scale / 8))
    nz = 1 / np.sqrt(slope_x**2 + slope_y**2 + 1)
    nx, ny = -slope_x * nz, -slope_y * nz
    facing = nx * _KEY[0] + ny * _KEY[1] + nz * _KEY[2]
    key = np.clip((facing + 0.35) / 1.35, 0, 1)
    fill = np.clip(nx * _FILL[0] + ny * _FILL[1] + nz * _FILL[2], 0, 1)
    sky, floor = 0.5 - 0.5 * ny, 0.5 + 0.5 * ny
    edge = bell(facing - 0.02, 0.24)  # light that went under the skin comes out red where it fades
    red = 0.80 * key + 0.22 * fill + 0.16 * sky + 0.15 * floor + 0.05 * edge
    green = 0.78 * key + 0.23 * fill + 0.165 * sky + 0.125 * floor
    blue = 0.74 * key + 0.26 * fill + 0.175 * sky + 0.11 * floor - 0.01 * edge
    half = _KEY + np.array([0, 0, 1], np.float32)
    half /= np.sqrt((half**2).sum())
    gloss = np.clip(nx * half[0] + ny * half[1] + nz * half[2], 0, 1) ** 22
    return np.dstack([red, green, blue]), gloss
