"""Cheaper than any model: a smaller picture, or none of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sharpcam.daemon.lighter import Passing, ScaledEngine, scaled_size
from sharpcam.engine import Engine
from sharpcam.frame import Frame

SIZE = (64, 48)


class Brighter:
    """An engine that adds so much to luma at half the size; what it got is kept."""

    def __init__(self, engine: Engine, more: int) -> None:
        self._engine, self._more = engine, more
        self.got: list[Frame] = []
        self.size, self.model, self.provider, self.threads = (32, 24), engine.model, "cpu", 1
        self.run_ns = self.run_cpu_ns = self.workers_cpu_ns = 7
        self.strength, self.description, self.fallbacks = 1.0, "inner", 0

    def process(self, frame: Frame, out: Frame) -> None:
        self.got.append(frame)
        np.copyto(out.buffer, frame.buffer)
        luma = out.planes[0]
        luma[:] = np.clip(luma.astype(int) + self._more, 0, 255)

    def close(self) -> None:
        self._engine.close()


@pytest.fixture
def inner(yuv_model: Path) -> Engine:
    return Engine.load(yuv_model, (32, 24), "cpu", 1)


@pytest.mark.parametrize("more", [20, -20])
def test_what_changed_at_half_size_is_added_to_the_full_picture(
    inner: Engine, picture: Callable[..., Frame], more: int
) -> None:
    brighter = Brighter(inner, more)
    engine = ScaledEngine(brighter, SIZE)  # type: ignore[arg-type]
    frame, out = picture(*SIZE, sequence=5), Frame(*SIZE)
    before = [plane.copy() for plane in frame.planes]
    engine.process(frame, out)
    assert (out.planes[0].astype(int) - before[0] == more).all(), "all detail of the full size is kept"
    assert all((o == b).all() for o, b in zip(out.planes[1:], before[1:], strict=True))
    assert all((f == b).all() for f, b in zip(frame.planes, before, strict=True))
    assert (out.sequence, out.captured_ns, out.color) == (5, frame.captured_ns, frame.color)
    small = brighter.got[0]
    assert (small.size, small.sequence) == ((32, 24), 5)
    means = before[0].reshape(24, 2, 32, 2).mean(axis=(1, 3))
    assert np.abs(small.planes[0] - means).max() <= 0.5
    assert engine.run_ns == engine.run_cpu_ns == engine.workers_cpu_ns == 7
    assert engine.description == "inner at 32x24"


def test_black_and_white_do_not_wrap_around(inner: Engine) -> None:
    frame, out = Frame(*SIZE), Frame(*SIZE)
    for level, more, wanted in ((250, 20, 255), (5, -20, 0)):
        frame.fill(level)
        ScaledEngine(Brighter(inner, more), SIZE).process(frame, out)  # type: ignore[arg-type]
        assert (out.planes[0] == wanted).all()


def test_strength_reaches_the_engine_and_split_shows_the_left_half(
    inner: Engine, picture: Callable[..., Frame]
) -> None:
    brighter = Brighter(inner, 30)
    engine = ScaledEngine(brighter, SIZE)  # type: ignore[arg-type]
    engine.strength, engine.split = 0.25, True
    assert (brighter.strength, engine.strength) == (0.25, 0.25)
    frame, out = picture(*SIZE), Frame(*SIZE)
    engine.process(frame, out)
    assert (out.planes[0][:, :32] == frame.planes[0][:, :32]).all()
    assert (out.planes[0][:, 40:] != frame.planes[0][:, 40:]).all()


def test_a_real_engine_at_half_size(inner: Engine, picture: Callable[..., Frame]) -> None:
    engine = ScaledEngine(inner, SIZE)
    engine.strength = 0.0
    frame, out = picture(*SIZE), Frame(*SIZE)
    engine.process(frame, out)
    assert (out.buffer == frame.buffer).all(), "strength 0 changes nothing"
    engine.close()


def test_scaled_sizes_are_even() -> None:
    assert scaled_size((1280, 720), 0.5) == (640, 360)
    assert scaled_size((854, 480), 0.5) == (428, 240)
    assert scaled_size((1280, 720), 1.0) == (1280, 720)


def test_passing_passes(inner: Engine, picture: Callable[..., Frame]) -> None:
    passing = Passing(inner.model, "cpu", 2)
    frame, out = picture(*SIZE, sequence=3), Frame(*SIZE)
    passing.strength = 1.0
    passing.process(frame, out)
    assert (out.buffer == frame.buffer).all()
    assert (out.sequence, out.captured_ns) == (3, frame.captured_ns)
    assert (passing.model, passing.threads, passing.run_ns) == (inner.model, 2, 0)
    passing.close()


def test_what_it_tells_is_of_the_moment(inner: Engine) -> None:
    """A GPU may be lost while pictures pass: the engine inside goes on on the CPU, and counts it."""
    brighter = Brighter(inner, 0)
    engine = ScaledEngine(brighter, SIZE)  # type: ignore[arg-type]
    assert engine.fallbacks == 0
    brighter.provider, brighter.fallbacks = "elsewhere", 1
    assert (engine.provider, engine.fallbacks) == ("elsewhere", 1)
