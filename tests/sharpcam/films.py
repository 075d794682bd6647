"""Small media files that the tests make for themselves."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

GREYS = 9  # frame n of a film has the luma 40 + 20 * (n % GREYS)


def grey(n: int) -> int:
    return 40 + 20 * (n % GREYS)


def number_of(frame) -> int:
    """Which frame of a film this is, modulo GREYS."""
    return round((float(frame.planes[0].mean()) - 40) / 20)


def film(
    path: Path,
    frames: int = 12,
    size: tuple[int, int] = (64, 48),
    fps: int = 25,
    *,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    times: list[int] | None = None,
    rotation: int = 0,
    tone: str | None = None,
    start: int = 0,
    tags: dict[str, int] | None = None,
    aspect: Fraction | None = None,
) -> Path:
    """A film of flat grey frames with a brighter right half.

    `times` are pts in 1/1000 s, `start` is what is added to them, `tone` is an audio codec.
    """
    clock = Fraction(1, 1000) if times or start else Fraction(1, fps)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps, options={"crf": "8"} if codec == "libx264" else {})
        stream.width, stream.height = size
        stream.pix_fmt = pix_fmt
        stream.codec_context.time_base = clock
        for name, value in (tags or {}).items():
            setattr(stream.codec_context, name, value)
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
        if rotation:
            stream.set_display_rotation(rotation)
        sound = container.add_stream(tone, rate=48000) if tone else None
        for n in range(frames):
            picture = av.VideoFrame(*size, pix_fmt)
            for plane in picture.planes:
                lines = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)
                lines[...] = 128
            first = picture.planes[0]
            lines = np.frombuffer(memoryview(first), np.uint8).reshape(first.height, first.line_size)
            lines[:, : size[0] // 2] = grey(n) - 15
            lines[:, size[0] // 2 : size[0]] = grey(n) + 15
            picture.pts = round((start + (times[n] if times else n * 1000 / fps)) / 1000 / clock)
            picture.time_base = clock
            for name, value in (tags or {}).items():
                setattr(picture, name, value)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
        if sound is not None:
            _beep(container, sound, start / 1000, frames / fps)
    return path


def _beep(container, stream, start: float, seconds: float) -> None:
    """A second's tone, silent at first: the sound begins with the pictures."""
    samples = int(48000 * seconds)
    wave = (0.3 * np.sin(np.arange(samples) * 2 * np.pi * 440 / 48000)).astype(np.float32)
    for first in range(0, samples, 1024):
        part = wave[first : first + 1024]
        block = av.AudioFrame.from_ndarray(np.stack([part, part]), format="fltp", layout="stereo")
        block.sample_rate = 48000
        block.pts = int(start * 48000) + first
        block.time_base = Fraction(1, 48000)
        container.mux(stream.encode(block))
    container.mux(stream.encode(None))


def read_all(source, timeout: float = 5.0):
    """(number, sequence) of every frame until the end."""
    from sharpcam.frame import Frame

    frame, seen = Frame(*source.size), []
    while True:
        try:
            assert source.read(frame, timeout)
        except EOFError:
            return seen
        seen.append((number_of(frame), frame.sequence))
