"""A frame in tiles, one a thread: several CPU cores at work without a pool inside the graph.

A student is some fifty operations of a fraction of a millisecond. A pool of threads that shares out each of them
wakes and waits fifty times a frame. Here every thread runs the whole graph on its own tile and they meet once.

Around its tile a thread reads a `halo` as wide as the graph looks (`halo` in the manifest), and what the graph
makes of the halo is thrown away, so that the frame comes out as if it had run whole: a uint8 graph's bit for bit.
A state of the whole frame is the mean of what the tiles say: of what they give alone where the graph has the optional
input `core`, so that it comes out as of the whole frame; elsewhere halos count, too.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from itertools import pairwise, product
from typing import NamedTuple

import numpy as np
import onnxruntime as ort

from sharpcam.binding import (
    CELL,
    CORE,
    Array,
    Fresh,
    Times,
    bind_input,
    bind_output,
    has_core,
    whole_cells,
)
from sharpcam.frame import Frame
from sharpcam.manifest import Manifest, Shape, State, resolve_shape

# halos are computed twice: with more than this many times the frame's pixels, more tiles cost the machine more
# than they give
MAX_WORK = 1.5


class Span(NamedTuple):
    """A tile along one side of the frame, in pixels: gives start..stop, reads low..high."""

    low: int
    start: int
    stop: int
    high: int


def cut(side: int, parts: int, halo: int, step: int) -> list[Span]:
    """Cuts `side` into tiles that read about as much each; they begin, to give and to read, at multiples of `step`.
    The tiles at the ends have one halo only, so they give more than those between.

    Needs `parts` times a `step` between the outermost halos.
    """
    inner = (halo + part * (side - 2 * halo) / parts for part in range(1, parts))
    borders = [0, *(int(border / step + 0.5) * step for border in inner), side]
    return [Span(max(0, (a - halo) // step * step), a, b, min(side, b + halo)) for a, b in pairwise(borders)]


def grid(width: int, height: int, count: int, halo: int, step: int) -> tuple[list[Span], list[Span]]:
    """Columns and rows of at most `count` tiles, such that the largest tile is as small as can be.

    That cuts the longer side first. There are fewer than `count` where more would be mostly halo, or no gain.
    """

    def sides(side: int) -> list[list[Span]]:
        return [
            cut(side, n, halo, step) for n in range(1, count + 1) if n == 1 or side - 2 * halo >= n * step
        ]

    def pixels(spans: list[Span]) -> list[int]:
        return [span.high - span.low for span in spans]

    fitting = (
        (columns, rows)
        for columns, rows in product(sides(width), sides(height))
        if len(columns) * len(rows) <= count
        and sum(pixels(columns)) * sum(pixels(rows)) <= MAX_WORK * width * height
    )
    # of equals the first, which has the fewest tiles
    return min(fitting, key=lambda g: max(pixels(g[0])) * max(pixels(g[1])))


class Tiles:
    """A yuv420 model with a halo, at work on frames of one size, tile by tile: binding and states in one.

    `columns` and `rows` are of `grid`; `session` has one thread of its own. `run` is for one thread at a time,
    which takes a tile itself.
    """

    warm_up = 2  # see `sharpcam.binding.Bound`

    def __init__(
        self, session: ort.InferenceSession, manifest: Manifest, columns: list[Span], rows: list[Span]
    ) -> None:
        width, height = columns[-1].stop, rows[-1].stop
        self.times = Times()
        self._strength = np.array(1.0, np.float32)
        self._tiles = [_Tile(session, manifest, x, y, self._strength) for y, x in product(rows, columns)]
        self._counted = [tile.counted for tile in self._tiles]
        self._workers = ThreadPoolExecutor(max(1, len(self._tiles) - 1), thread_name_prefix="sharpcam-tile")
        self._states = manifest.state
        shapes = {s.input: resolve_shape(s.shape, width, height) for s in self._states}
        # whole, and two of each in turns: a tile reads what its neighbours left of the last frame
        self._last, self._next = (
            {s.input: np.empty(shapes[s.input], s.dtype) for s in self._states} for _ in range(2)
        )
        self._initial: dict[str, Array | str] = {
            s.input: s.initial if isinstance(s.initial, str) else np.full(shapes[s.input], s.initial, s.dtype)
            for s in self._states
        }
        self._fresh = Fresh()

    @classmethod
    def over(
        cls, session: ort.InferenceSession, manifest: Manifest, width: int, height: int, threads: int
    ) -> Tiles | None:
        """A tile for each of `threads`, or fewer (see `grid`); None where one would be the whole frame."""
        assert manifest.halo is not None
        step = math.lcm(manifest.size_multiple, CELL if has_core(session) else 2)
        columns, rows = grid(width, height, threads, manifest.halo, step)
        return cls(session, manifest, columns, rows) if len(columns) * len(rows) > 1 else None

    def __len__(self) -> int:
        return len(self._tiles)

    def run(self, frame: Frame, out: Frame, strength: float) -> None:
        """See `Bound.run`. Raises when all tiles have come to rest, and not before."""
        start = time.perf_counter_ns()
        self._strength[()] = strength
        planes = {"y": frame.y, "uv": frame.uv}
        inputs = planes | {
            s.input: self._start(s, planes) if self._fresh(s.whole) else self._last[s.input]
            for s in self._states
        }
        outputs = {"y_out": out.y, "uv_out": out.uv}
        outputs |= {s.output: self._next[s.input] for s in self._states if not s.whole}
        mine, *others = self._tiles
        running: list[Future[int]] = []
        try:
            for tile in others:
                running.append(self._workers.submit(tile.run, inputs, outputs))
            own_ns = mine.run(inputs, outputs)
        finally:
            wait(running)  # whose frame it is may do with it as he likes from here on
        self.times.workers_cpu_ns = sum(future.result() for future in running)
        for state in self._states:
            if state.whole:
                said = [tile.made[state.output] for tile in self._tiles]
                mean = np.average(said, axis=0, weights=self._counted)
                self._next[state.input][...] = np.rint(mean) if state.dtype == "uint8" else mean
        self._last, self._next = self._next, self._last
        self._fresh.done()
        self.times.run_cpu_ns = own_ns
        self.times.run_ns = time.perf_counter_ns() - start

    def _start(self, state: State, planes: Mapping[str, Array]) -> Array:
        value = self._initial[state.input]
        return planes[value] if isinstance(value, str) else value

    def reset(self, scene: bool = True) -> None:
        """See `sharpcam.binding.Bound`."""
        self._fresh.reset(scene)

    def close(self) -> None:
        """Ends the workers."""
        self._workers.shutdown()


class _Tile:
    """Copies its part of the frame into memory of its own, runs the graph there, copies the core back."""

    def __init__(
        self, session: ort.InferenceSession, manifest: Manifest, x: Span, y: Span, strength: Array
    ) -> None:
        width, height = x.high - x.low, y.high - y.low
        given = [(t.name, t.shape, t.dtype) for t in manifest.inputs]
        given += [(s.input, s.shape, s.dtype) for s in manifest.state]
        made = [(t.name, t.shape, t.dtype) for t in manifest.outputs]
        made += [(s.output, s.shape, s.dtype) for s in manifest.state]
        self._run, self._binding = session.run_with_iobinding, session.io_binding()
        # name, its part of the whole, its copy here
        self._reads: list[tuple[str, Window, Array]] = []
        self._writes: list[tuple[str, Window, Array]] = []
        self.made: dict[str, Array] = {}  # all that it gives, halo included
        self.counted = width * height  # pixels that a state of the whole frame is of
        if has_core(session):
            self._core = whole_cells(y.start - y.low, x.start - x.low, y.stop - y.low, x.stop - x.low)
            self.counted = int(np.prod(self._core[2:] - self._core[:2]))
            if self.counted:  # a last tile may be less than a cell, and a mean of nothing is not a number
                bind_input(self._binding, CORE, self._core)
        for name, shape, dtype in given:
            memory = np.empty(resolve_shape(shape, width, height), dtype)
            bind_input(self._binding, name, memory)
            self._reads.append((name, _window(shape, x.low, x.high, y.low, y.high), memory))
        if manifest.strength_input:
            bind_input(self._binding, "strength", strength)
        for name, shape, dtype in made:
            memory = np.empty(resolve_shape(shape, width, height), dtype)
            bind_output(self._binding, name, memory)
            self.made[name] = memory
            core = _window(shape, x.start - x.low, x.stop - x.low, y.start - y.low, y.stop - y.low)
            self._writes.append((name, _window(shape, x.start, x.stop, y.start, y.stop), memory[core]))

    def run(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> int:
        """Takes and gives whole planes and states, by name; returns the CPU time in ns."""
        start = time.thread_time_ns()
        for name, window, memory in self._reads:
            np.copyto(memory, inputs[name][window])
        self._run(self._binding)
        for name, window, memory in self._writes:
            if name in outputs:
                np.copyto(outputs[name][window], memory)
        return time.thread_time_ns() - start


Window = tuple[slice, ...]


def _window(shape: Shape, left: int, right: int, top: int, bottom: int) -> Window:
    """The part of a tensor of a manifest's `shape` that belongs to this rectangle of the frame, in pixels."""
    ends = {"W": (left, right), "H": (top, bottom)}

    def part(side: int | str) -> slice:
        if isinstance(side, int):
            return slice(None)
        divisor = int(side[2:] or 1)
        return slice(*(end // divisor for end in ends[side[0]]))

    return tuple(part(side) for side in shape)
