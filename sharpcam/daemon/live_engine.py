"""An engine that can be changed while frames pass through it."""

from __future__ import annotations

import logging
import threading
import time
from typing import Protocol

import numpy as np

from sharpcam.engine import checked_strength
from sharpcam.frame import Allocate, Frame
from sharpcam.manifest import Manifest

log = logging.getLogger(__name__)

_AVERAGE_FRAMES = 30  # over which `busy_s` is taken
RAMP_FRAMES = 10  # over which a new strength is reached: a jump would be seen as a flash


class Changeable(Protocol):
    """What is needed of an Engine."""

    model: Manifest
    provider: str
    threads: int
    run_ns: int
    run_cpu_ns: int
    split: bool

    @property
    def description(self) -> str: ...

    @property
    def strength(self) -> float: ...

    @strength.setter
    def strength(self, value: float) -> None: ...

    def process(self, frame: Frame, out: Frame) -> None: ...
    def close(self) -> None: ...


class LiveEngine:
    """Passes frames to an engine whose strength, split view and model may change from any thread.

    A new strength is reached in `RAMP_FRAMES` equal steps. A new model takes over with the next frame; the
    old one is closed by the thread that used it.
    """

    def __init__(self, engine: Changeable) -> None:
        self._engine = engine
        self._next: Changeable | None = None
        self._strength = engine.strength  # where the ramp goes to
        self._left = 0  # frames until it is there
        self._busy_s, self._frames = 0.0, 0
        self._lock = threading.Lock()

    # For the sharpening thread

    @property
    def run_ns(self) -> int:
        return self._engine.run_ns

    @property
    def run_cpu_ns(self) -> int:
        return self._engine.run_cpu_ns

    # what a stand-in for an engine need not have

    @property
    def upload_ns(self) -> int:
        return getattr(self._engine, "upload_ns", 0)

    @property
    def download_ns(self) -> int:
        return getattr(self._engine, "download_ns", 0)

    @property
    def fallbacks(self) -> int:
        return getattr(self._engine, "fallbacks", 0)

    @property
    def allocate(self) -> Allocate:
        return getattr(self._engine, "allocate", np.empty)

    def process(self, frame: Frame, out: Frame) -> None:
        """See `Engine.process`."""
        with self._lock:
            old, new, self._next = self._engine, self._next, None
            if new is not None:
                new.strength, new.split = old.strength, old.split
                self._engine = new
            self._ramp()
        if new is not None:
            old.close()
            self._busy_s, self._frames = 0.0, 0
            log.info("model changed to %s", new.description)
        start = time.perf_counter()
        self._engine.process(frame, out)
        self._frames += 1
        self._busy_s += (time.perf_counter() - start - self._busy_s) / min(self._frames, _AVERAGE_FRAMES)

    def _ramp(self) -> None:
        if self._left:
            now, target = self._engine.strength, self._strength
            self._engine.strength = target if self._left == 1 else now + (target - now) / self._left
            self._left -= 1

    # For everybody

    @property
    def busy_s(self) -> float | None:
        """Seconds that the present model takes for a frame, averaged; None until it has had some frames."""
        return self._busy_s if self._frames >= _AVERAGE_FRAMES else None

    @property
    def model(self) -> Manifest:
        return self._engine.model

    @property
    def provider(self) -> str:
        return self._engine.provider

    @property
    def threads(self) -> int:
        return self._engine.threads

    @property
    def description(self) -> str:
        return self._engine.description

    @property
    def strength(self) -> float:
        """0 to 1: where it is going to; raises ConfigError for anything else."""
        return self._strength

    @strength.setter
    def strength(self, value: float) -> None:
        value = checked_strength(value)
        with self._lock:
            self._strength = value
            self._left = RAMP_FRAMES

    @property
    def split(self) -> bool:
        return self._engine.split

    @split.setter
    def split(self, value: bool) -> None:
        with self._lock:
            self._engine.split = value

    def change_to(self, engine: Changeable) -> None:
        """Lets `engine`, made for frames of the same size, take over with the next frame, and owns it."""
        with self._lock:
            unused, self._next = self._next, engine
        if unused is not None:
            unused.close()

    def close(self) -> None:
        """Frees the models; no frame may be on its way. May be called twice."""
        with self._lock:
            waiting, self._next = self._next, None
        if waiting is not None:
            waiting.close()
        self._engine.close()
