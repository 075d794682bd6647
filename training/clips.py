"""Training clips: what a camera saw and what it should have seen, made of a library's pictures and videos.

A clip is one training sample: `frames` degraded and as many true I420 frames of `crop` x `crop` pixels.
Clip number i of a seed is a pure function of (library, seed, i): nothing depends on workers or on the order
of access.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from training.degrade import (
    Image,
    Webcam,
    as_float,
    degrade_clip,
    oversharpen,
    sample_webcam,
    to_gamma,
    to_i420,
    to_linear,
)
from training.errors import DataError
from training.library import Library, Picture, read_picture, read_video, video_length

MARGIN = 16  # context around a crop, so that its border is degraded like its middle
DETAIL = 6.0  # grey levels of mean absolute Laplacian: below it a view is nearly flat
Drawn = TypeVar("Drawn")
CRISP = (0.2, 1.4)  # least and most that is added of a truth's finest detail
VIDEO_CHUNK = 24  # frames of a video that are decoded at once
# how often clips come from stills, videos, pairs and bursts: the last two are the only real motion blur
KINDS = (10.0, 1.3, 1.5, 0.5)


@dataclass(frozen=True)
class ClipSpec:
    """What clips are like. Raises DataError for sizes that cannot be."""

    frames: int = 6
    crop: int = 128
    seed: int = 0
    identity: float = 0.05

    def __post_init__(self) -> None:
        if self.frames < 1 or self.crop < 32 or self.crop % 16:
            raise DataError(
                f"clips of {self.frames} frames of {self.crop} pixels: use 1 frame or more, a multiple of 16"
                " from 32 pixels on"
            )


def make_clip(library: Library, spec: ClipSpec, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Clip `index`: (degraded, truth), each uint8 I420 (frames, crop * 3 // 2, crop).

    Raises DataError for a file that cannot be read.
    """
    rng = np.random.default_rng((spec.seed, index))
    found = (library.stills, library.videos, library.pairs, library.bursts)
    weights = np.array(KINDS) * [bool(files) for files in found]
    kind = int(rng.choice(4, p=weights / weights.sum()))
    size = spec.crop + 2 * MARGIN
    soft: list[Image]
    if kind >= 2:
        make = (_pair_clip, _burst_clip)[kind - 2]
        soft, sharp = _worth_seeing(lambda: make(library, spec, size, rng), lambda clip: clip[1][0], rng)
    else:
        sharp = _still_clip(library, spec, size, rng) if kind == 0 else _video_clip(library, spec, size, rng)
        sharp = _crisp(sharp, rng)
        soft = sharp
    webcam = sample_webcam(rng, spec.identity)
    if kind >= 2:  # real blur is in it already: a good camera around it, sometimes a mildly bad one
        mild = sample_webcam(rng, 0.5)
        webcam = Webcam(
            shot=mild.shot * 0.5,
            read=mild.read * 0.5,
            jpeg=mild.jpeg and max(mild.jpeg, 70),
            identity=mild.identity,
        )
    soft = degrade_clip(soft, webcam, rng)
    full_range = bool(rng.random() < 0.2)
    inner = slice(MARGIN, MARGIN + spec.crop)
    return (
        np.stack([to_i420(f[inner, inner], full_range) for f in soft]),
        np.stack([to_i420(f[inner, inner], full_range) for f in sharp]),
    )


def _at_least(picture: Picture, side: int) -> Picture:
    """`picture`, mirrored at its edges where a side is shorter than `side`."""
    down, right = (max(0, side - length) for length in picture.shape[:2])
    if not down and not right:
        return picture
    padded = cv2.copyMakeBorder(
        picture, down // 2, down - down // 2, right // 2, right - right // 2, cv2.BORDER_REFLECT_101
    )
    return np.asarray(padded, np.uint8)


def _still_clip(library: Library, spec: ClipSpec, size: int, rng: np.random.Generator) -> list[Image]:
    """A camera looking at a photo: tripod, pan, zoom or shake; at times something moves in front of it."""
    if rng.random() < 0.1:
        base = screen(size * 2, rng)
    else:
        base = _at_least(read_picture(library.stills[int(rng.integers(len(library.stills)))]), size)
    motion = str(rng.choice(["tripod", "pan", "zoom", "shake"], p=[0.45, 0.25, 0.1, 0.2]))
    # photos are sharpest a little below their own size; the scale also varies how large faces are
    scale = float(rng.uniform(0.45, 1.0)) if motion == "tripod" else float(rng.uniform(0.4, 0.8))
    scale = max(scale, (size + 24) / min(base.shape[:2]))
    path = _camera_path(spec.frames, motion, rng)
    frames = _worth_seeing(lambda: _look(base, size, scale, path, rng), lambda views: views[0], rng)
    if rng.random() < 0.4:
        other = _at_least(read_picture(library.stills[int(rng.integers(len(library.stills)))]), size)
        frames = _put_in_front(frames, other, size, rng)
    if rng.random() < 0.3:  # auto-exposure and lamps: truth and input change together
        gains = 1 + np.cumsum(rng.normal(0, 0.006, spec.frames))
        frames = [np.clip(f * np.float32(g), 0, 1) for f, g in zip(frames, gains, strict=True)]
    return frames


def _crisp(frames: list[Image], rng: np.random.Generator) -> list[Image]:
    """Three truths in four are sharpened a little, as cameras sharpen what they show: the averages that shrink our
    pictures take a third of the finest detail, and who learns from soft truths sharpens too little."""
    if rng.random() < 0.25:
        return frames
    amount, sigma = float(rng.uniform(*CRISP)), float(rng.uniform(0.5, 0.8))
    return [oversharpen(f, sigma, amount) for f in frames]


def _worth_seeing(
    draw: Callable[[], Drawn], picture: Callable[[Drawn], Image], rng: np.random.Generator
) -> Drawn:
    """The first of three draws whose picture has detail, or sooner by chance: skies and walls teach little, and
    pictures are full of them."""
    for _ in range(2):
        drawn = draw()
        detail = np.abs(cv2.Laplacian(picture(drawn), cv2.CV_32F)).mean() * 255
        if rng.random() < 0.3 or detail > DETAIL:
            return drawn
    return draw()


def _camera_path(count: int, motion: str, rng: np.random.Generator) -> NDArray[np.float64]:
    """(count, 3): x and y in output pixels, and zoom factor, per frame."""
    t = np.arange(count, dtype=np.float64)
    path = np.zeros((count, 3))
    path[:, 2] = 1
    if motion == "pan":
        speed = float(rng.choice([rng.uniform(0.1, 1.0), rng.uniform(1.0, 8.0)]))
        angle = rng.uniform(0, 2 * np.pi)
        path[:, 0], path[:, 1] = speed * np.cos(angle) * t, speed * np.sin(angle) * t
    elif motion == "zoom":
        path[:, 2] = 1 + rng.uniform(-0.012, 0.012) * t
    elif motion == "shake":
        path[:, :2] = np.cumsum(rng.normal(0, rng.uniform(0.1, 1.2), (count, 2)), axis=0)
    return path


def _look(
    base: NDArray[np.uint8], size: int, scale: float, path: NDArray[np.float64], rng: np.random.Generator
) -> list[Image]:
    """`size` x `size` views of `base` along `path`. A still camera is cut out without any interpolation."""
    height, width = base.shape[:2]
    if scale < 0.98:  # shrink the neighbourhood once, with an anti-aliasing filter
        reach = min(height, width, int((size + 2 * np.abs(path[:, :2]).max() + 24) / scale))
        y0, x0 = int(rng.integers(height - reach + 1)), int(rng.integers(width - reach + 1))
        part = base[y0 : y0 + reach, x0 : x0 + reach]
        side = max(size + 2, round(reach * scale))
        part = np.asarray(cv2.resize(part, (side, side), interpolation=cv2.INTER_AREA), np.uint8)
    else:
        part = base
    height, width = part.shape[:2]
    cx = float(rng.integers(size // 2, max(size // 2 + 1, width - size // 2)))
    cy = float(rng.integers(size // 2, max(size // 2 + 1, height - size // 2)))
    still = np.abs(path - path[0]).max() < 1e-9
    frames: list[Image] = []
    for x, y, zoom in path[:1] if still else path:
        if still:
            left, top = np.clip((cx - size // 2, cy - size // 2), 0, (width - size, height - size)).astype(
                int
            )
            view: object = part[top : top + size, left : left + size]
        else:
            matrix = np.array(
                [[1 / zoom, 0, cx + x - size / 2 / zoom], [0, 1 / zoom, cy + y - size / 2 / zoom]]
            )
            view = cv2.warpAffine(
                part, matrix, (size, size),
                flags=cv2.INTER_LANCZOS4 | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REFLECT_101,
            )  # fmt: skip
        frames.append(as_float(np.asarray(view, np.uint8)))
    if still:
        frames = frames * len(path)
    if rng.random() < 0.5:
        frames = [np.ascontiguousarray(f[:, ::-1]) for f in frames]
    return frames


def _put_in_front(
    frames: list[Image], other: NDArray[np.uint8], size: int, rng: np.random.Generator
) -> list[Image]:
    """A soft-edged piece of another photo (a hand, a cup) moves over the frames, fast or slowly."""
    count = len(frames)
    scale = max(0.5, (size + 24) / min(other.shape[:2]))
    texture = _look(other, size, scale, np.tile([0.0, 0.0, 1.0], (1, 1)), rng)[0]
    axes = rng.uniform(10, size / 3, 2)
    angle = float(rng.uniform(0, np.pi))
    speed = float(rng.choice([rng.uniform(0.3, 2.0), rng.uniform(2.0, 16.0)]))
    direction = rng.uniform(0, 2 * np.pi)
    start = rng.uniform(MARGIN, size - MARGIN, 2) - speed * count / 2 * np.array(
        [np.cos(direction), np.sin(direction)]
    )
    edge = float(rng.uniform(0.5, 2.0))
    out: list[Image] = []
    yy, xx = np.mgrid[:size, :size].astype(np.float32)
    for t, frame in enumerate(frames):
        px, py = start + speed * t * np.array([np.cos(direction), np.sin(direction)])
        u = (xx - px) * np.cos(angle) + (yy - py) * np.sin(angle)
        v = -(xx - px) * np.sin(angle) + (yy - py) * np.cos(angle)
        radius = np.sqrt((u / axes[0]) ** 2 + (v / axes[1]) ** 2)
        alpha = np.clip((1 - radius) * axes.min() / edge + 0.5, 0, 1)[..., None].astype(np.float32)
        shift = np.array([[1, 0, px - start[0]], [0, 1, py - start[1]]])
        moved = cv2.warpAffine(
            texture, shift, (size, size), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101
        )
        out.append((frame * (1 - alpha) + np.clip(moved, 0, 1) * alpha).astype(np.float32))
    return out


def _video_clip(library: Library, spec: ClipSpec, size: int, rng: np.random.Generator) -> list[Image]:
    """Consecutive frames of a real video, shrunk so that its own compression and softness vanish.

    A video that is shorter than the clip runs to its end and back."""
    path = library.videos[int(rng.integers(len(library.videos)))]
    chunk, length = max(spec.frames, VIDEO_CHUNK), video_length(path)
    start = int(rng.integers(max(1, (length - chunk) // chunk + 1))) * chunk if length > chunk else 0
    frames = read_video(path, start, min(chunk, length))
    if len(frames) < spec.frames:
        frames = np.pad(frames, ((0, spec.frames - len(frames)), (0, 0), (0, 0), (0, 0)), "reflect")
    offset = int(rng.integers(len(frames) - spec.frames + 1))
    height, width = frames.shape[1:3]
    scale = max(float(rng.uniform(0.4, 0.6)), (size + 2) / min(height, width))
    reach = min(height, width, int(size / scale) + 1)
    y0, x0 = int(rng.integers(height - reach + 1)), int(rng.integers(width - reach + 1))
    part = frames[offset : offset + spec.frames, y0 : y0 + reach, x0 : x0 + reach]
    shrunk = (cv2.resize(f, (size, size), interpolation=cv2.INTER_AREA) for f in part)
    return [as_float(np.asarray(f, np.uint8)) for f in shrunk]


def _pair_clip(
    library: Library, spec: ClipSpec, size: int, rng: np.random.Generator
) -> tuple[list[Image], list[Image]]:
    """A pair of real blur and truth, seen by a camera that stands still or moves in whole pixels."""
    paths = library.pairs[int(rng.integers(len(library.pairs)))]
    blur, sharp = (_at_least(read_picture(p), size) for p in paths)
    if blur.shape != sharp.shape:
        raise DataError(f"{paths[0]} and {paths[1]} differ in size")
    steps = max(1, spec.frames - 1)
    room = np.array(blur.shape[:2]) - size
    step = rng.integers(-4, 5, 2) if rng.random() < 0.5 else np.zeros(2, int)
    step = np.clip(step, -(room // steps), room // steps)
    path = np.arange(spec.frames)[:, None] * step
    start = rng.integers(-path.min(axis=0), room - path.max(axis=0) + 1)
    soft, true = [], []
    for y, x in start + path:
        soft.append(as_float(blur[y : y + size, x : x + size]))
        true.append(as_float(sharp[y : y + size, x : x + size]))
    return soft, true


def _burst_clip(
    library: Library, spec: ClipSpec, size: int, rng: np.random.Generator
) -> tuple[list[Image], list[Image]]:
    """High-speed frames, averaged over an exposure: real motion blur with its middle frame as truth."""
    burst = library.bursts[int(rng.integers(len(library.bursts)))]
    exposure = min(int(rng.choice([1, 3, 5, 7, 9, 11])), (len(burst) - 1) // 2 * 2 + 1)
    step = min(int(rng.choice([2, 4, 8])), (len(burst) - exposure) // max(1, spec.frames - 1))
    start = int(rng.integers(len(burst) - step * (spec.frames - 1) - exposure + 1))
    height, width = _at_least(read_picture(burst[0]), size).shape[:2]
    y0, x0 = int(rng.integers(height - size + 1)), int(rng.integers(width - size + 1))
    soft, true = [], []
    for t in range(spec.frames):
        first = start + t * step
        views = [
            _at_least(read_picture(p), size)[y0 : y0 + size, x0 : x0 + size]
            for p in burst[first : first + exposure]
        ]
        if any(view.shape != (size, size, 3) for view in views):
            raise DataError(f"the frames in {burst[0].parent} differ in size")
        window = as_float(np.stack(views))
        # exposure adds light, not gamma-encoded values
        soft.append(to_gamma(np.mean(to_linear(window), axis=0, dtype=np.float32)))
        true.append(window[len(window) // 2])
    return soft, true


def screen(size: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """A rendered screen or page: lines of text, rules and boxes, dark on light or light on dark."""
    paper, ink = rng.integers(180, 256, 3), rng.integers(0, 90, 3)
    if rng.random() < 0.4:
        paper, ink = ink, paper
    s = 2
    canvas = np.empty((size * s, size * s, 3), np.uint8)
    canvas[:] = paper
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,;:()"
    fonts = [
        cv2.FONT_HERSHEY_SIMPLEX,
        cv2.FONT_HERSHEY_DUPLEX,
        cv2.FONT_HERSHEY_COMPLEX,
        cv2.FONT_HERSHEY_TRIPLEX,
    ]
    y = 0.0
    while y < size * s:
        height = float(rng.uniform(7, 30)) * s
        y += height * 1.5
        text = "".join(rng.choice(list(letters + "        "), 60))
        color = [int(c) for c in (ink if rng.random() < 0.8 else rng.integers(0, 256, 3))]
        cv2.putText(
            canvas, text, (int(rng.integers(-40, 40)), int(y)), int(rng.choice(fonts)), height / 22, color,
            max(1, int(height / 14 * rng.uniform(0.7, 1.6))), cv2.LINE_AA,
        )  # fmt: skip
        if rng.random() < 0.2:
            x0, y0 = (int(v) for v in rng.integers(0, size * s, 2))
            cv2.rectangle(
                canvas,
                (x0, y0),
                (x0 + int(rng.integers(20, 300)), y0 + int(rng.integers(10, 200))),
                color,
                int(rng.choice([-1, 1, 2, 4])),
            )
    return np.asarray(cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA), np.uint8)
