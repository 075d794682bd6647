"""What room `speed` sets side by side: everything that makes a picture sharper, as a call for one I420 frame.

A `Contender` says what it is; `open` makes it ready for frames of one size on a number of threads, as a
`Runner`. Networks run in the product's engine. All that is not a network works on luma alone where that is
possible, and is spared every copy that a program around it would have to make: the kindest terms.
"""

from __future__ import annotations

import fnmatch
import importlib
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import av
import cv2
import numpy as np
import onnx
import onnxruntime as ort

from benchmarks.float_twin import float_twin
from benchmarks.qdq import qdq_form
from sharpcam.engine import Engine
from sharpcam.errors import MediaError, ModelError
from sharpcam.frame import Frame
from sharpcam.geometry import to_video_frame
from sharpcam.manifest import Layout, resolve_shape
from sharpcam.models import Model, find_models
from sharpcam.runtime import explained, session_options

QUANTISED = ("uint8", "int8")
UNSHARP = (1.5, 1.0)  # sigma and amount of the unsharp masks
OBS_SHARPNESS = 0.08  # the filter's default
Size = tuple[int, int]


class Runner(Protocol):
    """Ready for frames of one size."""

    @property
    def inference_ms(self) -> float | None:
        """Of the last call, where that is a network's."""

    def __call__(self) -> None:
        """Sharpens the next frame."""

    def close(self) -> None: ...


@dataclass(frozen=True)
class Contender:
    """`group` is where it stands in tables, `precision` that of its arithmetic, `deblurs` whether it is a
    published deblurring network; `macs_per_pixel` is None for filters."""

    name: str
    title: str
    group: str
    open: Callable[[Sequence[Frame], int], Runner]
    precision: str = ""
    macs_per_pixel: float | None = None
    parameters: int | None = None
    deblurs: bool = False
    note: str = ""


GROUPS = ("SharpCam", "the same networks in float32", "the same network in OpenVINO", "published students",
          "published networks", "filters")  # fmt: skip


class Frames:
    """Frames in turns, and one that results go into."""

    def __init__(self, frames: Sequence[Frame]) -> None:
        self.size = frames[0].size
        self.out = Frame(*self.size)
        self._frames, self._number = frames, 0

    def next(self) -> Frame:
        frame = self._frames[self._number % len(self._frames)]
        frame.sequence = self._number
        frame.captured_ns = self._number * 33_000_000
        self._number += 1
        return frame


# -- networks ----------------------------------------------------------------------------------------------


class InEngine:
    """A model in the product's engine."""

    def __init__(self, model: Model, frames: Sequence[Frame], threads: int) -> None:
        self._frames = Frames(frames)
        self._engine = Engine.load(model, self._frames.size, "cpu", threads)
        self.inference_ms: float | None = None

    def __call__(self) -> None:
        self._engine.process(self._frames.next(), self._frames.out)
        self.inference_ms = self._engine.run_ns / 1e6

    def close(self) -> None:
        self._engine.close()


class FloatTwin:
    """A yuv420 model in float32, planes converted outside: one pass over each, in and out."""

    def __init__(self, model: Model, frames: Sequence[Frame], threads: int) -> None:
        self._frames = Frames(frames)
        graph = twin_of(model).SerializeToString()
        with explained(f'model "{model.name}" in float32 cannot be loaded'):
            self._session = ort.InferenceSession(
                graph, session_options(threads), providers=["CPUExecutionProvider"]
            )
        self._planes = Planes(model, self._frames.size, np.float32)
        self._binding: Any = self._session.io_binding()
        self.inference_ms: float | None = None

    def __call__(self) -> None:
        self._planes.take(self._frames.next(), self._infer)
        self._infer()
        self._planes.give(self._frames.out)

    def _infer(self) -> None:
        for name, array in self._planes.inputs.items():
            bind(self._binding.bind_input, name, array)
        for name, array in self._planes.outputs.items():
            bind(self._binding.bind_output, name, array)
        start = time.perf_counter_ns()
        self._session.run_with_iobinding(self._binding)
        self.inference_ms = (time.perf_counter_ns() - start) / 1e6

    def close(self) -> None:
        del self._session, self._binding


class Planes:
    """The inputs and outputs of a rewritten graph, and the conversions between them and I420 frames.

    Where the graph wants larger sides than the frame has, what lies outside stays black.
    """

    def __init__(self, model: Model, size: Size, dtype: type[np.uint8] | type[np.float32]) -> None:
        manifest = model.manifest
        self._size = size
        width, height = (-(-side // manifest.size_multiple) * manifest.size_multiple for side in size)
        made = {t.name: np.zeros(resolve_shape(t.shape, width, height), dtype) for t in manifest.inputs}
        self.inputs: dict[str, Any] = dict(made)
        self.outputs: dict[str, Any] = {
            t.name: np.zeros(resolve_shape(t.shape, width, height), dtype) for t in manifest.outputs
        }
        if manifest.strength_input and dtype is np.uint8:  # a twin has none
            self.inputs["strength"] = np.array(1, np.float32)
        self._states = manifest.state
        # a twin's states are in grey levels, not in codes: one that begins as a number begins as nothing added
        self._codes = dtype is np.uint8
        for state in manifest.state:
            shape = resolve_shape(state.shape, width, height)
            own = np.dtype(state.dtype) if self._codes else np.dtype(dtype)
            self.inputs[state.input], self.outputs[state.output] = (np.zeros(shape, own) for _ in range(2))
        self._fresh = True

    def take(self, frame: Frame, infer: Callable[[], None]) -> None:
        """The frame's planes as inputs, and the last outputs as the state; what the first frame as a whole tells
        is known when `infer` has run."""
        for name, plane in (("y", frame.y), ("uv", frame.uv)):
            np.copyto(self.inputs[name][..., : plane.shape[2], : plane.shape[3]], plane)
        carried = self._states
        if self._fresh:
            self._fresh, carried = False, tuple(state for state in self._states if state.whole)
            for state in self._states:
                number = state.initial if self._codes else 0
                start = self.inputs[state.initial] if isinstance(state.initial, str) else number
                self.inputs[state.input][...] = start
            if carried:
                infer()
        for state in carried:
            given, taken = self.outputs[state.output], self.inputs[state.input]
            self.inputs[state.input], self.outputs[state.output] = given, taken

    def give(self, out: Frame) -> None:
        """The outputs, rounded and clipped, as the planes of `out`."""
        for name, planes in (("y_out", out.y), ("uv_out", out.uv)):
            for source, target in zip(self.outputs[name][0], planes[0], strict=True):
                # grey levels are not negative, so that taking their absolute value changes nothing
                cv2.convertScaleAbs(source[: target.shape[0], : target.shape[1]], dst=target)


def bind(how: Any, name: str, array: Any) -> None:
    how(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)


def twin_of(model: Model) -> onnx.ModelProto:
    model.read(model.manifest)  # holds the file to its checksum
    return float_twin(model.folder / model.manifest.file, "yuv420")


class InOpenVINO:
    """A yuv420 model in OpenVINO on the CPU: its uint8 graph in QDQ form, or its float32 twin."""

    def __init__(self, model: Model, frames: Sequence[Frame], threads: int, precision: str) -> None:
        try:
            openvino: Any = importlib.import_module("openvino")  # untyped, and not always there
        except ModuleNotFoundError as error:
            raise ModelError("OpenVINO is not installed", "pip install '.[openvino]'") from error

        self._frames = Frames(frames)
        whole = precision == "uint8"
        graph = qdq_form(onnx.load_from_string(model.read(model.manifest))) if whole else twin_of(model)
        self._planes = Planes(model, self._frames.size, np.uint8 if whole else np.float32)
        settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
        if precision == "float32":
            settings["INFERENCE_PRECISION_HINT"] = "f32"
        with explained(f'model "{model.name}" cannot be loaded by OpenVINO'):
            read = openvino.Core().read_model(graph.SerializeToString(), b"")
            read.reshape({name: list(array.shape) for name, array in self._planes.inputs.items()})
            self._request = openvino.compile_model(read, "CPU", settings).create_infer_request()
        self._tensor = openvino.Tensor
        self.inference_ms: float | None = None

    def __call__(self) -> None:
        self._planes.take(self._frames.next(), self._infer)
        self._infer()
        self._planes.give(self._frames.out)

    def _infer(self) -> None:
        for name, array in (self._planes.inputs | self._planes.outputs).items():
            self._request.set_tensor(name, self._tensor(array, shared_memory=True))
        start = time.perf_counter_ns()
        self._request.infer()
        self.inference_ms = (time.perf_counter_ns() - start) / 1e6

    def close(self) -> None:
        del self._request


# -- filters -----------------------------------------------------------------------------------------------


class LumaFilter:
    """A function on luma, chroma copied."""

    inference_ms = None

    def __init__(self, frames: Sequence[Frame], threads: int, apply: Callable[[Any, Any], object]) -> None:
        self._frames, self._apply = Frames(frames), apply

    def __call__(self) -> None:
        frame, out = self._frames.next(), self._frames.out
        self._apply(frame.y[0, 0], out.y[0, 0])
        np.copyto(out.uv, frame.uv)

    def close(self) -> None:
        pass


def unsharp_luma(source: Any, target: Any) -> None:
    sigma, amount = UNSHARP
    blurred = cv2.GaussianBlur(source, (0, 0), sigma)
    cv2.addWeighted(source, 1 + amount, blurred, -amount, 0, dst=target)


def obs_kernel(source: Any, target: Any) -> None:
    s = OBS_SHARPNESS
    kernel = np.full((3, 3), -s, np.float32)
    kernel[1, 1] = 1 + 8 * s
    cv2.filter2D(source, -1, kernel, dst=target, borderType=cv2.BORDER_REPLICATE)


class UnsharpBGR:
    """The unsharp mask as most programs have it: on BGR, with the conversions that this takes."""

    inference_ms = None

    def __init__(self, frames: Sequence[Frame], threads: int) -> None:
        self._frames = Frames(frames)

    def __call__(self) -> None:
        sigma, amount = UNSHARP
        bgr = cv2.cvtColor(self._frames.next().buffer, cv2.COLOR_YUV2BGR_I420)
        blurred = cv2.GaussianBlur(bgr, (0, 0), sigma)
        sharp = cv2.addWeighted(bgr, 1 + amount, blurred, -amount, 0)
        cv2.cvtColor(sharp, cv2.COLOR_BGR2YUV_I420, dst=self._frames.out.buffer)

    def close(self) -> None:
        pass


class InFFmpeg:
    """A filter of FFmpeg, on pictures that lie in its memory already and stay there."""

    inference_ms = None

    def __init__(self, frames: Sequence[Frame], threads: int, name: str, options: str) -> None:
        graph = av.filter.Graph()
        graph.threads = threads
        width, height = frames[0].size
        layout = av.VideoFormat("yuv420p", width, height)
        self._in = graph.add_buffer(width=width, height=height, format=layout, time_base=Fraction(1, 30))
        self._out = graph.add("buffersink")
        try:
            graph.link_nodes(self._in, graph.add(name, options), self._out).configure()
        except (av.FFmpegError, ValueError) as error:
            raise MediaError(f"FFmpeg here has no filter {name}={options}: {error}") from error
        self._graph = graph
        self._pictures = [to_video_frame(frame) for frame in frames]
        self._number = 0

    def __call__(self) -> None:
        picture = self._pictures[self._number % len(self._pictures)]
        picture.pts = self._number
        self._number += 1
        self._in.push(picture)
        self._out.pull()

    def close(self) -> None:
        self._pictures.clear()


# -- all of them -------------------------------------------------------------------------------------------


def filters() -> Iterator[Contender]:
    group = GROUPS[5]
    sigma, amount = UNSHARP
    yield Contender(
        "unsharp-luma", "OpenCV unsharp mask, luma", group, partial(LumaFilter, apply=unsharp_luma),
        note=f"sigma {sigma:g}, amount {amount:g}",
    )  # fmt: skip
    yield Contender("unsharp-bgr", "OpenCV unsharp mask, BGR", group, UnsharpBGR, note="with conversions")
    for name, options in (("unsharp", "7:7:1.0:5:5:0"), ("cas", "strength=0.6")):
        yield Contender(
            f"ffmpeg-{name}", f"FFmpeg {name}", group,
            partial(InFFmpeg, name=name, options=options), note=options,
        )  # fmt: skip
    yield Contender(
        "obs", "OBS sharpness kernel 3x3, luma", group, partial(LumaFilter, apply=obs_kernel),
        note="on the CPU; OBS itself runs it on the GPU",
    )  # fmt: skip


def tiers() -> Iterator[Contender]:
    """The installed models, the quantised ones in float32 too, and the default one in OpenVINO."""
    models, errors = find_models()
    if errors:
        raise errors[0]
    for model in models:
        manifest = model.manifest
        cost: dict[str, Any] = {"macs_per_pixel": manifest.macs_per_pixel, "parameters": manifest.parameters}
        yield Contender(
            model.name, f"`{model.name}` {manifest.version}", GROUPS[0],
            partial(InEngine, model), manifest.precision, **cost,
        )  # fmt: skip
        if manifest.layout is not Layout.YUV420 or manifest.precision not in QUANTISED:
            continue
        yield Contender(
            f"{model.name}-float32", f"`{model.name}` in float32", GROUPS[1],
            partial(FloatTwin, model), "float32", **cost, note="conversions outside",
        )  # fmt: skip
        for precision in ("uint8", "float32"):
            yield Contender(
                f"{model.name}-openvino-{precision}", f"`{model.name}` in OpenVINO", GROUPS[2],
                partial(InOpenVINO, model, precision=precision), precision, **cost,
            )  # fmt: skip


def peers(wanted: Sequence[str], folder: Path, say: Callable[[str], None]) -> Iterator[Contender]:
    """The published networks, exported into `folder`."""
    from benchmarks.peers import PEERS, export

    for name, peer in PEERS.items():
        if not chosen(name, wanted):
            continue
        say(f"exporting {peer.title}")
        model = export(name, folder)
        yield Contender(
            name, peer.title, GROUPS[3] if peer.student else GROUPS[4],
            partial(InEngine, model), "float32",
            model.manifest.macs_per_pixel, model.manifest.parameters, peer.deblurs,
        )  # fmt: skip


def chosen(name: str, patterns: Sequence[str]) -> bool:
    return not patterns or any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


@contextmanager
def all_contenders(patterns: Sequence[str], say: Callable[[str], None]) -> Iterator[list[Contender]]:
    """Those whose name fits one of `patterns` (all without one), in the order of tables."""
    with tempfile.TemporaryDirectory(prefix="sharpcam-benchmarks-") as folder:
        found = [c for c in (*tiers(), *filters()) if chosen(c.name, patterns)]
        try:
            found += peers(patterns, Path(folder), say)
        except ModuleNotFoundError as error:
            say(
                f"the published networks are left out: {error.name} is not installed (pip install '.[training]')"
            )
        yield sorted(found, key=lambda c: GROUPS.index(c.group))
