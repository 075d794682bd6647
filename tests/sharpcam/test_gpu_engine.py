"""The engine on a GPU that is made up: all of its code runs, but for ONNX Runtime's kernels, which are the CPU's."""

from __future__ import annotations

import gc
import json
import logging
import threading
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fake_gpu import LOST, OUT_OF_MEMORY, FakeGpu
from tiny_models import (
    DELAY_STATE,
    SCENE_STATE,
    delay_graph,
    rgb_graph,
    scene_graph,
    write_model,
    write_yuv_model,
    yuv_graph,
)
from typer.testing import CliRunner

from sharpcam import cuda, runtime
from sharpcam.cli import app
from sharpcam.daemon.live_engine import LiveEngine
from sharpcam.device_binding import RUNS_TO_RECORD, DeviceBinding
from sharpcam.engine import Engine
from sharpcam.errors import ModelError, ProviderUnavailable
from sharpcam.frame import Frame
from sharpcam.models import find_model
from sharpcam.runtime import Provider, fixed_sides, graph_ports
from sharpcam.sources import testcard

Picture = Callable[..., Frame]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The recurrent test student, under a precision that a GPU takes."""
    return write_yuv_model(tmp_path / "tiny", precision="float32", macs_per_pixel=2.5)


def load(model: Path, provider: str = "cuda", size: tuple[int, int] = (64, 48)) -> Engine:
    return Engine.load(model, size, provider, threads=1)


def out_of(engine: Engine, frame: Frame) -> Frame:
    out = Frame(*frame.size)
    out.buffer[:] = 7
    engine.process(frame, out)
    return out


def agree(here: Engine, there: Engine, frames: list[Frame]) -> bool:
    return all(np.array_equal(out_of(here, f).buffer, out_of(there, f).buffer) for f in frames)


# The same pictures


@pytest.mark.parametrize("size", [(64, 48), (24, 24), (50, 34)], ids=["one piece", "two pieces", "padded"])
@pytest.mark.parametrize("strength", [1.0, 0.3])
def test_frames_come_out_as_on_the_cpu(
    gpu: FakeGpu,
    model: Path,
    picture: Picture,
    size: tuple[int, int],
    strength: float,
) -> None:
    there, here = load(model, size=size), load(model, "cpu", size)
    assert (there.provider, here.provider) == ("cuda", "cpu")
    there.strength = here.strength = strength
    assert agree(there, here, [picture(*size, seed=i, sequence=i) for i in range(5)])
    for engine in (there, here):
        engine.reset()
        engine.strength = 1.0
    assert agree(there, here, [picture(*size, seed=i, sequence=i) for i in range(5, 8)])
    assert there.resets == here.resets == 2
    assert gpu.runs


def test_a_state_that_starts_as_an_input(gpu: FakeGpu, tmp_path: Path, picture: Picture) -> None:
    folder = write_model(tmp_path / "delay", delay_graph(), DELAY_STATE, precision="float32")
    engine = load(folder)
    first, second, third = (picture(seed=i, sequence=i) for i in range(3))
    for frame, shown in ((first, first), (second, first), (third, second)):
        assert np.array_equal(out_of(engine, frame).buffer, shown.buffer)
    engine.reset()
    assert np.array_equal(out_of(engine, second).buffer, second.buffer)


def test_a_state_of_the_whole_frame(gpu: FakeGpu, tmp_path: Path, picture: Picture) -> None:
    """The first frame of a scene runs twice and keeps it, on a GPU, too, and on the CPU after the GPU is lost."""
    folder = write_model(tmp_path / "scene", scene_graph(), SCENE_STATE, precision="float32")
    there, here = load(folder), load(folder, "cpu")
    frames = [picture(seed=i, sequence=i) for i in range(8)]
    for i, frame in enumerate(frames):
        frame.y[:] //= i % 3 + 1
    assert agree(there, here, frames[:3])
    for engine in (there, here):
        engine.reset()
    assert agree(there, here, frames[3:5])
    gpu.lasts = 0
    lost = out_of(there, frames[5])
    assert there.provider == "cpu"
    here.reset()
    assert np.array_equal(lost.buffer, out_of(here, frames[5]).buffer)
    assert agree(there, here, frames[6:])


def test_rgb_models(gpu: FakeGpu, tmp_path: Path, picture: Picture) -> None:
    path = tmp_path / "gain.onnx"
    path.write_bytes(rgb_graph(gains=(0.5, 1, 1)))
    there, here = load(path, size=(50, 34)), load(path, "cpu", (50, 34))
    there.strength = here.strength = 0.5
    assert agree(there, here, [picture(50, 34, seed=i, sequence=i) for i in range(3)])
    assert isinstance(there._bound, DeviceBinding)


def test_another_size_on_the_way(gpu: FakeGpu, model: Path, picture: Picture) -> None:
    there, here = load(model), load(model, "cpu")
    frames = [picture(seed=1), picture(96, 80, seed=2), picture(96, 80, seed=3, sequence=1), picture(seed=4)]
    assert agree(there, here, frames)
    assert [plan.size for _, plan in gpu.plans] == [(64, 48), (96, 80), (64, 48)]
    assert isinstance(there._bound, DeviceBinding)
    assert there._bound._session is not None
    assert there._bound._session.get_inputs()[0].shape == [1, 1, 48, 64]  # no side is left open
    assert list(gpu.driver.streams) == [gpu.plans[-1][1].stream]  # those of other sizes are gone


def test_the_shipped_student(gpu: FakeGpu) -> None:
    size = (320, 240)
    there, here = (Engine.load("m", size, provider, 1) for provider in ("cuda", "cpu"))
    assert (there.model.precision, here.model.precision) == ("float16", "uint8")
    card, frame = testcard.TestCard(size), Frame(*size)
    for i in range(3):
        card.soft(i, frame)
        frame.sequence = i
        a, b = (out_of(engine, frame).buffer.astype(int) for engine in (there, here))
        assert np.abs(a - b).mean() < 0.3
        assert np.abs(a - frame.buffer).mean() > 1


# What moves


@pytest.mark.parametrize("size", [(64, 48), (24, 24)])
def test_a_frame_goes_up_once_and_down_once_and_the_state_stays(
    gpu: FakeGpu,
    model: Path,
    picture: Picture,
    size: tuple[int, int],
) -> None:
    engine = load(model, size=size)
    out_of(engine, picture(*size))
    pixels = size[0] * size[1]
    # where the planes' places on the device are aligned as they stand, in one piece
    pieces = [pixels * 3 // 2] if pixels % 256 == 0 else [pixels, pixels // 2]
    for i in range(1, 6):
        gpu.copies.clear()
        out_of(engine, picture(*size, seed=i, sequence=i))
        assert gpu.copies == [("up", n) for n in pieces] + [("down", n) for n in pieces]


def test_strength_goes_up_only_when_it_changes(gpu: FakeGpu, model: Path, picture: Picture) -> None:
    engine = load(model)
    sizes = []
    for i, strength in enumerate((1.0, 0.5, 0.5, 0.25)):
        engine.strength = strength
        gpu.copies.clear()
        out_of(engine, picture(seed=i, sequence=i))
        sizes.append([n for what, n in gpu.copies if what == "up" and n == 4])
    assert sizes == [[], [4], [], [4]]


def test_turns_are_graphs_of_their_own(gpu: FakeGpu, model: Path, picture: Picture) -> None:
    engine = load(model)
    assert [graph for _, graph in gpu.runs] == ["1", "2"] * RUNS_TO_RECORD  # each of them recorded
    gpu.runs.clear()
    for i in range(4):
        out_of(engine, picture(seed=i, sequence=i))
    assert [graph for _, graph in gpu.runs] == ["1", "2", "1", "2"]
    assert {stream for stream, _ in gpu.runs} == {gpu.plans[0][1].stream}
    assert gpu.plans[0][1].cuda_graphs


def test_nothing_is_bound_anew_for_a_frame(
    gpu: FakeGpu,
    model: Path,
    picture: Picture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A recorded graph reads and writes where it did when it was recorded."""
    engine = load(model)
    refuse = lambda *args: pytest.fail("bound again")  # noqa: E731
    for name in ("bind_input", "bind_output", "bind_ortvalue_input", "bind_ortvalue_output"):
        monkeypatch.setattr(f"onnxruntime.IOBinding.{name}", refuse)
    for i in range(3):
        out_of(engine, picture(seed=i, sequence=i))
    engine.reset()
    out_of(engine, picture(seed=9, sequence=3))


def test_times_are_told_apart(gpu: FakeGpu, model: Path, picture: Picture) -> None:
    engine = load(model)
    out_of(engine, picture())
    assert min(engine.upload_ns, engine.run_ns, engine.download_ns) > 0


def test_frames_from_another_thread(gpu: FakeGpu, model: Path, picture: Picture) -> None:
    engine, here = load(model), load(model, "cpu")
    frame, found = picture(), []
    thread = threading.Thread(target=lambda: found.append(out_of(engine, frame)))
    thread.start()
    thread.join()
    assert np.array_equal(found[0].buffer, out_of(here, frame).buffer)


def test_frames_memory_is_pinned(gpu: FakeGpu, model: Path) -> None:
    engine = load(model)
    frame = Frame(64, 48, allocate=engine.allocate)
    assert list(gpu.driver.pinned) == [frame.buffer.ctypes.data]
    del frame
    assert not gpu.driver.pinned
    load(model, "cpu").allocate((4, 4))
    assert not gpu.driver.pinned


def test_without_pinned_memory_any_other_will_do(gpu: FakeGpu, model: Path, picture: Picture) -> None:
    engine, here = load(model), load(model, "cpu")
    gpu.driver.failing["cuMemHostAlloc"] = OUT_OF_MEMORY
    frame, out = (Frame(64, 48, allocate=engine.allocate) for _ in range(2))
    np.copyto(frame.buffer, picture().buffer)
    engine.process(frame, out)
    assert np.array_equal(out.buffer, out_of(here, frame).buffer)
    assert engine.provider == "cuda"


# What is said


def test_what_it_says_of_itself(gpu: FakeGpu, model: Path) -> None:
    assert load(model).description == "tiny 1.0 (float32) on CUDA, Fake 4090"
    assert load(model, "tensorrt").description == "tiny 1.0 (float32) on TensorRT, Fake 4090"
    assert [provider for provider, _ in gpu.plans] == [Provider.CUDA, Provider.TENSORRT]


def test_auto_takes_the_gpu_but_not_tensorrt(gpu: FakeGpu, model: Path) -> None:
    assert load(model, "auto").provider == "cuda"


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_asked_for_and_not_to_be_had(
    gpu: FakeGpu,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    provider: str,
) -> None:
    monkeypatch.setattr(cuda, "obstacle", lambda facts: ("a cause", "a way out"))
    with pytest.raises(ProviderUnavailable, match=r"^(CUDA|TensorRT) is not available: a cause$") as caught:
        load(model, provider)
    assert caught.value.hint == "a way out"


def test_tensorrt_without_tensorrt(
    gpu: FakeGpu,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cuda, "tensorrt_obstacle", lambda: ("no library", "install it"))
    with pytest.raises(ProviderUnavailable, match="TensorRT is not available: no library"):
        load(model, "tensorrt")
    assert load(model, "cuda").provider == "cuda"


def test_auto_falls_back_with_one_line(
    gpu: FakeGpu,
    yuv_model: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO):
        assert load(yuv_model, "auto").provider == "cpu"
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "uint8 graph runs on the CPU only" in caplog.text


def test_a_provider_that_ort_left_out_is_not_believed(
    gpu: FakeGpu,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runtime, "_ORT_NAMES", {Provider.CUDA: "CUDAExecutionProvider"})
    with pytest.raises(ProviderUnavailable, match="CUDA did not start"):
        load(model)
    assert not gpu.driver.streams


def test_a_graph_that_cannot_be_recorded_runs_without(
    gpu: FakeGpu,
    model: Path,
    picture: Picture,
    caplog: pytest.LogCaptureFixture,
) -> None:
    gpu.unrecordable = True
    with caplog.at_level(logging.INFO):
        engine = load(model)
    assert engine.provider == "cuda"
    assert [plan.cuda_graphs for _, plan in gpu.plans] == [True, False]
    assert "without CUDA graphs" in caplog.text
    assert agree(engine, load(model, "cpu"), [picture(seed=i, sequence=i) for i in range(3)])
    out_of(engine, picture(96, 80))
    assert not gpu.plans[-1][1].cuda_graphs


def test_a_gpu_on_which_nothing_runs_is_no_gpu(
    gpu: FakeGpu,
    model: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    gpu.broken = "CUDNN_STATUS_NOT_INITIALIZED"
    with pytest.raises(ModelError, match="CUDNN_STATUS_NOT_INITIALIZED"):
        load(model, "cuda")
    assert load(model, "auto").provider == "cpu"
    assert [r.levelname for r in caplog.records] == ["WARNING"]


# A GPU that is lost


@pytest.mark.parametrize("how", ["run", "copy"])
def test_a_lost_gpu_is_given_up_for_the_cpu_within_the_frame(
    gpu: FakeGpu,
    model: Path,
    picture: Picture,
    caplog: pytest.LogCaptureFixture,
    how: str,
) -> None:
    engine, here = load(model), load(model, "cpu")
    out_of(engine, picture(seed=0))
    if how == "run":
        gpu.broken = "CUDA failure 999: unknown error"
    else:
        gpu.driver.failing["cuMemcpyHtoDAsync_v2"] = LOST
    with caplog.at_level(logging.INFO):
        # the CPU starts afresh with the frame that the GPU failed on, and goes on from there
        assert agree(engine, here, [picture(seed=i, sequence=i) for i in range(1, 5)])
    assert (engine.provider, engine.fallbacks) == ("cpu", 1)
    assert engine.description == "tiny 1.0 (float32) on CPU, 1 thread"
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "CUDA failed, going on with the CPU" in caplog.text
    assert ("999" if how == "run" else "CUDA_ERROR_UNKNOWN") in caplog.text
    engine.close()


def test_padded_frames_and_strength_survive_the_loss(
    gpu: FakeGpu,
    model: Path,
    picture: Picture,
) -> None:
    engine, here = load(model, size=(50, 34)), load(model, "cpu", (50, 34))
    engine.strength = here.strength = 0.5
    out_of(engine, picture(50, 34, seed=0))
    gpu.broken = "lost"
    assert agree(engine, here, [picture(50, 34, seed=i, sequence=i) for i in range(1, 4)])


def test_the_gpu_may_be_lost_with_the_size(gpu: FakeGpu, model: Path, picture: Picture) -> None:
    engine, here = load(model), load(model, "cpu")
    gpu.driver.failing["cuStreamCreate"] = LOST
    assert agree(engine, here, [picture(96, 80, seed=i, sequence=i) for i in range(3)])
    assert (engine.provider, engine.fallbacks, engine.size) == ("cpu", 1, (96, 80))


def test_what_failed_on_a_gpu_is_never_freed(
    gpu: FakeGpu,
    model: Path,
    picture: Picture,
) -> None:
    """ONNX Runtime's destructors throw when the driver refuses, which would end the process."""
    engine = load(model)
    bound = engine._bound
    gpu.broken = "lost"
    out_of(engine, picture())
    assert isinstance(bound, DeviceBinding)
    assert bound._session is not None
    assert list(gpu.driver.streams) == [gpu.plans[0][1].stream]


@pytest.mark.parametrize("how", ["close", "another size"])
def test_what_was_lost_unnoticed_is_never_freed_either(
    gpu: FakeGpu, model: Path, picture: Picture, how: str
) -> None:
    engine = load(model)
    bound = engine._bound
    assert isinstance(bound, DeviceBinding)
    session = weakref.ref(bound._session)  # type: ignore[type-var]
    del bound
    for call in ("cuStreamSynchronize", "cuStreamCreate"):
        gpu.driver.failing[call] = LOST
    if how == "close":
        engine.close()
    else:
        assert agree(engine, load(model, "cpu"), [picture(96, 80)])
        assert (engine.provider, engine.fallbacks) == ("cpu", 1)
    engine.close()
    gc.collect()
    assert session() is not None


def test_a_closed_engine_frees_all(gpu: FakeGpu, model: Path) -> None:
    engine = load(model)
    assert isinstance(engine._bound, DeviceBinding)
    session = weakref.ref(engine._bound._session)  # type: ignore[type-var]
    engine.close()
    gc.collect()
    assert session() is None
    assert not gpu.driver.streams


def test_a_failure_of_the_cpu_is_one(gpu: FakeGpu, model: Path, picture: Picture) -> None:
    engine = load(model, "cpu")
    engine._bound._session = None  # type: ignore[union-attr]
    with pytest.raises(ModelError, match="failed on a 64x48 frame"):
        out_of(engine, picture())
    assert engine.fallbacks == 0


def test_a_closed_engine_stays_closed(gpu: FakeGpu, model: Path, picture: Picture) -> None:
    engine = load(model)
    engine.close()
    engine.close()
    assert not gpu.driver.streams
    for size in ((64, 48), (96, 80)):
        with pytest.raises(ModelError, match="closed"):
            out_of(engine, picture(*size))
    assert (engine.provider, engine.fallbacks) == ("cuda", 0)


def test_a_live_engine_tells_what_its_engine_does(gpu: FakeGpu, model: Path, picture: Picture) -> None:
    engine = load(model)
    live = LiveEngine(engine)
    frame, out = (Frame(64, 48, allocate=live.allocate) for _ in range(2))
    assert len(gpu.driver.pinned) == 2
    np.copyto(frame.buffer, picture().buffer)
    live.process(frame, out)
    assert live.upload_ns == engine.upload_ns > 0
    assert live.download_ns == engine.download_ns > 0
    gpu.broken = "lost"
    live.process(frame, out)
    assert (live.fallbacks, live.provider) == (1, "cpu")


def test_a_run_goes_on_when_the_gpu_is_lost(gpu: FakeGpu, model: Path, tmp_path: Path) -> None:
    gpu.lasts = 2 * RUNS_TO_RECORD + 5
    told = tmp_path / "report.json"
    arguments = "run --source testcard --sink null --size 320x240 --frames 20 --provider cuda --model"
    result = CliRunner().invoke(app, [*arguments.split(), str(model), "--report", str(told)])
    assert result.exit_code == 0
    assert "on CUDA, Fake 4090" in result.stdout
    assert result.stderr.count("CUDA failed, going on with the CPU") == 1
    assert "719" in result.stderr
    report = json.loads(told.read_text())
    assert (report["frames_out"], report["bypassed"], report["exit"]) == (20, 0, "frames")
    assert (report["provider"], report["fallbacks"]) == ("cpu", 1)
    assert {"upload", "inference", "download"} <= report["stages_ms"].keys()


# Fixed sides


def test_open_sides_get_their_numbers() -> None:
    ports = graph_ports(yuv_graph(), "tiny")
    manifest = find_model("m").for_provider("cuda")
    assert fixed_sides(manifest, ports, (64, 48)) == {"H": 48, "W": 64, "H/2": 24, "W/2": 32}


def test_with_fixed_sides_no_node_computes_shapes(tmp_path: Path) -> None:
    """They would run on the CPU, and a CUDA graph holds none of that."""
    import onnx
    import onnxruntime as ort

    model = find_model("m")
    manifest = model.for_provider("cuda")
    graph = model.read(manifest)
    options = ort.SessionOptions()
    for name, side in fixed_sides(manifest, graph_ports(graph, "m"), (64, 48)).items():
        options.add_free_dimension_override_by_name(name, side)
    # what any provider is given: without the fusions and layouts of the CPU's own
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    nodes = onnx.load(tmp_path / "optimized.onnx").graph.node
    assert len(nodes) > 30
    assert not {n.op_type for n in nodes} & {"Shape", "Gather", "Div_int", "Unsqueeze", "Slice"}
    produced = {output for node in nodes for output in node.output}
    assert not [n.name for n in nodes if n.op_type == "Reshape" and n.input[1] in produced]
