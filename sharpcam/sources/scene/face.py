"""A face: clay of Gaussian bumps under skin, with eyes that blink, brows, a mouth and glasses.

(0, 0) is the middle between the eyes.
"""

from __future__ import annotations

from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

from sharpcam.sources.scene.canvas import U8, Canvas, Field, bell, ellipse, lit, noise, smooth, spline

EYES_BOX = (-122.0, -56.0, 122.0, 36.0)
OPENINGS = (1.0, 0.45, 0.0)

SKIN = np.array([238, 190, 163], np.float32)
HAIR = np.array([74, 48, 36], np.float32)

_RIGHT = [
    (0, -152),
    (58, -138),
    (94, -108),
    (109, -60),
    (111, -10),
    (107, 30),
    (98, 70),
    (83, 106),
    (64, 134),
]
_RIGHT += [(42, 153), (20, 163), (0, 166)]
_OUTLINE = spline([*_RIGHT, *((-x, y) for x, y in _RIGHT[-2:0:-1])], 8, closed=True)
# centre x and y, width and height, amount, all in units; mirrored where x is not 0
_BUMPS = [
    (0, -30, 11, 20, 8), (0, 6, 10, 24, 16), (0, 38, 13, 13, 20), (14, 46, 8, 7, 8), (0, -62, 44, 20, 5),
    (0, -42, 17, 14, 6), (40, -41, 30, 9, 5), (42, -14, 27, 17, -13), (41, -12, 17, 12, 10),
    (60, 26, 30, 22, 11),
    (0, 80, 20, 6, 6), (10, 79, 11, 5, 2), (0, 100, 20, 8, 9), (0, 88, 27, 3, -6), (31, 84, 6, 6, -5),
    (42, 74, 10, 14, 4), (0, 69, 4, 9, -3), (0, 115, 22, 7, -5), (0, 140, 24, 15, 11), (84, -60, 20, 30, -4),
]  # fmt: skip
# where the skin is redder
_WARM = [(58, 36, 32, 26, 0.9), (0, 44, 20, 14, 0.8), (0, 142, 30, 18, 0.4), (0, -92, 60, 22, 0.2)]


def draw_face(head: Canvas, rng: np.random.Generator) -> None:
    """Skin and mouth."""
    rows, cols = head.pixels.shape[:2]
    coarse = Canvas(np.zeros((rows // 2, cols // 2, 3), np.uint8), head.scale / 2, head.origin)
    x, y = coarse.grid()
    away = np.abs(x)
    sides = sorted((float(py), max(float(px), 1.0)) for px, py in _OUTLINE if px >= 0)
    half = np.interp(y[:, 0], [s[0] for s in sides], [s[1] for s in sides]).astype(np.float32)[:, None]
    across = np.clip(1 - (away / half) ** 2.3, 0, 1)
    along = np.clip(1 - np.abs((y - 5) / 168) ** 3, 0, 1)
    height = 100 * np.sqrt(across * along)
    for cx, cy, wide, high, amount in _BUMPS:
        row = bell(x - cx, wide) + (bell(x + cx, wide) if cx else 0)
        height += np.float32(amount) * bell(y - cy, high) * row
    light, gloss = lit(cast(Field, cv2.GaussianBlur(height, (0, 0), 1.3 * coarse.scale)), coarse.scale)
    warm = sum((a * bell(away - cx, w) * bell(y - cy, h) for cx, cy, w, h, a in _WARM), np.zeros_like(height))
    hollow = bell(away - 42, 30) * bell(y + 10, 20)
    skin = SKIN * (1 - warm[..., None] * np.array([0.02, 0.12, 0.12], np.float32))
    skin *= 1 - hollow[..., None] * np.array([0.08, 0.12, 0.10], np.float32)
    of_nose = 0.16 * bell(x + 21, 12) * bell(y - 40, 20) + 0.16 * bell(x, 22) * bell(y - 60, 7)
    of_hair = (1 - 0.42 * smooth(-100, -138, y)) * (1 - 0.28 * smooth(88, 112, away))
    skin *= light * ((1 - of_nose) * of_hair)[..., None]
    skin += (gloss * 26 * (1 - 0.4 * hollow))[..., None]
    skin = cast(Field, cv2.resize(skin, (cols, rows), interpolation=cv2.INTER_LINEAR))
    pores = 0.014 * noise(rng, (rows, cols), 0.45 * head.scale) + 0.010 * noise(
        rng, (rows, cols), 2.2 * head.scale
    )
    head.lay(skin * (1 + pores)[..., None], head.mask(_OUTLINE))
    for _ in range(130):  # freckles
        at = float(rng.normal(0, 44)), float(rng.normal(25, 13))
        size = float(rng.uniform(0.3, 0.8))
        if abs(at[0]) < 88 and (abs(at[0]) > 12 or at[1] < 40):
            spot = head.around([at], 1 + 1 / head.scale).pixels[..., :3].mean((0, 1))
            head.ellipse(at, (size, size * 0.9), spot * np.array([0.93, 0.86, 0.80]) * rng.uniform(0.86, 1))
    _mouth(head, rng)


def _mouth(head: Canvas, rng: np.random.Generator) -> None:
    upper = spline([(-32, 83.5), (-17, 80.5), (-6, 77), (0, 79), (6, 77), (17, 80.5), (32, 83.5)], 8)
    middle = spline([(32, 83.5), (16, 88.4), (5, 90), (0, 90.6), (-5, 90), (-16, 88.4), (-32, 83.5)], 8)
    lower = spline([(-30, 84.5), (-17, 98), (0, 104.5), (17, 98), (30, 84.5)], 8)
    near = head.around(np.vstack([upper, lower]), 12)
    lines = 0.05 * noise(rng, (1, near.pixels.shape[1]), 0.8 * head.scale)
    for outline, ink, amount in ((upper, (176, 76, 78), 0.6), (lower, (204, 96, 96), 0.54)):
        lip = near.mask(np.vstack([outline, middle]), 1.0)
        near.tint(ink, lip * np.float32(amount))
        near.shade(1 + lines * lip)
    for x in np.linspace(-8, 15, 18):
        dy = float(rng.uniform(-1.6, 1.6))
        near.soft_line([(x, 96.5 + dy), (x + 0.2, 99.5 + dy)], (255, 230, 222), 0.5, 0.4, 0.45)
    seam = spline([(-34, 81.5), (-30, 84.6), (-16, 88.6), (0, 90.4), (16, 88.6), (30, 84.6), (34, 81.5)], 8)
    near.soft_line(seam, (92, 36, 38), 1.6, 0.6, 0.85)
    for side in (-1, 1):
        dimple = spline([(side * 36, 76), (side * 38.5, 83), (side * 36, 90)], 6)
        near.soft_line(dimple, (140, 82, 70), 1.4, 1.3, 0.4)
        head.soft_polygon(ellipse((side * 9.5, 52.5), (5.4, 2.5), side * 22), (78, 34, 30), 1.1, 0.75)
        fold = spline([(side * 22, 50), (side * 33, 62), (side * 41, 78)], 8)
        head.soft_line(fold, (150, 92, 76), 2, 2.4, 0.35)


def draw_eyes(head: Canvas, seed: int) -> list[U8]:
    """Brows, eyes and glasses onto `head`; returns EYES_BOX for each of OPENINGS, leaves the eyes open."""
    face = head.part(*EYES_BOX)
    for side in (-1, 1):
        _brow(face, np.random.default_rng(seed + 2), side)
    bare = face.pixels.copy()
    looks = []
    for opening in OPENINGS:
        face.pixels[...] = bare
        for side in (-1, 1):
            _eye(face, np.random.default_rng(seed + 1), side, opening)
        _glasses(face)
        looks.append(face.pixels.copy())
    face.pixels[...] = looks[0]
    return looks


def _eye(face: Canvas, rng: np.random.Generator, side: int, opening: float) -> None:
    """One eye; `side` is -1 for the one on the left of the picture."""

    def place(points: list[tuple[float, float]]) -> NDArray[np.float64]:
        return np.asarray(points, np.float64) * (side, 1) + (side * 42, -11)

    low = [(-20, 3.5), (-12, 7.2), (0, 9.0), (12, 7.2), (21.5, 0.0)]
    high = [(-20, 3.5), (-13, -6.5), (0, -11), (13, -8.6), (21.5, 0.0)]
    lid = [(h[0], 0.95 * lo[1] + (h[1] - 0.95 * lo[1]) * opening) for h, lo in zip(high, low, strict=True)]
    upper, lower, brow = spline(place(lid), 10), spline(place(low), 10), spline(place(high), 10)
    near = face.around(np.vstack([brow, lower]), 14)
    if opening > 0:
        ball = Canvas(near.pixels[..., :3].copy(), near.scale, near.origin)
        _eyeball(ball, rng, side * 42, upper, place([(-19, 3.4)])[0])
        near.lay(ball.pixels.astype(np.float32), near.mask(np.vstack([upper, lower[::-1]])))
    else:
        near.soft_polygon(np.vstack([brow, lower[::-1]]), (176, 122, 102), 2, 0.35)
    near.soft_line(
        spline(place([(-20, -2), (-12, -12.5), (1, -16.5), (14, -14), (24, -5)]), 10),
        (132, 80, 64),
        1.5,
        0.7,
        0.6,
    )
    near.soft_line(np.add(lower, (0, 1.2)), (168, 108, 94), 1.3, 0.7, 0.45)
    near.soft_line(spline(place([(-18, 13), (-6, 16), (8, 15), (20, 9)]), 8), (168, 114, 98), 1.5, 1.2, 0.35)
    near.line(np.add(upper, (0, 0.3)), (44, 28, 25), 1.7)
    along = np.linspace(0.12, 0.99, 30)
    down = opening < 0.2
    for t, root in zip(along, upper[np.round(along * (len(upper) - 1)).astype(int)], strict=True):
        lean = side * (-0.35 + 1.5 * t) + rng.normal(0, 0.08)
        size = (4.4 + 5.0 * t) * rng.uniform(0.75, 1.1)
        tip = root + np.array([np.sin(lean), 0.6 * np.cos(lean) if down else -0.85 * np.cos(lean)]) * size
        bow = (root + tip) / 2 + (side * 0.9, -1.2 if down else 1.3)
        near.line(spline([root, bow, tip], 5), (32, 20, 18), 0.5)
    for t in np.linspace(0, 1, 16):
        root = lower[round((0.3 + 0.68 * t) * (len(lower) - 1))]
        tip = np.add(root, (side * (0.3 + 1.6 * t), rng.uniform(1.6, 2.8)))
        near.line([root, tip], (104, 68, 58), 0.4)


def _eyeball(
    ball: Canvas,
    rng: np.random.Generator,
    middle: int,
    upper: NDArray[np.float64],
    corner: NDArray[np.float64],
) -> None:
    x, y = ball.grid()
    cx, cy = middle - 0.8, -11.5
    white = 236 - 56 * smooth(2, -12, y - cy) - 0.07 * (x - middle) ** 2
    ball.pixels[...] = np.clip(white[..., None] * np.array([1.0, 0.975, 0.965], np.float32), 0, 255)
    ball.ellipse(corner, (3.4, 2.4), (212, 146, 134))
    ball.ellipse((cx, cy), (10.4, 10.4), (38, 44, 42))
    ball.ellipse((cx, cy), (9.6, 9.6), (82, 108, 96))
    for angle in rng.uniform(0, 2 * np.pi, 90):
        start, end, tone = rng.uniform(3.6, 6), rng.uniform(7, 9.4), rng.uniform(0.6, 1.5)
        ray = np.array([np.cos(angle), np.sin(angle)])
        fibre = np.array([98, 122, 100]) if start > 4.6 else np.array([152, 116, 66])
        ball.line([ray * start + (cx, cy), ray * end + (cx, cy)], fibre * tone, 0.4)
    ball.ellipse((cx, cy), (4.2, 4.2), (12, 12, 14))
    ball.polygon(
        [(cx + 1.8, cy - 6.4), (cx + 5.2, cy - 5.8), (cx + 4.8, cy - 2), (cx + 1.8, cy - 2.4)],
        (250, 252, 255),
    )
    ball.ellipse((cx - 4, cy + 4), (1.2, 0.9), (158, 168, 172))
    ball.shade(1 - 0.45 * ball.stroke(upper, 5, 1.6))


def _brow(face: Canvas, rng: np.random.Generator, side: int) -> None:
    spine = spline([(15, -38), (29, -43), (48, -45), (65, -40.5), (76, -34)], 12)
    for _ in range(220):
        t = rng.uniform(0, 0.97)
        thick = 4.2 * (1 - t) ** 0.6 + 0.8
        root = spine[int(t * (len(spine) - 1))] + (0, rng.normal(0.8, thick * 0.42))
        lean = 0.35 + 1.1 * t + rng.normal(0, 0.12)
        tip = root + np.array([np.sin(lean), -np.cos(lean)]) * rng.uniform(4.5, 8) * (1.1 - 0.4 * t)
        bow = (root + tip) / 2 + (0.3, -0.5)
        face.line(spline(np.array([root, bow, tip]) * (side, 1), 4), HAIR * rng.uniform(0.6, 1.15), 0.5)


def _glasses(face: Canvas) -> None:
    t = np.linspace(0, 2 * np.pi, 80, endpoint=False)
    c, s = np.cos(t), np.sin(t)
    lens = np.stack([np.sign(c) * np.abs(c) ** 0.74 * 35, np.sign(s) * np.abs(s) ** 0.74 * 28], 1)
    bridge = spline([(-9, -14), (0, -18), (9, -14)], 8)
    face.soft_line(np.add(bridge, (-2, 5)), (90, 54, 44), 2.4, 1.6, 0.4)
    for side in (-1, 1):
        frame = np.add(lens, (side * 43, -7))
        near = face.around(frame, 10)
        near.tint(
            (120, 74, 60), near.stroke(np.add(frame, (-2.5, 4.5)), 2.6, 1.6, closed=True) * np.float32(0.42)
        )
        x, y = near.grid()
        slope = x + 0.55 * y - side * 43
        stripe = smooth(-24, -21, slope) * smooth(-9, -12, slope) + smooth(-6, -3, slope) * smooth(
            1, -2, slope
        )
        near.tint((226, 236, 244), near.mask(frame) * (0.03 + 0.06 * stripe))
        face.line([(side * 77, -17), (side * 97, -21)], (52, 37, 32), 3)
        face.line(frame, (48, 34, 30), 2.3, closed=True)
        face.line(np.add(frame[44:68], (0.4, -0.2)), (172, 132, 102), 0.5)
        face.line(np.add(frame[3:15], (0.4, 0.2)), (128, 94, 74), 0.5)
    face.line(bridge, (48, 34, 30), 2.3)
    face.line(np.add(bridge, (0.3, -0.6)), (172, 136, 106), 0.5)
