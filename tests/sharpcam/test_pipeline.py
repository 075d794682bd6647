from __future__ import annotations

import logging
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import sharpcam.kept_source
import sharpcam.pipeline
from sharpcam.engine import Engine
from sharpcam.errors import DeviceLost, DeviceNotFound, FormatMismatch, MediaError, ModelError
from sharpcam.frame import Color, Frame
from sharpcam.mailbox import Mailbox, MailboxClosed
from sharpcam.pace import Pace
from sharpcam.pipeline import Pipeline
from sharpcam.placeholder import text_frame
from sharpcam.sources import Source

SIZE = (32, 16)
LIMIT = 20.0  # seconds after which a test that waits has failed


class FakeSource:
    """Gives what is put into `script`: a number (the sequence of a frame) or an exception to raise."""

    description = "fake source"
    fps = 30.0
    color = Color()

    def __init__(self, *script: int | BaseException, live: bool = True, size: tuple[int, int] = SIZE) -> None:
        self.script: queue.Queue[int | BaseException] = queue.Queue()
        self.give(*script)
        self.live, self.size = live, size
        self.closed = 0
        self.age_ns = 0

    def give(self, *script: int | BaseException) -> None:
        for step in script:
            self.script.put(step)

    def read(self, frame: Frame, timeout: float) -> bool:
        try:
            step = self.script.get(timeout=timeout)
        except queue.Empty:
            return False
        if isinstance(step, BaseException):
            raise step
        frame.fill(step % 200)
        frame.sequence, frame.captured_ns = step, time.monotonic_ns() - self.age_ns
        return True

    def close(self) -> None:
        self.closed += 1


class FakeSink:
    """Remembers the luma of all that it was sent. `gate` holds `send` up, `fail` maps a send to a failure."""

    description = "fake sink"
    size = SIZE

    def __init__(self, live: bool = False, fps: float = 30.0) -> None:
        self.live, self.fps = live, fps
        self.sent: list[int] = []
        self.sequences: list[int] = []
        self.gate = threading.Event()
        self.gate.set()
        self.inside = threading.Event()
        self.fail: dict[int, BaseException] = {}
        self.closing: BaseException | None = None
        self.calls: list[str] = []

    def send(self, frame: Frame) -> None:
        self.inside.set()
        self.gate.wait(LIMIT)
        if failure := self.fail.get(len(self.sent)):
            raise failure
        self.sent.append(int(frame.y[0, 0, 0, 0]))
        self.sequences.append(frame.sequence)

    def close(self) -> None:
        self.calls.append("close")
        if self.closing:
            raise self.closing

    def abort(self) -> None:
        self.calls.append("abort")


class FakeEngine:
    """Adds one to every pixel; `fail` is raised for the sequences in `failing`.

    When `held`, it lets one frame pass for each release of `gate`.
    """

    def __init__(self, held: bool = False) -> None:
        self.run_ns = self.run_cpu_ns = 1000
        self.held = held
        self.gate = threading.Semaphore(0)
        self.inside = threading.Event()
        self.fail: BaseException = ModelError("the model failed")
        self.failing: set[int] = set()

    def process(self, frame: Frame, out: Frame) -> None:
        self.inside.set()
        if self.held:
            self.gate.acquire(timeout=LIMIT)
        if frame.sequence in self.failing:
            raise self.fail
        out.copy_facts(frame)
        np.add(frame.buffer, 1, out=out.buffer)


@pytest.fixture(autouse=True)
def threads_end() -> Iterator[None]:
    yield
    left = [thread.name for thread in threading.enumerate() if thread.name.startswith("sharpcam-")]
    assert not left


def until(condition: Callable[[], bool], what: str = "") -> None:
    end = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < end, f"waited in vain {what}"
        time.sleep(0.002)


def nothing_leaked(pipeline: Pipeline) -> bool:
    return len(pipeline.pool._free) == pipeline.pool.allocated <= 8


def end_of(pipeline: Pipeline, reason: str = "stopped") -> str:
    pipeline.stop(reason)
    until(lambda: pipeline.wait(0.05))
    return pipeline.finish()


# Mailbox


def test_mailbox_newest_wins() -> None:
    box = Mailbox(newest_wins=True)
    first, second = Frame(*SIZE), Frame(*SIZE)
    assert box.put(first, 0) == (True, None)
    assert box.put(second, 0) == (True, first)
    assert box.get(0)[0] is second
    assert box.get(0) == (None, 0)


def test_mailbox_that_keeps_everything() -> None:
    box = Mailbox(newest_wins=False)
    first, second = Frame(*SIZE), Frame(*SIZE)
    assert box.put(first, 0) == (True, None)
    assert box.put(second, 0.01) == (False, None)
    assert box.get(0)[0] is first
    assert box.put(second, 0) == (True, None)


def test_mailbox_closes_behind_the_last_frame() -> None:
    box = Mailbox(newest_wins=True)
    frame = Frame(*SIZE)
    box.put(frame, 0)
    box.close()
    assert box.get(0)[0] is frame
    with pytest.raises(MailboxClosed):
        box.get(0)


def test_mailbox_tells_how_long_a_frame_lay() -> None:
    box = Mailbox(newest_wins=True)
    box.put(Frame(*SIZE), 0)
    time.sleep(0.01)
    assert box.get(0)[1] >= 10_000_000


def test_mailbox_wakes_who_waits() -> None:
    for close in (True, False):
        box = Mailbox(newest_wins=True)
        woken: queue.Queue[object] = queue.Queue()

        def wait(box: Mailbox = box, woken: queue.Queue[object] = woken) -> None:
            try:
                woken.put(box.get(LIMIT)[0])
            except MailboxClosed as end:
                woken.put(end)

        thread = threading.Thread(target=wait)
        thread.start()
        if close:
            box.close()
            assert isinstance(woken.get(timeout=LIMIT / 2), MailboxClosed)
        else:
            frame = Frame(*SIZE)
            box.put(frame, 0)
            assert woken.get(timeout=LIMIT / 2) is frame
        thread.join()


# From file to file


def test_file_to_file_keeps_every_frame_in_order() -> None:
    source, sink = FakeSource(*range(100), EOFError(), live=False), FakeSink()
    pipeline = Pipeline(source, FakeEngine(), sink)
    assert pipeline.run() == "end"
    assert sink.sequences == list(range(100))
    assert sink.sent == [i + 1 for i in range(100)]
    report = pipeline.telemetry.report()
    assert (report["frames_in"], report["frames_out"], report["dropped"]) == (100, 100, 0)
    assert (report["repeated"], report["placeholders"], report["bypassed"]) == (0, 0, 0)
    assert sink.calls == ["close"]
    assert source.closed
    assert nothing_leaked(pipeline)


def test_file_waits_for_a_slow_sink() -> None:
    source, sink, engine = FakeSource(*range(10), EOFError(), live=False), FakeSink(), FakeEngine()
    sink.gate.clear()
    pipeline = Pipeline(source, engine, sink)
    pipeline.start()
    until(sink.inside.is_set)
    # one in the sink, one in each mailbox, one in the engine, one in capture: nobody reads on
    until(lambda: pipeline.telemetry["frames_in"] == 5)
    time.sleep(0.05)
    assert pipeline.telemetry["frames_in"] == 5
    sink.gate.set()
    until(lambda: pipeline.wait(0.05))
    assert pipeline.finish() == "end"
    assert sink.sequences == list(range(10))


def test_empty_file() -> None:
    sink = FakeSink()
    assert Pipeline(FakeSource(EOFError(), live=False), FakeEngine(), sink).run() == "end"
    assert sink.sent == []
    assert sink.calls == ["close"]


def test_frames_ends_a_file_early() -> None:
    source, sink = FakeSource(*range(100), EOFError(), live=False), FakeSink()
    pipeline = Pipeline(source, FakeEngine(), sink, frames=7)
    assert pipeline.run() == "frames"
    assert sink.sequences == list(range(7))
    assert pipeline.telemetry["frames_in"] == 7


# Live


def test_drops_are_counted_exactly() -> None:
    source, sink, engine = FakeSource(0), FakeSink(), FakeEngine(held=True)
    pipeline = Pipeline(source, engine, sink)
    pipeline.start()
    until(engine.inside.is_set)  # it has frame 0
    source.give(1, 2, 3, 4, 5)
    until(lambda: pipeline.telemetry["dropped"] == 4)
    for n in (1, 2):
        engine.gate.release()
        until(lambda n=n: len(sink.sequences) == n)
    assert end_of(pipeline) == "stopped"
    assert sink.sequences == [0, 5]
    report = pipeline.telemetry.report()
    assert (report["frames_in"], report["frames_out"], report["dropped"]) == (6, 2, 4)
    assert nothing_leaked(pipeline)


def test_drops_before_a_slow_sink_are_counted_too() -> None:
    source, sink = FakeSource(0), FakeSink()
    sink.gate.clear()
    pipeline = Pipeline(source, FakeEngine(), sink)
    pipeline.start()
    until(sink.inside.is_set)
    for i in range(1, 6):
        source.give(i)
        until(lambda n=i: pipeline.telemetry.stages["sharpen"].count == n + 1)
    until(lambda: pipeline.telemetry["dropped"] == 4)
    sink.gate.set()
    until(lambda: len(sink.sequences) == 2)
    end_of(pipeline)
    assert sink.sequences == [0, 5]


def test_what_is_on_its_way_still_arrives() -> None:
    source, sink, engine = FakeSource(0), FakeSink(), FakeEngine(held=True)
    pipeline = Pipeline(source, engine, sink)
    pipeline.start()
    until(engine.inside.is_set)
    source.give(1)
    until(lambda: pipeline.telemetry["frames_in"] == 2)
    pipeline.stop()
    for n in (1, 2):
        engine.gate.release()
        until(lambda n=n: len(sink.sequences) == n)
    until(lambda: pipeline.wait(0.05))
    pipeline.finish()
    assert sink.sequences == [0, 1]
    assert pipeline.telemetry["dropped"] == 0


def test_frames_are_delivered_frames_however_many_are_dropped() -> None:
    class Hasty(FakeSource):
        """A camera that never waits."""

        def read(self, frame: Frame, timeout: float) -> bool:
            self.give(self.script.qsize())
            return super().read(frame, timeout)

    class Slow(FakeEngine):
        def process(self, frame: Frame, out: Frame) -> None:
            time.sleep(0.003)
            super().process(frame, out)

    sink = FakeSink()
    pipeline = Pipeline(Hasty(), Slow(), sink, frames=20)
    assert pipeline.run() == "frames"
    assert len(sink.sent) == 20
    report = pipeline.telemetry.report()
    assert report["dropped"] > 0
    assert report["frames_in"] == 20 + report["dropped"]
    assert nothing_leaked(pipeline)


def test_duration_ends_it() -> None:
    pipeline = Pipeline(FakeSource(), FakeEngine(), FakeSink(), duration=0.05)
    start = time.monotonic()
    assert pipeline.run() == "duration"
    assert time.monotonic() - start >= 0.05


def test_latency_is_from_capture_to_delivery() -> None:
    source, sink = FakeSource(0), FakeSink()
    source.age_ns = 5_000_000_000
    pipeline = Pipeline(source, FakeEngine(), sink, frames=1)
    pipeline.run()
    report = pipeline.telemetry.report()
    assert 4_900 < report["latency_ms"]["p50"] < 60_000
    assert set(report["stages_ms"]) == {"capture", "wait", "sharpen", "inference", "queue", "send"}
    assert report["stages_ms"]["capture"]["p50"] > 4_900
    assert {"capture", "sharpen", "deliver", "inference"} <= set(report["stages_cpu_ms"])


class FakeGpuEngine(FakeEngine):
    """Tells what its copies take, and loses its GPU with the third frame."""

    upload_ns, download_ns, fallbacks = 2_000_000, 3_000_000, 0

    def process(self, frame: Frame, out: Frame) -> None:
        super().process(frame, out)
        if frame.sequence == 2:
            self.fallbacks = 1
        if frame.sequence == 4:  # another engine, which has lost nothing
            self.fallbacks = 0


def test_copies_and_the_loss_of_a_gpu_are_told() -> None:
    pipeline = Pipeline(FakeSource(*range(6), EOFError(), live=False), FakeGpuEngine(), FakeSink())
    pipeline.run()
    report = pipeline.telemetry.report()
    assert report["stages_ms"]["upload"]["p50"] == pytest.approx(2, rel=0.02)
    assert report["stages_ms"]["download"]["p99"] == pytest.approx(3, rel=0.02)
    assert pipeline.telemetry.stages["upload"].count == 6
    assert report["fallbacks"] == 1
    assert report["frames_out"] == 6


class FakeTiledEngine(FakeEngine):
    workers_cpu_ns = 50_000_000


def test_cpu_time_of_the_engines_other_threads_is_inference_too() -> None:
    pipeline = Pipeline(FakeSource(*range(6), EOFError(), live=False), FakeTiledEngine(), FakeSink())
    pipeline.run()
    cpu = pipeline.telemetry.report()["stages_cpu_ms"]
    assert cpu["inference"] == pytest.approx(50, rel=0.01)
    assert 0 <= cpu["sharpen"] < 25


def test_frames_lie_where_the_engine_wants_them() -> None:
    shapes: list[tuple[int, int]] = []

    def allocate(shape: tuple[int, int], dtype: type[np.uint8]) -> NDArray[np.uint8]:
        shapes.append(shape)
        return np.empty(shape, dtype)

    source = FakeSource(*range(3), EOFError(), live=False)
    pipeline = Pipeline(source, FakeEngine(), FakeSink(), allocate=allocate)
    pipeline.run()
    width, height = pipeline.sink.size
    assert shapes == [(height * 3 // 2, width)] * pipeline.pool.allocated


# A live sink is never starved


def test_placeholder_goes_out_at_once_and_again() -> None:
    sink = FakeSink(live=True, fps=100)
    placeholder = Frame(*SIZE)
    placeholder.fill(77)
    pipeline = Pipeline(FakeSource(), FakeEngine(), sink, placeholder=placeholder)
    pipeline.start()
    until(lambda: len(sink.sent) >= 4)
    end_of(pipeline)
    assert set(sink.sent) == {77}
    report = pipeline.telemetry.report()
    assert report["placeholders"] == len(sink.sent)
    assert report["repeated"] == report["frames_out"] == 0


def test_default_placeholder_has_something_on_it() -> None:
    for size in ((1280, 720), (16, 16), (2, 2)):
        frame = text_frame(*size)
        assert frame.size == size
        if size[0] > 100:
            assert len(np.unique(frame.y)) > 2
            assert frame.y.mean() < 60
            row = np.flatnonzero((frame.y[0, 0] > 100).any(axis=0))
            assert abs((row[0] + row[-1]) / 2 - size[0] / 2) < size[0] * 0.03


def test_last_frame_is_repeated() -> None:
    source, sink = FakeSource(40), FakeSink(live=True, fps=100)
    pipeline = Pipeline(source, FakeEngine(), sink)
    pipeline.start()
    until(lambda: pipeline.telemetry["repeated"] >= 3)
    source.give(50)
    until(lambda: 51 in sink.sent)
    until(lambda: sink.sent[-1] == 51 and sink.sent.count(51) >= 3)
    end_of(pipeline)
    shown = [value for i, value in enumerate(sink.sent) if i == 0 or sink.sent[i - 1] != value]
    assert shown[-2:] == [41, 51]
    report = pipeline.telemetry.report()
    assert report["frames_out"] == 2
    assert report["repeated"] == sink.sent.count(41) + sink.sent.count(51) - 2
    assert report["placeholders"] == len(sink.sent) - report["repeated"] - 2
    assert nothing_leaked(pipeline)


def test_a_file_sink_is_sent_nothing_twice() -> None:
    source, sink = FakeSource(1), FakeSink(live=False, fps=1000)
    pipeline = Pipeline(source, FakeEngine(), sink)
    pipeline.start()
    until(lambda: len(sink.sent) == 1)
    time.sleep(0.05)
    end_of(pipeline)
    assert sink.sent == [2]


def test_repeats_keep_to_the_rate_and_do_not_catch_up() -> None:
    """An upper bound only: a busy machine makes it fewer, never more."""
    sink = FakeSink(live=True, fps=50)
    pipeline = Pipeline(FakeSource(), FakeEngine(), sink)
    pipeline.start()
    until(lambda: len(sink.sent) >= 3)
    sink.gate.clear()
    time.sleep(0.3)  # fifteen repeats are missed
    before, start = len(sink.sent), time.monotonic()
    sink.gate.set()
    until(lambda: len(sink.sent) >= before + 5)
    sent, seconds = len(sink.sent) - before, time.monotonic() - start
    end_of(pipeline)
    assert sent <= seconds * 50 + 2


def test_no_repeat_while_frames_come_in_time() -> None:
    source, sink = FakeSource(), FakeSink(live=True, fps=0.2)  # a repeat is due after 7.5 s
    pipeline = Pipeline(source, FakeEngine(), sink)
    pipeline.start()
    for i in range(5):
        source.give(i)
        until(lambda n=i: len(sink.sent) == n + 2)
    end_of(pipeline)
    assert pipeline.telemetry["repeated"] == 0
    assert pipeline.telemetry["placeholders"] == 1


def test_every_delivery_sets_the_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []

    class Spy(Pace):
        def sent_new(self, now: float) -> None:
            told.append("new")
            super().sent_new(now)

        def sent_again(self, now: float) -> None:
            told.append("again")
            super().sent_again(now)

    monkeypatch.setattr(sharpcam.pipeline, "Pace", Spy)
    source, sink = FakeSource(1), FakeSink(live=True, fps=100)
    pipeline = Pipeline(source, FakeEngine(), sink)
    pipeline.start()
    until(lambda: told.count("again") >= 2)
    source.give(2)
    until(lambda: told.count("new") == 2)
    end_of(pipeline)
    report = pipeline.telemetry.report()
    assert told.count("new") == report["frames_out"]
    assert told.count("again") == len(sink.sent) - 1 - report["frames_out"]  # the first one starts the clock


# What goes wrong


def test_lost_camera_comes_back(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(sharpcam.kept_source, "BACKOFF_S", (0.01, 0.03))
    first, second = FakeSource(10, 11, DeviceLost("unplugged")), FakeSource(0, 1)
    sink = FakeSink(live=True, fps=200)
    tries: list[Source | Exception] = [DeviceNotFound("gone")] * 3 + [FakeSource(size=(64, 64)), second]

    def reopen() -> Source:
        step = tries.pop(0)
        if isinstance(step, Exception):
            raise step
        return step

    pipeline = Pipeline(first, FakeEngine(), sink, reopen=reopen)
    with caplog.at_level(logging.INFO):
        pipeline.start()
        until(lambda: sink.sequences[-1:] == [1])
        end_of(pipeline)
    assert first.closed
    assert second.closed
    assert not tries
    assert pipeline.telemetry["reconnects"] == 1
    assert 12 in sink.sent  # frame 11 was shown while the camera was away
    assert sink.calls == ["close"]
    pauses = [record.args[-1] for record in caplog.records if "next_try_s" in record.msg and record.args]  # type: ignore[index]
    assert pauses == pytest.approx([0.02, 0.03, 0.03, 0.03])
    assert nothing_leaked(pipeline)


def test_lost_camera_ends_when_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharpcam.kept_source, "BACKOFF_S", (60.0, 60.0))
    source = FakeSource(DeviceLost("unplugged"))
    pipeline = Pipeline(source, FakeEngine(), FakeSink(), reopen=lambda: source)
    pipeline.start()
    until(lambda: source.closed > 0)
    assert end_of(pipeline) == "stopped"


def test_duration_counts_while_the_camera_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharpcam.kept_source, "BACKOFF_S", (60.0, 60.0))
    source = FakeSource(DeviceLost("unplugged"))
    assert (
        Pipeline(source, FakeEngine(), FakeSink(), reopen=lambda: source, duration=0.05).run() == "duration"
    )


def test_silent_camera_is_a_lost_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharpcam.kept_source, "STALL_S", 0.05)
    monkeypatch.setattr(sharpcam.kept_source, "BACKOFF_S", (0.01, 0.03))
    source, second = FakeSource(), FakeSource(5)
    sink = FakeSink()
    pipeline = Pipeline(source, FakeEngine(), sink, reopen=lambda: second, frames=1)
    assert pipeline.run() == "frames"
    assert source.closed
    assert pipeline.telemetry["reconnects"] >= 1


def test_lost_camera_without_reopen_is_a_failure() -> None:
    sink = FakeSink()
    pipeline = Pipeline(FakeSource(1, DeviceLost("unplugged")), FakeEngine(), sink)
    with pytest.raises(DeviceLost, match="unplugged"):
        pipeline.run()
    assert pipeline.exit == "failed"
    assert sink.calls == ["abort"]


def test_full_disk_aborts_the_sink() -> None:
    source, sink = FakeSource(*range(1000), live=False), FakeSink()
    sink.fail[3] = MediaError("out.mp4: no space left on device", "free some space")
    pipeline = Pipeline(source, FakeEngine(), sink)
    with pytest.raises(MediaError, match="no space left"):
        pipeline.run()
    assert sink.calls == ["abort"]
    assert len(sink.sent) == 3
    assert source.closed
    assert pipeline.exit == "failed"
    assert nothing_leaked(pipeline)


def test_full_disk_at_the_very_end() -> None:
    sink = FakeSink()
    sink.closing = MediaError("out.mp4: no space left on device")
    pipeline = Pipeline(FakeSource(1, EOFError(), live=False), FakeEngine(), sink)
    with pytest.raises(MediaError):
        pipeline.run()
    assert sink.calls == ["close", "abort"]
    assert pipeline.exit == "failed"


def test_failure_of_the_very_first_placeholder() -> None:
    sink = FakeSink(live=True)
    sink.fail[0] = DeviceLost("the virtual camera is gone")
    with pytest.raises(DeviceLost):
        Pipeline(FakeSource(), FakeEngine(), sink).run()
    assert sink.calls == ["abort"]


def test_model_that_fails_live_is_bypassed(caplog: pytest.LogCaptureFixture) -> None:
    source, sink, engine = FakeSource(), FakeSink(), FakeEngine()
    engine.failing = {2, 3}
    pipeline = Pipeline(source, engine, sink)
    pipeline.start()
    for i in range(5):
        source.give(i)
        until(lambda n=i: len(sink.sent) == n + 1)
    end_of(pipeline)
    assert sink.sent == [1, 2, 2, 3, 5]
    assert pipeline.telemetry["bypassed"] == 2
    assert len([r for r in caplog.records if "passing frames" in r.msg]) == 1
    assert nothing_leaked(pipeline)


def test_a_watcher_sees_before_and_after_as_soon_as_it_is_there() -> None:
    source, sink, engine = FakeSource(), FakeSink(), FakeEngine()
    engine.failing = {3}
    pipeline = Pipeline(source, engine, sink)
    seen: list[tuple[int, int, int]] = []
    pipeline.start()
    for i in range(6):
        if i == 1:
            pipeline.watcher = lambda a, b: seen.append(
                (a.sequence, int(a.buffer[0, 0]), int(b.buffer[0, 0]))
            )
        if i == 4:
            pipeline.watcher = None
        source.give(i)
        until(lambda n=i: len(sink.sent) == n + 1)
    end_of(pipeline)
    assert seen == [(1, 1, 2), (2, 2, 3), (3, 3, 3)]
    assert nothing_leaked(pipeline)


def test_model_that_fails_on_a_file_is_a_failure() -> None:
    source, sink, engine = FakeSource(*range(9), EOFError(), live=False), FakeSink(), FakeEngine()
    engine.failing = {2}
    pipeline = Pipeline(source, engine, sink)
    with pytest.raises(ModelError, match="the model failed"):
        pipeline.run()
    assert sink.calls == ["abort"]


def test_a_mistake_in_any_thread_reaches_the_caller() -> None:
    def broken_source() -> Pipeline:
        return Pipeline(FakeSource(ZeroDivisionError()), FakeEngine(), FakeSink())

    def broken_engine() -> Pipeline:
        engine = FakeEngine()
        engine.failing, engine.fail = {0}, ZeroDivisionError()
        return Pipeline(FakeSource(0), engine, FakeSink())

    def broken_sink() -> Pipeline:
        sink = FakeSink()
        sink.fail[0] = ZeroDivisionError()
        return Pipeline(FakeSource(0), FakeEngine(), sink)

    for make in (broken_source, broken_engine, broken_sink):
        pipeline = make()
        with pytest.raises(ZeroDivisionError):
            pipeline.run()
        assert pipeline.sink.calls == ["abort"]  # type: ignore[attr-defined]


def test_ctrl_c_ends_it_cleanly() -> None:
    source, sink = FakeSource(3), FakeSink()
    pipeline = Pipeline(source, FakeEngine(), sink)

    def tick() -> None:
        if sink.sent and not pipeline.exit:
            raise KeyboardInterrupt

    assert pipeline.run(tick) == "interrupted"
    assert sink.calls == ["close"]


def test_a_mistake_of_the_caller_ends_it_too() -> None:
    sink = FakeSink()
    pipeline = Pipeline(FakeSource(3), FakeEngine(), sink)

    def tick() -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        pipeline.run(tick)
    assert sink.calls == ["abort"]
    assert nothing_leaked(pipeline)


def test_interrupt_while_starting(monkeypatch: pytest.MonkeyPatch) -> None:
    sink = FakeSink()
    pipeline = Pipeline(FakeSource(3), FakeEngine(), sink)
    monkeypatch.setattr(pipeline._threads[1], "start", lambda: signal.raise_signal(signal.SIGINT))
    assert pipeline.run() == "interrupted"
    assert sink.calls == ["close"]
    assert nothing_leaked(pipeline)


@pytest.mark.parametrize(
    ("script", "signals"), [((0, 1, 2), 2), ((0, EOFError("end")), 1)], ids=["live", "file"]
)
def test_a_signal_that_comes_while_threads_are_waited_for_closes_nothing_under_way(
    script: tuple[int | BaseException, ...], signals: int
) -> None:
    """Real signals, which interrupt a wait in its midst: Python 3.11 then takes a thread that is joined for ended."""
    sink = FakeSink()
    sink.gate.clear()
    pipeline = Pipeline(FakeSource(*script, live=signals > 1), FakeEngine(), sink)

    def press() -> None:
        until(sink.inside.is_set)
        if signals == 1:
            until(pipeline._ended[1].is_set)  # all but delivery is over
        for _ in range(signals):
            time.sleep(0.15)
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.3)
        assert not sink.calls
        sink.gate.set()

    with ThreadPoolExecutor(1) as pool:
        pressed = pool.submit(press)
        assert pipeline.run() in ("interrupted", "end")
        pressed.result()
    assert sink.calls == ["close"]
    assert nothing_leaked(pipeline)


def test_second_ctrl_c_does_not_wait_for_frames() -> None:
    sink, engine = FakeSink(), FakeEngine(held=True)
    pipeline = Pipeline(FakeSource(3), engine, sink)
    presses = 0

    def tick() -> None:
        nonlocal presses
        if engine.inside.is_set() and presses < 2:
            presses += 1
            raise KeyboardInterrupt
        if presses == 2:
            engine.gate.release()

    assert pipeline.run(tick) == "interrupted"
    assert sink.sent == []
    assert pipeline.telemetry["dropped"] == 1
    assert nothing_leaked(pipeline)


@pytest.mark.parametrize("live", [True, False])
def test_a_thread_that_hangs_does_not_hold_up_the_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, live: bool
) -> None:
    monkeypatch.setattr(sharpcam.pipeline, "STOP_S", 0.05)
    source, sink = FakeSource(0), FakeSink(live)
    sink.gate.clear()
    pipeline = Pipeline(source, FakeEngine(), sink)
    pipeline.start()
    until(sink.inside.is_set)
    if live:
        assert end_of(pipeline) == "stopped"
    else:
        with pytest.raises(MediaError, match="fake sink hangs, and is not complete"):
            end_of(pipeline)
    assert "left behind sharpcam-deliver" in caplog.text
    assert source.closed
    assert not sink.calls, "nobody closes what is at work"
    sink.gate.set()
    until(lambda: not any(thread.is_alive() for thread in pipeline._threads))


def test_a_thread_that_hangs_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharpcam.pipeline, "TICK_S", 0.005)
    source, engine = FakeSource(), FakeEngine(held=True)
    pipeline = Pipeline(source, engine, FakeSink(live=True))
    assert pipeline.hung_s == 0
    pipeline.start()
    until(lambda: len(pipeline._rounds) == 3)
    source.give(0)
    until(engine.inside.is_set)
    until(lambda: pipeline.hung_s > 0.3)
    engine.gate.release()
    until(lambda: pipeline.hung_s < 0.1)
    end_of(pipeline)
    assert pipeline.hung_s == 0


def test_sizes_must_agree() -> None:
    with pytest.raises(FormatMismatch, match="64x64"):
        Pipeline(FakeSource(size=(64, 64)), FakeEngine(), FakeSink())


def test_frames_stay_few_over_a_long_run() -> None:
    source, sink = FakeSource(*range(3000), EOFError()), FakeSink(live=True, fps=500)
    pipeline = Pipeline(source, FakeEngine(), sink)
    assert pipeline.run() == "end"
    report = pipeline.telemetry.report()
    assert report["frames_in"] == 3000 == report["frames_out"] + report["dropped"]
    assert nothing_leaked(pipeline)
    assert sink.sequences == sorted(sink.sequences)


def test_with_a_real_engine(yuv_model: Path) -> None:
    source, sink = FakeSource(*range(20), EOFError(), live=False), FakeSink()
    engine = Engine.load(yuv_model, SIZE, "cpu", 1)
    pipeline = Pipeline(source, engine, sink)
    assert pipeline.run() == "end"
    # the graph's output for a flat frame: x + (x - last) / 2, from the initial 128
    lasts = [128, *range(19)]
    wanted = [max(0, x + max(-128, round((x - last) / 2))) for x, last in enumerate(lasts)]
    assert sink.sent == pytest.approx(wanted, abs=1)
    assert pipeline.telemetry.stages["inference"].count == 20
