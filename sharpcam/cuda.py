"""NVIDIA GPUs: what is there, why ONNX Runtime would not run on it, and memory through which frames reach it.

The driver is called directly (CUDA's driver API, by ctypes): it is there wherever a GPU can be used, whatever
the installed ONNX Runtime brings along. Memory is of the device's primary context, which is the one that ONNX
Runtime works in.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import importlib.util
import io
import re
import sys
import threading
import weakref
from ctypes import byref, c_char_p, c_int, c_size_t, c_uint, c_uint64, c_void_p
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharpcam.errors import ProviderUnavailable

ORT_NAME = "CUDAExecutionProvider"
# by CUDA's major version: the first driver that runs it, and the oldest GPUs that it is built for
_DRIVERS = {12: "525", 13: "580"}
_OLDEST = {12: (5, 0), 13: (7, 5)}
_GENERATIONS = {(5, 0): "Maxwell", (7, 5): "Turing"}
_CAPABILITY = (75, 76)  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR
_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: does not wait for the default stream, nor lets it wait
_PORTABLE = 1  # CU_MEMHOSTALLOC_PORTABLE


# What is there


@dataclass(frozen=True, slots=True)
class Facts:
    """What decides whether ONNX Runtime can use a GPU here."""

    gpu: str = ""  # name of the first one; empty: no driver answers, or it has none
    capability: tuple[int, int] = (0, 0)  # compute capability, such as (8, 9)
    driver: str = ""  # its version, where the system tells
    driver_cuda: tuple[int, int] = (0, 0)  # the newest CUDA that the driver runs
    built_cuda: tuple[int, int] | None = None  # that ONNX Runtime was built for; None: it has no CUDA
    missing: tuple[str, ...] = ()  # libraries of CUDA and cuDNN that do not load


def obstacle(facts: Facts) -> tuple[str, str] | None:
    """Why no model can run on CUDA, and the way out; None when nothing speaks against it."""
    if not facts.gpu:
        return "no NVIDIA driver with a GPU answers", hint(facts.built_cuda)
    if facts.built_cuda is None:
        return (
            "this build of ONNX Runtime has no CUDA",
            "pip uninstall onnxruntime && pip install 'onnxruntime-gpu[cuda,cudnn]', or use --provider cpu",
        )
    major = facts.built_cuda[0]
    oldest = _OLDEST.get(major, (0, 0))
    if facts.capability < oldest:
        return (
            f"{facts.gpu} has compute capability {_dotted(facts.capability)}, and CUDA {major} needs "
            f"{_dotted(oldest)} ({_GENERATIONS.get(oldest, 'newer')} or later)",
            "use --provider cpu",
        )
    if facts.driver_cuda[0] < major:
        return (
            f"the NVIDIA driver{f' {facts.driver}' if facts.driver else ''} runs CUDA up to "
            f"{_dotted(facts.driver_cuda)}, and this ONNX Runtime needs CUDA {major}",
            f"install NVIDIA driver {_DRIVERS.get(major, '')} or newer, or use --provider cpu",
        )
    if facts.missing:
        return (
            f"libraries of CUDA {major} or cuDNN do not load: {', '.join(facts.missing)}",
            "pip install 'onnxruntime-gpu[cuda,cudnn]', or use --provider cpu",
        )
    return None


def hint(built: tuple[int, int] | None) -> str:
    major = built[0] if built else 13
    return (
        f"install the NVIDIA driver for CUDA {major} ({_DRIVERS.get(major, '')} or newer) and "
        "`pip install 'onnxruntime-gpu[cuda,cudnn]'`, or use --provider cpu"
    )


@cache
def facts() -> Facts:
    """Of this machine. Loads CUDA's libraries where there is a GPU, else costs nothing."""
    built = _built_cuda()
    library = driver()
    if library is None:
        return Facts(built_cuda=built)
    return Facts(
        *_first_gpu(library),
        _driver_version(),
        _version_of(library),
        built,
        _missing(built[0]) if built else (),
    )


@cache
def driver() -> Any:
    """NVIDIA's driver library, initialised, when it has a GPU; None otherwise."""
    try:
        library = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        count = c_int(0)
        found = library.cuInit(0) == 0 and library.cuDeviceGetCount(byref(count)) == 0 and count.value > 0
    except (OSError, AttributeError):
        return None
    return library if found else None


def _first_gpu(library: Any) -> tuple[str, tuple[int, int]]:
    name, major, minor, device = ctypes.create_string_buffer(256), c_int(0), c_int(0), c_int(0)
    library.cuDeviceGet(byref(device), c_int(0))
    library.cuDeviceGetName(name, c_int(256), device)
    for value, attribute in zip((major, minor), _CAPABILITY, strict=True):
        library.cuDeviceGetAttribute(byref(value), c_int(attribute), device)
    return name.value.decode(errors="replace") or "a GPU", (major.value, minor.value)


def _version_of(library: Any) -> tuple[int, int]:
    version = c_int(0)
    library.cuDriverGetVersion(byref(version))  # 13000 is CUDA 13.0
    return version.value // 1000, version.value % 1000 // 10


def _driver_version() -> str:
    try:
        text = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8")
    except OSError:
        return ""
    told = re.search(r"\b\d{3}\.\d+(\.\d+)?", text)
    return told[0] if told else ""


def _built_cuda() -> tuple[int, int] | None:
    import onnxruntime as ort  # half of the time that a command takes to start: only where it is needed

    told = re.match(r"(\d+)\.(\d+)", getattr(ort, "cuda_version", "") or "")
    if told is None or ORT_NAME not in ort.get_available_providers():
        return None
    return int(told[1]), int(told[2])


def _missing(major: int) -> tuple[str, ...]:
    """Loads CUDA and cuDNN from pip's packages where they are, and gives the names of what was not found."""
    import onnxruntime as ort

    said = io.StringIO()
    with contextlib.redirect_stdout(said):  # it prints what it could not load
        ort.preload_dlls()
    missing = re.findall(r"^Failed to load (?:.*[/\\])?([^/\\\s:]+): ", said.getvalue(), re.M)
    # cuDNN counts as optional there, but without it there are no convolutions
    cudnn = "cudnn64_9.dll" if sys.platform == "win32" else "libcudnn.so.9"
    return tuple(dict.fromkeys([*missing, *([] if _loads(cudnn) else [cudnn])]))


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def tensorrt_obstacle() -> tuple[str, str] | None:
    """The same as `obstacle`, for TensorRT beyond CUDA."""
    for package in ("tensorrt_libs", "tensorrt"):  # pip's; importing it loads the libraries
        if importlib.util.find_spec(package):
            with contextlib.suppress(Exception):
                importlib.import_module(package)
    library = "nvinfer_10.dll" if sys.platform == "win32" else "libnvinfer.so.10"
    if _loads(library):
        return None
    return (
        f"TensorRT's library does not load: {library}",
        "pip install 'tensorrt-cu13>=10,<11', or use --provider cuda",
    )


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"


# Memory


class Device:
    """Memory of the first GPU, copies and streams. Addresses are integers.

    Who uses the GPU holds `lock`: while ONNX Runtime records a CUDA graph on one thread, most calls of any other
    thread would spoil it. Every method raises ProviderUnavailable when the driver refuses.
    """

    def __init__(self, library: Any, kind: str = "cuda") -> None:
        self.kind = kind  # what ONNX Runtime calls it
        self.lock = threading.RLock()
        self._library = library
        self._context = c_void_p()
        device = c_int()
        self._call("cuDeviceGet", byref(device), c_int(0))
        self._call("cuDevicePrimaryCtxRetain", byref(self._context), device)

    def _call(self, function: str, *arguments: Any) -> None:
        code = getattr(self._library, function)(*arguments)
        if code:
            name = c_char_p()
            self._library.cuGetErrorName(c_int(code), byref(name))
            what = (name.value or b"").decode() or f"error {code}"
            raise ProviderUnavailable(
                f"CUDA: {function} gives {what}", "restart SharpCam to try the GPU again"
            )

    def _enter(self) -> None:
        """Makes the context the calling thread's."""
        self._call("cuCtxSetCurrent", self._context)

    def open_stream(self) -> int:
        """A stream of its own, which waits for nobody else's work."""
        stream = c_void_p()
        self._enter()
        self._call("cuStreamCreate", byref(stream), c_uint(_NON_BLOCKING))
        return int(stream.value or 0)

    def close_stream(self, stream: int) -> None:
        self._enter()
        self._call("cuStreamDestroy_v2", c_void_p(stream))

    def answers(self, stream: int) -> bool:
        """Whether the device is there: once the work in `stream` is done."""
        try:
            self._enter()
            self._call("cuStreamSynchronize", c_void_p(stream))
        except ProviderUnavailable:
            return False
        return True

    def upload(self, to: int, source: int, nbytes: int, stream: int) -> None:
        """From the host to the device, in the order of `stream`; returns when it is there.

        Waiting matters for memory that is not pinned too: the driver returns when it has read all of it, which
        is before the last of it has arrived.
        """
        self._enter()
        self._call("cuMemcpyHtoDAsync_v2", c_uint64(to), c_void_p(source), c_size_t(nbytes), c_void_p(stream))
        self._call("cuStreamSynchronize", c_void_p(stream))

    def download(self, to: int, source: int, nbytes: int, stream: int) -> None:
        """From the device to the host, in the order of `stream`; returns when it is there."""
        self._enter()
        self._call("cuMemcpyDtoHAsync_v2", c_void_p(to), c_uint64(source), c_size_t(nbytes), c_void_p(stream))
        self._call("cuStreamSynchronize", c_void_p(stream))

    def copy(self, to: int, source: int, nbytes: int, stream: int) -> None:
        """Within the device, in the order of `stream`."""
        self._enter()
        self._call("cuMemcpyDtoDAsync_v2", c_uint64(to), c_uint64(source), c_size_t(nbytes), c_void_p(stream))

    def pinned(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """Host memory that stays where it is, so that the GPU reads and writes it without a copy in between."""
        size = int(np.prod(shape))
        address = c_void_p()
        with self.lock:
            self._enter()
            self._call("cuMemHostAlloc", byref(address), c_size_t(size), c_uint(_PORTABLE))
        memory = (ctypes.c_uint8 * size).from_address(int(address.value or 0))
        # freed when the last array over it is gone; at the process's end the driver does it
        weakref.finalize(memory, self._unpin, address).atexit = False
        array: NDArray[np.uint8] = np.ctypeslib.as_array(memory).reshape(shape)
        return array

    def _unpin(self, address: c_void_p) -> None:
        with self.lock, contextlib.suppress(ProviderUnavailable):
            self._enter()
            self._call("cuMemFreeHost", address)

    def memory(self) -> tuple[int, int]:
        """Bytes of the device that are in use, by all programs, and that it has."""
        free, total = c_size_t(), c_size_t()
        self._enter()
        self._call("cuMemGetInfo_v2", byref(free), byref(total))
        return total.value - free.value, total.value


@cache
def device() -> Device:
    """The first GPU. Raises ProviderUnavailable when there is none."""
    library = driver()
    if library is None:
        raise ProviderUnavailable("no NVIDIA driver with a GPU answers", hint(_built_cuda()))
    return Device(library)
