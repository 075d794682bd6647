"""A pipeline that rests, wakes, and stands in for a camera that is away."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
from test_pipeline import (
    SIZE,
    FakeEngine,
    FakeSink,
    FakeSource,
    end_of,
    nothing_leaked,
    threads_end,  # noqa: F401
    until,
)

import sharpcam.kept_source
import sharpcam.pipeline
from sharpcam.errors import DeviceBusy, DeviceLost, SharpCamError
from sharpcam.frame import Frame
from sharpcam.pipeline import Pipeline
from sharpcam.sources import Source

STILL = 90


def still(luma: int = STILL) -> Frame:
    frame = Frame(*SIZE)
    frame.fill(luma)
    return frame


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharpcam.pipeline, "TICK_S", 0.005)
    monkeypatch.setattr(sharpcam.kept_source, "BACKOFF_S", (0.01, 0.02))


def giving(*sources: Source | SharpCamError) -> Callable[[], Source]:
    left = list(sources)

    def reopen() -> Source:
        step = left.pop(0)
        if isinstance(step, SharpCamError):
            raise step
        return step

    return reopen


def test_rest_closes_the_camera_and_shows_the_still_alone() -> None:
    source, second, sink = FakeSource(40), FakeSource(60), FakeSink(live=True, fps=200)
    pipeline = Pipeline(source, FakeEngine(), sink, reopen=giving(second))
    pipeline.start()
    until(lambda: 41 in sink.sent)
    pipeline.rest(still(), 100)
    until(lambda: source.closed > 0 and sink.sent[-1] == STILL)
    begun = len(sink.sent)
    until(lambda: len(sink.sent) > begun + 5)
    assert set(sink.sent[begun:]) == {STILL}
    assert not second.closed
    pipeline.wake()
    until(lambda: sink.sent[-1] == 61)
    assert 41 not in sink.sent[begun:], "nothing old is shown after a rest"
    assert pipeline.telemetry["reconnects"] == 0, "it was never lost"
    end_of(pipeline)
    assert second.closed
    assert nothing_leaked(pipeline)


def test_a_rest_shows_no_picture_that_was_on_its_way() -> None:
    source, sink, engine = FakeSource(40), FakeSink(live=True, fps=200), FakeEngine(held=True)
    pipeline = Pipeline(source, engine, sink, reopen=giving())
    pipeline.start()
    assert engine.inside.wait(20)
    pipeline.rest(still(), 100)
    until(lambda: STILL in sink.sent)
    engine.gate.release()
    until(lambda: pipeline.telemetry["dropped"] == 1)
    end_of(pipeline)
    assert 41 not in sink.sent
    assert nothing_leaked(pipeline)


def test_the_rate_of_a_still_is_its_own() -> None:
    """An upper bound only: a busy machine makes it fewer."""
    sink = FakeSink(live=True, fps=1000)
    pipeline = Pipeline(FakeSource(), FakeEngine(), sink, reopen=giving())
    pipeline.rest(still(), 10)
    pipeline.start()
    until(lambda: STILL in sink.sent)
    before, begun = len(sink.sent), time.monotonic()
    until(lambda: len(sink.sent) >= before + 3)
    assert len(sink.sent) - before <= (time.monotonic() - begun) * 10 + 1
    counted = len(sink.sent)
    pipeline.rest(still(70), 10)
    until(lambda: sink.sent[-1] == 70)
    assert len(sink.sent) <= counted + 2, "another still is shown at once"
    end_of(pipeline)
    assert pipeline.telemetry["placeholders"] == len(sink.sent)


def test_what_cannot_be_opened_again_is_only_left_unread() -> None:
    source, sink = FakeSource(40), FakeSink(live=True, fps=200)
    pipeline = Pipeline(source, FakeEngine(), sink)
    pipeline.start()
    until(lambda: 41 in sink.sent)
    pipeline.rest(still(), 100)
    until(lambda: sink.sent[-1] == STILL)
    source.give(50)
    begun = len(sink.sent)
    until(lambda: len(sink.sent) > begun + 5)
    assert not source.closed
    assert 51 not in sink.sent
    pipeline.wake()
    until(lambda: 51 in sink.sent)
    end_of(pipeline)


def test_a_camera_that_is_taken_when_we_wake_is_tried_again() -> None:
    busy = DeviceBusy("cheese has it")
    second, sink = FakeSource(60), FakeSink(live=True, fps=200)
    pipeline = Pipeline(FakeSource(), FakeEngine(), sink, reopen=giving(busy, busy, busy, second))
    pipeline.start()
    pipeline.rest(still(), 100)
    until(lambda: STILL in sink.sent)
    seen: list[str] = []
    pipeline.wake()
    until(lambda: bool(pipeline.lost and seen.append(str(pipeline.lost))) or 61 in sink.sent)
    assert set(seen) == {"cheese has it"}
    assert pipeline.lost is None
    assert pipeline.telemetry["reconnects"] == 1
    end_of(pipeline)


def test_rest_ends_the_search_for_a_lost_camera() -> None:
    tries = threading.Semaphore(0)

    def reopen() -> Source:
        tries.release()
        raise DeviceLost("still away")

    sink = FakeSink(live=True, fps=200)
    pipeline = Pipeline(FakeSource(DeviceLost("gone")), FakeEngine(), sink, reopen=reopen)
    pipeline.start()
    assert tries.acquire(timeout=20)
    assert pipeline.lost is not None
    pipeline.rest(still(), 50)
    until(lambda: pipeline.lost is None)
    while tries.acquire(blocking=False):
        pass
    begun = len(sink.sent)
    until(lambda: len(sink.sent) > begun + 3)
    assert not tries.acquire(blocking=False)
    pipeline.wake()
    assert tries.acquire(timeout=20), "now it is looked for again"
    end_of(pipeline)


def test_quick_rests_and_wakes_end_in_a_live_picture() -> None:
    """The source that was closed must never be read."""
    sources = [FakeSource(*range(i, i + 30)) for i in range(0, 400, 10)]
    for source in sources:
        reading = source.read

        def read(frame: Frame, timeout: float, source: FakeSource = source, reading=reading) -> bool:  # type: ignore[no-untyped-def]
            assert not source.closed
            return bool(reading(frame, timeout))

        source.read = read  # type: ignore[method-assign]
    sink = FakeSink(live=True, fps=200)
    pipeline = Pipeline(sources[0], FakeEngine(), sink, reopen=giving(*sources[1:]))
    pipeline.start()
    for i in range(30):
        pipeline.rest(still(), 100)
        time.sleep(0.003 * (i % 4))
        pipeline.wake()
        time.sleep(0.003 * (i % 3))
    begun = len(sink.sent)
    until(lambda: any(luma != STILL for luma in sink.sent[begun:]))
    assert end_of(pipeline) == "stopped"
    assert nothing_leaked(pipeline)


def test_the_last_picture_stands_in_for_a_moment_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharpcam.pipeline, "LAST_FRAME_S", 0.1)
    monkeypatch.setattr(sharpcam.kept_source, "BACKOFF_S", (0.5, 0.5))
    second, sink = FakeSource(60), FakeSink(live=True, fps=200)
    pipeline = Pipeline(FakeSource(40, DeviceLost("gone")), FakeEngine(), sink, reopen=giving(second))
    away = int(pipeline._away.frame.y[0, 0, 0, 0])
    pipeline.start()
    until(lambda: sink.sent[-1:] == [61])
    shown = [luma for i, luma in enumerate(sink.sent) if i == 0 or sink.sent[i - 1] != luma]
    assert shown[-3:] == [41, away, 61]
    assert sink.sent.count(41) > 2, "for a moment it does"
    end_of(pipeline)


def test_a_late_picture_does_not_end_the_placeholder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharpcam.pipeline, "LAST_FRAME_S", 0.0)
    monkeypatch.setattr(sharpcam.kept_source, "BACKOFF_S", (60.0, 60.0))
    sink, engine = FakeSink(live=True, fps=200), FakeEngine(held=True)
    pipeline = Pipeline(FakeSource(40, DeviceLost("gone")), engine, sink, reopen=giving())
    away = int(pipeline._away.frame.y[0, 0, 0, 0])
    pipeline.start()
    until(lambda: pipeline.lost is not None and sink.sent[-1] == away)
    engine.gate.release()
    until(lambda: 41 in sink.sent)
    until(lambda: sink.sent[-1] == away)
    end_of(pipeline)


def test_a_file_gets_neither_stills_nor_repeats() -> None:
    source, sink = FakeSource(40), FakeSink(live=False, fps=200)
    pipeline = Pipeline(source, FakeEngine(), sink, reopen=giving(FakeSource(50)))
    pipeline.start()
    until(lambda: 41 in sink.sent)
    pipeline.rest(still(), 1000)
    until(lambda: source.closed > 0)
    time.sleep(0.02)
    pipeline.wake()
    until(lambda: 51 in sink.sent)
    end_of(pipeline)
    assert sink.sent == [41, 51]


def test_a_rest_is_no_reason_not_to_end() -> None:
    sink = FakeSink(live=True, fps=200)
    pipeline = Pipeline(FakeSource(), FakeEngine(), sink, reopen=giving(), duration=0.1)
    pipeline.rest(still(), 10)
    assert pipeline.run() == "duration"
