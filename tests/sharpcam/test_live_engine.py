"""Changes while frames pass."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain, pairwise, repeat
from types import SimpleNamespace
from typing import Any

import pytest

from sharpcam.daemon import live_engine
from sharpcam.daemon.live_engine import RAMP_FRAMES, RECENT_FRAMES, LiveEngine
from sharpcam.errors import ConfigError
from sharpcam.frame import Frame

IN, OUT = Frame(32, 16), Frame(32, 16)


class Fake:
    run_ns, run_cpu_ns, provider, threads = 1, 2, "cpu", 1

    def __init__(self, name: str = "a", strength: float = 1.0) -> None:
        self.model: Any = SimpleNamespace(name=name)
        self.description = f"model {name}"
        self.strength, self.split = strength, False
        self.seen: list[float] = []
        self.closed = 0

    def process(self, frame: Frame, out: Frame) -> None:
        assert not self.closed
        self.seen.append(self.strength)

    def close(self) -> None:
        self.closed += 1


def pass_frames(engine: LiveEngine, count: int) -> None:
    for _ in range(count):
        engine.process(IN, OUT)


@pytest.mark.parametrize(("start", "end"), [(1.0, 0.0), (0.0, 1.0), (0.3, 0.7), (0.7, 0.1)])
def test_a_new_strength_is_reached_in_ten_even_steps(start: float, end: float) -> None:
    inner = Fake(strength=start)
    engine = LiveEngine(inner)
    pass_frames(engine, 1)
    engine.strength = end
    assert engine.strength == end, "what is told is where it goes to"
    pass_frames(engine, RAMP_FRAMES + 2)
    steps = [b - a for a, b in zip(inner.seen, inner.seen[1:], strict=False)]
    assert steps[:RAMP_FRAMES] == pytest.approx([(end - start) / RAMP_FRAMES] * RAMP_FRAMES)
    assert inner.seen[-3:] == [end] * 3, "to the bit, and then no further"


def test_a_change_of_mind_goes_on_from_where_it_is() -> None:
    inner = Fake()
    engine = LiveEngine(inner)
    engine.strength = 0.0
    pass_frames(engine, 5)
    engine.strength = 1.0
    pass_frames(engine, RAMP_FRAMES + 1)
    assert inner.seen[4] == pytest.approx(0.5)
    assert inner.seen[5] == pytest.approx(0.55)
    assert inner.seen[-1] == 1.0


def test_nonsense_changes_nothing() -> None:
    inner = Fake(strength=0.5)
    engine = LiveEngine(inner)
    for value in (-0.1, 1.1, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="out of range"):
            engine.strength = value
    pass_frames(engine, 3)
    assert inner.seen == [0.5] * 3


def test_another_model_takes_over_at_strength_0_and_comes_up_to_the_old_strength() -> None:
    old, new = Fake("a", 0.4), Fake("b")
    engine = LiveEngine(old)
    engine.split = True
    engine.change_to(new)
    pass_frames(engine, RAMP_FRAMES)
    assert (engine.model.name, old.closed) == ("a", 0)
    assert old.seen == pytest.approx([0.4 * (1 - i / RAMP_FRAMES) for i in range(1, RAMP_FRAMES + 1)])
    assert old.seen[-1] == 0.0
    assert engine.strength == 0.4, "what is told is where it goes to"
    assert engine.changing
    pass_frames(engine, RAMP_FRAMES)
    assert (engine.model.name, engine.description) == ("b", "model b")
    assert (old.closed, new.closed) == (1, 0)
    assert new.seen == pytest.approx([0.4 * i / RAMP_FRAMES for i in range(1, RAMP_FRAMES + 1)])
    assert new.split
    assert not engine.changing
    pass_frames(engine, 3)
    assert new.seen[-4:] == [0.4] * 4


def test_a_strength_set_while_models_change_is_where_the_new_one_goes_to() -> None:
    old, new = Fake("a"), Fake("b")
    engine = LiveEngine(old)
    engine.change_to(new)
    pass_frames(engine, 4)
    engine.strength = 0.5
    pass_frames(engine, 3 * RAMP_FRAMES)
    assert all(b <= a for a, b in pairwise(old.seen)), "never up before the change"
    assert old.seen[-1] == 0.0
    assert new.seen[-1] == 0.5


def test_a_model_that_never_had_its_turn_is_freed() -> None:
    old, second, third = Fake("a"), Fake("b"), Fake("c")
    engine = LiveEngine(old)
    engine.change_to(second)
    engine.change_to(third)
    assert second.closed == 1
    engine.close()
    assert (old.closed, second.closed, third.closed) == (1, 1, 1)


def test_mirrored_frames_are_what_the_engine_gets(picture: Callable[..., Frame]) -> None:
    got: list[list[Any]] = []

    class Inner(Fake):
        def process(self, frame: Frame, out: Frame) -> None:
            got.append([plane.copy() for plane in frame.planes])

    engine, out = LiveEngine(Inner()), Frame(64, 48)
    plain = picture()
    engine.process(picture(), out)
    engine.mirror = True
    engine.process(picture(), out)
    for before, after, original in zip(*got, plain.planes, strict=True):
        assert (before == original).all()
        assert (after == original[:, ::-1]).all()


def test_how_late_it_is_of_the_latest_frames_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(live_engine.time, "perf_counter", lambda: now)

    class Slow(Fake):
        def process(self, frame: Frame, out: Frame) -> None:
            nonlocal now
            now += next(times)

    times = chain(repeat(9.0, 30), (0.001 * i for i in range(1, RECENT_FRAMES + 1)), repeat(0.5))
    engine = LiveEngine(Slow())
    pass_frames(engine, RECENT_FRAMES - 1)
    assert engine.recent_s is None, "so few frames tell nothing"
    pass_frames(engine, 30 + 1)
    assert engine.recent_s == pytest.approx((0.023, 0.043)), "of 1 to 45 ms"
    pass_frames(engine, RECENT_FRAMES)
    assert engine.recent_s == pytest.approx((0.5, 0.5))
    engine.change_to(Slow("b"))
    pass_frames(engine, RAMP_FRAMES + 5)
    assert engine.recent_s is None, "what the old model took says nothing of the new one"


def test_what_the_engine_may_tell_is_passed_on() -> None:
    class Telling(Fake):
        workers_cpu_ns = 5

    assert LiveEngine(Telling()).workers_cpu_ns == 5
    assert LiveEngine(Fake()).workers_cpu_ns == 0
