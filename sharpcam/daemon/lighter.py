"""What the governor takes when no model is small enough: a smaller picture, or none of it at all."""

from __future__ import annotations

import cv2
import numpy as np

from sharpcam.daemon.live_engine import AroundEngine
from sharpcam.engine import Engine
from sharpcam.frame import Frame, check_size, show_left_half
from sharpcam.manifest import Manifest


class ScaledEngine(AroundEngine):
    """Sharpens a picture of a smaller size, and adds what changed there, enlarged, to the full picture.

    So fine detail stays as it came, and what is a little coarser is sharpened. `engine` is made for frames of
    `scaled_size`; it is owned.
    """

    def __init__(self, engine: Engine, size: tuple[int, int]) -> None:
        check_size(*size)
        self._engine: Engine = engine
        self._small, self._sharp = Frame(*engine.size), Frame(*engine.size)
        self.split = False

    @property
    def description(self) -> str:
        width, height = self._engine.size
        return f"{self._engine.description} at {width}x{height}"

    @property
    def strength(self) -> float:
        return self._engine.strength

    @strength.setter
    def strength(self, value: float) -> None:
        self._engine.strength = value

    def process(self, frame: Frame, out: Frame) -> None:
        """See `Engine.process`."""
        self._small.copy_facts(frame)
        for plane, small in zip(frame.planes, self._small.planes, strict=True):
            cv2.resize(plane, small.shape[::-1], dst=small, interpolation=cv2.INTER_AREA)
        self._engine.process(self._small, self._sharp)
        planes = zip(frame.planes, out.planes, self._small.planes, self._sharp.planes, strict=True)
        for plane, target, before, after in planes:
            size = (plane.shape[1], plane.shape[0])
            # what became brighter and what became darker, apart: there is no sign in a byte
            cv2.add(plane, cv2.resize(cv2.subtract(after, before), size), dst=target)
            cv2.subtract(target, cv2.resize(cv2.subtract(before, after), size), dst=target)
        out.copy_facts(frame)
        if self.split:
            show_left_half(frame, out)

    def close(self) -> None:
        self._engine.close()


def scaled_size(size: tuple[int, int], scale: float) -> tuple[int, int]:
    """The even sides nearest to `scale` times those of `size`."""
    width, height = (max(2, round(side * scale / 2) * 2) for side in size)
    return width, height


class Passing:
    """Gives frames as they come, under the name of the `model` that it stands in for."""

    run_ns = run_cpu_ns = 0
    description = "no model: pictures pass as they come"

    def __init__(self, model: Manifest, provider: str, threads: int) -> None:
        self.model, self.provider, self.threads = model, provider, threads
        self.strength, self.split = 0.0, False

    def process(self, frame: Frame, out: Frame) -> None:
        """See `Engine.process`."""
        np.copyto(out.buffer, frame.buffer)
        out.copy_facts(frame)

    def close(self) -> None:
        """There is nothing to free."""
