"""Shoulder-long hair: two thousand strands in clumps that wave together."""

from __future__ import annotations

import numpy as np

from sharpcam.sources.scene.canvas import Canvas, spline
from sharpcam.sources.scene.face import HAIR

_PART = (-24.0, -129.0)
_INNER = {
    -1: [_PART, (-60, -101), (-90, -58), (-101, -6), (-103, 60), (-94, 130), (-90, 190), (-104, 240)],
    1: [_PART, (28, -110), (78, -76), (99, -30), (105, 40), (99, 116), (94, 184), (106, 240)],
}
_OUTER = {
    -1: [
        (-22, -170),
        (-78, -160),
        (-122, -118),
        (-143, -40),
        (-151, 48),
        (-157, 130),
        (-153, 196),
        (-132, 240),
    ],
    1: [(-22, -170), (38, -171), (104, -139), (141, -56), (151, 40), (157, 126), (154, 196), (134, 240)],
}
_STEPS = 10  # points a segment
_ENDS = 61  # the mass of hair ends here, single strands go on


def draw_hair_behind(head: Canvas, rng: np.random.Generator) -> None:
    """What is seen between neck and front hair."""
    left, right = (spline(_OUTER[s], _STEPS)[:_ENDS] for s in (-1, 1))
    inner = {s: spline(_INNER[s], _STEPS) for s in (-1, 1)}
    head.polygon(np.vstack([left, [(-84, 190), (-50, 120), (50, 120), (84, 190)], right[::-1]]), HAIR * 0.40)
    for side in (-1, 1):
        for _ in range(150):
            w = rng.uniform(-0.4, 0.9)
            end = int(rng.integers(56, 67))
            curve = inner[side][30:end] * (1 - w) + spline(_OUTER[side], _STEPS)[30:end] * w
            head.line(curve + rng.normal(0, 1.5, 2), HAIR * rng.uniform(0.3, 0.6), 0.6)


def draw_hair(head: Canvas, rng: np.random.Generator) -> None:
    """The front, between an inner and an outer curve on each side of the parting."""
    for side in (-1, 1):
        inner, outer = spline(_INNER[side], _STEPS), spline(_OUTER[side], _STEPS)
        mass = np.vstack([inner[:_ENDS], outer[:_ENDS][::-1]])
        near = head.around(mass, 20)
        on_skin = near.pixels[..., 3] == 255
        near.shade(1 - 0.45 * near.mask(np.add(mass, (-side * 3, 6)), 4.0) * on_skin)
        near.polygon(mass, HAIR * 0.55)
        _strands(head, rng, side, inner, outer)


def _strands(head: Canvas, rng: np.random.Generator, side: int, inner: np.ndarray, outer: np.ndarray) -> None:
    t = np.linspace(0, 1, len(inner))
    clumps = [
        (rng.uniform(0, 1), rng.normal(0, 4), rng.uniform(0, 6.3), rng.uniform(6, 10)) for _ in range(44)
    ]
    strands = []
    for k in range(800):
        middle, bend, phase, rate = clumps[int(rng.integers(len(clumps)))]
        w = float(np.clip(middle + rng.normal(0, 0.06), -0.01, 1.01)) if k < 770 else rng.uniform(1.0, 1.05)
        wave = bend * t**1.3 * np.sin(phase + rate * t) + rng.normal(0, 0.7)
        w_t = w + rng.normal(0, 0.05) * np.sin(np.pi * t * rng.uniform(0.6, 1.6))
        w_t = w_t + (0.5 - w) * 0.28 * np.clip((t - 0.8) / 0.2, 0, 1) ** 2  # ends draw together
        curve = inner * (1 - w_t[:, None]) + outer * w_t[:, None] + np.stack([wave, 0.2 * wave], 1)
        volume = 0.5 + 0.8 * np.sin(np.pi * np.clip(0.06 + 0.88 * w, 0, 1)) ** 1.2
        tone = volume * (1 + 0.07 * side) * rng.uniform(0.6, 1.2)
        strands.append((tone, middle, rng.normal(0, 0.022), curve[: int(rng.uniform(0.84, 1.0) * len(t))]))
    strands.sort(key=lambda s: s[0] + 0.25 * s[1])
    for tone, middle, jitter, curve in strands:
        start = 0
        while start < len(curve) - 1:  # pieces of random length, so that the sheen has no seams
            end = min(start + int(rng.integers(4, 8)), len(curve) - 1)
            at = t[(start + end) // 2] + jitter
            sheen = 0.75 * np.exp(-(((at - 0.25 - 0.06 * middle) / 0.08) ** 2))
            sheen += 0.3 * np.exp(-(((at - 0.66 + 0.10 * middle) / 0.10) ** 2))
            head.line(curve[start : end + 1], HAIR * tone * (1 + sheen) + 24 * sheen * tone, 0.5)
            start = end
