"""Where a frame goes: capture -> sharpen -> deliver.

Three threads, with a mailbox for one frame between each two::

    source.read --> [inbox] --> engine.process --> [outbox] --> sink.send
      capture                      sharpen                       deliver

Capture sets the pace. From a live source a newer frame takes the place of one that still waits, and the
older one is counted as dropped; from a file every mailbox waits, and no frame is lost. A live sink is never
starved: the placeholder goes out at once, and when nothing new comes the last frame is sent again at the
advertised rate. A camera that was lost is opened again; one that rests is closed, and no picture of it is
shown until it wakes. Every wait has a time limit, and every thread ends when told to.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from sharpcam.errors import FormatMismatch, MediaError, SharpCamError
from sharpcam.frame import Allocate, Frame, FramePool
from sharpcam.kept_source import KeptSource
from sharpcam.mailbox import Mailbox, MailboxClosed
from sharpcam.pace import Pace
from sharpcam.placeholder import text_frame
from sharpcam.sinks import Sink
from sharpcam.sources import Source
from sharpcam.telemetry import CpuClock, Telemetry

log = logging.getLogger(__name__)

TICK_S = 0.1  # no wait is longer than this before looking whether to stop
LAST_FRAME_S = 1.0  # how long the last frame stands in for a camera that is away
STOP_S = 3.0  # how long frames on their way may take to arrive after `stop`
_LOG_EVERY_S = 10.0  # for what may go wrong with every frame


class Sharpener(Protocol):
    """What the pipeline needs of an Engine. Where there are `upload_ns`, `download_ns`, `workers_cpu_ns` and
    `fallbacks` (see `sharpcam.engine`), they are told, too."""

    @property
    def run_ns(self) -> int: ...

    @property
    def run_cpu_ns(self) -> int: ...

    def process(self, frame: Frame, out: Frame) -> None: ...


@dataclass(frozen=True, slots=True, eq=False)
class Still:
    """What a live sink shows instead of pictures, and how often it is sent."""

    frame: Frame
    fps: float


class Pipeline:
    """One run from a source through an engine to a sink; it owns and closes source and sink.

    `frames` and `duration` (seconds) end it after so much. `reopen` opens the source again after DeviceLost;
    without it a lost source ends the run. `placeholder` is what a live sink shows before the first frame,
    `allocate` gives the frames' memory.

    Raises FormatMismatch when source and sink have different sizes.
    """

    def __init__(
        self,
        source: Source,
        engine: Sharpener,
        sink: Sink,
        *,
        telemetry: Telemetry | None = None,
        frames: int | None = None,
        duration: float | None = None,
        reopen: Callable[[], Source] | None = None,
        placeholder: Frame | None = None,
        allocate: Allocate = np.empty,
    ) -> None:
        if source.size != sink.size:
            (w, h), (sw, sh) = source.size, sink.size
            raise FormatMismatch(
                f"the source gives {w}x{h} frames, the sink takes {sw}x{sh}", "give one --size"
            )
        self.engine, self.sink = engine, sink
        self.telemetry = telemetry or Telemetry()
        self._kept = KeptSource(source, reopen, lambda: self.telemetry.count("reconnects"))
        # is shown every frame as it came and as it goes out, on the sharpening thread, and may keep neither
        self.watcher: Callable[[Frame, Frame], None] | None = None
        self.exit = ""  # why it ended: "frames", "duration", "end", "failed", or the reason given to `stop`
        self.pool = FramePool(*source.size, source.color, allocate=allocate)
        self._frames, self._duration = frames, duration
        self._placeholder = placeholder or text_frame(*source.size, color=source.color)
        self._away = Still(text_frame(*source.size, "Camera is away", source.color), sink.fps)
        self._rest: Still | None = None
        self._stirred = threading.Event()  # set by what should end a rest
        self._inbox = Mailbox(newest_wins=source.live)
        self._outbox = Mailbox(newest_wins=source.live)
        self._stopping = threading.Event()  # capture no more; what is on its way still arrives
        self._dead = threading.Event()  # leave at once
        self._deadline = float("inf")
        self._kill_at = float("inf")
        self._error: BaseException | None = None
        self._lock = threading.Lock()
        self._interrupts: list[str] = []  # reasons, not yet heeded
        self._bypass_logged = -_LOG_EVERY_S
        self._fallbacks = 0  # of the engine, counted
        self._rounds: dict[int, float] = {}  # when each thread that runs began its present round
        works = (self._capture, self._sharpen, self._deliver)
        # set when they end: Python 3.11 takes a thread for ended when a signal comes during its `join`
        self._ended = [threading.Event() for _ in works]
        self._threads = [
            threading.Thread(
                target=self._guarded, args=(work, ended), name=f"sharpcam-{work.__name__[1:]}", daemon=True
            )
            for work, ended in zip(works, self._ended, strict=True)
        ]

    # For the caller

    @property
    def source(self) -> Source:
        """What is read now: another one after every reopening."""
        return self._kept.source

    @property
    def lost(self) -> SharpCamError | None:
        """Why the source is away, None while it is not."""
        return self._kept.lost

    @property
    def hung_s(self) -> float:
        """For how many seconds the slowest of the threads has been at one frame, or at waiting for one."""
        now = time.monotonic()
        return now - min(self._rounds.copy().values(), default=now)

    def run(self, on_tick: Callable[[], None] = lambda: None) -> str:
        """Starts, waits for the end, and gives the reason; `on_tick` is called about every `TICK_S` seconds.

        `interrupt` and KeyboardInterrupt end it as `stop` does, with the reason that they carry or "interrupted"; a
        second one does not wait for frames on their way. Raises what went wrong in any thread, in `on_tick`, or in
        closing the sink; the sink has been aborted then.
        """
        begun = False
        while True:
            try:
                if not begun:
                    begun = True
                    self.start()
                while not self.wait(TICK_S):
                    self._heed()
                    on_tick()
                break
            except KeyboardInterrupt as interrupt:
                self.interrupt(str(interrupt) or "interrupted")
                self._heed()
            except BaseException as error:
                self._fail(error)
        return self.finish()

    def interrupt(self, reason: str) -> None:
        """For signal handlers: `run` ends soon. What is being closed by then is closed in peace."""
        self._interrupts.append(reason)

    def _heed(self) -> None:
        while self._interrupts:
            self.stop(self._interrupts.pop(0), at_once=self._stopping.is_set())

    def start(self) -> None:
        self.telemetry.start()
        if self._duration is not None:
            self._deadline = time.monotonic() + self._duration
        for thread in self._threads:
            thread.start()

    def stop(self, reason: str = "stopped", at_once: bool = False) -> None:
        """Ends the threads, after the frames on their way have arrived or at once. May be called again."""
        self._ending(reason)
        self._kill_at = min(self._kill_at, time.monotonic() + STOP_S)
        self._stopping.set()
        self._stirred.set()
        if at_once:
            self._dead.set()

    def rest(self, frame: Frame, fps: float) -> None:
        """Shows `frame` instead of pictures until `wake`, `fps` times a second.

        A source that can be opened again is closed meanwhile, any other is not read. Pictures on their way
        are not shown. May be called again with something else to show.
        """
        self._stirred.clear()
        self._rest = Still(frame, fps)

    def wake(self) -> None:
        """Ends `rest`: opens the source again."""
        self._rest = None
        self._stirred.set()

    def wait(self, timeout: float) -> bool:
        """Whether all threads have ended, waiting for it no longer than `timeout` seconds."""
        end = time.monotonic() + timeout
        pairs = zip(self._threads, self._ended, strict=True)
        started = [(thread, ended) for thread, ended in pairs if thread.ident is not None]
        for _, ended in started:
            ended.wait(max(0.0, end - time.monotonic()))
        now = time.monotonic()
        if now > self._kill_at and not self._dead.is_set():
            log.warning("stop: frames on their way are given up after %.0f s", STOP_S)
            self._dead.set()
            self._kept.close()  # a read may hang in it
        stuck = [thread.name for thread, ended in started if not ended.is_set()]
        if stuck and now > self._kill_at + STOP_S:
            log.error("stop: left behind %s", ", ".join(stuck))
            return True
        return not stuck

    def finish(self) -> str:
        """After the threads have ended: closes source and sink, raises what went wrong, gives the reason.

        A sink that hangs in `send` is left alone, for to close it then may hang, too: MediaError where that was a file.
        """
        self._kept.close()
        for mailbox in (self._inbox, self._outbox):
            with contextlib.suppress(MailboxClosed):
                frame, _ = mailbox.get(0)
                if frame is not None:
                    self._discard(frame)
        deliver, delivered = self._threads[-1], self._ended[-1]
        if deliver.ident is not None and not delivered.is_set():
            if self._error is None and not self.sink.live:
                self._error = MediaError(
                    f"{self.sink.description} hangs, and is not complete", "look whether the disk answers"
                )
            if self._error is not None:
                self.exit = "failed"
                raise self._error
            return self.exit
        try:
            if self._error is not None:
                raise self._error
            self.sink.close()
        except BaseException:
            self.exit = "failed"
            self.sink.abort()
            raise
        return self.exit

    # Capture

    def _capture(self) -> None:
        frame = self.pool.acquire()
        clock = CpuClock(self.telemetry, "capture")
        try:
            while not self._is_over():
                self._begin_round()
                if self._rest is not None:
                    self._kept.shut()
                    self._stirred.wait(self._patience)
                    continue
                if self._enough_captured():
                    time.sleep(0.001)
                    continue
                try:
                    came = self._kept.read(frame, TICK_S)
                except EOFError:
                    self._ending("end")
                    break
                if came:
                    self.telemetry.count("frames_in")
                    self.telemetry.record("capture", time.monotonic_ns() - frame.captured_ns)
                    self._hand_over(self._inbox, frame)
                    frame = self.pool.acquire()
                clock.lap()
        finally:
            frame.release()
            self._inbox.close()

    def _is_over(self) -> bool:
        if time.monotonic() >= self._deadline:
            self._ending("duration")
            return True
        if self._frames is not None and self.telemetry["frames_out"] >= self._frames:
            self._ending("frames")
            return True
        return self._stopping.is_set()

    def _enough_captured(self) -> bool:
        """Whether all frames that are still wanted are on their way; one of them may yet be dropped."""
        return self._frames is not None and (
            self.telemetry["frames_in"] - self.telemetry["dropped"] >= self._frames
        )

    # Sharpen

    def _sharpen(self) -> None:
        clock = CpuClock(self.telemetry, "sharpen")
        try:
            while not self._dead.is_set():
                self._begin_round()
                frame, waited_ns = self._inbox.get(self._patience)
                if frame is None:
                    continue
                self.telemetry.record("wait", waited_ns)
                self._hand_over(self._outbox, self._sharpened(frame))
                clock.lap(self.engine.run_cpu_ns)
        except MailboxClosed:
            pass
        finally:
            self._outbox.close()

    def _sharpened(self, frame: Frame) -> Frame:
        out = self.pool.acquire()
        start = time.perf_counter_ns()
        try:
            self.engine.process(frame, out)
        except SharpCamError as error:
            out.release()
            if not self.source.live:  # a file must not come out half sharpened
                frame.release()
                raise
            if time.monotonic() - self._bypass_logged > _LOG_EVERY_S:
                self._bypass_logged = time.monotonic()
                log.error("sharpen: passing frames as they come: %s", error)
            self.telemetry.count("bypassed")
            self._show(frame, frame)
            return frame
        self.telemetry.record("sharpen", time.perf_counter_ns() - start)
        self._record_engine()
        self._show(frame, out)
        frame.release()
        return out

    def _show(self, before: Frame, after: Frame) -> None:
        if (watcher := self.watcher) is not None:
            watcher(before, after)

    def _record_engine(self) -> None:
        telemetry, engine = self.telemetry, self.engine
        telemetry.record("inference", engine.run_ns)
        telemetry.add_cpu("inference", getattr(engine, "workers_cpu_ns", 0))  # beside that of this thread
        for stage in ("upload", "download"):
            if (ns := getattr(engine, f"{stage}_ns", None)) is not None:
                telemetry.record(stage, ns)
        fallbacks = getattr(engine, "fallbacks", 0)
        if fallbacks > self._fallbacks:
            telemetry.count("fallbacks", fallbacks - self._fallbacks)
        self._fallbacks = fallbacks  # less than before when another engine has taken over

    # Deliver

    def _deliver(self) -> None:
        last = self._placeholder  # what a live sink is sent when nothing new comes
        again = "placeholders"  # what such a send counts as
        shown: Still | None = None
        clock = CpuClock(self.telemetry, "deliver")
        if self.sink.live:
            self._repeat(last, again)
        pace = Pace(self.sink.fps, time.monotonic())
        try:
            while not self._dead.is_set():
                self._begin_round()
                still = self._still()
                if still is not shown:
                    shown = still
                    if still is not None:
                        last.release()
                        last, again = still.frame, "placeholders"
                        self._repeat(last, again)
                    pace = Pace(still.fps if still else self.sink.fps, time.monotonic())
                wait = pace.repeat_at - time.monotonic() if self.sink.live else TICK_S
                frame, waited_ns = self._outbox.get(min(wait, self._patience))
                now = time.monotonic()
                if frame is not None and self._rest is not None:
                    self._discard(frame)
                elif frame is not None:
                    self.telemetry.record("queue", waited_ns)
                    self._send(frame)
                    pace.sent_new(now)
                    last.release()
                    last, again, shown = frame, "repeated", None
                elif self.sink.live and now >= pace.repeat_at:
                    self._repeat(last, again)
                    pace.sent_again(time.monotonic())
                clock.lap()
        except MailboxClosed:
            pass
        finally:
            last.release()

    def _still(self) -> Still | None:
        """What is to be shown instead of pictures, if anything is."""
        if not self.sink.live:
            return None
        away = self.lost is not None and time.monotonic() > self._kept.lost_at + LAST_FRAME_S
        return self._rest or (self._away if away else None)

    def _send(self, frame: Frame) -> None:
        start = time.monotonic_ns()
        try:
            self.sink.send(frame)
        except BaseException:
            frame.release()
            raise
        end = time.monotonic_ns()
        self.telemetry.record("send", end - start)
        self.telemetry.delivered(end - frame.captured_ns)

    def _repeat(self, frame: Frame, counter: str) -> None:
        self.sink.send(frame)
        self.telemetry.count(counter)

    # For all three

    @property
    def _patience(self) -> float:
        """How long a thread waits before it looks around: each time costs CPU, which at rest is all there is."""
        return TICK_S if self._rest is None else TICK_S * 5

    def _begin_round(self) -> None:
        self._rounds[threading.get_ident()] = time.monotonic()

    def _hand_over(self, mailbox: Mailbox, frame: Frame) -> None:
        while not self._dead.is_set():
            taken, replaced = mailbox.put(frame, TICK_S)
            if replaced is not None:
                self._discard(replaced)
            if taken:
                return
        self._discard(frame)

    def _discard(self, frame: Frame) -> None:
        self.telemetry.count("dropped")
        frame.release()

    def _ending(self, reason: str) -> None:
        with self._lock:
            self.exit = self.exit or reason

    def _guarded(self, work: Callable[[], None], ended: threading.Event) -> None:
        self._begin_round()  # the first send, before the deliverer's first round, may hang, too
        try:
            work()
        except BaseException as error:
            self._fail(error)
        finally:
            del self._rounds[threading.get_ident()]
            ended.set()

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            self._error = self._error or error
        self.stop("failed", at_once=True)
