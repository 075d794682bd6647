"""Frames and states as a graph's inputs and outputs: by pointer, so that nothing is copied on the way."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from sharpcam.frame import Color, Frame
from sharpcam.geometry import from_rgb, to_rgb
from sharpcam.manifest import Layout, Manifest, State, Tensor, resolve_shape

Array = NDArray[Any]


def bind_input(binding: Any, name: str, array: Array) -> None:
    """The graph's input `name` is the memory of `array`, C-contiguous, which must outlive the run."""
    binding.bind_input(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)


# int64 (4,), an input that a graph with a state of the whole frame may have: top, left, bottom, right in pixels of what
# counts for it; a graph's own value is all of it. What counts is cells of at most CELL pixels
CORE, CELL = "core", 16


def has_core(session: ort.InferenceSession) -> bool:
    return any(port.name == CORE for port in session.get_overridable_initializers())


def whole_cells(top: int, left: int, bottom: int, right: int) -> Array:
    """The CORE that is this rectangle but for what is left of a cell at its ends: it begins at multiples of CELL."""
    return np.array([top, left, *(end // CELL * CELL for end in (bottom, right))], np.int64)


def bind_output(binding: Any, name: str, array: Array) -> None:
    binding.bind_output(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)


class Part(NamedTuple):
    """An input or output of a graph, and where it lies in a block of memory, in bytes from its beginning."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int = 0

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class Pictures(Protocol):
    """How a frame becomes the graph's pictures and its pictures become a frame: one block of memory each way.

    A block is a C-contiguous array that holds all `inputs` or all `outputs`, one after the other.
    """

    inputs: tuple[Part, ...]
    outputs: tuple[Part, ...]

    def given(self, frame: Frame) -> Array:
        """The block with what the graph gets of this frame."""

    def wanted(self, out: Frame) -> Array:
        """The block that takes what the graph gives for this frame."""

    def finish(self, out: Frame) -> None:
        """Called when the graph has written into `wanted`."""


class YuvPictures:
    """The buffers of the frames are the blocks, their planes the graph's inputs and outputs as they stand."""

    def __init__(self, manifest: Manifest, width: int, height: int) -> None:
        self.inputs, self.outputs = (_parts(t, width, height) for t in (manifest.inputs, manifest.outputs))

    def given(self, frame: Frame) -> Array:
        return frame.buffer

    def wanted(self, out: Frame) -> Array:
        return out.buffer

    def finish(self, out: Frame) -> None:
        pass


class RgbPictures:
    """I420 to planar float RGB in 0..1 and back, in three library calls each way.

    Frames of the usual colour (BT.601, limited) take OpenCV's fast conversion; others one that is exact for
    their matrix and range.
    """

    def __init__(self, manifest: Manifest, width: int, height: int) -> None:
        self.inputs, self.outputs = (_parts(t, width, height) for t in (manifest.inputs, manifest.outputs))
        self._rgb = np.empty((height, width, 3), np.uint8)
        self._planes = np.empty((3, height, width), np.uint8)
        self._input = np.empty((1, 3, height, width), np.float32)
        self._output = np.empty_like(self._input)

    def given(self, frame: Frame) -> Array:
        if frame.color == Color():
            cv2.cvtColor(frame.buffer, cv2.COLOR_YUV2RGB_I420, dst=self._rgb)
        else:
            to_rgb(frame, self._rgb)
        cv2.split(self._rgb, list(self._planes))
        _scale(self._planes, 1 / 255, self._input, cv2.CV_32F)
        return self._input

    def wanted(self, out: Frame) -> Array:
        return self._output

    def finish(self, out: Frame) -> None:
        _scale(self._output, 255.0, self._planes, cv2.CV_8U)
        cv2.merge(list(self._planes), dst=self._rgb)
        if out.color == Color():
            cv2.cvtColor(self._rgb, cv2.COLOR_RGB2YUV_I420, dst=out.buffer)
        else:
            from_rgb(self._rgb, out)


def _parts(tensors: Sequence[Tensor], width: int, height: int) -> tuple[Part, ...]:
    parts: list[Part] = []
    for tensor in tensors:
        offset = parts[-1].offset + parts[-1].nbytes if parts else 0
        shape = resolve_shape(tensor.shape, width, height)
        parts.append(Part(tensor.name, shape, np.dtype(tensor.dtype), offset))
    return tuple(parts)


def _scale(source: Array, factor: float, target: Array, depth: int) -> None:
    """target = source * factor, rounded and clipped to the type of `target`, in one pass."""
    flat = source.reshape(-1, source.shape[-1])
    cv2.addWeighted(flat, factor, flat, 0.0, 0.0, dst=target.reshape(flat.shape), dtype=depth)


PICTURES: dict[Layout, type[YuvPictures] | type[RgbPictures]] = {
    Layout.YUV420: YuvPictures,
    Layout.RGB: RgbPictures,
}


@dataclass(slots=True)
class Times:
    """How long the last frame took, in ns: by the clock, on the calling thread's CPU, and on its helpers'."""

    upload_ns: int = 0  # from the frame to where the graph reads
    run_ns: int = 0  # in ONNX Runtime
    run_cpu_ns: int = 0
    workers_cpu_ns: int = 0  # of threads that took tiles; what ONNX Runtime's own pool takes is not known
    download_ns: int = 0  # from where the graph writes to the frame


class Fresh:
    """Which states the next frame takes at their initial value: at first all."""

    def __init__(self) -> None:
        self._pixels = self._scene = True

    def __call__(self, whole: bool) -> bool:
        """Whether those are that are of the `whole` frame, or the others."""
        return self._scene if whole else self._pixels

    def reset(self, scene: bool) -> None:
        """See `Bound.reset`."""
        self._pixels, self._scene = True, self._scene or scene

    def done(self) -> None:
        """A frame has passed: all states have a value of their own."""
        self._pixels = self._scene = False


class Bound(Protocol):
    """A session at work on frames of one size, with what it carries from frame to frame."""

    times: Times
    warm_up: int  # frames that it takes to get going: what happens once has happened after them

    def run(self, frame: Frame, out: Frame, strength: float) -> None:
        """Sharpens `frame` into `out` and carries the state on. Raises whatever ONNX Runtime raises; the state
        is of no use then."""

    def reset(self, scene: bool = True) -> None:
        """The next frame starts from the initial state; that of the whole frame stays without `scene`."""

    def close(self) -> None:
        """Frees what it holds. May be called twice."""


class HostBinding:
    """Bound by pointer to the memory of each frame."""

    warm_up = 2  # the second takes back the state that the first gave

    def __init__(self, session: ort.InferenceSession, manifest: Manifest, width: int, height: int) -> None:
        self.times = Times()
        self._session, self._binding = session, session.io_binding()
        self._pictures: Pictures = PICTURES[manifest.layout](manifest, width, height)
        self._states = States(manifest.state, width, height)
        self._strength = np.array(1.0, np.float32) if manifest.strength_input else None
        if has_core(session):
            self._core = whole_cells(0, 0, height, width)
            bind_input(self._binding, CORE, self._core)

    def run(self, frame: Frame, out: Frame, strength: float) -> None:
        start = time.perf_counter_ns()
        binding, pictures = self._binding, self._pictures
        given, wanted = pictures.given(frame).ctypes.data, pictures.wanted(out).ctypes.data
        for part in pictures.inputs:
            binding.bind_input(part.name, "cpu", 0, part.dtype.type, part.shape, given + part.offset)
        for part in pictures.outputs:
            binding.bind_output(part.name, "cpu", 0, part.dtype.type, part.shape, wanted + part.offset)
        if self._strength is not None:
            self._strength[()] = strength
            bind_input(binding, "strength", self._strength)
        self._states.bind(binding, {part.name: given + part.offset for part in pictures.inputs})
        bound, cpu = time.perf_counter_ns(), time.thread_time_ns()
        self._session.run_with_iobinding(binding)
        done, cpu = time.perf_counter_ns(), time.thread_time_ns() - cpu
        self._states.swap()
        pictures.finish(out)
        times = self.times
        times.upload_ns, times.run_ns, times.run_cpu_ns = bound - start, done - bound, cpu
        times.download_ns = time.perf_counter_ns() - done

    def reset(self, scene: bool = True) -> None:
        self._states.reset(scene)

    def close(self) -> None:
        pass


class States:
    """The tensors that a graph takes back with the next frame: two buffers each, in turns.

    After a reset the graph reads a third one that holds the initial value and is never written, or the input
    that the state starts as.
    """

    def __init__(self, states: Sequence[State], width: int, height: int) -> None:
        self._states = states
        self._initial: list[Array | str] = []
        self._buffers: list[tuple[Array, Array]] = []
        self._turn = 0
        self._fresh = Fresh()
        for state in states:
            shape = resolve_shape(state.shape, width, height)
            start = state.initial
            self._initial.append(start if isinstance(start, str) else np.full(shape, start, state.dtype))
            self._buffers.append((np.empty(shape, state.dtype), np.empty(shape, state.dtype)))

    def bind(self, binding: Any, inputs: Mapping[str, int]) -> None:
        """`inputs` are the addresses of this frame's, by name: what a fresh state may start as."""
        for state, initial, buffers in zip(self._states, self._initial, self._buffers, strict=True):
            last, following = buffers[self._turn], buffers[1 - self._turn]
            if not self._fresh(state.whole):
                bind_input(binding, state.input, last)
            elif isinstance(initial, str):
                address = inputs[initial]
                binding.bind_input(state.input, "cpu", 0, last.dtype.type, last.shape, address)
            else:
                bind_input(binding, state.input, initial)
            bind_output(binding, state.output, following)

    def swap(self) -> None:
        """What was written becomes what is read."""
        self._turn = 1 - self._turn
        self._fresh.done()

    def reset(self, scene: bool) -> None:
        self._fresh.reset(scene)


def pad(frame: Frame, padded: Frame) -> None:
    """Copies `frame` into the top left of the larger `padded` and repeats its last column and row."""
    padded.copy_facts(frame)
    for plane, target in zip(frame.planes, padded.planes, strict=True):
        bottom, right = (large - small for large, small in zip(target.shape, plane.shape, strict=True))
        cv2.copyMakeBorder(plane, 0, bottom, 0, right, cv2.BORDER_REPLICATE, dst=target)


def crop(padded: Frame, frame: Frame) -> None:
    """Copies the top left of `padded` into the smaller `frame`."""
    for plane, target in zip(padded.planes, frame.planes, strict=True):
        np.copyto(target, plane[: target.shape[0], : target.shape[1]])
