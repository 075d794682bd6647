"""Frames in tiles: where the cuts lie, and that nobody can tell from the picture."""

from __future__ import annotations

import gc
import hashlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from tiny_models import DELAY_STATE, SCENE_STATE, YUV_STATE, delay_graph, scene_graph, write_model, yuv_graph

from sharpcam.engine import Engine
from sharpcam.errors import ConfigError, ModelError
from sharpcam.frame import Frame
from sharpcam.models import Model, find_model, read_manifest
from sharpcam.sources import testcard
from sharpcam.tiles import MAX_WORK, Tiles, cut, grid

Picture = Callable[..., Frame]
U8 = NDArray[np.uint8]

# -- where the cuts lie --------------------------------------------------------------------------------


def check_spans(side: int, halo: int, step: int, spans: list) -> None:  # type: ignore[type-arg]
    assert (spans[0].start, spans[-1].stop) == (0, side)
    assert all(a.stop == b.start for a, b in pairwise(spans)), "each pixel is given by one tile"
    for span in spans:
        assert span.start < span.stop
        assert all(border % step == 0 for border in span)
        assert span.low == max(0, span.start - halo)
        assert span.high == min(side, span.stop + halo)


def test_cuts_fit_whatever_the_numbers() -> None:
    rng = np.random.default_rng(0)
    most = 0
    for _ in range(200):
        step = int(rng.choice([2, 4, 8, 16]))
        halo = step * int(rng.integers(0, 8))
        width, height = (step * int(n) for n in rng.integers(1, 120, 2))
        count = int(rng.integers(1, 40))
        columns, rows = grid(width, height, count, halo, step)
        check_spans(width, halo, step, columns)
        check_spans(height, halo, step, rows)
        assert 1 <= len(columns) * len(rows) <= count
        work = sum(c.high - c.low for c in columns) * sum(r.high - r.low for r in rows)
        assert work <= MAX_WORK * width * height
        most = max(most, len(columns) * len(rows))
    assert most > 20


@pytest.mark.parametrize(("side", "parts"), [(1280, 2), (1280, 3), (1280, 5), (1920, 4), (648, 4)])
def test_tiles_of_one_side_read_as_much_each(side: int, parts: int) -> None:
    reads = [span.high - span.low for span in cut(side, parts, 32, 8)]
    assert len(reads) == parts
    assert max(reads) - min(reads) <= 16
    assert sum(reads) == side + 2 * 32 * (parts - 1)


@pytest.mark.parametrize(
    ("size", "count", "shape"),
    [
        ((1280, 720), 1, (1, 1)),
        ((1280, 720), 2, (2, 1)),
        ((720, 1280), 2, (1, 2)),
        ((1280, 720), 3, (3, 1)),
        ((1280, 720), 4, (2, 2)),
        ((1280, 720), 8, (4, 2)),
        ((160, 120), 2, (2, 1)),
        ((160, 120), 8, (2, 1)),  # more would be mostly halo
        ((96, 96), 8, (1, 1)),
        ((16, 16), 8, (1, 1)),
        ((1280, 64), 3, (3, 1)),
    ],
)
def test_the_longer_side_is_cut_first(size: tuple[int, int], count: int, shape: tuple[int, int]) -> None:
    columns, rows = grid(*size, count, 32, 8)
    assert (len(columns), len(rows)) == shape


def test_no_other_grid_would_be_done_sooner() -> None:
    for size, count in product([(1280, 720), (640, 360), (720, 1280), (320, 240)], range(1, 13)):
        columns, rows = grid(*size, count, 32, 8)

        def largest(columns: list, rows: list) -> int:  # type: ignore[type-arg]
            return max((c.high - c.low) * (r.high - r.low) for c, r in product(columns, rows))

        for across in range(1, count + 1):
            for down in range(1, count // across + 1):
                others = cut(size[0], across, 32, 8), cut(size[1], down, 32, 8)
                work = sum((c.high - c.low) * (r.high - r.low) for c, r in product(*others))
                if work <= MAX_WORK * size[0] * size[1]:
                    assert largest(columns, rows) <= largest(*others)


# -- the picture ---------------------------------------------------------------------------------------


@pytest.fixture
def shipped() -> Model:
    return find_model("m")


@pytest.fixture(scope="module")
def unmoved(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """The student that ships, but whatever it sees, it takes the scene for the same: that is a memory, too."""
    onnx = pytest.importorskip("onnx", reason="the student's scene is taken out with onnx (extra: training)")
    model = find_model("m")
    graph = onnx.load_from_string(model.read(model.manifest))
    for node in graph.graph.node:
        if node.output[0] == "state_scene_out":
            node.CopyFrom(onnx.helper.make_node("Identity", ["state_scene"], ["state_scene_out"]))
    folder = tmp_path_factory.mktemp("models") / "m"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(graph.SerializeToString())
    checksum = hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest()
    known = [s.model_copy(update={"initial": 0.03}) if s.whole else s for s in model.manifest.state]
    assert any(state.whole for state in known)
    assert model.manifest.halo is not None
    manifest = model.manifest.model_copy(update={"sha256": checksum, "state": tuple(known)})
    return replace(model, folder=folder, manifest=manifest)


Load = Callable[..., Engine]


@pytest.fixture
def load() -> Iterator[Load]:
    """Loads engines and closes them."""
    engines: list[Engine] = []

    def load(model: Model | Path, size: tuple[int, int], threads: int, **options: bool) -> Engine:
        engines.append(Engine.load(model, size, "cpu", threads, **options))
        return engines[-1]

    yield load
    for engine in engines:
        engine.close()


def tiles_of(engine: Engine) -> int:
    if not isinstance(engine._bound, Tiles):
        return 1
    assert len(engine._bound) > 1, "a whole frame needs no tile"
    return len(engine._bound)


def scene_of(engine: Engine) -> Any:
    """The means that `engine` has seen of the scene in its last frame."""
    bound = engine._bound
    if isinstance(bound, Tiles):
        return bound._last["state_scene"].ravel()
    states = bound._states  # type: ignore[union-attr]
    place = [state.input for state in states._states].index("state_scene")
    return states._buffers[place][states._turn].ravel()


def noisy(size: tuple[int, int], seed: int, number: int) -> Frame:
    """One of a clip's frames: soft blocks, a block that moves over them, noise. All of the model is at work."""
    width, height = size
    still, noise = np.random.default_rng(seed), np.random.default_rng((seed, number))
    frame = Frame(width, height)
    for plane in frame.planes:
        high, wide = plane.shape
        blocks = still.integers(60, 200, (high // 6 + 1, wide // 6 + 1), np.uint8)
        picture = cv2.resize(blocks, (wide, high), interpolation=cv2.INTER_LINEAR).astype(float)
        picture[high // 4 : high // 2, wide // 3 + 3 * number : wide // 2 + 3 * number] += 40
        plane[:] = np.clip(picture + noise.normal(0, 4, plane.shape), 0, 255).astype(np.uint8)
    frame.sequence, frame.captured_ns = number, 1_000_000_000 + number * 33_333_333
    return frame


def clip(size: tuple[int, int], seed: int, frames: int) -> list[Frame]:
    return [noisy(size, seed, number) for number in range(frames)]


def run(engine: Engine, frames: list[Frame]) -> list[U8]:
    made = []
    for frame in frames:
        out = Frame(*frame.size)
        out.buffer[:] = 7
        engine.process(frame, out)
        made.append(out.buffer)
    return made


def assert_same(whole: list[U8], tiled: list[U8]) -> None:
    for i, (a, b) in enumerate(zip(whole, tiled, strict=True)):
        assert np.array_equal(a, b), f"frame {i}: {np.argwhere(a != b)[:3].tolist()} differ"


@pytest.mark.parametrize(
    ("size", "threads", "tiles"),
    [
        ((1280, 720), 2, 2),
        ((1280, 720), 4, 4),
        ((1920, 1080), 3, 3),
        ((640, 360), 2, 2),
        ((640, 360), 3, 3),
        ((640, 360), 8, 8),
        ((322, 242), 2, 2),  # padded to 328 x 248
        ((322, 242), 4, 4),
        ((242, 322), 2, 2),
        ((160, 120), 8, 2),
        ((34, 18), 8, 1),
    ],
)
def test_tiled_is_whole_bit_for_bit(
    shipped: Model, load: Load, size: tuple[int, int], threads: int, tiles: int
) -> None:
    frames = clip(size, 1, 3)
    tiled = load(shipped, size, threads)
    assert tiles_of(tiled) == tiles
    whole = run(load(shipped, size, 1), frames)
    assert_same(whole, run(tiled, frames))
    assert (whole[2] != frames[2].buffer).mean() > 0.1, "the model does something"


@pytest.mark.parametrize("size", [(640, 360), (1280, 720)])
@pytest.mark.parametrize("name", ["s", "m", "l"])
def test_tiled_is_whole_on_the_test_card(load: Load, name: str, size: tuple[int, int]) -> None:
    """Smooth and sharp places as in life, for long enough that a seam in the state, or what tiles understood of the
    scene in another way, would grow."""
    card = testcard.TestCard(size, 30.0)
    frames = [card.soft(i) for i in range(12)]
    whole, tiled = (run(load(find_model(name), size, threads), frames) for threads in (1, 4))
    assert_same(whole, tiled)
    assert np.abs(whole[-1].astype(int) - frames[-1].buffer).mean() > 1, "the model does something"


@pytest.mark.parametrize("seed", range(12))
def test_any_size_any_threads(shipped: Model, load: Load, seed: int) -> None:
    rng = np.random.default_rng(seed)
    width, height = (2 * int(n) for n in rng.integers(20, 220, 2))
    threads = int(rng.integers(2, 9))
    engines = load(shipped, (width, height), 1), load(shipped, (width, height), threads)
    frames = clip((width, height), seed, 4)
    for engine in engines:
        engine.strength = float(rng.choice([0.5, 1.0])) if engine is engines[0] else engines[0].strength
    assert_same(*(run(engine, frames) for engine in engines))


SIZE = (322, 242)


def test_strength_split_and_resets(shipped: Model, load: Load) -> None:
    """Everything that may change between two frames, in both at once."""
    frames = clip(SIZE, 3, 14)

    def film(engine: Engine) -> list[U8]:
        made = []
        for i, frame in enumerate(frames):
            engine.strength = (1.0, 1.0, 0.5, 0.5, 0.0, 1.0, 0.25)[i % 7]
            engine.split = i in (1, 2, 9)
            if i == 8:
                engine.reset()
            if i == 11:
                frame.sequence += 100  # a gap
            made += run(engine, [frame])
        return made

    whole, tiled = load(shipped, SIZE, 1), load(shipped, SIZE, 2)
    numbers = [frame.sequence for frame in frames]
    first = film(whole)
    for frame, number in zip(frames, numbers, strict=True):
        frame.sequence = number
    assert_same(first, film(tiled))
    assert whole.resets == tiled.resets > 3


def test_without_memory(unmoved: Model, load: Load) -> None:
    frames = clip(SIZE, 4, 3)
    whole, tiled = (load(unmoved, SIZE, n, temporal=False) for n in (1, 2))
    first = run(whole, frames)
    assert_same(first, run(tiled, frames))
    assert_same(first[2:], run(load(unmoved, SIZE, 1), frames[2:]))


def test_sizes_change_on_the_way(shipped: Model, load: Load) -> None:
    engines = load(shipped, SIZE, 1), load(shipped, SIZE, 3)
    counts = []
    for size in (SIZE, (640, 360), (48, 32), SIZE):
        frames = clip(size, 5, 2)
        assert_same(*(run(engine, frames) for engine in engines))
        counts.append(tiles_of(engines[1]))
    assert counts == [3, 3, 1, 3]


def test_too_small_a_halo_would_be_seen(shipped: Model, load: Load) -> None:
    """That the tests above look where a mistake would be."""
    less = replace(shipped, manifest=shipped.manifest.model_copy(update={"halo": 16}))
    frames = clip(SIZE, 1, 3)
    whole, tiled = run(load(shipped, SIZE, 1), frames), run(load(less, SIZE, 2), frames)
    differ = np.argwhere(whole[2][: SIZE[1]] != tiled[2][: SIZE[1]])[:, 1]
    assert differ.size
    assert abs(differ - 164).max() < 40, "only along the seam"


def test_states_of_other_shapes_and_starts(tmp_path: Path, load: Load) -> None:
    """A state on a grid of its own, which starts as a number; states that start as the frame; no strength."""
    text = YUV_STATE + "initial = 128\n"
    models = [
        write_model(tmp_path / "tiny", yuv_graph(), text, strength_input=True, halo=8),
        write_model(tmp_path / "delay", delay_graph(), DELAY_STATE, halo=0),
        # the middle, 161, would cut a pixel of chroma in two
        write_model(tmp_path / "single", delay_graph(), DELAY_STATE, halo=0, size_multiple=1),
        write_model(tmp_path / "still", yuv_graph(state=False, strength=False), halo=8),
    ]
    frames = clip(SIZE, 6, 5)
    for model in models:
        whole, tiled = load(model, SIZE, 1), load(model, SIZE, 4)
        assert tiles_of(tiled) == 4
        for engine in (whole, tiled):
            engine.strength = 0.5
        assert_same(run(whole, frames), run(tiled, frames))
        for engine in (whole, tiled):
            engine.reset()
        assert_same(run(whole, frames[1:3]), run(tiled, frames[1:3]))


def test_what_tiles_say_of_the_scene_is_what_the_whole_frame_says(load: Load) -> None:
    size = 648, 376  # of no multiple of a cell
    frame = testcard.TestCard(size, 30.0).soft(3)
    engines = [load(find_model("m"), size, n) for n in (1, 2, 3, 4)]
    said = []
    for engine in engines:
        run(engine, [frame])
        said.append(scene_of(engine))
    assert [tiles_of(engine) for engine in engines] == [1, 2, 3, 4]
    assert (said[0] > 0.015).sum() > 10
    for tiled in said[1:]:
        assert tiled == pytest.approx(said[0], rel=1e-12), "but for the order of the sum"


def test_a_state_of_the_whole_frame_is_the_mean_of_the_tiles(tmp_path: Path, load: Load) -> None:
    model = write_model(tmp_path / "scene", scene_graph(), SCENE_STATE, halo=0)
    frames = clip((128, 96), 6, 4)
    for frame in frames:
        frame.y[..., :64] //= 2  # tiles are not alike
    whole, tiled = load(model, (128, 96), 1), load(model, (128, 96), 4)
    assert tiles_of(tiled) == 4
    made = run(whole, frames), run(tiled, frames)
    assert steps(*made) <= 1, "but for the rounding"
    assert np.ptp(made[0][-1]) > 20
    for engine in (whole, tiled):
        engine.reset()
    assert steps(run(whole, frames[2:]), run(tiled, frames[2:])) <= 1


def steps(some: list[U8], others: list[U8]) -> int:
    return max(int(np.abs(a.astype(int) - b).max()) for a, b in zip(some, others, strict=True))


# -- when it is used, and what it is said of -------------------------------------------------------------


def test_without_a_halo_the_pool_does_it(yuv_model: Path, load: Load) -> None:
    engine = load(yuv_model, (640, 360), 2)
    assert tiles_of(engine) == 1
    assert engine._session is not None
    assert engine._session.get_session_options().intra_op_num_threads == 2


def test_tiles_need_no_pool(shipped: Model, load: Load) -> None:
    engine = load(shipped, SIZE, 2)
    assert engine._session is not None
    assert engine._session.get_session_options().intra_op_num_threads == 1
    assert engine.threads == 2
    assert engine.description.endswith("on CPU, 2 threads")


def test_one_thread_makes_no_others(shipped: Model, load: Load) -> None:
    engine = load(shipped, SIZE, 1)
    run(engine, clip(SIZE, 1, 1))
    assert tiles_of(engine) == 1
    assert not workers()


@pytest.mark.parametrize("threads", [0, 10_000])
def test_threads_out_of_range(shipped: Model, threads: int) -> None:
    with pytest.raises(ConfigError, match="threads"):
        Engine.load(shipped, SIZE, "cpu", threads)


def test_cpu_time_of_all_threads_is_told(shipped: Model, load: Load) -> None:
    engine = load(shipped, SIZE, 2)
    run(engine, clip(SIZE, 1, 2))
    own, others = engine.run_cpu_ns, engine.workers_cpu_ns
    assert 0 < own / 4 < others < own * 4, "two tiles of one size"
    assert engine.run_ns > 0
    engine.strength = 0.0
    run(engine, clip(SIZE, 1, 1))
    assert engine.run_ns == engine.run_cpu_ns == engine.workers_cpu_ns == 0


@pytest.mark.parametrize(
    ("fields", "state", "message"),
    [
        ({"halo": 12}, "", "multiple of 8"),
        ({"halo": -8}, "", "halo"),
        ({"halo": 3, "size_multiple": 3}, "", "multiple of 6"),  # chroma has half the pixels
        ({"halo": 8, "layout": "rgb", "precision": "float32"}, "", "yuv420"),
        ({"halo": 8}, YUV_STATE.replace('"H/8", "W/8"', '"H/16", "W/16"'), "state"),
        ({"halo": 8}, YUV_STATE.replace('"H/8", "W/8"', '"H/8", 1'), "state"),
        ({"halo": 8}, YUV_STATE.replace('"H/8", "W/8"', "6, 8"), "state"),  # of a model with fixed sides
    ],
)
def test_halos_that_cannot_be(tmp_path: Path, fields: dict[str, object], state: str, message: str) -> None:
    folder = write_model(tmp_path / "odd", b"", state, **fields)
    with pytest.raises(ModelError, match=message):
        read_manifest(folder / "model.toml")


# -- threads and failures ------------------------------------------------------------------------------


def workers() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("sharpcam-tile")]


def gone() -> bool:
    """Whether all workers end; they have some seconds."""
    until = time.monotonic() + 10
    while workers() and time.monotonic() < until:
        gc.collect()
        time.sleep(0.01)
    return not workers()


def test_workers_live_as_long_as_the_engine(shipped: Model) -> None:
    assert gone()
    engine = Engine.load(shipped, SIZE, "cpu", 3)
    assert len(workers()) == 2
    for _ in range(3):
        run(engine, clip(SIZE, 1, 1))
    engine.resize((640, 360))
    assert len(workers()) == 2, "those of the old size have gone"
    engine.close()
    assert not workers()
    engine.close()
    with pytest.raises(ModelError, match="closed"):
        run(engine, clip((640, 360), 1, 1))


def test_workers_go_with_an_engine_that_nobody_closed(shipped: Model) -> None:
    engine = Engine.load(shipped, SIZE, "cpu", 3)
    run(engine, clip(SIZE, 1, 2))
    assert workers()
    del engine
    assert gone()


def test_the_interpreter_ends_with_an_open_engine() -> None:
    code = (
        "from sharpcam.engine import Engine\nfrom sharpcam.frame import Frame\n"
        "engine = Engine.load('m', (322, 242), 'cpu', 3)\n"
        "frame, out = Frame(322, 242), Frame(322, 242)\n"
        "frame.fill(90)\nengine.process(frame, out)\nprint('done')\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (result.returncode, result.stdout, result.stderr) == (0, "done\n", "")


@pytest.mark.parametrize("broken", [0, 1, 2])
def test_a_tile_that_fails_is_explained_when_all_are_at_rest(
    shipped: Model, load: Load, monkeypatch: pytest.MonkeyPatch, broken: int
) -> None:
    engine, whole = load(shipped, SIZE, 3), load(shipped, SIZE, 1)
    frames = clip(SIZE, 7, 4)
    run(engine, frames[:1])
    assert isinstance(engine._bound, Tiles)
    at_rest = []

    def fail(binding: object) -> None:
        raise RuntimeError("out of\nmemory")

    with monkeypatch.context() as patch:
        for i, tile in enumerate(engine._bound._tiles):
            if i == broken:
                patch.setattr(tile, "_run", fail)
                continue
            real = tile._run

            def slow(binding: object, real: Callable[[object], None] = real) -> None:
                time.sleep(0.05)
                real(binding)
                at_rest.append(True)

            patch.setattr(tile, "_run", slow)
        with pytest.raises(ModelError, match="failed on a 328x248 frame: out of memory"):
            run(engine, frames[1:2])
        assert len(at_rest) == 2
    # the state that one tile did not write is forgotten
    assert_same(run(whole, frames[2:]), run(engine, frames[2:]))


def test_a_graph_that_does_not_fit_is_explained(tmp_path: Path) -> None:
    state = YUV_STATE + "initial = 128\n"
    path = write_model(tmp_path / "wide", yuv_graph(wrong_shape=True), state, strength_input=True, halo=8)
    with pytest.raises(ModelError, match="failed on a 640x360 frame") as caught:
        Engine.load(path, (640, 360), "cpu", 2)
    assert "\n" not in str(caught.value)
    del caught  # which remembers the engine
    assert gone()
