"""A running pipeline that closes the camera while nobody watches, and that other programs may command."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from sharpcam import __version__
from sharpcam.daemon.control import Request, Server, serve
from sharpcam.daemon.live_engine import Changeable, LiveEngine
from sharpcam.daemon.notify import Notifier
from sharpcam.daemon.openers import Openers
from sharpcam.daemon.states import Machine, Situation, State
from sharpcam.errors import ControlError, SharpCamError
from sharpcam.governor import Governor, Step
from sharpcam.holding import runtime_folder
from sharpcam.models import find_models
from sharpcam.pipeline import Pipeline
from sharpcam.placeholder import text_frame
from sharpcam.v4l2 import ClientUsage
from sharpcam.web import LazyPage

log = logging.getLogger(__name__)

IDLE_FPS = 1.0  # of the placeholder while nobody watches: a program that begins to finds it at once
RATE_OVER_S = 1.0  # the rate at which frames come is counted
ALIVE_EVERY_S = 5.0  # systemd is told, whose patience is much longer
HUNG_S = 20.0  # longer than a camera takes to open, or a model to be loaded anew after the loss of a GPU
LISTEN_EVERY_S = 5.0  # while another SharpCam takes the orders
AUTO = "auto"
_SWITCH = {"on": True, "off": False}
# what `set` takes, and the settings that it is saved as
SETTINGS = {
    "strength": "model.strength",
    "model": "model.name",
    "split": "output.split",
    "mirror": "camera.mirror",
    "governor": "model.adapt",
}


class Steps(Protocol):
    """What is needed of a Ladder."""

    def steps(self, name: str) -> tuple[Step, ...]: ...
    def load(self, step: Step) -> Changeable: ...


class Watch(Protocol):
    """What tells who watches the virtual camera."""

    def wait(self, timeout: float) -> int | None: ...
    def close(self) -> None: ...


class Daemon:
    """Keeps the state of a pipeline (see `sharpcam.daemon.states`) and answers at the control socket.

    `always` is why the camera should stay open while nobody watches; empty when it should be closed then.
    `ladder` knows cheaper ways to work than `steps[0]`, which runs; with `governing` the governor takes them
    when frames would be late. `save` writes a setting into the user's file and gives its path. `systemd` is what the
    virtual camera was taken from, if it was; it is closed in the end. Everything but `tick`, which
    whoever runs the pipeline calls some ten times a second, may be called from any thread.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        engine: LiveEngine,
        *,
        always: str = "",
        ladder: Steps | None = None,
        steps: Sequence[Step] = (),
        governing: bool = False,
        save: Callable[[str, Any], Path] | None = None,
        systemd: Notifier | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pipeline, self._engine, self._ladder, self._clock = pipeline, engine, ladder, clock
        self._save = save
        self._usage: Watch | None
        self._usage, self._told_by, cannot = _usage(getattr(pipeline.sink, "node", None))
        self._clients: int | None = None
        self._machine = Machine(clock(), always or cannot)
        self._paused = False
        self._pause_note: Path | None = None
        self._shown: tuple[State, float] | None = None  # for which the pipeline rests
        self._steps, self._step = tuple(steps), steps[0] if steps else None
        self._governor = Governor(steps) if governing and len(steps) > 1 else None
        self._load: float | None = None  # what the governor was told last
        self._came = clock(), 0  # when frames were counted last, and how many there were
        self._loading = threading.Lock()
        self._change: threading.Thread | None = None
        self._counts = Counter[tuple[str, str]]()  # state changes and governor steps, by where they led
        # in the sink's own colours, if it has some: it would convert them anew each time
        size, color = pipeline.sink.size, getattr(pipeline.sink, "color", pipeline.source.color)
        self._texts = {
            State.PAUSED: text_frame(*size, "Camera is paused", color),
            State.IDLE: text_frame(*size, "Camera is starting", color),  # what its next viewer sees first
        }
        self._server: Server | None = None
        self._page = LazyPage(self.answer, pipeline)
        self._systemd = systemd or Notifier()
        self._told = ""
        self._next_told = 0.0

    def __enter__(self) -> Self:
        self._listen(logging.WARNING if self._pipeline.sink.live else logging.INFO)
        if self._pause_note is not None and self._pause_note.exists():
            self._paused = True
            log.warning("paused, as the SharpCam before, which ended in disorder; `sharpcam resume` ends it")
            self._show((State.PAUSED, self._pipeline.sink.fps))  # before there is a first picture
        descriptor = getattr(self._pipeline.sink, "fileno", lambda: None)()
        if descriptor is not None:
            self._systemd.keep(descriptor)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._change is not None:
            self._change.join(10)
        self._page.close()
        if kind is None:  # after a failure systemd starts us again, and the meeting keeps its camera
            self._systemd.forget()
            self._pause(False)
        self._systemd.tell("STOPPING=1")
        self._systemd.close()
        if self._server is not None:
            self._server.close()
        if self._usage is not None:
            self._usage.close()

    def _listen(self, level: int) -> None:
        self._next_listen = self._clock() + LISTEN_EVERY_S
        try:
            self._server = serve(self.answer)
        except SharpCamError as error:
            log.log(level, "not controllable: %s%s", error, f" ({error.hint})" if error.hint else "")
            return
        if self._pipeline.sink.live and sys.platform != "win32":
            self._pause_note = runtime_folder() / "paused"

    # State

    @property
    def state(self) -> State:
        return self._machine.state

    def tick(self) -> None:
        """Looks at what is going on and does what follows from it."""
        self._count_clients()
        lost = self._pipeline.lost
        stopping = self._pipeline.exit != ""
        seen = Situation(self._paused, self._watching(), str(lost) if lost else "", stopping)
        before = self._machine.state
        state = self._machine.step(self._clock(), seen)
        if state is not before:
            self._counts["state", state] += 1
            log.info("state from=%s to=%s reason=%r", before, state, self._machine.reason)
        rest = None
        if state in self._texts:
            rest = (state, IDLE_FPS if self._clients == 0 else self._pipeline.sink.fps)
        elif state is State.STOPPING:  # whatever is shown is shown to the end
            rest = self._shown
        self._show(rest)
        self._tell_systemd(f"{state}: {self._machine.reason}")
        self._govern()
        # whoever took the orders at the start, such as a file that was being sharpened, may have ended
        if self._server is None and self._pipeline.sink.live and self._clock() >= self._next_listen:
            self._listen(logging.DEBUG)

    def _show(self, rest: tuple[State, float] | None) -> None:
        """The text of a state at a rate, or pictures."""
        if rest == self._shown:
            return
        self._shown = rest
        if rest is None:
            self._pipeline.wake()
        else:
            self._pipeline.rest(self._texts[rest[0]], rest[1])

    def _pause(self, paused: bool) -> None:
        """Noted in a file until an orderly end: what systemd starts after a crash must not show what was hidden."""
        if self._pause_note is not None:
            try:
                if paused:
                    self._pause_note.touch(0o600)
                else:
                    self._pause_note.unlink(missing_ok=True)
            except OSError as error:
                log.warning("a pause would not outlive a crash error=%r", error.strerror)
        self._paused = paused

    def _govern(self) -> None:
        """Has another step loaded, on a thread of its own, when the governor wants it."""
        governor = self._governor
        if governor is None or (self._change is not None and self._change.is_alive()):
            return
        now, recent = self._clock(), self._engine.recent_s
        if recent is None or self._engine.changing or self._machine.state is not State.LIVE:
            governor.pause()
            self._load = None
            self._came = now, self._pipeline.telemetry["frames_in"]
            return
        rate = self._rate(now)
        if rate is None:
            return
        if not rate:
            governor.pause()
            return
        usual, self._load = (seconds * rate for seconds in recent)
        if (step := governor.step(now, usual, self._load)) is not None:
            log.warning("governor from=%r to=%r load=%.2f", governor.present.name, step.name, self._load)
            self._change = threading.Thread(target=self._change_step, args=(governor, step), daemon=True)
            self._change.start()

    def _rate(self, now: float) -> float | None:
        """Frames that came in a second, told once in a while; a camera may promise more than it gives."""
        since, before = self._came
        if now - since < RATE_OVER_S:
            return None
        frames = self._pipeline.telemetry["frames_in"]
        self._came = now, frames
        return (frames - before) / (now - since)

    def _change_step(self, governor: Governor, step: Step) -> None:
        with self._loading:
            if self._governor is not governor or self._ladder is None:  # somebody has set something meanwhile
                return
            try:
                self._engine.change_to(self._ladder.load(step))
            except SharpCamError as error:
                log.warning("governor cannot=%r error=%s", step.name, error)
                governor.drop(step)
            else:
                cheaper = step.cost < governor.present.cost
                self._counts["governor", "down" if cheaper else "up"] += 1
                governor.changed(self._clock(), step)
                self._step = step

    def _tell_systemd(self, status: str) -> None:
        now = self._clock()
        if status != self._told or now >= self._next_told:
            # this thread lives, but what the meeting needs is the others: without a word systemd starts us again;
            # where this one comes late, too, the whole process stood still, and they have yet to come round
            hung = self._pipeline.hung_s > HUNG_S and now < self._next_told + ALIVE_EVERY_S
            self._told, self._next_told = status, now + ALIVE_EVERY_S
            if hung:
                log.error("a thread hangs seconds=%.0f", self._pipeline.hung_s)
            self._systemd.tell("READY=1", f"STATUS={status}", *([] if hung else ["WATCHDOG=1"]))

    def _watching(self) -> int | None:
        """Programs that watch the virtual camera, and who looks at the live picture on the page."""
        return None if self._clients is None else self._clients + self._page.looking

    def _count_clients(self) -> None:
        if self._usage is None:
            return
        try:
            count = self._usage.wait(0)
        except OSError as error:  # the device goes; the sink will tell
            log.warning("clients unknown error=%r", error.strerror)
            self._usage.close()
            self._usage, self._clients, self._told_by = None, None, None
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
            self._pause(command == "pause")
        elif command == "stop":
            self._pipeline.stop("stopped")
        elif command == "set":
            return self._set(request.get("key"), request.get("value"), request.get("save") is True)
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
            "step": self._step.name if self._step else engine.model.name,
            "governor": "on" if self._governor else "off",
            "load": None if self._load is None else round(self._load, 3),
            "strength": engine.strength,
            "split": engine.split,
            "mirror": engine.mirror,
            "source": self._pipeline.source.description,
            "sink": self._pipeline.sink.description,
            "clients": self._clients,
            "clients_told_by": self._told_by,
            "fps": round(fps, 2),
            "latency_ms": round(latency_ms, 2),
            "frames_out": telemetry["frames_out"],
            "dropped": telemetry["dropped"],
            "reconnects": telemetry["reconnects"],
            "bypassed": telemetry["bypassed"],
            "fallbacks": telemetry["fallbacks"],
            "uptime_s": round(telemetry.seconds, 1),
            "pid": os.getpid(),
            "version": __version__,
        }

    def _state_metrics(self) -> str:
        lines = ["# TYPE sharpcam_state gauge"]
        lines += [f'sharpcam_state{{state="{s}"}} {int(s is self._machine.state)}' for s in State]
        lines.append("# TYPE sharpcam_state_changes_total counter")
        lines += [f'sharpcam_state_changes_total{{to="{s}"}} {self._counts["state", s]}' for s in State]
        lines.append("# TYPE sharpcam_governor_steps_total counter")
        for way in ("down", "up"):
            steps = self._counts["governor", way]
            lines.append(f'sharpcam_governor_steps_total{{direction="{way}"}} {steps}')
        if self._clients is not None:
            lines += ["# TYPE sharpcam_clients gauge", f"sharpcam_clients {self._clients}"]
        return "\n".join(lines) + "\n"

    def _set(self, key: Any, value: Any, save: bool) -> dict[str, Any]:
        if not isinstance(key, str) or key not in SETTINGS:
            raise ControlError(f'"{str(key)[:50]}" cannot be set', f"there are {', '.join(SETTINGS)}")
        if save and self._save is None:
            raise ControlError("this SharpCam has no settings file to save to")
        taken = self._changed(key, value)
        log.info("set key=%s value=%r", key, taken)
        return {"saved": str(self._save(SETTINGS[key], taken))} if save and self._save else {}

    def _changed(self, key: str, value: Any) -> float | bool | str:
        """Changes a setting at once, and gives its value as a settings file would have it."""
        if key == "model":
            return self._change_model(value)
        if key == "strength":
            try:
                self._engine.strength = float(value)
            except (TypeError, ValueError, OverflowError) as error:
                if isinstance(error, SharpCamError):
                    raise
                raise ControlError("strength should be a number from 0 (off) to 1 (full)") from None
            return self._engine.strength
        if not isinstance(value, str) or value not in _SWITCH:
            raise ControlError(f"{key} should be on or off")
        on = _SWITCH[value]
        if key == "split":
            self._engine.split = on
        elif key == "mirror":
            self._engine.mirror = on
        else:
            self._switch_governor(on)
        return on

    def _change_model(self, name: Any) -> str:
        """Only what is installed: who may send orders does not choose files."""
        names = [model.name for model in find_models()[0]]
        if self._ladder is None or not isinstance(name, str) or (name not in names and name != AUTO):
            known = ", ".join([AUTO, *names]) if names else "none is installed"
            raise ControlError(f'there is no model "{str(name)[:50]}"', f"known models: {known}")
        with self._loading:
            steps = self._ladder.steps(name)
            self._engine.change_to(self._ladder.load(steps[0]))
            self._steps, self._step = steps, steps[0]
            # who names a model wants just that one
            self._governor = Governor(steps) if name == AUTO and self._pipeline.source.live else None
        return name

    def _switch_governor(self, on: bool) -> None:
        with self._loading:
            if on and (self._ladder is None or len(self._steps) < 2 or not self._pipeline.source.live):
                raise ControlError("there is nothing to govern: no cheaper way to work, or no live source")
            if on == (self._governor is not None):
                return
            self._governor = Governor(self._steps) if on else None
            if self._ladder and self._step is not self._steps[0]:  # it had stepped down
                self._engine.change_to(self._ladder.load(self._steps[0]))
                self._step = self._steps[0]


def _usage(node: str | None) -> tuple[Watch | None, str | None, str]:
    """(what tells who watches, how it knows, or why nothing does)."""
    if node is None:
        return None, None, "this sink does not tell who watches"
    try:
        return ClientUsage(node), "the driver", ""
    except OSError as error:
        log.info("clients event=none device=%s error=%r", node, error.strerror)
    try:
        return Openers(node), "who has the device open: this v4l2loopback does not tell (0.13 does)", ""
    except OSError as error:
        why = error.strerror or "unknown error"
        return None, None, f"this v4l2loopback does not tell who watches (0.13 does), nor inotify ({why})"
