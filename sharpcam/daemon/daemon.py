"""A running pipeline that closes the camera while nobody watches, and that other programs may command."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from sharpcam import __version__
from sharpcam.daemon.control import ControlServer, Request
from sharpcam.daemon.live_engine import Changeable, LiveEngine
from sharpcam.daemon.notify import Notifier
from sharpcam.daemon.states import Machine, Situation, State
from sharpcam.errors import ControlError, SharpCamError
from sharpcam.governor import Governor, Tier
from sharpcam.models import find_models
from sharpcam.pipeline import Pipeline
from sharpcam.placeholder import text_frame
from sharpcam.v4l2 import ClientUsage
from sharpcam.web import LazyPage

log = logging.getLogger(__name__)

IDLE_FPS = 1.0  # of the placeholder while nobody watches: a program that begins to finds it at once
RATE_OVER_S = 1.0  # the rate at which frames come is counted
ALIVE_EVERY_S = 5.0  # systemd is told, whose patience is much longer
_SWITCH = {"on": True, "off": False}


class Daemon:
    """Keeps the state of a pipeline (see `sharpcam.daemon.states`) and answers at the control socket.

    `always` is why the camera should stay open while nobody watches; empty when it should be closed then.
    `load` makes an engine of a model's name; `governor` chooses smaller models when frames would be late,
    until somebody sets one. Everything but `tick`, which whoever runs the pipeline calls
    some ten times a second, may be called from any thread.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        engine: LiveEngine,
        *,
        always: str = "",
        load: Callable[[str], Changeable] | None = None,
        governor: Governor | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pipeline, self._engine, self._load, self._clock = pipeline, engine, load, clock
        self._usage: ClientUsage | None
        self._usage, cannot = _usage(getattr(pipeline.sink, "node", None))
        self._clients: int | None = None
        self._machine = Machine(clock(), always or cannot)
        self._paused = False
        self._shown: tuple[State, float] | None = None  # for which the pipeline rests
        self._governor = governor
        self._came = clock(), 0  # when frames were counted last, and how many there were
        self._loading = threading.Lock()
        self._change: threading.Thread | None = None
        size, color = pipeline.sink.size, pipeline.source.color
        self._texts = {
            State.PAUSED: text_frame(*size, "Camera is paused", color),
            State.IDLE: text_frame(*size, "Camera is starting", color),  # what its next viewer sees first
        }
        self._server: ControlServer | None = None
        self._page = LazyPage(self.answer, pipeline)
        self._systemd = Notifier()
        self._told = ""
        self._next_told = 0.0

    def __enter__(self) -> Self:
        try:
            self._server = ControlServer(self.answer)
        except SharpCamError as error:
            level = logging.WARNING if self._pipeline.sink.live else logging.INFO
            log.log(level, "not controllable: %s", error)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._change is not None:
            self._change.join(10)
        self._page.close()
        self._systemd.tell("STOPPING=1")
        self._systemd.close()
        if self._server is not None:
            self._server.close()
        if self._usage is not None:
            self._usage.close()

    # State

    @property
    def state(self) -> State:
        return self._machine.state

    def tick(self) -> None:
        """Looks at what is going on and does what follows from it."""
        self._count_clients()
        lost = self._pipeline.lost
        seen = Situation(self._paused, self._watching(), str(lost) if lost else "")
        before = self._machine.state
        state = self._machine.step(self._clock(), seen)
        if state is not before:
            log.info("state %s -> %s: %s", before, state, self._machine.reason)
        rest = None
        if state in self._texts:
            rest = (state, IDLE_FPS if self._clients == 0 else self._pipeline.sink.fps)
        if rest != self._shown:
            self._shown = rest
            if rest is None:
                self._pipeline.wake()
            else:
                self._pipeline.rest(self._texts[state], rest[1])
        self._tell_systemd(f"{state}: {self._machine.reason}")
        self._govern()

    def _govern(self) -> None:
        """Has another model loaded, on a thread of its own, when the governor wants it."""
        if self._governor is None or (self._change is not None and self._change.is_alive()):
            return
        now, busy = self._clock(), self._engine.busy_s
        if busy is None or self._machine.state is not State.LIVE:
            self._governor.pause()
            self._came = now, self._pipeline.telemetry["frames_in"]
            return
        rate = self._rate(now)
        if rate is None:
            return
        if not rate:
            self._governor.pause()
            return
        load = busy * rate
        if (tier := self._governor.step(now, load)) is not None:
            log.warning(
                "model %s takes %.0f %% of the time; now %s", self._governor.tier.name, 100 * load, tier.name
            )
            self._change = threading.Thread(
                target=self._change_tier, args=(self._governor, tier), daemon=True
            )
            self._change.start()

    def _rate(self, now: float) -> float | None:
        """Frames that came in a second, told once in a while; a camera may promise more than it gives."""
        since, before = self._came
        if now - since < RATE_OVER_S:
            return None
        frames = self._pipeline.telemetry["frames_in"]
        self._came = now, frames
        return (frames - before) / (now - since)

    def _change_tier(self, governor: Governor, tier: Tier) -> None:
        with self._loading:
            if self._governor is None or self._load is None:  # somebody has set a model meanwhile
                return
            try:
                self._engine.change_to(self._load(tier.name))
            except SharpCamError as error:
                log.warning("model %s cannot be had: %s", tier.name, error)
                governor.drop(tier)
            else:
                governor.changed(self._clock(), tier)

    def _tell_systemd(self, status: str) -> None:
        now = self._clock()
        if status != self._told or now >= self._next_told:
            self._told, self._next_told = status, now + ALIVE_EVERY_S
            self._systemd.tell("READY=1", f"STATUS={status}", "WATCHDOG=1")

    def _watching(self) -> int | None:
        """Programs that watch the virtual camera, and who looks at the live picture on the page."""
        return None if self._clients is None else self._clients + self._page.looking

    def _count_clients(self) -> None:
        if self._usage is None:
            return
        try:
            count = self._usage.wait(0)
        except OSError as error:  # the device goes; the sink will tell
            log.warning("no longer known who watches: %s", error.strerror)
            self._usage.close()
            self._usage, self._clients = None, None
            self._machine.always = self._machine.always or "the driver no longer tells who watches"
        else:
            self._clients = self._clients if count is None else count

    # Orders

    def answer(self, command: str, request: Request) -> Any:
        """The result of a command; raises SharpCamError when it cannot be followed."""
        if command == "status":
            return self.status()
        if command == "metrics":
            return self._pipeline.telemetry.prometheus() + self._state_metrics()
        if command in ("pause", "resume"):
            self._paused = command == "pause"
        elif command == "stop":
            self._pipeline.stop("stopped")
        elif command == "set":
            self._set(request.get("key"), request.get("value"))
        elif command == "ui":
            return {"url": self._page.open(request.get("port", 0))}
        else:
            known = "status, metrics, pause, resume, stop, set, ui"
            raise ControlError(f'the command "{command[:50]}" is not known', f"there are {known}")
        return {}

    def status(self) -> dict[str, Any]:
        """What `sharpcam status --json` prints."""
        telemetry, engine = self._pipeline.telemetry, self._engine
        fps, latency_ms = telemetry.recent()
        return {
            "state": str(self._machine.state),
            "reason": self._machine.reason,
            "model": engine.model.name,
            "provider": engine.provider,
            "strength": engine.strength,
            "split": engine.split,
            "source": self._pipeline.source.description,
            "sink": self._pipeline.sink.description,
            "clients": self._clients,
            "fps": round(fps, 2),
            "latency_ms": round(latency_ms, 2),
            "frames_out": telemetry["frames_out"],
            "dropped": telemetry["dropped"],
            "reconnects": telemetry["reconnects"],
            "uptime_s": round(telemetry.seconds, 1),
            "pid": os.getpid(),
            "version": __version__,
        }

    def _state_metrics(self) -> str:
        lines = ["# TYPE sharpcam_state gauge"]
        lines += [f'sharpcam_state{{state="{s}"}} {int(s is self._machine.state)}' for s in State]
        if self._clients is not None:
            lines += ["# TYPE sharpcam_clients gauge", f"sharpcam_clients {self._clients}"]
        return "\n".join(lines) + "\n"

    def _set(self, key: Any, value: Any) -> None:
        if key == "strength":
            try:
                self._engine.strength = float(value)
            except (TypeError, ValueError) as error:
                if isinstance(error, SharpCamError):
                    raise
                raise ControlError("strength should be a number from 0 (off) to 1 (full)") from None
        elif key == "split":
            if not isinstance(value, str) or value not in _SWITCH:
                raise ControlError("split should be on or off")
            self._engine.split = _SWITCH[value]
        elif key == "model":
            self._change_model(value)
        else:
            raise ControlError(f'"{str(key)[:50]}" cannot be set', "there are strength, split, model")
        log.info("set %s to %s", key, value)

    def _change_model(self, name: Any) -> None:
        """Only what is installed: who may send orders does not choose files."""
        names = [model.name for model in find_models()[0]]
        if self._load is None or not isinstance(name, str) or name not in names:
            known = ", ".join(names) or "none is installed"
            raise ControlError(f'there is no model "{str(name)[:50]}"', f"known models: {known}")
        self._governor = None
        with self._loading:
            self._engine.change_to(self._load(name))


def _usage(node: str | None) -> tuple[ClientUsage | None, str]:
    """What tells who watches, or why nothing does."""
    if node is None:
        return None, "this sink does not tell who watches"
    try:
        return ClientUsage(node), ""
    except OSError as error:
        log.info("no client-usage event device=%s error=%s", node, error.strerror)
        return None, "this v4l2loopback does not tell who watches (0.13 and newer do)"
