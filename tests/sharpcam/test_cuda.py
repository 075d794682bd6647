"""What is said of a GPU that cannot be used, and memory of one that can, through a driver that is made up."""

from __future__ import annotations

import ctypes
import gc
import mmap
import shutil
import subprocess
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from fake_gpu import FACTS, LOST, OUT_OF_MEMORY, FakeDriver

from sharpcam import cuda
from sharpcam.errors import ModelError, ProviderUnavailable
from sharpcam.manifest import Manifest
from sharpcam.models import find_model
from sharpcam.runtime import Plan, Provider, explained, gpu_providers, session_options

# Why not


def test_nothing_speaks_against_a_fitting_machine() -> None:
    assert cuda.obstacle(FACTS) is None


@pytest.mark.parametrize(
    ("change", "cause", "way_out"),
    [
        ({"gpu": ""}, "no NVIDIA driver", "CUDA 13 (580 or newer)"),
        ({"gpu": "", "built_cuda": (12, 8)}, "no NVIDIA driver", "CUDA 12 (525 or newer)"),
        ({"built_cuda": None}, "this build of ONNX Runtime has no CUDA", "onnxruntime-gpu[cuda,cudnn]"),
        ({"driver_cuda": (12, 8)}, "580.65 runs CUDA up to 12.8", "driver 580 or newer"),
        (
            {"capability": (6, 1)},
            "Fake 4090 has compute capability 6.1, and CUDA 13 needs 7.5 (Turing",
            "cpu",
        ),
        ({"missing": ("libcudnn.so.9",)}, "do not load: libcudnn.so.9", "onnxruntime-gpu[cuda,cudnn]"),
    ],
)
def test_what_is_wrong_and_the_way_out(change: dict[str, object], cause: str, way_out: str) -> None:
    found = cuda.obstacle(replace(FACTS, **change))  # type: ignore[arg-type]
    assert found is not None
    assert cause in found[0]
    assert way_out in found[1]
    assert "--provider cpu" in found[1]


def test_newer_drivers_and_older_gpus_of_older_cuda_are_fine() -> None:
    assert cuda.obstacle(replace(FACTS, driver_cuda=(14, 0))) is None
    assert cuda.obstacle(replace(FACTS, built_cuda=(12, 8), driver_cuda=(12, 2), capability=(6, 1))) is None


def test_facts_are_the_drivers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "driver", lambda: FakeDriver(version=12080, capability=(7, 5)))
    monkeypatch.setattr(cuda, "_missing", lambda major: ("libcublas.so.13",))
    monkeypatch.setattr(cuda, "_built_cuda", lambda: (13, 0))
    found = cuda.facts.__wrapped__()
    assert (found.gpu, found.capability, found.driver_cuda) == ("Fake 4090", (7, 5), (12, 8))
    assert (found.built_cuda, found.missing) == ((13, 0), ("libcublas.so.13",))


def test_without_a_driver_no_library_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "driver", lambda: None)
    monkeypatch.setattr(cuda, "_missing", lambda major: pytest.fail("CUDA's libraries were loaded"))
    assert cuda.facts.__wrapped__().gpu == ""
    with pytest.raises(ProviderUnavailable, match="no NVIDIA driver"):
        cuda.device.__wrapped__()


def test_libraries_that_do_not_load_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    """By the real ONNX Runtime, which only prints them."""
    if cuda._built_cuda() is None:
        pytest.skip("this build of ONNX Runtime has no CUDA")
    if not (missing := cuda._missing(cuda._built_cuda()[0])):  # type: ignore[index]
        pytest.skip("CUDA's libraries are all there")
    assert all(name.startswith("lib") or name.endswith(".dll") for name in missing)
    assert capsys.readouterr() == ("", "")


# Options


def installed(kind: str) -> mmap.mmap:
    paths = [*Path(ort.__file__).parent.glob(f"capi/*onnxruntime_providers_{kind}.*")]
    if not paths:
        pytest.skip(f"this build of ONNX Runtime has no {kind}")
    with paths[0].open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def manifest() -> Manifest:
    return find_model("m").for_provider("cuda")


@pytest.mark.parametrize(
    ("provider", "name"),
    [
        (Provider.CUDA, "CUDAExecutionProvider"),
        (Provider.TENSORRT, "TensorrtExecutionProvider"),
    ],
)
def test_options_are_ones_that_the_installed_provider_knows(
    provider: Provider, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path))
    chosen = gpu_providers(provider, Plan((64, 48), 4711), manifest())
    assert (chosen[0][0], chosen[-1][0]) == (name, "CUDAExecutionProvider")
    assert {n for n, _ in chosen} <= set(ort.get_all_providers())
    for kind, options in (("tensorrt" if n.startswith("T") else "cuda", o) for n, o in chosen):
        library = installed(kind)
        assert options["user_compute_stream"] == "4711"
        for option in options:
            # names of up to 15 letters may lie in the code itself
            assert len(option) < 16 or library.find(option.encode()) >= 0, option


def test_the_real_onnx_runtime_understands_the_values_for_tensorrt(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It reads them before it loads TensorRT's library, and says which it does not understand."""
    if "TensorrtExecutionProvider" not in ort.get_available_providers():
        pytest.skip("this build of ONNX Runtime has no TensorRT")
    if cuda.driver() is not None:
        pytest.skip("TensorRT may really run here")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path))
    # which would end in the library that is not there
    monkeypatch.setattr(ort.InferenceSession, "_register_ep_custom_ops", lambda *arguments: None)
    (name, options), *_ = gpu_providers(Provider.TENSORRT, Plan((64, 48), 4711), manifest())
    graph = find_model("m").read(manifest())

    def said(**other: object) -> str:
        quiet = session_options(1)
        providers = [(name, options | other), "CPUExecutionProvider"]
        try:
            ort.InferenceSession(graph, quiet, providers=providers, enable_fallback=0)
        except Exception as error:
            return str(error)
        return ""

    assert "[ERROR] [TensorRT]" not in said()
    for switch in [option for option, value in options.items() if isinstance(value, bool)]:
        assert f"'{switch}' should be 'True' or 'False'" in said(**{switch: 1})
    assert "trt_no_such_option" in said(trt_no_such_option=1)


def test_cuda_graphs_are_for_cuda_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    plan = Plan((64, 48), 1)
    assert gpu_providers(Provider.CUDA, plan, manifest())[0][1]["enable_cuda_graph"] == 1
    assert (
        gpu_providers(Provider.CUDA, replace(plan, cuda_graphs=False), manifest())[0][1]["enable_cuda_graph"]
        == 0
    )
    assert gpu_providers(Provider.TENSORRT, plan, manifest())[1][1]["enable_cuda_graph"] == 0


def test_an_engine_of_another_file_or_size_is_not_taken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path))

    def folder(m: Manifest, size: tuple[int, int]) -> str:
        options = gpu_providers(Provider.TENSORRT, Plan(size, 1), m)[0][1]
        assert options["trt_engine_cache_path"] == options["trt_timing_cache_path"]
        return str(options["trt_engine_cache_path"])

    folders = [
        folder(manifest(), (64, 48)),
        folder(manifest(), (48, 64)),
        folder(manifest().model_copy(update={"sha256": "0" * 64}), (64, 48)),
    ]
    assert len(set(folders)) == 3
    assert all(Path(f).is_dir() and Path(f).is_relative_to(tmp_path) for f in folders)


@pytest.mark.parametrize("made", [False, True])
def test_a_cache_that_cannot_be_written_is_done_without(
    made: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base = tmp_path if made else tmp_path / "file"
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(base))
    monkeypatch.setenv("LOCALAPPDATA", str(base))
    monkeypatch.setattr("sharpcam.runtime.os.access", lambda *_: not made)
    name, options = gpu_providers(Provider.TENSORRT, Plan((64, 48), 1), manifest())[0]
    assert name == "TensorrtExecutionProvider"
    assert set(options) == {"device_id", "user_compute_stream", "trt_fp16_enable"}
    cause = "permission denied" if made else "Not a directory"
    assert "TensorRT's engine is not kept" in caplog.text
    assert caplog.text.rstrip().endswith(cause)


SIGNATURE = (
    "/onnxruntime_src/onnxruntime/core/providers/cuda/cuda_call.cc:105 std::conditional_t<THRW, void, onnxruntime"
    "::common::Status> onnxruntime::CudaCall(ERRTYPE, const char*, const char*, SUCCTYPE, const char*, const char*, "
    "int) [with ERRTYPE = cudaError; bool THRW = true; SUCCTYPE = cudaError; std::conditional_t<THRW, void, "
    "common::Status> = void] "
)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (f"{SIGNATURE}{SIGNATURE}CUDA failure 719: it failed ; GPU=0", "CUDA failure 719: it failed ; GPU=0"),
        (
            "Name:'a' Status Message: /onnxruntime_src/onnxruntime/core/providers/cuda/cuda_kernel.h:296 static "
            "cudnnContext* onnxruntime::cuda::CudaKernel::RequireCudnnHandle(cudnnHandle_t) [ONNXRuntimeError] : 9 : "
            "NOT_IMPLEMENTED : cuDNN is unavailable",
            "Name:'a' Status Message: [ONNXRuntimeError] : 9 : NOT_IMPLEMENTED : cuDNN is unavailable",
        ),
        ("a model of (1, 2) [with care] is wrong ", "a model of (1, 2) [with care] is wrong"),
    ],
)
def test_places_in_onnx_runtimes_sources_are_left_out(said: str, told: str) -> None:
    with pytest.raises(ModelError) as caught, explained("it failed"):
        raise RuntimeError(said)
    assert str(caught.value) == f"it failed: {told}"


# Memory


@pytest.fixture
def fake() -> FakeDriver:
    return FakeDriver()


def test_copies_are_there_when_they_return(fake: FakeDriver) -> None:
    device = cuda.Device(fake)
    here, there, back = (np.full(64, v, np.uint8) for v in (1, 2, 3))
    stream = device.open_stream()
    device.upload(there.ctypes.data, here.ctypes.data, 64, stream)
    assert (there == 1).all()
    device.download(back.ctypes.data, there.ctypes.data, 32, stream)
    assert list(back[[0, 31, 32, 63]]) == [1, 1, 3, 3]


def test_a_copy_within_is_ordered_by_its_stream(fake: FakeDriver) -> None:
    device = cuda.Device(fake)
    a, b = np.ones(8, np.uint8), np.zeros(8, np.uint8)
    stream = device.open_stream()
    device.copy(b.ctypes.data, a.ctypes.data, 8, stream)
    fake.flush(stream)
    assert (b == 1).all()


def test_any_thread_may_copy(fake: FakeDriver) -> None:
    device = cuda.Device(fake)
    stream = device.open_stream()
    here, there = np.ones(8, np.uint8), np.zeros(8, np.uint8)
    thread = threading.Thread(target=lambda: device.upload(there.ctypes.data, here.ctypes.data, 8, stream))
    thread.start()
    thread.join()
    assert (there == 1).all()


def test_pinned_memory_is_freed_with_its_last_view(fake: FakeDriver) -> None:
    device = cuda.Device(fake)
    array = device.pinned((6, 4))
    assert (array.shape, array.dtype, array.flags.c_contiguous) == ((6, 4), np.dtype(np.uint8), True)
    array[:] = 9
    view = array[2:]
    del array
    gc.collect()
    assert len(fake.pinned) == 1
    assert (view == 9).all()
    del view
    gc.collect()
    assert not fake.pinned


@pytest.mark.parametrize(
    ("function", "code", "said"),
    [
        ("cuMemHostAlloc", OUT_OF_MEMORY, "cuMemHostAlloc gives CUDA_ERROR_OUT_OF_MEMORY"),
        ("cuCtxSetCurrent", LOST, "cuCtxSetCurrent gives CUDA_ERROR_UNKNOWN"),
        ("cuMemHostAlloc", 12345, "cuMemHostAlloc gives error 12345"),
    ],
)
def test_a_driver_that_refuses_is_named(fake: FakeDriver, function: str, code: int, said: str) -> None:
    device = cuda.Device(fake)
    fake.failing[function] = code
    with pytest.raises(ProviderUnavailable, match=said):
        device.pinned((4,))


def test_memory_in_use(fake: FakeDriver) -> None:
    assert cuda.Device(fake).memory() == (2 << 30, 8 << 30)


# A driver of the real names and arguments


HEADERS = [
    *Path("/usr/local").glob("cuda*/include"),
    *Path("/opt").glob("cuda*/include"),
    Path("/usr/include"),
]


@pytest.fixture
def compiled(tmp_path: Path) -> Any:
    """`cuda_driver.c`, compiled against CUDA's header: what is called by a wrong name or with a wrong argument
    does not do what it should."""
    headers = [folder for folder in HEADERS if (folder / "cuda.h").is_file()]
    compiler = shutil.which("cc")
    if not headers or compiler is None:
        pytest.skip("there is no C compiler with CUDA's header")
    library = tmp_path / "libcuda.so.1"
    source = Path(__file__).with_name("cuda_driver.c")
    command = [compiler, "-shared", "-fPIC", "-Werror", f"-I{headers[0]}", "-o", str(library), str(source)]
    subprocess.run(command, check=True)
    return ctypes.CDLL(str(library))


def test_the_driver_is_called_as_its_header_says(compiled: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda.ctypes, "CDLL", lambda name: compiled)
    assert cuda.driver.__wrapped__() is compiled
    assert cuda._first_gpu(compiled) == ("Compiled GPU", (8, 9))
    assert cuda._version_of(compiled) == (13, 2)
    device = cuda.Device(compiled)
    assert device.memory() == (6 << 30, 24 << 30)
    stream = device.open_stream()
    big = 5 << 20  # whose addresses and sizes do not fit where they would not
    here, there, more, back = (np.full(big, value, np.uint8) for value in (1, 2, 3, 4))
    device.upload(there.ctypes.data, here.ctypes.data, big, stream)
    device.copy(more.ctypes.data, there.ctypes.data, big, stream)
    device.download(back.ctypes.data, more.ctypes.data, big, stream)
    assert (back == 1).all()
    pinned = device.pinned((1620, 1920))
    pinned[:] = 7
    assert int(pinned.sum(dtype=np.int64)) == 7 * 1620 * 1920
    del pinned
    device.close_stream(stream)
    with pytest.raises(ProviderUnavailable, match="cuMemHostAlloc gives CUDA_ERROR_INVALID_VALUE"):
        device.pinned((0, 0))
