"""A model at work on a GPU: one copy up, one down, and nothing else moves.

All that the graph reads and writes lies at fixed addresses of the device, bound once, so that ONNX Runtime can
record its work as a CUDA graph and replay it with a single launch. What is carried from frame to frame stays
there: there are two of each state, and two bindings that use them the other way round.

Nothing here is CUDA's own but `device` (`sharpcam.cuda.Device`): the tests run it on the CPU's memory.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime as ort

from sharpcam.binding import PICTURES, Array, Fresh, Part, Pictures, Times
from sharpcam.cuda import Device
from sharpcam.frame import Frame
from sharpcam.manifest import Manifest, State, resolve_shape

# the first one on a thread runs the graph twice (they allocate), records it and replays that; the others only replay
RUNS_TO_RECORD = 4
# where a tensor may begin: TensorRT asks for it, and kernels that read many bytes at once like it
_ALIGNMENT = 256


class DeviceBinding:
    """Bound to memory of a device, whose copies of the frames are uploaded and downloaded in one piece each.

    `stream` is the one that the session was told to work on; the binding owns it. `run` holds the device's lock.
    """

    def __init__(
        self,
        session: ort.InferenceSession,
        manifest: Manifest,
        device: Device,
        stream: int,
        width: int,
        height: int,
    ) -> None:
        self.times = Times()
        self._device, self._stream = device, stream
        self._session: ort.InferenceSession | None = session
        self._pictures: Pictures = PICTURES[manifest.layout](manifest, width, height)
        self._input = _Block(device, self._pictures.inputs)
        self._output = _Block(device, self._pictures.outputs)
        self._states = [_DeviceState(device, state, width, height) for state in manifest.state]
        self._strength = 1.0
        self._strength_there = device_value(device, (), np.dtype(np.float32))
        self._copy_up(self._strength_there, np.array(1.0, np.float32))
        self._turn = 0
        self._fresh = Fresh()
        turns = range(2 if self._states else 1)
        self._bindings = [self._bind(session, manifest, turn) for turn in turns]
        # every binding is a CUDA graph of its own; elsewhere the entry means nothing
        self._options = [_run_options(turn + 1) for turn in turns]
        self.warm_up = RUNS_TO_RECORD * len(turns)

    def _bind(self, session: ort.InferenceSession, manifest: Manifest, turn: int) -> Any:
        binding, kind = session.io_binding(), self._device.kind
        for part, address in self._input.parts():
            binding.bind_input(part.name, kind, 0, part.dtype.type, part.shape, address)
        for part, address in self._output.parts():
            binding.bind_output(part.name, kind, 0, part.dtype.type, part.shape, address)
        if manifest.strength_input:
            binding.bind_ortvalue_input("strength", self._strength_there)
        for state in self._states:
            binding.bind_ortvalue_input(state.input, state.values[turn])
            binding.bind_ortvalue_output(state.output, state.values[1 - turn])
        return binding

    def run(self, frame: Frame, out: Frame, strength: float) -> None:
        """See `sharpcam.binding.Bound`."""
        if self._session is None:
            raise RuntimeError("the binding is closed")
        with self._device.lock:
            start = time.perf_counter_ns()
            self._input.upload(self._pictures.given(frame), self._stream)
            if strength != self._strength:
                self._copy_up(self._strength_there, np.array(strength, np.float32))
                self._strength = strength
            self._start_states()
            uploaded, cpu = time.perf_counter_ns(), time.thread_time_ns()
            self._session.run_with_iobinding(self._bindings[self._turn], self._options[self._turn])
            done, cpu = time.perf_counter_ns(), time.thread_time_ns() - cpu
            self._output.download(self._pictures.wanted(out), self._stream)
        self._turn = (self._turn + 1) % len(self._bindings)
        self._fresh.done()
        self._pictures.finish(out)
        times = self.times
        times.upload_ns, times.run_ns, times.run_cpu_ns = uploaded - start, done - uploaded, cpu
        times.download_ns = time.perf_counter_ns() - done

    def _start_states(self) -> None:
        for state in self._states:
            if not self._fresh(state.whole):
                continue
            there = state.values[self._turn]
            if isinstance(state.initial, str):
                address, nbytes = self._input.address(state.initial), there.tensor_size_in_bytes()
                self._device.copy(there.data_ptr(), address, nbytes, self._stream)
            else:
                self._copy_up(there, state.initial)

    def _copy_up(self, to: ort.OrtValue, source: Array) -> None:
        self._device.upload(to.data_ptr(), source.ctypes.data, source.nbytes, self._stream)

    def reset(self, scene: bool = True) -> None:
        """See `sharpcam.binding.Bound`."""
        self._fresh.reset(scene)

    def close(self) -> None:
        """Frees the session, the memory and the stream, if the device is there. May be called twice."""
        if self._session is None:
            return
        with self._device.lock:
            there = self._device.answers(self._stream)
            if not there:
                self.keep()
            self._session = None
            del self._bindings, self._input, self._output, self._states, self._strength_there
            if there:
                self._device.close_stream(self._stream)

    def keep(self) -> None:
        """Sees to it that what is held now is never freed.

        ONNX Runtime throws in the destructor of its CUDA graphs when the driver refuses, as it does after the
        loss of the device, and that would end the process.
        """
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(dict(vars(self))))


class _Block:
    """A block of pictures on the device, as the host has it but for where its parts begin."""

    def __init__(self, device: Device, parts: Sequence[Part]) -> None:
        self._device, self._parts = device, parts
        self._offsets: list[int] = []
        end = 0
        for part in parts:
            self._offsets.append(-(-end // _ALIGNMENT) * _ALIGNMENT)
            end = self._offsets[-1] + part.nbytes
        self._memory = device_value(device, (end,), np.dtype(np.uint8))
        # in one piece wherever the parts begin at the same places, as they do in all usual sizes of frames
        self._pieces = [
            (part.offset, there, part.nbytes) for part, there in zip(parts, self._offsets, strict=True)
        ]
        if all(here == there for here, there, _ in self._pieces):
            self._pieces = [(0, 0, end)]

    def parts(self) -> list[tuple[Part, int]]:
        """Every part, and its address on the device."""
        start = self._memory.data_ptr()
        return [(part, start + offset) for part, offset in zip(self._parts, self._offsets, strict=True)]

    def address(self, name: str) -> int:
        return next(address for part, address in self.parts() if part.name == name)

    def upload(self, block: Array, stream: int) -> None:
        here, there = block.ctypes.data, self._memory.data_ptr()
        for offset, offset_there, nbytes in self._pieces:
            self._device.upload(there + offset_there, here + offset, nbytes, stream)

    def download(self, block: Array, stream: int) -> None:
        here, there = block.ctypes.data, self._memory.data_ptr()
        for offset, offset_there, nbytes in self._pieces:
            self._device.download(here + offset, there + offset_there, nbytes, stream)


class _DeviceState:
    """Two buffers of a state on the device, and what it begins as: an array, or an input's name."""

    def __init__(self, device: Device, state: State, width: int, height: int) -> None:
        shape, dtype = resolve_shape(state.shape, width, height), np.dtype(state.dtype)
        self.input, self.output, self.whole = state.input, state.output, state.whole
        self.values = [device_value(device, shape, dtype) for _ in range(2)]
        self.initial = (
            state.initial if isinstance(state.initial, str) else np.full(shape, state.initial, dtype)
        )


def device_value(device: Device, shape: tuple[int, ...], dtype: np.dtype[Any]) -> ort.OrtValue:
    return ort.OrtValue.ortvalue_from_shape_and_type(shape, dtype.type, device.kind, 0)


def _run_options(graph: int) -> ort.RunOptions:
    options = ort.RunOptions()
    options.add_run_config_entry("gpu_graph_id", str(graph))
    return options
