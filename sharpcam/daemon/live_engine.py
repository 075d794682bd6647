"""An engine that can be changed while frames pass through it."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from typing import Protocol

import cv2
import numpy as np

from sharpcam.engine import checked_strength
from sharpcam.frame import Allocate, Frame
from sharpcam.manifest import Manifest

log = logging.getLogger(__name__)

RECENT_FRAMES = 45  # of which `recent_s` tells
RAMP_FRAMES = 10  # over which a new strength is reached: a jump would be seen as a flash


class Changeable(Protocol):
    """What is needed of an Engine."""

    split: bool

    @property
    def model(self) -> Manifest: ...

    @property
    def provider(self) -> str: ...

    @property
    def threads(self) -> int: ...

    @property
    def run_ns(self) -> int: ...

    @property
    def run_cpu_ns(self) -> int: ...

    @property
    def description(self) -> str: ...

    @property
    def strength(self) -> float: ...

    @strength.setter
    def strength(self, value: float) -> None: ...

    def process(self, frame: Frame, out: Frame) -> None: ...
    def close(self) -> None: ...


class AroundEngine:
    """What an engine around another one tells of the one inside, at this moment."""

    _engine: Changeable

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
    def workers_cpu_ns(self) -> int:
        return getattr(self._engine, "workers_cpu_ns", 0)

    @property
    def fallbacks(self) -> int:
        return getattr(self._engine, "fallbacks", 0)


class LiveEngine(AroundEngine):
    """Passes frames to an engine whose strength, split view and model may change from any thread.

    A new strength is reached in `RAMP_FRAMES` equal steps. For a new model the strength goes down to 0 like
    that, the model takes over, and the strength goes up again; the old one is closed by the thread that used
    it. With `mirror` the picture is turned left to right before anything else.
    """

    def __init__(self, engine: Changeable) -> None:
        self.mirror = False
        self._engine = engine
        self._next: Changeable | None = None
        self._strength = engine.strength  # what is wanted, and where the ramp goes to unless a model waits
        self._left = 0  # frames until the ramp is at its end
        self._recent: deque[float] = deque(maxlen=RECENT_FRAMES)  # seconds
        self._lock = threading.Lock()

    # For the sharpening thread

    @property
    def allocate(self) -> Allocate:
        return getattr(self._engine, "allocate", np.empty)

    def process(self, frame: Frame, out: Frame) -> None:
        """See `Engine.process`; with `mirror`, `frame` is mirrored, too."""
        with self._lock:
            old = self._engine
            self._ramp()
            changed = self._engine is not old
        if changed:
            old.close()
            self._recent.clear()
            log.info("model changed to=%r", self._engine.description)
        start = time.perf_counter()
        if self.mirror:
            for plane in frame.planes:
                cv2.flip(plane, 1, dst=plane)
        self._engine.process(frame, out)
        self._recent.append(time.perf_counter() - start)

    def _ramp(self) -> None:
        if self._next is not None and self._engine.strength == 0.0:
            new, self._next = self._next, None
            new.strength, new.split = 0.0, self._engine.split
            self._engine, self._left = new, RAMP_FRAMES
        if self._left:
            now, target = self._engine.strength, 0.0 if self._next is not None else self._strength
            self._engine.strength = target if self._left == 1 else now + (target - now) / self._left
            self._left -= 1

    # For everybody

    @property
    def recent_s(self) -> tuple[float, float] | None:
        """Median and 95th percentile of the seconds that the present model took for its latest frames; None
        until it has had some."""
        recent = sorted(self._recent.copy())
        if len(recent) < RECENT_FRAMES:
            return None
        return recent[len(recent) // 2], recent[math.ceil(0.95 * len(recent)) - 1]

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
        """Lets `engine`, made for frames of the same size, take over within some frames, and owns it."""
        with self._lock:
            unused, self._next = self._next, engine
            self._left = RAMP_FRAMES
        if unused is not None:
            unused.close()

    @property
    def changing(self) -> bool:
        """Whether a new model waits to take over, or has just done so and is not at its strength yet."""
        return self._next is not None or self._left > 0

    def close(self) -> None:
        """Frees the models; no frame may be on its way. May be called twice."""
        with self._lock:
            waiting, self._next = self._next, None
        if waiting is not None:
            waiting.close()
        self._engine.close()
