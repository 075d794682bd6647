"""ONNX Runtime behind one door: sessions, execution providers that really run, and its noise turned off."""

from __future__ import annotations

import contextlib
import ctypes
import io
import logging
import os
import sys
from collections.abc import Iterator
from enum import StrEnum
from functools import cache
from typing import Any

import onnxruntime as ort

from sharpcam.errors import ConfigError, ModelError, ProviderUnavailable
from sharpcam.graphs import Port, complete
from sharpcam.manifest import Manifest
from sharpcam.models import Model

log = logging.getLogger(__name__)

CUDA_HINT = (
    "install the NVIDIA driver for CUDA 13 (580 or newer) and `pip install 'onnxruntime-gpu[cuda,cudnn]'`, "
    "or use --provider cpu"
)
# what ORT says on stderr is either repeated in the exception or of no use to a user
_SILENT = 4
SPIN_US = 50  # how long a worker of the pool waits awake for the next operation of a frame
_ORT_TYPES = {"tensor(float)": "float32", "tensor(float16)": "float16"}


class Provider(StrEnum):
    CPU = "cpu"
    CUDA = "cuda"


def usable_cores() -> int:
    """CPU cores that this process may run on."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def default_threads() -> int:
    """All usable cores but one, which is left to the camera, the virtual camera and the meeting."""
    return max(1, usable_cores() - 1)


def providers_to_try(asked: str) -> tuple[Provider, ...]:
    """What "auto", "cuda" and "cpu" mean, in order; raises ConfigError for anything else."""
    if asked == "auto":
        return (Provider.CUDA, Provider.CPU)
    if asked not in tuple(Provider):
        raise ConfigError(f'provider "{asked}" is not known', "use auto, cuda or cpu")
    return (Provider(asked),)


def open_session(model: Model, provider: Provider, threads: int) -> tuple[ort.InferenceSession, Manifest]:
    """A session of `model` that runs on `provider`, and the provider's manifest with all its names.

    On the CPU it has `threads` threads, or one where frames go to it `in_tiles`.

    Raises ModelError; ProviderUnavailable when ORT would have run it somewhere else.
    """
    if provider is Provider.CUDA and (obstacle := _cuda_obstacle(model)):
        raise ProviderUnavailable(f"CUDA is not available: {obstacle}", CUDA_HINT)
    manifest = model.for_provider(provider)
    session = _create(model, manifest, provider, threads)
    if provider is Provider.CUDA and session.get_providers()[0] != "CUDAExecutionProvider":
        cause = preload_cuda() or "its libraries did not load or the GPU is not supported"
        raise ProviderUnavailable(f"CUDA did not start: {cause}", CUDA_HINT)
    return session, complete(manifest, _ports(session.get_inputs()), _ports(session.get_outputs()))


def _cuda_obstacle(model: Model) -> str | None:
    """Why CUDA cannot be tried for this model, None when it can."""
    if not nvidia_driver():
        return "no NVIDIA driver with a GPU answers"
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        return "this build of ONNX Runtime has no CUDA"
    if (precision := model.for_provider(Provider.CUDA).precision) in ("uint8", "int8"):
        return f'model "{model.name}" has no graph for CUDA, and its {precision} graph runs on the CPU only'
    return None


def in_tiles(manifest: Manifest, provider: Provider, threads: int) -> bool:
    """Whether each thread takes a tile of the frame (`sharpcam.tiles`), and not a share of each operation."""
    return provider is Provider.CPU and threads > 1 and manifest.halo is not None


def _create(model: Model, manifest: Manifest, provider: Provider, threads: int) -> ort.InferenceSession:
    graph = model.read(manifest)
    providers: list[Any] = ["CPUExecutionProvider"]
    if provider is Provider.CUDA:
        if problem := preload_cuda():
            log.debug("cuda libraries: %s", problem)
        providers.insert(0, ("CUDAExecutionProvider", {"device_id": 0}))
    options = _options(threads)
    if in_tiles(manifest, provider, threads):
        options.intra_op_num_threads = 1
    with explained(f'model "{model.name}" ({manifest.file}) cannot be loaded'):
        # without enable_fallback=0 ORT prints to stdout and makes another session when a provider fails
        return ort.InferenceSession(graph, options, providers=providers, enable_fallback=0)


def _options(threads: int) -> ort.SessionOptions:
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
    options = _options(1)
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
        text = " ".join(str(error).split())
        raise ModelError(
            f"{what}: {text[:300]}", "the graph does not run here; `sharpcam models` lists others"
        ) from error


@cache
def nvidia_driver() -> bool:
    """Whether an NVIDIA driver is installed and has at least one GPU."""
    try:
        name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
        driver = ctypes.CDLL(name)
        count = ctypes.c_int(0)
        return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0
    except (OSError, AttributeError):
        return False


@cache
def preload_cuda() -> str:
    """Loads CUDA and cuDNN from pip's packages where they are; gives what went wrong, empty when nothing."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):  # it prints what it could not load
            ort.preload_dlls()
    except Exception as error:
        return str(error)
    return next((line.strip() for line in said.getvalue().splitlines() if line.startswith("Failed")), "")
