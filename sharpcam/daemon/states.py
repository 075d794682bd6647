"""In which state SharpCam is, and why: a function of what is going on and of how long nobody has watched."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

HOLD_OFF_S = 2.0  # programs that probe cameras, or change their settings, are back within that


class State(StrEnum):
    LIVE = "live"  # pictures of the source go to the sink
    IDLE = "idle"  # nobody watches the virtual camera: the camera is closed
    PAUSED = "paused"  # the user said so: the camera is closed, a placeholder is shown
    RECOVERING = "recovering"  # the camera is away; it is opened again as soon as it is back
    STOPPING = "stopping"  # frames on their way still arrive, then it ends


@dataclass(frozen=True, slots=True)
class Situation:
    """`clients` is the number of programs that watch, None when that cannot be known."""

    paused: bool = False
    clients: int | None = None
    lost: str = ""
    stopping: bool = False


class Machine:
    """Tells the state from one `Situation` after another.

    `always` is why the camera stays open while nobody watches; empty when it is closed then.
    """

    def __init__(self, now: float, always: str = "") -> None:
        self.always = always
        self.state = State.LIVE
        self.reason = "starting"
        self._watched_at = now  # the last time that somebody watched

    def step(self, now: float, seen: Situation) -> State:
        """The state at `now`, in seconds of any clock that does not go back; `reason` says why."""
        if seen.clients != 0:
            self._watched_at = now
        self.state, self.reason = self._judge(now, seen)
        return self.state

    def _judge(self, now: float, seen: Situation) -> tuple[State, str]:
        if seen.stopping:
            return State.STOPPING, "it was told to"
        if seen.paused:
            return State.PAUSED, "paused by the user; `sharpcam resume` ends it"
        unwatched = seen.clients == 0
        if unwatched and not self.always and now >= self._watched_at + HOLD_OFF_S:
            return State.IDLE, "nobody watches the virtual camera"
        if seen.lost:
            return State.RECOVERING, seen.lost
        if self.always:
            return State.LIVE, f"always live: {self.always}"
        return State.LIVE, "somebody watches" if not unwatched else "somebody watched a moment ago"
