"""Data folders that tests draw for themselves: pictures with edges and colours, videos, pairs, bursts."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]


def drawn(height: int, width: int, seed: int) -> Picture:
    """RGB uint8: lines and discs in many colours, soft noise between them."""
    rng = np.random.default_rng(seed)
    picture = np.full((height, width, 3), rng.integers(40, 216, 3), np.uint8)
    for _ in range(30):
        x, y = rng.integers(0, width, 2), rng.integers(0, height, 2)
        color = [int(c) for c in rng.integers(0, 256, 3)]
        cv2.line(
            picture,
            (int(x[0]), int(y[0])),
            (int(x[1]), int(y[1])),
            color,
            int(rng.integers(1, 5)),
            cv2.LINE_AA,
        )
        cv2.circle(picture, (int(x[0]), int(y[1])), int(rng.integers(2, 12)), color, -1, cv2.LINE_AA)
    return picture


def write_picture(path: Path, picture: Picture) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.ascontiguousarray(picture[..., ::-1]))
    return path


def write_pictures(
    folder: Path, count: int, size: tuple[int, int] = (120, 140), suffix: str = ".png"
) -> None:
    for i in range(count):
        write_picture(folder / f"picture{i}{suffix}", drawn(*size, seed=i))


def write_video(path: Path, frames: int, size: tuple[int, int] = (96, 112), codec: str = "libx264") -> Path:
    """A video whose frame n is of brightness 20 + 2 n (cut at 240), with a line on it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=30, options={"qp": "2", "g": "25"})
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width = size
        stream.pix_fmt, stream.time_base = "yuv420p", Fraction(1, 30)
        for n in range(frames):
            picture = np.full((*size, 3), min(20 + 2 * n, 240), np.uint8)
            picture[:, 50:54] = 128
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = n
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_pair(root: Path, blur: str, sharp: str, size: tuple[int, int] = (104, 120), seed: int = 0) -> None:
    """`root`/`blur` is `root`/`sharp`, blurred."""
    picture = drawn(*size, seed)
    write_picture(root / sharp, picture)
    write_picture(root / blur, np.asarray(cv2.GaussianBlur(picture, (0, 0), 2.0), np.uint8))
