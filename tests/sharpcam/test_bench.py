from __future__ import annotations

import gc
import json
from pathlib import Path

import pytest
from fake_gpu import FakeGpu
from tiny_models import write_yuv_model
from typer.testing import CliRunner

from sharpcam import benchmark
from sharpcam.benchmark import MemorySource, machine, measure
from sharpcam.cli import app
from sharpcam.cli.bench import _names
from sharpcam.errors import ModelError
from sharpcam.frame import Frame
from sharpcam.models import find_model

KEYS = {"model", "size", "provider", "threads", "frames", "fps", "dropped", "inference_ms", "stages_ms"}
KEYS |= {"latency_ms", "cpu_ms_per_frame", "rss_mb", "macs_per_pixel", "gops"}


@pytest.fixture(scope="module")
def ready() -> list[Frame]:
    return benchmark.pictures((160, 120))


def test_pictures_are_different_ones(ready: list[Frame]) -> None:
    assert len({frame.buffer.tobytes() for frame in ready}) == len(ready) > 2


def test_memory_source_goes_back_and_forth(ready: list[Frame]) -> None:
    source = MemorySource(ready[:3], 30, live=False)
    frame, seen = Frame(160, 120), []
    for i in range(6):
        assert source.read(frame, 0)
        assert frame.sequence == i
        seen.append(next(n for n, picture in enumerate(ready) if (picture.buffer == frame.buffer).all()))
    assert seen == [0, 1, 2, 1, 0, 1]
    source.close()
    with pytest.raises(EOFError):
        source.read(frame, 0)


def test_live_memory_source_skips_what_was_missed(
    ready: list[Frame], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 10_000_000_000
    monkeypatch.setattr(benchmark.time, "monotonic_ns", lambda: now)
    source = MemorySource(ready, 10, live=True)
    frame = Frame(160, 120)
    assert source.read(frame, 0)
    assert not source.read(frame, 0)  # not due yet
    now += 100_000_000
    assert source.read(frame, 0)
    assert frame.sequence == 1
    now += 370_000_000
    assert source.read(frame, 0)
    assert frame.sequence == 4
    assert not source.read(frame, 0)


def test_measure(yuv_model: Path, ready: list[Frame]) -> None:
    unpaced, paced = measure(find_model(yuv_model), ready, provider="cpu", threads=1, frames=40)
    for result, mode in ((unpaced, "unpaced"), (paced, "paced")):
        assert result.keys() >= KEYS
        assert result["mode"] == mode
        assert (result["model"], result["size"], result["provider"]) == ("tiny", [160, 120], "cpu")
        assert (result["frames"], result["threads"]) == (40, 1)
        assert (
            0
            < result["inference_ms"]["p50"]
            <= result["inference_ms"]["p95"]
            <= result["inference_ms"]["p99"]
        )
        assert result["inference_ms"]["p50"] <= result["latency_ms"]["p50"]
        stages = result["stages_ms"]
        assert {"capture", "wait", "sharpen", "inference", "queue", "send"} <= stages.keys()
        parts = [stages[name]["p50"] for name in ("upload", "inference", "download")]
        assert min(parts) > 0
        assert max(parts) <= stages["sharpen"]["p95"]
        assert set(result["stages_ms"]["send"]) >= {"p50", "p95"}
        assert 0 < result["overhead_cpu_ms"] < result["cpu_ms_per_frame"] * 2
        assert result["bypassed"] == 0
    assert unpaced["dropped"] == 0
    assert paced["fps"] <= 31  # it does not run ahead of the clock
    assert unpaced["fps"] > paced["fps"]
    # two operations a MAC: 2 * 2.5 * 160 * 120 = 96,000 a frame
    assert unpaced["gops"] == pytest.approx(96_000 / unpaced["inference_ms"]["p50"] / 1e6, abs=0.06)


def test_a_gpu_is_measured_under_the_same_names(gpu: FakeGpu, tmp_path: Path, ready: list[Frame]) -> None:
    model = find_model(write_yuv_model(tmp_path / "tiny", precision="float32"))
    here = measure(model, ready, provider="cpu", threads=1, frames=10)[0]
    there = measure(model, ready, provider="cuda", frames=10)[0]
    assert (there["provider"], there["fallbacks"]) == ("cuda", 0)
    assert there.keys() == here.keys()
    assert there["stages_ms"].keys() == here["stages_ms"].keys()
    assert gpu.runs
    gc.collect()
    assert not gpu.driver.pinned  # the frames' memory, given back
    assert machine()["gpu"] == "Fake 4090, driver 580.65, CUDA 13.0"
    assert _names(there) == ("tiny", "160x120", "CUDA")


def test_unknown_cost_is_no_number(tmp_path: Path, rgb_model: Path, ready: list[Frame]) -> None:
    result = measure(find_model(rgb_model), ready, provider="cpu", threads=1, frames=10)[0]
    assert result["macs_per_pixel"] is None
    assert result["gops"] is None


def test_machine() -> None:
    facts = machine()
    assert facts["cores"] >= 1
    assert facts["cpu"]
    assert facts["onnxruntime"]
    json.dumps(facts)


def test_machine_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*args: object, **kwargs: object) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(benchmark.Path, "read_text", gone)
    assert benchmark._cpu()[1] == set()


def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["bench", *map(str, arguments)])
    return result.exit_code, result.stdout, result.stderr


SMALL = ("--size", "160x120", "--frames", 10, "--provider", "cpu", "--threads", 1)


def test_json_on_stdout_is_only_json(yuv_model: Path, rgb_model: Path) -> None:
    code, out, _ = run(*SMALL, "--model", yuv_model, "--model", rgb_model, "--json", "-")
    assert code == 0
    found = json.loads(out)
    assert found.keys() == {"machine", "results"}
    assert [(r["model"], r["mode"]) for r in found["results"]] == [
        (name, mode) for name in ("tiny", "gain") for mode in ("unpaced", "paced")
    ]


def test_table_and_json_file(yuv_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    code, out, _ = run(*SMALL, "--model", yuv_model, "--json", path)
    assert code == 0
    assert "Live, 30 fps" in out
    assert "tiny" in out
    assert json.loads(path.read_text())["results"][0]["size"] == [160, 120]
    assert [p.name for p in tmp_path.iterdir() if p.is_file() and "bench" in p.name] == ["bench.json"]


def test_all_models(no_models: tuple[Path, Path]) -> None:
    code, _, err = run(*SMALL, "--model", "all")
    assert code == 1
    assert "no model is installed" in err
    for name in ("a", "b"):
        write_yuv_model(no_models[0] / name)
    code, out, _ = run(*SMALL, "--model", "all", "--json", "-")
    assert code == 0
    assert {r["model"] for r in json.loads(out)["results"]} == {"a", "b"}


def test_file_that_cannot_be_written_is_told_before_measuring(
    yuv_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*args: object, **kwargs: object) -> None:
        raise ModelError("it measured")

    monkeypatch.setattr("sharpcam.cli.bench.measure", never)
    code, _, err = run(*SMALL, "--model", yuv_model, "--json", tmp_path / "gone" / "b.json")
    assert code == 1
    assert "there is no folder" in err
    assert "hint: " in err
