"""Frames and states as a graph's inputs and outputs: by pointer, so that nothing is copied on the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import cv2
import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from sharpcam.frame import Color, Frame
from sharpcam.geometry import from_rgb, to_rgb
from sharpcam.manifest import Layout, Manifest, State, resolve_shape

Array = NDArray[Any]


def bind_input(binding: Any, name: str, array: Array) -> None:
    """The graph's input `name` is the memory of `array`, C-contiguous, which must outlive the run."""
    binding.bind_input(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)


def bind_output(binding: Any, name: str, array: Array) -> None:
    binding.bind_output(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)


class Pictures(Protocol):
    """How a frame goes into a graph and the result comes out as a frame."""

    def bind(self, binding: Any, frame: Frame, out: Frame) -> dict[str, Array]:
        """Gives the inputs that were bound, by name."""

    def finish(self, out: Frame) -> None:
        """Called after the run."""


class YuvPictures:
    """The planes of the frames are the graph's inputs and outputs as they stand."""

    def __init__(self, manifest: Manifest, width: int, height: int) -> None:
        (self._y, self._uv), (self._y_out, self._uv_out) = (
            [tensor.name for tensor in tensors] for tensors in (manifest.inputs, manifest.outputs)
        )

    def bind(self, binding: Any, frame: Frame, out: Frame) -> dict[str, Array]:
        inputs = {self._y: frame.y, self._uv: frame.uv}
        for name, plane in inputs.items():
            bind_input(binding, name, plane)
        bind_output(binding, self._y_out, out.y)
        bind_output(binding, self._uv_out, out.uv)
        return inputs

    def finish(self, out: Frame) -> None:
        pass


class RgbPictures:
    """I420 to planar float RGB in 0..1 and back, in three library calls each way.

    Frames of the usual colour (BT.601, limited) take OpenCV's fast conversion; others one that is exact for
    their matrix and range.
    """

    def __init__(self, manifest: Manifest, width: int, height: int) -> None:
        self._names = manifest.inputs[0].name, manifest.outputs[0].name
        self._rgb = np.empty((height, width, 3), np.uint8)
        self._planes = np.empty((3, height, width), np.uint8)
        self._input = np.empty((1, 3, height, width), np.float32)
        self._output = np.empty_like(self._input)

    def bind(self, binding: Any, frame: Frame, out: Frame) -> dict[str, Array]:
        if frame.color == Color():
            cv2.cvtColor(frame.buffer, cv2.COLOR_YUV2RGB_I420, dst=self._rgb)
        else:
            to_rgb(frame, self._rgb)
        cv2.split(self._rgb, list(self._planes))
        _scale(self._planes, 1 / 255, self._input, cv2.CV_32F)
        bind_input(binding, self._names[0], self._input)
        bind_output(binding, self._names[1], self._output)
        return {self._names[0]: self._input}

    def finish(self, out: Frame) -> None:
        _scale(self._output, 255.0, self._planes, cv2.CV_8U)
        cv2.merge(list(self._planes), dst=self._rgb)
        if out.color == Color():
            cv2.cvtColor(self._rgb, cv2.COLOR_RGB2YUV_I420, dst=out.buffer)
        else:
            from_rgb(self._rgb, out)


def _scale(source: Array, factor: float, target: Array, depth: int) -> None:
    """target = source * factor, rounded and clipped to the type of `target`, in one pass."""
    flat = source.reshape(-1, source.shape[-1])
    cv2.addWeighted(flat, factor, flat, 0.0, 0.0, dst=target.reshape(flat.shape), dtype=depth)


PICTURES: dict[Layout, type[YuvPictures] | type[RgbPictures]] = {
    Layout.YUV420: YuvPictures,
    Layout.RGB: RgbPictures,
}


class States:
    """The tensors that a graph takes back with the next frame: two buffers each, in turns.

    After a reset the graph reads a third one that holds the initial value and is never written, or the input
    that the state starts as.
    """

    def __init__(self, states: Sequence[State], device: str, width: int, height: int) -> None:
        self._states = states
        self._initial: list[ort.OrtValue | str] = []
        self._buffers: list[tuple[ort.OrtValue, ort.OrtValue]] = []
        self._turn = 0
        self._fresh = True
        for state in states:
            shape = resolve_shape(state.shape, width, height)
            dtype = np.dtype(state.dtype)
            if isinstance(state.initial, str):
                self._initial.append(state.initial)
            else:
                initial = np.full(shape, state.initial, dtype)
                self._initial.append(ort.OrtValue.ortvalue_from_numpy(initial, device, 0))
            first, second = (
                ort.OrtValue.ortvalue_from_shape_and_type(shape, dtype.type, device, 0) for _ in range(2)
            )
            self._buffers.append((first, second))

    def __len__(self) -> int:
        return len(self._states)

    def bind(self, binding: Any, inputs: Mapping[str, Array]) -> None:
        """`inputs` are those of this frame, by name: what a fresh state may start as."""
        for state, initial, buffers in zip(self._states, self._initial, self._buffers, strict=True):
            if not self._fresh:
                binding.bind_ortvalue_input(state.input, buffers[self._turn])
            elif isinstance(initial, str):
                bind_input(binding, state.input, inputs[initial])
            else:
                binding.bind_ortvalue_input(state.input, initial)
            binding.bind_ortvalue_output(state.output, buffers[1 - self._turn])

    def swap(self) -> None:
        """What was written becomes what is read."""
        self._turn = 1 - self._turn
        self._fresh = False

    def reset(self) -> None:
        self._fresh = True


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
