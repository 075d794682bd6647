"""A model at work: one I420 frame in, one out, and the temporal state in between.

On the CPU nothing is copied on the way: the graph's inputs and outputs are bound by pointer onto the planes of
the two frames. On a GPU a frame is copied once up and once down, and the state stays there.
"""

from __future__ import annotations

import logging
import math
import time
from pathlib import Path

import cv2
import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from sharpcam import cuda
from sharpcam.binding import Bound, HostBinding, crop, pad
from sharpcam.device_binding import DeviceBinding
from sharpcam.errors import ConfigError, FormatMismatch, ModelError, ProviderUnavailable
from sharpcam.frame import Frame, check_size, show_left_half
from sharpcam.glance import Glance
from sharpcam.manifest import resolve_shape
from sharpcam.models import Model, find_model
from sharpcam.runtime import (
    Plan,
    Provider,
    default_threads,
    described,
    explained,
    in_tiles,
    open_session,
    providers_to_try,
)
from sharpcam.tiles import Tiles

log = logging.getLogger(__name__)

MIN_SIDE = 16


class Engine:
    """Sharpens frames with one model on one execution provider.

    `process` is for one thread; `strength`, `split`, `reset` and the read-only attributes are for all. With
    `split` the left half stays as it came, a white line between the two. `provider` is what really runs, not
    what was asked. `upload_ns`, `run_ns` and `download_ns` are how long the last frame took to the model's
    memory, in ONNX Runtime, and back; `run_cpu_ns` is the calling thread's CPU in ONNX Runtime, `workers_cpu_ns`
    that of the threads which took the other tiles of the frame.

    A GPU that fails while frames pass is given up: the same frame goes through the CPU, and so do all that
    follow. `fallbacks` counts it, and one line of the log tells.
    """

    def __init__(
        self, model: Model, provider: Provider, size: tuple[int, int], threads: int, temporal: bool
    ) -> None:
        self._chosen = model
        self._session: ort.InferenceSession | None = None  # on the CPU; a GPU has one for each size
        self.threads = threads
        self.temporal = temporal
        self._take(provider)
        self._cuda_graphs = True
        self.fallbacks = 0
        self.upload_ns = self.run_ns = self.run_cpu_ns = self.workers_cpu_ns = self.download_ns = 0
        self.resets = 0
        self._scene_known = False
        self.split = False
        self._strength = 1.0
        self._reset_asked = True
        self._bound: Bound | None = None
        self.size = (0, 0)
        self._scratch: tuple[Frame, Frame] | None
        self._last: Glance | None
        self.resize(size)

    @classmethod
    def load(
        cls,
        model: str | Path | Model = "auto",
        size: tuple[int, int] = (1280, 720),
        provider: str = "auto",
        threads: int | None = None,
        temporal: bool = True,
    ) -> Engine:
        """Loads a model, proves by a dry run that it works at `size` (width, height), and warms it up.

        `model` is a name, "auto", or a path (see `sharpcam.models.find_model`). `provider` "cuda" must be
        had; "auto" takes CUDA where it runs and else the CPU, with one line in the log. `threads` is for the
        CPU: all cores but one when None. Without `temporal` no frame is mixed with the ones before, which then
        tell only of the scene as a whole.

        Raises ModelError, ProviderUnavailable, FormatMismatch, ConfigError.
        """
        chosen = model if isinstance(model, Model) else find_model(model)
        threads = default_threads() if threads is None else threads
        *first_choices, last = providers_to_try(provider)
        for choice in first_choices:
            try:
                return cls(chosen, choice, size, threads, temporal)
            except (ProviderUnavailable, ModelError) as error:
                if cuda.driver() is not None:
                    log.warning("running on the CPU: %s", error)
        return cls(chosen, last, size, threads, temporal)

    @property
    def description(self) -> str:
        if self.provider == Provider.CPU:
            where = f"CPU, {self.threads} thread{'s' if self.threads > 1 else ''}"
        else:
            where = f"{Provider(self.provider).label}, {cuda.facts().gpu}"
        return f"{self.model.name} {self.model.version} ({self.model.precision}) on {where}"

    @property
    def records(self) -> bool:
        """Whether the model's work is launched as one CUDA graph."""
        return self.provider == Provider.CUDA and self._cuda_graphs

    @property
    def strength(self) -> float:
        """0 gives the frame back bit for bit, 1 is all that the model does; counts from the next frame on."""
        return self._strength

    @strength.setter
    def strength(self, value: float) -> None:
        self._strength = checked_strength(value)

    def reset(self) -> None:
        """Forgets the frames seen so far, before the next one. From any thread."""
        self._reset_asked = True

    def resize(self, size: tuple[int, int]) -> None:
        """Makes ready for frames of `size` (width, height), forgets the frames seen so far, and dry-runs.

        Raises FormatMismatch when the size cannot be, ModelError when the model does not work at it.
        """
        check_size(*size)
        if min(size) < MIN_SIDE:
            raise FormatMismatch(
                f"frame size {size[0]}x{size[1]} is too small to sharpen", f"use at least {MIN_SIDE} a side"
            )
        step = math.lcm(self.model.size_multiple, 2)
        width, height = (-(-side // step) * step for side in size)
        self._check_fixed(width, height)
        used_to_work, self.size = self.size != (0, 0), (0, 0)  # until it has worked once
        self._scratch = None if (width, height) == size else (Frame(width, height), Frame(width, height))
        self._last = None
        try:
            self._prove(size, width, height)
        except (ModelError, ProviderUnavailable) as error:
            if self.provider == Provider.CPU or not used_to_work:
                raise
            self._give_up(error)
            self._prove(size, width, height)
        self.reset()
        self.size = size

    def _take(self, provider: Provider) -> None:
        """Makes `provider` the one that runs from the next `_bind` on."""
        if provider is Provider.CPU:
            self._session, self.model = open_session(self._chosen, provider, self.threads)
        else:
            self.model = described(self._chosen, provider)
        self.provider = str(provider)

    def _prove(self, size: tuple[int, int], width: int, height: int) -> None:
        """Binds for frames of `size`, (width, height) when padded, and runs some; without CUDA graphs where a
        model cannot be recorded as one."""
        try:
            self._bind(width, height)
            self._dry_run(size)
        except ModelError as error:
            if self.provider != Provider.CPU:
                self._abandon()
            if self.provider != Provider.CUDA or not self._cuda_graphs:
                raise
            self._cuda_graphs = False
            log.info("trying without CUDA graphs: %s", error)
            self._bind(width, height)
            self._dry_run(size)

    def _bind(self, width: int, height: int) -> None:
        """Makes a session work on frames of this size, sides padded."""
        if self._bound is not None:
            self._bound.close()
            self._bound = None
        self._scene_known = False
        if self.provider == Provider.CPU:
            if self._session is None:
                raise ModelError("the engine is closed")
            if in_tiles(self.model, Provider.CPU, self.threads):
                self._bound = Tiles.over(self._session, self.model, width, height, self.threads)
            if self._bound is None:
                self._bound = HostBinding(self._session, self.model, width, height)
            return
        device = cuda.device()
        with device.lock:
            stream = device.open_stream()
            try:
                plan = Plan((width, height), stream, self._cuda_graphs)
                session, _ = open_session(self._chosen, Provider(self.provider), self.threads, plan)
                with explained(f'model "{self.model.name}" cannot be bound to {width}x{height} frames'):
                    self._bound = DeviceBinding(session, self.model, device, stream, width, height)
            except (ModelError, ProviderUnavailable):
                device.close_stream(stream)
                raise

    def _dry_run(self, size: tuple[int, int]) -> None:
        assert self._bound is not None
        first, second = Frame(*size), Frame(*size)
        first.fill(128)
        for _ in range(self._bound.warm_up):
            self._sharpen(first, second, 1.0)

    def _give_up(self, error: Exception) -> None:
        """Goes on with the CPU after a GPU has failed."""
        log.error(
            "%s failed, going on with the CPU until SharpCam is restarted: %s",
            *(Provider(self.provider).label, error),
        )
        self._abandon()
        self.fallbacks += 1
        self._take(Provider.CPU)

    def _abandon(self) -> None:
        """Lets go of what failed on a GPU, without freeing it."""
        if isinstance(self._bound, DeviceBinding):
            self._bound.keep()
        self._bound = None

    def _check_fixed(self, width: int, height: int) -> None:
        fixed = resolve_shape(self.model.inputs[0].shape, width, height)[2:]
        if fixed != (height, width):
            raise FormatMismatch(
                f'model "{self.model.name}" takes only {fixed[1]}x{fixed[0]} pictures, not {width}x{height}',
                f"use --size {fixed[1]}x{fixed[0]}, or a model with free sides",
            )

    def process(self, frame: Frame, out: Frame) -> None:
        """Sharpens `frame` into `out`, another frame of the same size, facts included.

        A frame of another size than the last one makes the engine `resize`. Raises FormatMismatch when
        `out` has another size, ModelError when the model fails or the engine is closed.
        """
        if out.size != frame.size or out is frame:
            raise FormatMismatch(f"a {frame.width}x{frame.height} frame needs another of its size to go to")
        if self._bound is None and self.size != (0, 0):
            raise ModelError("the engine is closed")
        if frame.size != self.size:
            self.resize(frame.size)
        out.copy_facts(frame)
        strength = self._strength
        if strength == 0.0:  # nothing to do, and the state would only grow old
            np.copyto(out.buffer, frame.buffer)
            self.upload_ns = self.run_ns = self.run_cpu_ns = self.workers_cpu_ns = self.download_ns = 0
            self._reset_asked = True
            return
        self._reset_if_cut(frame)
        self._sharpen(frame, out, strength)
        if self.split:
            show_left_half(frame, out)
        if self._last is not None:
            self._last.done_ns = time.monotonic_ns()

    def _sharpen(self, frame: Frame, out: Frame, strength: float) -> None:
        if self._scratch is None:
            self._run(frame, out, strength)
        else:
            padded, result = self._scratch
            pad(frame, padded)
            result.copy_facts(frame)
            self._run(padded, result, strength)
            crop(result, out)
        if strength < 1.0 and not self.model.strength_input:
            cv2.addWeighted(out.buffer, strength, frame.buffer, 1.0 - strength, 0.0, dst=out.buffer)

    def _run(self, frame: Frame, out: Frame, strength: float) -> None:
        try:
            self._run_once(frame, out, strength)
        except ModelError as error:
            if self.provider == Provider.CPU or self._bound is None or self.size == (0, 0):
                self._reset_asked = True  # what it left in the state is anyone's guess
                raise
            self._give_up(error)
            self._bind(*frame.size)
            self._run_once(frame, out, strength)

    def _run_once(self, frame: Frame, out: Frame, strength: float) -> None:
        if self._bound is None:
            raise ModelError("the engine is closed")
        with explained(f'model "{self.model.name}" failed on a {frame.width}x{frame.height} frame'):
            if not self._scene_known and any(state.whole for state in self.model.state):
                self._bound.run(frame, out, strength)  # for what it tells of the whole frame
                self._bound.reset(scene=False)
            self._scene_known = True
            self._bound.run(frame, out, strength)
        times = self._bound.times
        self.upload_ns, self.download_ns = times.upload_ns, times.download_ns
        self.run_ns, self.run_cpu_ns = times.run_ns, times.run_cpu_ns
        self.workers_cpu_ns = times.workers_cpu_ns

    def _reset_if_cut(self, frame: Frame) -> None:
        """Starts the state afresh when asked, after a gap in time or numbering, or in another scene.

        What is known of the scene outlives gaps. A machine too slow for its camera leaves one after every frame:
        to run each of them twice for it would keep the machine too slow.
        """
        if self._bound is None or not self.model.state:
            return
        glance = Glance(frame)
        last, self._last = self._last, glance
        asked, self._reset_asked = self._reset_asked, False
        if asked or last is None or glance.is_another_scene(last):
            self._bound.reset()
            self._scene_known = False
        elif not self.temporal or glance.is_after_a_gap(last):
            self._bound.reset(scene=False)
        else:
            return
        self.resets += 1

    def allocate(self, shape: tuple[int, int], dtype: type[np.uint8] = np.uint8) -> NDArray[np.uint8]:
        """Memory for a frame, as `numpy.empty` gives it, from which it goes to the model fastest: pinned where
        that is a GPU."""
        if self.provider != Provider.CPU:
            try:
                return cuda.device().pinned(shape)
            except ProviderUnavailable as error:  # pinned memory is scarce; any other will do
                log.debug("%s", error)
        return np.empty(shape, dtype)

    def close(self) -> None:
        """Frees the model. May be called twice."""
        if self._bound is not None:
            self._bound.close()
        self._session = self._bound = None


def checked_strength(value: float) -> float:
    """`value`, or a ConfigError where no strength can be so."""
    if not 0.0 <= value <= 1.0:
        raise ConfigError(f"strength {value:g} is out of range", "use a number from 0 (off) to 1 (full)")
    return float(value)
