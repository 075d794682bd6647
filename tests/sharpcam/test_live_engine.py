"""Changes while frames pass."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from sharpcam.daemon.live_engine import RAMP_FRAMES, LiveEngine
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


def test_another_model_takes_over_with_strength_and_split() -> None:
    old, new = Fake("a", 0.4), Fake("b")
    engine = LiveEngine(old)
    engine.split = True
    engine.change_to(new)
    assert (engine.model.name, old.closed) == ("a", 0), "until the next frame"
    pass_frames(engine, 1)
    assert (engine.model.name, engine.description) == ("b", "model b")
    assert (old.closed, new.closed) == (1, 0)
    assert (new.seen, new.split) == ([0.4], True)


def test_a_model_that_never_had_its_turn_is_freed() -> None:
    old, second, third = Fake("a"), Fake("b"), Fake("c")
    engine = LiveEngine(old)
    engine.change_to(second)
    engine.change_to(third)
    assert second.closed == 1
    engine.close()
    assert (old.closed, second.closed, third.closed) == (1, 1, 1)
