from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_gpu import FACTS, FakeDriver
from numpy.typing import NDArray
from tiny_models import (
    DELAY_STATE,
    SCENE_STATE,
    STATE_INITIAL,
    YUV_STATE,
    delay_graph,
    rgb_graph,
    scene_graph,
    write_model,
    write_yuv_model,
    yuv_graph,
)

import sharpcam.runtime
from sharpcam import cuda
from sharpcam.binding import HostBinding
from sharpcam.engine import Engine
from sharpcam.errors import ConfigError, FormatMismatch, ModelError, ProviderUnavailable
from sharpcam.frame import Color, ColorMatrix, ColorRange, Frame

Picture = Callable[..., Frame]


def load(model: Path, size: tuple[int, int] = (64, 48), **options: object) -> Engine:
    return Engine.load(model, size, **({"provider": "cpu", "threads": 1} | options))  # type: ignore[arg-type]


def expected(
    now: NDArray[np.uint8], last: NDArray[np.uint8] | int, strength: float = 1.0
) -> NDArray[np.uint8]:
    """What the test graph computes, in plain numpy."""
    change = now.astype(np.float64) - np.asarray(last, np.float64)
    residual = np.clip(np.rint(change / 2), -128, 127)
    return np.clip(np.rint(now + strength * residual), 0, 255).astype(np.uint8)


def out_of(engine: Engine, frame: Frame) -> Frame:
    out = Frame(*frame.size)
    out.buffer[:] = 7
    engine.process(frame, out)
    return out


def same(frame: Frame, buffer: NDArray[np.uint8]) -> bool:
    """Equal but for the last bit, which rounding of halves may turn."""
    return int(np.abs(frame.buffer.astype(int) - buffer).max()) <= 1


def test_first_frame_starts_from_the_initial_state(yuv_model: Path, picture: Picture) -> None:
    frame = picture()
    assert same(out_of(load(yuv_model), frame), expected(frame.buffer, STATE_INITIAL))


def test_state_is_carried_for_many_frames(yuv_model: Path, picture: Picture) -> None:
    engine = load(yuv_model)
    last: NDArray[np.uint8] | int = STATE_INITIAL
    for i in range(7):
        frame = picture(seed=i, sequence=i)
        assert same(out_of(engine, frame), expected(frame.buffer, last)), f"frame {i}"
        last = frame.buffer
    assert engine.resets == 1


def test_initial_state_is_never_written(yuv_model: Path, picture: Picture) -> None:
    engine = load(yuv_model)
    for i in range(4):
        out_of(engine, picture(seed=i, sequence=i))
    engine.reset()
    frame = picture(seed=9, sequence=4)
    assert same(out_of(engine, frame), expected(frame.buffer, STATE_INITIAL))


def test_state_starts_as_the_input_that_it_names(tmp_path: Path, picture: Picture) -> None:
    engine = load(write_model(tmp_path / "delay", delay_graph(), DELAY_STATE))
    first, second, third = (picture(seed=i, sequence=i) for i in range(3))
    for frame, shown in ((first, first), (second, first), (third, second)):
        assert (out_of(engine, frame).buffer == shown.buffer).all()
    engine.reset()
    assert (out_of(engine, second).buffer == second.buffer).all()


def around(frame: Frame, mean: int) -> NDArray[np.uint8]:
    """What the model with a scene makes of luma when it takes the frame's mean for `mean`."""
    return np.clip(frame.y.astype(int) - mean + 128, 0, 255).astype(np.uint8)


def mean_of(frame: Frame) -> int:
    return round(float(frame.y.mean()))


@pytest.mark.parametrize("temporal", [True, False])
def test_the_first_frame_of_a_scene_knows_the_whole_of_it(
    tmp_path: Path, picture: Picture, temporal: bool
) -> None:
    """Later ones know what the frame before said, with or without memory; what came before a cut is forgotten."""
    engine = load(write_model(tmp_path / "scene", scene_graph(), SCENE_STATE), temporal=temporal)
    frames = [picture(seed=i, sequence=i) for i in range(4)]
    for i, frame in enumerate(frames):  # 10 levels are no cut
        frame.y[:] = frame.y // 8 + 40 + 10 * i
    frames[3].y[:] += 100
    known = [mean_of(frames[i]) for i in (0, 0, 1, 3)]
    assert len(set(known)) == 3
    for frame, mean in zip(frames, known, strict=True):
        assert np.array_equal(out_of(engine, frame).y, around(frame, mean))
    assert engine.resets == (2 if temporal else 4)


@pytest.fixture
def scene(tmp_path: Path) -> Engine:
    return load(write_model(tmp_path / "scene", scene_graph(), SCENE_STATE))


@pytest.fixture
def alike(picture: Picture) -> list[Frame]:
    """Frames of one scene, each 10 grey levels brighter than the last."""
    frames = [picture(seed=i, sequence=i) for i in range(4)]
    for i, frame in enumerate(frames):
        frame.y[:] = frame.y // 8 + 40 + 10 * i
    return frames


def test_the_scene_is_known_after_a_gap(scene: Engine, alike: list[Frame]) -> None:
    """A machine that loses frames because it is slow would lose yet more if it ran each of the others twice."""
    for i, frame in enumerate(alike):
        frame.sequence = 10 * i
        assert np.array_equal(out_of(scene, frame).y, around(frame, mean_of(alike[max(0, i - 1)])))
    assert scene.resets == 4, "but nothing else is"
    alike[0].sequence = 0  # another clip
    assert np.array_equal(out_of(scene, alike[0]).y, around(alike[0], mean_of(alike[0])))


@pytest.mark.parametrize("failing", [1, 2])
def test_a_scene_begins_again_after_a_failure(
    scene: Engine, alike: list[Frame], monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    """Whichever of the two runs of a first frame it was that failed."""
    run, runs = HostBinding.run, 0

    def fails_once(*arguments: Any) -> None:
        nonlocal runs
        runs += 1
        if runs == failing:
            raise RuntimeError("out of memory")
        run(*arguments)

    monkeypatch.setattr(HostBinding, "run", fails_once)
    with pytest.raises(ModelError, match="out of memory"):
        out_of(scene, alike[0])
    assert np.array_equal(out_of(scene, alike[1]).y, around(alike[1], mean_of(alike[1])))
    assert np.array_equal(out_of(scene, alike[2]).y, around(alike[2], mean_of(alike[1])))
    assert runs == failing + 3


def test_a_scene_begins_again_after_strength_zero(scene: Engine, alike: list[Frame]) -> None:
    out_of(scene, alike[0])
    scene.strength = 0.0
    out_of(scene, alike[1])
    scene.strength = 1.0
    assert np.array_equal(out_of(scene, alike[2]).y, around(alike[2], mean_of(alike[2])))


def test_state_cannot_start_as_an_input_of_another_shape(tmp_path: Path) -> None:
    folder = write_model(
        tmp_path / "delay", delay_graph(), DELAY_STATE.replace('initial = "y"', 'initial = "uv"')
    )
    with pytest.raises(ModelError, match="state state_y cannot start as 'uv'"):
        load(folder)


def test_split_shows_the_left_half_as_it_came(yuv_model: Path, picture: Picture) -> None:
    engine = load(yuv_model)
    whole = out_of(engine, frame := picture())
    engine.reset()
    engine.split = True
    half = out_of(engine, frame)
    assert (half.y[..., :32] == frame.y[..., :32]).all()
    assert (half.y[..., 34:] == whole.y[..., 34:]).all()
    assert (half.uv[..., :16] == frame.uv[..., :16]).all()
    assert (half.uv[..., 17:] == whole.uv[..., 17:]).all()


def test_planes_are_not_swapped(yuv_model: Path) -> None:
    engine = load(yuv_model)
    frame = Frame(64, 48)
    frame.fill(100, 60, 200)
    out = out_of(engine, frame)
    values = [int(plane[0, 0]) for plane in out.planes]
    assert values == [100 - 14, 60 - 34, min(200 + 36, 255)]


def test_frame_memory_is_bound_not_copied(
    yuv_model: Path, picture: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = load(yuv_model)
    bound: dict[str, int] = {}

    class Spy:
        def __init__(self, binding: object) -> None:
            self._iobinding = binding._iobinding  # type: ignore[attr-defined]
            self._binding = binding

        def __getattr__(self, name: str) -> object:
            method = getattr(self._binding, name)
            if name not in ("bind_input", "bind_output"):
                return method

            def spy(*args: object) -> None:
                bound[str(args[0])] = int(args[5])  # type: ignore[call-overload]
                method(*args)

            return spy

    bound_by = engine._bound
    assert isinstance(bound_by, HostBinding)
    monkeypatch.setattr(bound_by, "_binding", Spy(bound_by._binding))
    frame, out = picture(), Frame(64, 48)
    engine.process(frame, out)
    start, out_start = frame.buffer.ctypes.data, out.buffer.ctypes.data
    assert bound["y"] == start
    assert bound["uv"] == start + 64 * 48
    assert bound["y_out"] == out_start
    assert bound["uv_out"] == out_start + 64 * 48


@pytest.mark.parametrize("strength", [0.25, 0.5, 1.0])
def test_strength_scales_the_residual(yuv_model: Path, picture: Picture, strength: float) -> None:
    engine = load(yuv_model)
    engine.strength = strength
    frame = picture()
    assert same(out_of(engine, frame), expected(frame.buffer, STATE_INITIAL, strength))


def test_strength_zero_is_the_input_bit_for_bit(yuv_model: Path, rgb_model: Path, picture: Picture) -> None:
    for model in (yuv_model, rgb_model):
        engine = load(model)
        engine.strength = 0.0
        frame = picture(50, 34)
        assert np.array_equal(out_of(engine, frame).buffer, frame.buffer)


def test_strength_zero_inside_the_graph_is_exact_too(yuv_model: Path, picture: Picture) -> None:
    engine = load(yuv_model)
    frame, out = picture(), Frame(64, 48)
    engine._sharpen(frame, out, 0.0)
    assert np.array_equal(out.buffer, frame.buffer)


def test_strength_counts_from_the_next_frame(yuv_model: Path, picture: Picture) -> None:
    engine = load(yuv_model)
    first, second = picture(seed=1), picture(seed=2, sequence=1)
    out_of(engine, first)
    engine.strength = 0.5
    assert same(out_of(engine, second), expected(second.buffer, first.buffer, 0.5))


def test_state_starts_afresh_after_strength_zero(yuv_model: Path, picture: Picture) -> None:
    engine = load(yuv_model)
    out_of(engine, picture(seed=1))
    engine.strength = 0.0
    out_of(engine, picture(seed=2, sequence=1))
    engine.strength = 1.0
    frame = picture(seed=3, sequence=2)
    assert same(out_of(engine, frame), expected(frame.buffer, STATE_INITIAL))


def test_strength_is_blended_outside_when_the_graph_has_no_input(tmp_path: Path, picture: Picture) -> None:
    graph = tmp_path / "still.onnx"
    graph.write_bytes(yuv_graph(state=False, strength=False))
    engine = load(graph)
    engine.strength = 0.5
    frame = picture()
    full = expected(frame.buffer, STATE_INITIAL).astype(float)
    assert np.abs(out_of(engine, frame).buffer - (full + frame.buffer) / 2).max() <= 1


@pytest.mark.parametrize("strength", [-0.01, 1.01, float("nan")])
def test_strength_out_of_range(yuv_model: Path, strength: float) -> None:
    engine = load(yuv_model)
    with pytest.raises(ConfigError, match="out of range"):
        engine.strength = strength
    assert engine.strength == 1.0


def test_without_temporal_every_frame_is_the_first(yuv_model: Path, picture: Picture) -> None:
    engine = load(yuv_model, temporal=False)
    for i in range(3):
        frame = picture(seed=i, sequence=i)
        assert same(out_of(engine, frame), expected(frame.buffer, STATE_INITIAL))


def test_a_state_of_fixed_sides_is_of_pixels(tmp_path: Path, picture: Picture) -> None:
    fixed = YUV_STATE.replace('"H/8", "W/8"', "6, 8") + f"initial = {STATE_INITIAL}\n"
    engine = load(write_model(tmp_path / "fixed", yuv_graph(), fixed, strength_input=True), temporal=False)
    for i in range(2):
        frame = picture(seed=i, sequence=i)
        assert same(out_of(engine, frame), expected(frame.buffer, STATE_INITIAL))


@pytest.mark.parametrize(
    ("sequence", "seconds", "fresh"),
    [
        (1, 0.033, False),
        (5, 0.16, False),
        (6, 0.16, True),
        (1, 0.3, False),
        (1, 0.51, True),
        (0, 0.0, False),  # a caller that does not number its frames
        (-1, 0.033, True),
        (1, -20.0, True),
    ],
)
def test_a_gap_starts_afresh(
    yuv_model: Path, picture: Picture, sequence: int, seconds: float, fresh: bool
) -> None:
    engine = load(yuv_model)
    first, second = picture(seed=1), picture(seed=2)
    first.sequence, first.captured_ns = 10, time.monotonic_ns()
    out_of(engine, first)
    second.sequence, second.captured_ns = 10 + sequence, time.monotonic_ns() + int(seconds * 1e9)
    last = STATE_INITIAL if fresh else first.buffer
    assert same(out_of(engine, second), expected(second.buffer, last))


def test_the_engines_own_slowness_is_no_gap(yuv_model: Path, picture: Picture) -> None:
    """The frames of a file wait for a slow model; their times are then as far apart as it takes."""
    engine = load(yuv_model)
    first, second = picture(seed=1), picture(seed=2, sequence=1)
    first.captured_ns = time.monotonic_ns() - 9_000_000_000
    out_of(engine, first)
    second.captured_ns = time.monotonic_ns()
    assert same(out_of(engine, second), expected(second.buffer, first.buffer))


@pytest.mark.parametrize(("change", "fresh"), [(0, False), (20, False), (40, True), (-40, True)])
def test_a_scene_cut_starts_afresh(yuv_model: Path, picture: Picture, change: int, fresh: bool) -> None:
    engine = load(yuv_model)
    first, second = picture(seed=1), picture(seed=1, sequence=1)
    second.y[:] = (second.y.astype(int) + change).astype(np.uint8)
    out_of(engine, first)
    last = STATE_INITIAL if fresh else first.buffer
    assert same(out_of(engine, second), expected(second.buffer, last))


@pytest.mark.parametrize("size", [(50, 34), (66, 48), (64, 50), (16, 16), (18, 16)])
def test_sides_that_do_not_divide_are_padded_and_cropped(
    yuv_model: Path, picture: Picture, size: tuple[int, int]
) -> None:
    engine = load(yuv_model, size)
    first, second = picture(*size, seed=1), picture(*size, seed=2, sequence=1)
    assert same(out_of(engine, first), expected(first.buffer, STATE_INITIAL))
    assert same(out_of(engine, second), expected(second.buffer, first.buffer))


def test_padding_repeats_the_edge(yuv_model: Path, picture: Picture) -> None:
    engine = load(yuv_model, (50, 34))
    frame = picture(50, 34)
    out_of(engine, frame)
    assert engine._scratch is not None
    for plane, padded in zip(frame.planes, engine._scratch[0].planes, strict=True):
        high, wide = plane.shape
        assert np.array_equal(padded[:high, :wide], plane)
        assert np.array_equal(padded[-1, :wide], plane[-1])
        assert np.array_equal(padded[:high, -1], plane[:, -1])
    assert engine._scratch[0].size == (56, 40)


@pytest.mark.parametrize("size", [(14, 64), (64, 14), (0, 0), (100000, 720), (65, 48), (-64, 48)])
def test_sizes_that_cannot_be(yuv_model: Path, size: tuple[int, int]) -> None:
    with pytest.raises(FormatMismatch) as caught:
        load(yuv_model, size)
    assert caught.value.hint


def test_another_size_makes_ready_for_it(yuv_model: Path, picture: Picture) -> None:
    engine = load(yuv_model)
    out_of(engine, picture(seed=1))
    for size in ((128, 96), (64, 48)):
        frame = picture(*size, seed=2, sequence=1)
        assert same(out_of(engine, frame), expected(frame.buffer, STATE_INITIAL))
        assert engine.size == size


def test_out_must_be_another_frame_of_the_same_size(yuv_model: Path, picture: Picture) -> None:
    engine = load(yuv_model)
    with pytest.raises(FormatMismatch):
        engine.process(picture(), Frame(128, 96))
    frame = picture()
    with pytest.raises(FormatMismatch):
        engine.process(frame, frame)


def test_facts_go_along(yuv_model: Path, rgb_model: Path, picture: Picture) -> None:
    color = Color(ColorRange.FULL, ColorMatrix.BT709)
    for model in (yuv_model, rgb_model):
        for strength in (0.0, 1.0):
            engine = load(model)
            engine.strength = strength
            frame = picture(sequence=3)
            frame.color = color
            out = out_of(engine, frame)
            assert (out.sequence, out.captured_ns, out.color) == (3, frame.captured_ns, color)


@pytest.mark.parametrize("size", [(64, 48), (50, 34)])
@pytest.mark.parametrize("color", [Color(), Color(ColorRange.FULL), Color(matrix=ColorMatrix.BT709)])
def test_rgb_identity_gives_the_picture_back(rgb_model: Path, color: Color, size: tuple[int, int]) -> None:
    engine = load(rgb_model, size)
    frame = Frame(*size, color)
    frame.fill(110, 118, 140)
    frame.y[0, 0] += np.arange(size[0], dtype=np.uint8)  # a ramp: luma must come back in place
    out = out_of(engine, frame)
    for got, want in zip(out.planes, frame.planes, strict=True):
        assert np.abs(got.astype(int) - want).max() <= 2


def test_full_range_is_not_clipped_to_limited(rgb_model: Path) -> None:
    engine = load(rgb_model)
    frame = Frame(64, 48, Color(ColorRange.FULL))
    for value in (0, 255):
        frame.fill(value)
        assert np.abs(out_of(engine, frame).y.astype(int) - value).max() <= 1


def test_rgb_channels_are_in_order(tmp_path: Path) -> None:
    path = tmp_path / "red.onnx"
    path.write_bytes(rgb_graph(gains=(1, 0, 0)))
    engine = load(path)
    frame = Frame(64, 48)
    frame.fill(235)  # white goes in, red comes out: BT.601 limited 81, 90, 240
    out = out_of(engine, frame)
    assert [int(plane[8, 8]) for plane in out.planes] == pytest.approx([81, 90, 240], abs=2)


def test_rgb_model_above_one_is_clipped(tmp_path: Path) -> None:
    path = tmp_path / "bright.onnx"
    path.write_bytes(rgb_graph(gains=(9, 9, 9)))
    frame = Frame(64, 48)
    frame.fill(200)
    assert np.abs(out_of(load(path), frame).y.astype(int) - 235).max() <= 1


def test_rgb_strength_blends(tmp_path: Path) -> None:
    path = tmp_path / "black.onnx"
    path.write_bytes(rgb_graph(gains=(0, 0, 0)))
    engine = load(path)
    engine.strength = 0.5
    frame = Frame(64, 48)
    frame.fill(200)
    assert np.abs(out_of(engine, frame).y.astype(int) - (200 + 16) / 2).max() <= 1


def test_model_with_fixed_sides(tmp_path: Path) -> None:
    path = tmp_path / "fixed.onnx"
    path.write_bytes(rgb_graph((48, 64)))
    frame = Frame(64, 48)
    frame.fill(100)
    assert np.abs(out_of(load(path), frame).y.astype(int) - 100).max() <= 1
    with pytest.raises(FormatMismatch, match="takes only 64x48 pictures") as caught:
        load(path, (128, 96))
    assert "64x48" in caught.value.hint


def test_wrong_output_shape_is_found_at_load(tmp_path: Path) -> None:
    path = tmp_path / "wide.onnx"
    path.write_bytes(yuv_graph(wrong_shape=True))
    with pytest.raises(ModelError, match="failed on a 64x48 frame") as caught:
        load(path)
    assert "\n" not in str(caught.value)


def test_corrupt_graph(tmp_path: Path) -> None:
    path = write_model(tmp_path / "broken", b"this is not a graph")
    with pytest.raises(ModelError, match="cannot be loaded") as caught:
        load(path)
    assert "\n" not in str(caught.value)


def test_tampered_file_never_reaches_the_runtime(yuv_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (yuv_model / "model.onnx").write_bytes(yuv_graph(strength=False))

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("the graph was given to ONNX Runtime")

    monkeypatch.setattr(sharpcam.runtime.ort, "InferenceSession", refuse)
    with pytest.raises(ModelError, match="checksum"):
        load(yuv_model)


def test_failure_while_running_is_explained_and_forgets_the_state(
    yuv_model: Path, picture: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = load(yuv_model)
    out_of(engine, picture(seed=1))
    assert isinstance(engine._bound, HostBinding)

    class Broken:
        def run_with_iobinding(self, binding: object) -> None:
            raise RuntimeError("out of\nmemory")

    with monkeypatch.context() as patch:
        patch.setattr(engine._bound, "_session", Broken())
        with pytest.raises(ModelError, match="failed on a 64x48 frame: out of memory"):
            out_of(engine, picture(seed=2, sequence=1))
    frame = picture(seed=3, sequence=2)
    assert same(out_of(engine, frame), expected(frame.buffer, STATE_INITIAL))


def test_a_size_that_failed_is_tried_again(
    yuv_model: Path, picture: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = load(yuv_model)
    with pytest.raises(FormatMismatch):
        engine.process(Frame(8, 8), Frame(8, 8))
    frame = picture()
    assert same(out_of(engine, frame), expected(frame.buffer, STATE_INITIAL))


def test_closed(yuv_model: Path, picture: Picture) -> None:
    engine = load(yuv_model)
    engine.close()
    engine.close()
    with pytest.raises(ModelError, match="closed"):
        out_of(engine, picture())


def test_what_it_says_of_itself(yuv_model: Path) -> None:
    engine = load(yuv_model, threads=2)
    assert engine.description == "tiny 1.0 (uint8) on CPU, 2 threads"
    assert (engine.provider, engine.threads, engine.size, engine.model.name) == ("cpu", 2, (64, 48), "tiny")


def test_run_time_is_told(yuv_model: Path, picture: Picture) -> None:
    engine = load(yuv_model)
    out_of(engine, picture())
    assert min(engine.upload_ns, engine.run_ns, engine.download_ns) > 0
    engine.strength = 0.0
    out_of(engine, picture())
    assert (engine.upload_ns, engine.run_ns, engine.run_cpu_ns, engine.download_ns) == (0, 0, 0, 0)


def test_threads_default_leaves_a_core(yuv_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, threads in ((1, 1), (2, 1), (8, 7)):
        monkeypatch.setattr(sharpcam.runtime, "usable_cores", lambda cores=cores: cores)
        assert sharpcam.runtime.default_threads() == threads


@pytest.mark.parametrize("threads", [0, -1, 10_000])
def test_threads_out_of_range(yuv_model: Path, threads: int) -> None:
    with pytest.raises(ConfigError, match="threads"):
        load(yuv_model, threads=threads)


@pytest.mark.parametrize(("threads", "spins"), [(1, "0"), (2, "1")])
def test_pool_spins_briefly_and_within_a_frame_only(yuv_model: Path, threads: int, spins: str) -> None:
    options = load(yuv_model, threads=threads)._session.get_session_options()  # type: ignore[union-attr]
    assert options.intra_op_num_threads == threads
    entry = options.get_session_config_entry
    assert entry("session.intra_op.allow_spinning") == spins
    assert entry("session.force_spinning_stop") == "1"
    assert int(entry("session.intra_op.spin_duration_us")) <= 100
    assert entry("session.inter_op.allow_spinning") == "0"


# Providers


def test_unknown_provider(yuv_model: Path) -> None:
    with pytest.raises(ConfigError, match="tpu"):
        load(yuv_model, provider="tpu")


@pytest.mark.parametrize(("provider", "label"), [("cuda", "CUDA"), ("tensorrt", "TensorRT")])
def test_a_gpu_asked_for_without_a_driver(
    yuv_model: Path, monkeypatch: pytest.MonkeyPatch, provider: str, label: str
) -> None:
    monkeypatch.setattr(cuda, "facts", lambda: cuda.Facts(built_cuda=(13, 0)))
    with pytest.raises(ProviderUnavailable, match=f"{label} is not available: no NVIDIA driver") as caught:
        load(yuv_model, provider=provider)
    assert "onnxruntime-gpu[cuda,cudnn]" in caught.value.hint
    assert "--provider cpu" in caught.value.hint


def test_auto_without_a_driver_is_quiet(
    yuv_model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cuda, "driver", lambda: None)
    monkeypatch.setattr(cuda, "facts", lambda: cuda.Facts())
    with caplog.at_level(logging.INFO):
        assert load(yuv_model, provider="auto").provider == "cpu"
    assert not caplog.records


def test_auto_falls_back_with_one_line_when_cuda_does_not_start(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """A driver answers and nothing is known to be missing, but ORT's CUDA does not load: the real ORT falls back
    in silence here."""
    if "CUDAExecutionProvider" not in sharpcam.runtime.ort.get_available_providers():
        pytest.skip("this build of ONNX Runtime has no CUDA")
    if cuda.driver() is not None:
        pytest.skip("CUDA may really run here")
    model = write_yuv_model(tmp_path / "float", precision="float32")
    driver = FakeDriver()
    monkeypatch.setattr(cuda, "driver", lambda: driver)
    monkeypatch.setattr(cuda, "facts", lambda: FACTS)
    monkeypatch.setattr(cuda, "device", lambda: cuda.Device(driver))
    with pytest.raises(ProviderUnavailable, match="CUDA did not start"):
        load(model, provider="cuda")
    with caplog.at_level(logging.INFO):
        engine = load(model, provider="auto")
    assert engine.provider == "cpu"
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "\n" not in caplog.text.strip()
    assert capfd.readouterr() == ("", "")


def test_strength_may_be_set_while_frames_pass(yuv_model: Path, picture: Picture) -> None:
    engine = load(yuv_model)
    done = threading.Event()

    def turn() -> None:
        for i in range(400):
            engine.strength = (i % 5) / 4
            if i % 50 == 0:
                engine.reset()
        done.set()

    frame, out = picture(), Frame(64, 48)
    low, high = expected(frame.buffer, STATE_INITIAL).astype(int), frame.buffer.astype(int)
    low, high = np.minimum(low, high) - 1, np.maximum(low, high) + 1
    thread = threading.Thread(target=turn)
    thread.start()
    while not done.is_set():
        engine.process(frame, out)
        assert ((out.buffer >= low) & (out.buffer <= high)).all()
    thread.join()
