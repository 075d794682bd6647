"""`sharpcam run`: a camera or file, sharpened, into a virtual camera or file."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import threading
from pathlib import Path
from typing import Any

import cv2

from sharpcam.cli import to_journal
from sharpcam.cli.ending import Signals, ending_signals
from sharpcam.config import Config
from sharpcam.daemon.daemon import Daemon
from sharpcam.daemon.ladder import Ladder
from sharpcam.daemon.live_engine import LiveEngine
from sharpcam.daemon.notify import Notifier
from sharpcam.daemon.setup import make_daemon
from sharpcam.errors import MediaError
from sharpcam.files import is_stream, write_whole
from sharpcam.pipeline import Pipeline
from sharpcam.wiring import check_sink, open_sink, open_source, open_source_or_wait, reopener

log = logging.getLogger(__name__)

_PLAIN_EVERY_S = 10.0
_LIVE_EVERY_S = 0.25
_WAIT_S = 1.0  # for the last line


def run_run(
    config: Config,
    settings: Path,
    *,
    source: str | None = None,
    wait: bool = False,
    frames: int | None = None,
    duration: float | None = None,
    report: Path | None = None,
) -> int:
    """Runs until the end, Ctrl-C or SIGTERM; gives the exit code. `settings` is where `set` saves to."""
    cv2.setNumThreads(1)  # its threads would fight for the cores with the model's
    sys.setswitchinterval(0.001)  # a thread busy in Python keeps a frame that is due waiting for so long
    if report is not None:
        check_writable(report)
    with ending_signals() as signals:
        pipeline, engine, daemon = _build(config, settings, source, frames, duration, wait, signals)
        status = _Status(pipeline, engine)
        failure = ""
        try:
            with daemon, status:

                def tick() -> None:
                    daemon.tick()
                    status.tick(daemon.state)

                pipeline.run(tick)
        except Exception as error:
            failure = str(error) or type(error).__name__
            raise
        finally:
            engine.close()
            if report is not None:
                _write_report(report, _report(pipeline, engine), failure)
    print(status.summary(), flush=True)
    interrupted = pipeline.exit in ("interrupted", "terminated")
    return 130 if interrupted and not pipeline.telemetry["frames_out"] else 0


def _build(
    config: Config,
    settings: Path,
    source: str | None,
    frames: int | None,
    duration: float | None,
    wait: bool,
    signals: Signals,
) -> tuple[Pipeline, LiveEngine, Daemon]:
    """All parts, opened and announced; what was opened is closed again when a later one fails."""
    check_sink(config)
    with contextlib.ExitStack() as undo:
        opened = open_source_or_wait(config, source) if wait else open_source(config, source)
        undo.callback(opened.close)
        ladder = Ladder(config, opened.size, opened.fps, opened.live)
        steps = ladder.steps(config.model.name)
        engine = LiveEngine(ladder.load(steps[0]))
        undo.callback(engine.close)
        engine.split, engine.mirror = config.output.split, config.camera.mirror
        systemd = Notifier()
        undo.callback(systemd.close)
        sink = open_sink(config, opened, systemd.take(), systemd.forget)
        undo.callback(sink.abort)
        pipeline = Pipeline(
            *(opened, engine, sink),
            frames=frames,
            duration=duration,
            reopen=reopener(config, opened),
            allocate=engine.allocate,
        )
        daemon = make_daemon(
            *(config, pipeline, engine, ladder, steps),
            file=settings,
            is_camera=source is None,
            limited=frames is not None or duration is not None,
            systemd=systemd,
        )
        # here: what is open is closed again, too, when nobody reads it
        print(f"source: {pipeline.source.description}")
        print(f"model:  {engine.description}, strength {engine.strength:g}")
        print(f"sink:   {pipeline.sink.description}", flush=True)
        signals.go_to(pipeline.interrupt)
        undo.pop_all()
        return pipeline, engine, daemon


def _report(pipeline: Pipeline, engine: LiveEngine) -> dict[str, Any]:
    return {
        "source": pipeline.source.description,
        "sink": pipeline.sink.description,
        "model": engine.model.name,
        "provider": engine.provider,
        "threads": engine.threads,
        "strength": engine.strength,
        "size": list(pipeline.sink.size),
        **pipeline.telemetry.report(),
        "exit": pipeline.exit,
    }


def _write_report(path: Path, values: dict[str, Any], failure: str) -> None:
    """Raises MediaError, but not in the place of the `failure` that has ended the run."""
    try:
        write_json(path, values | ({"error": failure} if failure else {}))
    except MediaError as error:
        if not failure:
            raise
        log.warning("no report: %s", error)


def check_writable(path: Path) -> None:
    """Raises MediaError now rather than after the run, when its numbers would be lost."""
    folder = path.resolve().parent
    if path.is_dir():
        raise MediaError(f"cannot write {path}: it is a folder", "name a file")
    if is_stream(path):
        return
    if not folder.is_dir():
        raise MediaError(f"cannot write {path}: there is no folder {folder}", f"run: mkdir -p {folder}")
    if not os.access(folder, os.W_OK):
        raise MediaError(f"cannot write {path}: permission denied", "name a file in a folder of yours")


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Writes all of it or nothing."""
    write_whole(path, (json.dumps(values, indent=2) + "\n").encode())


class _Status:
    """One line that tells how it goes: live on a terminal, else a plain one now and then.

    A thread of its own writes it: a terminal that was stopped (Ctrl-S) takes nothing, for as long as it likes."""

    def __init__(self, pipeline: Pipeline, engine: LiveEngine) -> None:
        self._pipeline, self._engine = pipeline, engine
        self._state = "live"
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._write, name="sharpcam-status", daemon=True)

    def __enter__(self) -> None:
        # the journal gets what happens, and systemd the state: it would be full of lines that say nothing new
        if sys.stderr.isatty() or not to_journal():
            self._thread.start()

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        if self._thread.ident is not None:
            self._thread.join(_WAIT_S)

    def tick(self, state: str = "live") -> None:
        self._state = state

    def _write(self) -> None:
        if not sys.stderr.isatty():
            while not self._over.wait(_PLAIN_EVERY_S):
                with contextlib.suppress(OSError):  # nobody reads it any more: the meeting goes on
                    print(self.line(), file=sys.stderr, flush=True)
            return
        from rich.console import Console
        from rich.live import Live

        shown = Live(console=Console(stderr=True), auto_refresh=False, transient=True)
        with contextlib.suppress(OSError), shown:
            while not self._over.wait(_LIVE_EVERY_S):
                shown.update(self.line(), refresh=True)

    def line(self) -> str:
        numbers, (fps, latency_ms) = self._pipeline.telemetry, self._pipeline.telemetry.recent()
        state = f"{fps:5.1f} fps  {latency_ms:5.1f} ms" if fps else "no new picture"
        state = state if self._state == "live" else self._state
        parts = [state, f"{numbers['frames_out']} frames", f"{numbers['dropped']} dropped"]
        parts += [
            f"{numbers[name]} {name}" for name in ("reconnects", "fallbacks", "bypassed") if numbers[name]
        ]
        parts += [f"{self._engine.model.name} on {self._engine.provider}"]
        return "  ".join(parts)

    def summary(self) -> str:
        report = self._pipeline.telemetry.report()
        latency = report["latency_ms"]
        return (
            f"{report['frames_out']} frames, {report['fps']:.1f} fps, {report['dropped']} dropped, "
            f"latency {latency['p50']:.1f} ms (p95 {latency['p95']:.1f}), "
            f"{report['cpu_ms_per_frame']:.1f} ms of CPU a frame; ended: {self._pipeline.exit}"
        )
