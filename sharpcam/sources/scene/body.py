"""A torso in knitwear over a striped shirt, and a hand that can wave. (0, 0) of the hand is its palm."""

from __future__ import annotations

from itertools import pairwise
from typing import cast

import cv2
import numpy as np

from sharpcam.sources.scene.canvas import U8, Canvas, Field, bell, lit, noise, smooth, spline, turned
from sharpcam.sources.scene.face import SKIN

TORSO_BOX = (-330.0, 120.0, 330.0, 450.0)
HAND_BOX = (-100.0, -150.0, 90.0, 300.0)

_WOOL = np.array([112, 148, 160], np.float32)
_ZERO = np.float32(0)


def draw_torso(scale: float, seed: int) -> U8:
    """Neck, shirt and cardigan: RGBA of TORSO_BOX; (0, 0) is the middle between the eyes."""
    rng = np.random.default_rng(seed)
    torso = Canvas.clear(TORSO_BOX, scale, _WOOL * 0.7)
    _neck(torso.part(-130, 100, 130, 290), rng)
    _shirt(torso.part(-120, 205, 120, 450), rng)
    for side in (-1, 1):
        _cardigan(torso.part(*((20, 215, 330, 450) if side > 0 else (-330, 215, -20, 450))), rng, side)
    return torso.pixels


def _neck(neck: Canvas, rng: np.random.Generator) -> None:
    x, y = neck.grid()
    away = np.abs(x)
    half = spline([(-54, 100), (-56, 170), (-66, 214), (-112, 250), (-90, 284)], 8)
    height = 60 * np.sqrt(np.clip(1 - (away / 70) ** 2.2, 0, 1)) + _ZERO * y
    height += (
        9 * bell(away - 8 - 0.30 * np.maximum(232 - y, 0), 10) * smooth(120, 200, y) * smooth(2, 14, away)
    )
    height -= 7 * bell(x, 14) * bell(y - 236, 12)
    light, gloss = lit(cast(Field, cv2.GaussianBlur(height, (0, 0), 2 * neck.scale)), neck.scale)
    of_chin = 1 - 0.5 * (1 - smooth(150, 226, y + 0.0022 * x**2))
    skin = (
        SKIN * np.array([0.98, 0.93, 0.92], np.float32) * light * of_chin[..., None] + (gloss * 12)[..., None]
    )
    skin *= (1 + 0.014 * noise(rng, height.shape, 0.5 * neck.scale))[..., None]
    neck.lay(skin, neck.mask(np.vstack([half, half[::-1] * (-1, 1)])))


def _shirt(shirt: Canvas, rng: np.random.Generator) -> None:
    """Stripes of 2.6 units, a collar, buttons with four holes."""
    x, y = shirt.grid()
    folds = 5 * noise(rng, (y.size, x.size), 34 * shirt.scale)
    light, _ = lit(46 * np.sqrt(np.clip(1 - (x / 150) ** 2, 0.01, 1)) + folds, shirt.scale)
    weave = 1.03 + 0.03 * np.sin(x * 4.2) * np.sin(y * 4.2)
    white, blue = np.array([240, 240, 238], np.float32), np.array([116, 150, 196], np.float32)

    def cloth(angle: float) -> Field:
        across = (x + 0.5 * folds) * np.float32(np.cos(np.deg2rad(angle))) + y * np.float32(
            np.sin(np.deg2rad(angle))
        )
        stripe = smooth(-0.2, 0.2, np.sin(across * np.float32(2 * np.pi / 5.2)))
        return cast(Field, (white + (blue - white) * stripe[..., None]) * light * weave[..., None])

    shirt.lay(
        cloth(0),
        shirt.mask([(-104, 236), (-40, 250), (0, 266), (40, 250), (104, 236), (104, 460), (-104, 460)]),
    )
    shirt.soft_line([(-7.0, 268), (-9, 460)], (70, 80, 100), 1.6, 0.8, 0.6)
    for k in range(4):
        cx, cy = 1.0, 296 + 48.0 * k
        shirt.ellipse((cx - 0.8, cy + 1.2), (5.4, 5.4), (104, 112, 130))
        shirt.ellipse((cx, cy), (5, 5), (238, 234, 226))
        shirt.ellipse((cx, cy), (3.6, 3.6), (218, 214, 208))
        for hole in ((-1.3, -1.3), (1.3, -1.3), (-1.3, 1.3), (1.3, 1.3)):
            shirt.ellipse((cx + hole[0], cy + hole[1]), (0.7, 0.7), (76, 72, 72))
    for side in (-1, 1):
        flap = np.array([(60, 210), (30, 244), (3, 264), (34, 306), (92, 250), (76, 222)], np.float64) * (
            side,
            1,
        )
        shirt.soft_line(np.add(flap[2:5], (-2, 5)), (46, 52, 66), 5, 3, 0.6)
        shirt.lay(cloth(-38 * side) * np.float32(1.04), shirt.mask(flap))
        shirt.line(flap[2:5], (204, 208, 214), 0.5)
        seam = flap[2:5] * 0.93 + flap[2:5].mean(0) * 0.07 + np.array([side * 4, -4])
        for a, b in pairwise(seam):
            for t in np.linspace(0, 0.96, 18):
                shirt.line([a + (b - a) * t, a + (b - a) * (t + 0.03)], (150, 162, 184), 0.5)


def _cardigan(knit: Canvas, rng: np.random.Generator, side: int) -> None:
    x, y = knit.grid()
    away = np.abs(x)
    outer = spline([(60, 222), (120, 246), (196, 268), (252, 300), (292, 372), (312, 460)], 8) * (side, 1)
    inner = spline([(60, 222), (82, 262), (64, 330), (42, 400), (30, 460)], 8) * (side, 1)
    band = np.add(inner, (17 * side, 0))
    folds = 7 * noise(rng, (y.size, x.size), 60 * knit.scale)
    body = 70 * np.sqrt(np.clip(1 - ((away - 120) / 196) ** 2, 0.01, 1)) + 26 * smooth(240, 330, y)
    sleeve = 9 * bell(away - 214 + 0.16 * (y - 330), 13) * smooth(300, 360, y)
    light, _ = lit(body - sleeve + folds, knit.scale)
    wool = 1 + 0.05 * noise(rng, folds.shape, 0.5 * knit.scale)
    down = y - 0.10 * away + 0.9 * folds
    tone = np.where(
        knit.mask(np.vstack([inner, band[::-1]])) > 0.5,
        _ribs(down),
        _stitches(away + 0.6 * folds, down),
    )
    knit.soft_line(np.add(inner, (-side * 3, 2)), (24, 30, 40), 7, 4, 0.55)
    knit.lay(_WOOL * light * (tone * wool)[..., None], knit.mask(np.vstack([outer, inner[::-1]])))
    knit.soft_line(band, (36, 50, 58), 1.4, 0.7, 0.6)
    for _ in range(420):  # fuzz
        root = outer[int(rng.integers(4, len(outer)))] + rng.normal(0, 4, 2) * (1, 0.2)
        nearest = outer[np.argmin(np.abs(outer[:, 0] - root[0]))]
        tip = nearest + np.array([side * rng.uniform(-0.6, 1.2), -1.0]) * rng.uniform(0.4, 1.8)
        knit.line(
            [nearest + rng.normal(0, 0.6, 2), tip + rng.normal(0, 0.6, 2)], _WOOL * rng.uniform(0.6, 1.0), 0.4
        )


def _stitches(across: Field, down: Field) -> Field:
    """Stocking stitch: columns 7 units wide of V's 5.4 units high."""
    column = across * np.float32(1 / 7)
    arm = np.abs(column - np.floor(column) - np.float32(0.5)) * 2
    yarn = np.clip(1 - (2 * arm - 1) ** 2, 0, 1) ** np.float32(0.5)
    return np.asarray(0.64 + (0.25 + 0.25 * np.cos(2 * np.pi * (down / 5.4 + 0.85 * arm))) * yarn)


def _ribs(along: Field) -> Field:
    return 0.68 + 0.42 * smooth(-0.6, 0.7, np.cos(along * np.float32(2 * np.pi / 5)))


# --- hand -----------------------------------------------------------------------------------------------

# x, y of base, angle from upright, length, radius at base and tip
_FINGERS: list[tuple[float, ...]] = [
    (-31, -20, -12, 92, 13.5, 10.5),
    (-9, -24, -4, 104, 13.5, 11),
    (13, -22, 4, 97, 13.5, 10.5),
    (33, -14, 13, 76, 12, 9.5),
]
_THUMB: tuple[float, ...] = (-22, 30, -44, 82, 19, 12)
_LINES = [[(-44, -4), (-22, -10), (6, -2), (24, 16)], [(40, -2), (22, -11), (0, -15), (-19, -27)]]
_LINES += [[(-34, -2), (-16, 8), (-6, 28), (-8, 52)]]


def draw_hand(scale: float, seed: int) -> U8:
    """A raised palm out of a knitted sleeve: RGBA of HAND_BOX."""
    rng = np.random.default_rng(seed)
    hand = Canvas.clear(HAND_BOX, scale, SKIN * 0.7)
    x, y = hand.grid()
    height, outside = _stick(x, y, (0, 40), (3, 140), 30, 29)
    palm = [
        ((-24, -12), (-13, 40), 24.0, 28.0),
        ((0, -16), (0, 40), 26.0, 30.0),
        ((23, -10), (14, 42), 23.0, 26.0),
    ]
    for a, b, r0, r1 in palm:
        z, gap = _stick(x, y, a, b, r0, r1)
        height, outside = np.maximum(height, 0.8 * z), np.minimum(outside, gap)
    height = cast(Field, cv2.GaussianBlur(height, (0, 0), 4 * scale))
    for bx, by, angle, length, r0, r1 in [*_FINGERS, _THUMB]:
        tip = [float(v) for v in turned([(0, -length)], angle)[0] + np.array([bx, by])]
        z, gap = _stick(x, y, (bx, by), (tip[0], tip[1]), r0, r1)
        from_tip = np.sqrt((x - tip[0]) ** 2 + (y - tip[1]) ** 2)
        z = z * smooth(1.05 * length, 0.72 * length, from_tip) + np.where(z > 0, np.float32(6), _ZERO)
        height = 0.5 * (height + z + np.sqrt((height - z) ** 2 + 30)) - 2.7  # a smooth maximum
        outside = np.minimum(outside, gap)
    for cx, cy, w, h, amount in [(-24, 24, 18, 24, 8), (22, 28, 14, 24, 6), (2, 4, 15, 14, -7)]:
        height += amount * bell(x - cx, w) * bell(y - cy, h)
    light, gloss = lit(cast(Field, cv2.GaussianBlur(height, (0, 0), 0.9 * scale)), scale)
    flush = sum(
        (
            bell(x - px, 15) * bell(y - py, 15)
            for px, py in [(-30, 22), (26, 32), (-28, -24), (-8, -30), (14, -28), (34, -18)]
        ),
        np.zeros_like(height),
    )
    skin = (
        SKIN * (1 - flush[..., None] * np.array([0.01, 0.07, 0.07], np.float32)) * light
        + (gloss * 20)[..., None]
    )
    skin *= (1 + 0.014 * noise(rng, height.shape, 0.5 * scale))[..., None]
    hand.lay(skin, np.clip(0.5 - outside * scale, 0, 1))
    for points in _LINES:
        hand.soft_line(spline(points, 8), (164, 98, 84), 1.2, 0.6, 0.6)
    for bx, by, angle, length, r0, _ in _FINGERS:
        for part in (0.28, 0.55, 0.77):
            crease = turned(
                [(-r0 * 0.7, -length * part), (0, -length * part - 1.4), (r0 * 0.7, -length * part)], angle
            )
            hand.soft_line(spline(np.add(crease, (bx, by)), 6), (164, 100, 86), 0.9, 0.5, 0.6)
    _sleeve(hand.part(-60, 95, 90, 300), rng)
    return hand.pixels


def _stick(
    x: Field, y: Field, a: tuple[float, float], b: tuple[float, float], r0: float, r1: float
) -> tuple[Field, Field]:
    """Height of a rounded stick from `a` to `b`, and the distance from its outline (negative inside)."""
    dx, dy = b[0] - a[0], b[1] - a[1]
    t = np.clip(((x - a[0]) * dx + (y - a[1]) * dy) / (dx * dx + dy * dy), 0, 1)
    distance = np.sqrt((x - a[0] - t * dx) ** 2 + (y - a[1] - t * dy) ** 2)
    radius = r0 + (r1 - r0) * t
    return np.sqrt(np.clip(radius**2 - distance**2, 0, None)), distance - radius


def _sleeve(sleeve: Canvas, rng: np.random.Generator) -> None:
    x, y = sleeve.grid()
    height, outside = _stick(x, y, (4, 60), (16, 360), 38, 66)
    light, _ = lit(height, sleeve.scale)
    rim = 116 - 5 * np.cos((x - 4) / 26)
    tone = np.where(y < 146, _ribs(x + _ZERO * y), _stitches(x + _ZERO * y, y + _ZERO * x))
    tone = tone * (1 + 0.05 * noise(rng, height.shape, 0.5 * sleeve.scale)) * (1 - 0.3 * bell(y - 146, 2))
    sleeve.shade(1 - 0.5 * smooth(16, 0, rim - y))
    cover = np.clip(0.5 - outside * sleeve.scale, 0, 1) * np.clip(0.5 + (y - rim) * sleeve.scale, 0, 1)
    sleeve.lay(_WOOL * light * tone[..., None], cover)
