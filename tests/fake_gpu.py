"""A stand-in for NVIDIA's driver whose device memory is the host's, and ONNX Runtime's CPU as its GPU.

Copies wait in their stream until somebody waits for it, as on a GPU: what is read too early is not there yet.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import onnxruntime as ort
import pytest

from sharpcam import cuda, runtime
from sharpcam.runtime import Plan, Provider

FACTS = cuda.Facts("Fake 4090", (8, 9), "580.65", (13, 0), (13, 0))
OUT_OF_MEMORY, LOST = 2, 999
NAMES = {OUT_OF_MEMORY: b"CUDA_ERROR_OUT_OF_MEMORY", LOST: b"CUDA_ERROR_UNKNOWN"}


class FakeDriver:
    """Counts what is asked of it in `calls`: (function, bytes). `failing` maps functions to error codes."""

    def __init__(self, gpus: int = 1, version: int = 13000, capability: tuple[int, int] = (8, 9)) -> None:
        self.calls: list[tuple[str, int]] = []
        self.failing: dict[str, int] = {}
        self.streams: dict[int, list[Callable[[], object]]] = {}
        self.pinned: dict[int, Any] = {}
        self._gpus, self._version, self._capability = gpus, version, capability
        self._entered = threading.local()
        self._next = 1000

    def __getattribute__(self, name: str) -> Any:
        found = object.__getattribute__(self, name)
        if not name.startswith("cu") or name == "cuGetErrorName":
            return found
        if code := self.failing.get(name):
            return lambda *args: code
        if name.startswith(("cuMem", "cuStream")):
            assert getattr(self._entered, "context", None) == 77, f"{name} without a context on this thread"
        return found

    def cuInit(self, flags: int) -> int:
        return 0

    def cuDeviceGetCount(self, count: Any) -> int:
        count._obj.value = self._gpus
        return 0

    def cuDeviceGet(self, device: Any, ordinal: Any) -> int:
        device._obj.value = 5
        return 0

    def cuDeviceGetName(self, name: Any, size: Any, device: Any) -> int:
        assert device.value == 5
        name.value = b"Fake 4090"
        return 0

    def cuDeviceGetAttribute(self, value: Any, attribute: Any, device: Any) -> int:
        assert device.value == 5
        value._obj.value = self._capability[{75: 0, 76: 1}[attribute.value]]
        return 0

    def cuDriverGetVersion(self, version: Any) -> int:
        version._obj.value = self._version
        return 0

    def cuDevicePrimaryCtxRetain(self, context: Any, device: Any) -> int:
        assert device.value == 5
        context._obj.value = 77
        return 0

    def cuCtxSetCurrent(self, context: Any) -> int:
        self._entered.context = context.value
        return 0

    def cuGetErrorName(self, code: Any, name: Any) -> int:
        name._obj.value = NAMES.get(code.value)
        return 0

    def cuStreamCreate(self, stream: Any, flags: Any) -> int:
        assert flags.value == 1
        self._next += 1
        self.streams[self._next] = []
        stream._obj.value = self._next
        return 0

    def cuStreamDestroy_v2(self, stream: Any) -> int:
        del self.streams[stream.value]
        return 0

    def cuStreamSynchronize(self, stream: Any) -> int:
        self.flush(stream.value)
        return 0

    def flush(self, stream: int) -> None:
        for work in self.streams[stream]:
            work()
        self.streams[stream] = []

    def _copy(self, name: str, to: Any, source: Any, nbytes: Any, stream: Any) -> int:
        self.calls.append((name, nbytes.value))
        self.streams[stream.value].append(lambda: ctypes.memmove(to.value, source.value, nbytes.value))
        return 0

    def cuMemcpyHtoDAsync_v2(self, *arguments: Any) -> int:
        assert isinstance(arguments[0], ctypes.c_uint64)
        return self._copy("up", *arguments)

    def cuMemcpyDtoHAsync_v2(self, *arguments: Any) -> int:
        assert isinstance(arguments[1], ctypes.c_uint64)
        return self._copy("down", *arguments)

    def cuMemcpyDtoDAsync_v2(self, *arguments: Any) -> int:
        return self._copy("within", *arguments)

    def cuMemHostAlloc(self, address: Any, nbytes: Any, flags: Any) -> int:
        memory = (ctypes.c_uint8 * nbytes.value)()
        address._obj.value = ctypes.addressof(memory)
        self.pinned[address._obj.value] = memory
        return 0

    def cuMemFreeHost(self, address: Any) -> int:
        del self.pinned[address.value]
        return 0

    def cuMemGetInfo_v2(self, free: Any, total: Any) -> int:
        free._obj.value, total._obj.value = 6 << 30, 8 << 30
        return 0


@dataclass
class FakeGpu:
    driver: FakeDriver
    device: cuda.Device
    plans: list[tuple[Provider, Plan]] = field(default_factory=list)
    runs: list[tuple[int, str]] = field(default_factory=list)  # stream, and which CUDA graph
    broken: str = ""  # what a run raises
    lasts: int = 1_000_000  # runs, until it breaks by itself
    unrecordable: bool = False  # a run with CUDA graphs raises

    @property
    def copies(self) -> list[tuple[str, int]]:
        return self.driver.calls


class _Session:
    """ONNX Runtime's session, working in the order of its stream."""

    def __init__(self, gpu: FakeGpu, session: ort.InferenceSession, plan: Plan) -> None:
        self._gpu, self._real, self._plan = gpu, session, plan

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def run_with_iobinding(self, binding: Any, options: ort.RunOptions) -> None:
        if self._gpu.broken or len(self._gpu.runs) >= self._gpu.lasts:
            raise RuntimeError(self._gpu.broken or "CUDA failure 719: unspecified launch failure")
        if self._gpu.unrecordable and self._plan.cuda_graphs:
            raise RuntimeError("operation not permitted when stream is capturing")
        self._gpu.driver.flush(self._plan.stream)
        self._gpu.runs.append((self._plan.stream, options.get_run_config_entry("gpu_graph_id")))
        self._real.run_with_iobinding(binding, options)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    """From here on there is a GPU, and everything but ONNX Runtime's kernels is what a real one would run."""
    driver = FakeDriver()
    fake = FakeGpu(driver, cuda.Device(driver, kind="cpu"))
    monkeypatch.setattr(cuda, "driver", lambda: driver)
    monkeypatch.setattr(cuda, "facts", lambda: FACTS)
    monkeypatch.setattr(cuda, "device", lambda: fake.device)
    monkeypatch.setattr(cuda, "tensorrt_obstacle", lambda: None)
    cpu = "CPUExecutionProvider"
    monkeypatch.setattr(runtime, "_ORT_NAMES", {Provider.CUDA: cpu, Provider.TENSORRT: cpu})
    real_providers, real_create = runtime.gpu_providers, runtime._create

    def providers(provider: Provider, plan: Plan, *rest: Any) -> list[Any]:
        real_providers(provider, plan, *rest)
        fake.plans.append((provider, plan))
        return []

    def create(*arguments: Any) -> Any:
        session = real_create(*arguments)
        return _Session(fake, session, arguments[4]) if len(arguments) > 4 else session

    monkeypatch.setattr(runtime, "gpu_providers", providers)
    monkeypatch.setattr(runtime, "_create", create)
    return fake
