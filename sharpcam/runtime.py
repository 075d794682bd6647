"""ONNX Runtime behind one door: sessions, execution providers that really run, and its noise turned off."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import onnxruntime as ort

from sharpcam import cuda
from sharpcam.errors import ConfigError, ModelError, ProviderUnavailable
from sharpcam.graphs import Port, complete
from sharpcam.manifest import Manifest, resolve_shape
from sharpcam.models import Model

log = logging.getLogger(__name__)

ort.disable_telemetry_events()  # Windows' own, which the environment variable (see __init__.py) says nothing to

# what ORT says on stderr is either repeated in the exception or of no use to a user
_SILENT = 4
SPIN_US = 50  # how long a worker of the pool waits awake for the next operation of a frame
# where in its sources a message of ONNX Runtime comes from: hundreds of letters, before what it has to say
_PLACE = re.compile(r"\S*/onnxruntime/\S+:\d+ [^)]*\)(?: const)?(?: \[with [^\]]*\])? ")
_ORT_TYPES = {"tensor(float)": "float32", "tensor(double)": "float64"}


class Provider(StrEnum):
    CPU = "cpu"
    CUDA = "cuda"
    TENSORRT = "tensorrt"  # NVIDIA's own compiler; only where asked for, because it takes a minute at first

    @property
    def label(self) -> str:
        return {"cpu": "CPU", "cuda": "CUDA", "tensorrt": "TensorRT"}[self]

    @property
    def variant(self) -> str:
        """Which file of a model it takes."""
        return "cpu" if self is Provider.CPU else "cuda"


_ORT_NAMES = {Provider.CUDA: cuda.ORT_NAME, Provider.TENSORRT: "TensorrtExecutionProvider"}


@dataclass(frozen=True, slots=True)
class Plan:
    """How a session is to work on a GPU: for frames of one size (width, height; padded), on one stream."""

    size: tuple[int, int]
    stream: int
    cuda_graphs: bool = True  # record the work and launch it as one
    nhwc: bool = False  # convolutions in NHWC


def usable_cores() -> int:
    """CPU cores that this process may run on."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def default_threads() -> int:
    """All usable cores but one, which is left to the camera, the virtual camera and the meeting."""
    return max(1, usable_cores() - 1)


def providers_to_try(asked: str) -> tuple[Provider, ...]:
    """What "auto" and the others mean, in order; raises ConfigError for anything else."""
    if asked == "auto":
        return (Provider.CUDA, Provider.CPU)
    if asked not in tuple(Provider):
        raise ConfigError(f'provider "{asked}" is not known', f"use auto, {', '.join(Provider)}")
    return (Provider(asked),)


def open_session(
    model: Model, provider: Provider, threads: int, plan: Plan | None = None
) -> tuple[ort.InferenceSession, Manifest]:
    """A session of `model` that runs on `provider`, and the provider's manifest with all its names.

    On the CPU it has `threads` threads, or one where frames go to it `in_tiles`. A GPU wants a `plan`.

    Raises ModelError; ProviderUnavailable when ORT would have run it somewhere else.
    """
    if plan is None:
        manifest = model.for_provider(provider.variant)
        session = _create(model, manifest, provider, threads)
        return session, complete(manifest, _ports(session.get_inputs()), _ports(session.get_outputs()))
    manifest = described(model, provider)
    session = _create(model, manifest, provider, 1, plan)
    if session.get_providers()[0] != _ORT_NAMES[provider]:
        raise ProviderUnavailable(
            f"{provider.label} did not start: ONNX Runtime does not say why",
            cuda.hint(cuda.facts().built_cuda),
        )
    return session, manifest


def described(model: Model, provider: Provider) -> Manifest:
    """The manifest of `model` for a GPU, with all its names.

    Raises ProviderUnavailable when the model cannot run on it, and why; ModelError.
    """
    obstacle = cuda.obstacle(cuda.facts())
    if obstacle is None and provider is Provider.TENSORRT:
        obstacle = cuda.tensorrt_obstacle()
    if obstacle is not None:
        raise ProviderUnavailable(f"{provider.label} is not available: {obstacle[0]}", obstacle[1])
    manifest = model.for_provider(provider.variant)
    if manifest.precision in ("uint8", "int8"):
        raise ProviderUnavailable(
            f'{provider.label} is not available: model "{model.name}" has no graph for a GPU, '
            f"and its {manifest.precision} graph runs on the CPU only",
            "export the model with --precision uint8 float16, or use --provider cpu",
        )
    return complete(manifest, *graph_ports(model.read(manifest), f'model "{model.name}" ({manifest.file})'))


def in_tiles(manifest: Manifest, provider: Provider, threads: int) -> bool:
    """Whether each thread takes a tile of the frame (`sharpcam.tiles`), and not a share of each operation."""
    return provider is Provider.CPU and threads > 1 and manifest.halo is not None


def _create(
    model: Model, manifest: Manifest, provider: Provider, threads: int, plan: Plan | None = None
) -> ort.InferenceSession:
    graph = model.read(manifest)
    providers: list[Any] = ["CPUExecutionProvider"]
    options = session_options(threads)
    if in_tiles(manifest, provider, threads):
        options.intra_op_num_threads = 1
    what = f'model "{model.name}" ({manifest.file}) cannot be loaded'
    if plan is not None:
        providers = [*gpu_providers(provider, plan, manifest), *providers]
        for name, side in fixed_sides(manifest, graph_ports(graph, what), plan.size).items():
            options.add_free_dimension_override_by_name(name, side)
    with explained(what):
        # without enable_fallback=0 ORT prints to stdout and makes another session when a provider fails
        return ort.InferenceSession(graph, options, providers=providers, enable_fallback=0)


def gpu_providers(
    provider: Provider, plan: Plan, manifest: Manifest
) -> list[tuple[str, dict[str, str | int]]]:
    """ONNX Runtime's names and options for `provider`, the preferred one first.

    Switches are bools: TensorRT takes "True" and "False" and no numbers.
    """
    shared: dict[str, str | int] = {"device_id": 0, "user_compute_stream": str(plan.stream)}
    names: list[tuple[str, dict[str, str | int]]] = []
    if provider is Provider.TENSORRT:
        kept: dict[str, str | int] = {}
        if cache := _engine_cache(manifest, plan.size):  # building an engine takes a minute
            kept = {
                "trt_engine_cache_enable": True,
                "trt_engine_cache_path": str(cache),
                "trt_timing_cache_enable": True,
                "trt_timing_cache_path": str(cache),
            }
        names = [
            (
                _ORT_NAMES[provider],
                shared | {"trt_fp16_enable": manifest.precision == "float16"} | kept,
            )
        ]
    graphs = plan.cuda_graphs and provider is Provider.CUDA  # a TensorRT engine is one launch already
    names.append(
        (
            cuda.ORT_NAME,
            shared
            | {
                "enable_cuda_graph": graphs,
                "arena_extend_strategy": "kSameAsRequested",  # the GPU is shared with the meeting
                # cuDNN 9 takes it for its slower heuristics; they are asked once, in the first run: sizes are fixed
                "cudnn_conv_algo_search": "EXHAUSTIVE",
                "prefer_nhwc": plan.nhwc,
            },
        )
    )
    return names


def fixed_sides(
    manifest: Manifest, ports: tuple[list[Port], list[Port]], size: tuple[int, int]
) -> dict[str, int]:
    """A number for each side that the graph leaves open, by its name there."""
    shapes = {t.name: t.shape for t in (*manifest.inputs, *manifest.outputs)}
    shapes |= {name: state.shape for state in manifest.state for name in (state.input, state.output)}
    return {
        side: number
        for port in (*ports[0], *ports[1])
        if port.name in shapes
        for side, number in zip(port.shape, resolve_shape(shapes[port.name], *size), strict=True)
        if isinstance(side, str)
    }


def _engine_cache(manifest: Manifest, size: tuple[int, int]) -> Path | None:
    """A folder for TensorRT's engine of this very file: an engine is only good for what it was built of.

    None where there can be none; then it is built at every start.
    """
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData/Local")
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    what = f"{manifest.sha256[:16]}-{size[0]}x{size[1]}-onnxruntime-{ort.__version__}"
    folder = base / "sharpcam" / "tensorrt" / what
    try:
        folder.mkdir(parents=True, exist_ok=True)
        cause = "" if os.access(folder, os.W_OK) else "permission denied"
    except OSError as error:
        cause = error.strerror or str(error)
    if cause:
        log.warning("TensorRT's engine is not kept, every start takes a minute: %s: %s", folder, cause)
        return None
    return folder


def session_options(threads: int) -> ort.SessionOptions:
    """How the product runs a graph on the CPU. Raises ConfigError when `threads` is out of range."""
    if not 1 <= threads <= 256:
        raise ConfigError(
            f"{threads} threads is out of range (1 to 256)", "leave --threads out for a good choice"
        )
    ort.set_default_logger_severity(_SILENT)
    options = ort.SessionOptions()
    options.log_severity_level = _SILENT
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    # a pool that spins between frames burns the cores that the meeting needs; but to sleep and be woken between
    # the fifty operations of one frame takes longer than to wait for the next
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if threads > 1 else "0")
    options.add_session_config_entry("session.intra_op.spin_duration_us", str(SPIN_US))
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    return options


def graph_ports(graph: bytes, what: str) -> tuple[list[Port], list[Port]]:
    """Inputs and outputs of a graph as it declares them; raises ModelError when it is not a graph."""
    options = session_options(1)
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    with explained(f"{what} cannot be loaded"):
        session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    return _ports(session.get_inputs()), _ports(session.get_outputs())


def _ports(arguments: list[Any]) -> list[Port]:
    return [
        Port(a.name, _ORT_TYPES.get(a.type, a.type.removeprefix("tensor(").removesuffix(")")), tuple(a.shape))
        for a in arguments
    ]


@contextlib.contextmanager
def explained(what: str) -> Iterator[None]:
    """Turns whatever ONNX Runtime raises (its classes share only Exception) into a ModelError of one line."""
    try:
        yield
    except Exception as error:
        text = _PLACE.sub("", " ".join(str(error).split()))
        raise ModelError(
            f"{what}: {text[:300]}", "the graph does not run here; `sharpcam models` lists others"
        ) from error
