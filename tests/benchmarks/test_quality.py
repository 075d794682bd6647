"""The room quality: figures are those of training.evaluate, and what is made of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("matplotlib", reason="the rooms draw with matplotlib (extra: benchmarks)")
pytest.importorskip("onnx", reason="the test models are built with onnx (extra: benchmarks)")

from tiny_models import rgb_graph, write_model, write_yuv_model

import benchmarks.__main__ as frame
import training.evaluate
from benchmarks import plots, quality, results
from sharpcam.errors import MediaError
from training import metrics
from training.pairs import find_pairs, read_pair

Picture = NDArray[np.uint8]


def write(path: Path, picture: Picture) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.ascontiguousarray(picture[..., ::-1]))


def scene(seed: int, shift: int = 0) -> Picture:
    """Tiles that stand still, and some that move by `shift`."""
    y, x = np.mgrid[:48, :64]
    x = np.where(y < 16, x + shift, x)
    rng = np.random.default_rng(seed)
    tiles = np.where((x // 8 + y // 8) % 2, 180, 60)
    rgb = np.stack([tiles, 2 * x + y, 255 - tiles], axis=2) + rng.integers(-6, 7, (48, 64, 3))
    return np.asarray(rgb.clip(0, 255), np.uint8)


def soft(picture: Picture, seed: int) -> Picture:
    noise = np.random.default_rng(seed).integers(-3, 4, picture.shape)
    return np.asarray((cv2.GaussianBlur(picture, (0, 0), 1.0) + noise).clip(0, 255), np.uint8)


@pytest.fixture
def sets(tmp_path: Path) -> Path:
    """webcam (5 stills) and clip-office (6 frames), and a folder that is no set."""
    folder = tmp_path / "sets"
    for i in range(5):
        write(folder / "webcam" / "sharp" / f"p{i}.png", scene(i))
        write(folder / "webcam" / "blur" / f"p{i}.png", soft(scene(i), i))
    for i in range(6):
        write(folder / "clip-office" / "sharp" / f"{i}.png", scene(0, 3 * i))
        write(folder / "clip-office" / "blur" / f"{i}.png", soft(scene(0, 3 * i), 10 + i))
    (folder / "notes" / "blur").mkdir(parents=True)
    return folder


@pytest.fixture
def installed(no_models: tuple[Path, Path]) -> Path:
    """A recurrent model "m" of 2 kMACs and an RGB one, "teacher", of a million."""
    write_yuv_model(no_models[0] / "m", macs_per_pixel=2000.0)
    gains = rgb_graph(gains=(1.02, 1.02, 1.02))
    write_model(no_models[0] / "teacher", gains, layout="rgb", precision="float32", macs_per_pixel=1e6)
    return no_models[0]


@pytest.fixture
def run(sets: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    def go(*options: str) -> dict[str, Any]:
        published = tmp_path / "published"
        where = ["--sets", str(sets), "--published", str(published), "--weights", str(tmp_path / "no")]
        assert frame.main(["quality", *where, "--out", str(tmp_path / "out"), *options]) == 0
        return results.load("quality", tmp_path / "out")

    return go


def figures(block: dict[str, Any]) -> dict[str, float]:
    return {name: block[name] for name in ("psnr", "ssim", "mae")}


# --- figures ------------------------------------------------------------------------------------------------


def test_figures_are_those_of_training_evaluate(
    installed: Path, sets: Path, run: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    found = run()
    assert list(found["sets"]) == ["clip-office", "webcam"]  # clips first
    for name, clip in (("clip-office", ["--clip"]), ("webcam", [])):
        capsys.readouterr()
        options = ["--model", str(installed / "m"), "--pairs", str(sets / name), "--json", "--no-lpips"]
        assert training.evaluate.main([*options, *clip, "--provider", "cpu"]) == 0
        expected = json.loads(capsys.readouterr().out)
        report = found["sets"][name]["report"]
        assert figures(report["m"]) == pytest.approx(figures(expected["output"]))
        assert figures(report["unsharp"]) == pytest.approx(figures(expected["unsharp"]))
        assert report["overshoot"]["m"] == pytest.approx(expected["overshoot"]["output"])
        if clip:
            assert report["flicker"]["m"] == pytest.approx(expected["flicker"]["output"])
            assert report["moving"]["psnr"]["m"] == pytest.approx(expected["moving"]["psnr"]["output"])
    # frame by frame is another thing than with memory, and only clips have it
    report = found["sets"]["clip-office"]["report"]
    assert abs(report["m-still"]["psnr"] - report["m"]["psnr"]) > 0.01
    assert report["m-still"]["model"]["temporal"] is False
    assert "m-still" not in found["sets"]["webcam"]["report"]
    moving = report["moving"]["psnr"]
    assert quality.ghosting(report, "m") == pytest.approx(moving["m-still"] - moving["m"])
    assert quality.ghosting(report, "cas") is None


def test_cas_is_the_best_of_its_strengths(sets: Path) -> None:
    pairs = find_pairs(sets / "webcam")
    best = quality.BestCas(pairs)
    means = {}
    for strength in quality.STRENGTHS:
        one = quality.Cas(strength)
        shown = [quality.sharpen_picture(one, read_pair(pair)[0]) for pair in pairs]
        truths = [read_pair(pair)[1] for pair in pairs]
        means[strength] = np.mean([metrics.psnr(a, b) for a, b in zip(shown, truths, strict=True)])
    assert best.facts == {"strength": max(means, key=lambda s: means[s]), "tuned_on": 5}
    before, truth = read_pair(pairs[0])
    assert metrics.psnr(best(before), truth) > metrics.psnr(before, truth)  # these are blurred
    assert len({round(float(mean), 6) for mean in means.values()}) == len(means)


def test_what_is_slow_sees_a_few_pictures_beside_the_others(installed: Path, run: Callable[..., Any]) -> None:
    found = run("--slow-pictures", "2")
    assert "teacher" not in found["sets"]["webcam"]["report"]
    for name in ("webcam", "clip-office"):
        one = found["few"][name]
        assert (one["pictures"], one["of"]) == (2, {"webcam": 5, "clip-office": 6}[name])
        assert {"input", "unsharp", "cas", "m", "teacher"} <= one["report"].keys()
        assert found["sets"][name]["pictures"] == one["of"]
    assert found["about"]["teacher"]["macs_per_pixel"] == 1e6


def test_without_what_is_slow_there_is_no_second_part(installed: Path, run: Callable[..., Any]) -> None:
    found = run("--subjects", "m", "--only", "web*")
    assert found["few"] == {}
    assert list(found["sets"]) == ["webcam"]
    assert quality.kinds(found["sets"]["webcam"]["report"]) == ["input", "unsharp", "m"]


def test_published_students_that_were_trained(
    installed: Path, tmp_path: Path, run: Callable[..., Any]
) -> None:
    write_model(tmp_path / "published" / "cnn58k", rgb_graph(), layout="rgb", precision="float32")
    found = run("--only", "webcam", "--pictures", "2", "--subjects", "cnn*")
    report = found["sets"]["webcam"]["report"]
    assert quality.kinds(report) == ["input", "unsharp", "cnn58k"]
    assert report["cnn58k"]["psnr"] == pytest.approx(report["input"]["psnr"], abs=0.3)  # it changes nothing
    assert (found["sets"]["webcam"]["pictures"], found["sets"]["webcam"]["of"]) == (2, 5)
    assert set(found["settings"]["models"]) == {"m", "teacher", "cnn58k"}


def test_real_pairs_lie_in_the_data_folder(
    installed: Path, sets: Path, tmp_path: Path, run: Callable[..., Any]
) -> None:
    (tmp_path / "data").mkdir()
    (sets / "webcam").rename(tmp_path / "data" / "gopro_val")
    found = run("--data", str(tmp_path / "data"), "--subjects", "m")
    assert list(found["sets"]) == ["clip-office", "gopro_val"]
    assert str(tmp_path) not in json.dumps(found)  # no paths in results


def test_without_sets_it_says_how_to_make_them(
    installed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert frame.main(["quality", "--sets", str(tmp_path / "none"), "--out", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert "there are no sets" in said
    assert "training.validation" in said


def test_another_teacher_of_the_same_name_begins_another_run(sets: Path, tmp_path: Path) -> None:
    teacher = tmp_path / "best.pt"
    rooms = frame.load_rooms()
    args = frame.arguments(rooms, ["quality", "--sets", str(sets), "--teacher", str(teacher)])
    with pytest.raises(MediaError, match="cannot read the teacher"):
        quality.settings(args)
    teacher.write_bytes(b"one")
    before = quality.settings(args)
    assert before == quality.settings(args)
    assert str(tmp_path) not in json.dumps(before)
    teacher.write_bytes(b"another")
    assert before != quality.settings(args)


def test_subset() -> None:
    numbers: list[Any] = list(range(25))
    assert quality.subset(numbers, None, True) == numbers
    assert quality.subset(numbers, 30, False) == numbers
    assert quality.subset(numbers, 3, False) == [0, 12, 24]
    assert quality.subset(numbers, 3, True) == [0, 1, 2]
    assert quality.subset(numbers, 1, True) == [0, 1]  # a clip has two frames


# --- pages and plots ----------------------------------------------------------------------------------------


def block(psnr: float, gain: float | None = None, **more: Any) -> dict[str, Any]:
    told: dict[str, Any] = {"psnr": psnr, "ssim": 0.9, "mae": 0.01, **more}
    if gain is not None:
        told |= {"gain": {"psnr": {"mean": gain}}, "worse": {"psnr": 0.25}}
    return told


@pytest.fixture
def found() -> dict[str, Any]:
    clip = {
        "pairs": 24, "clip": True, "input": block(30), "unsharp": block(30.5, 0.5, sigma=1.5, amount=0.75),
        "cas": block(30.2, 0.2, strength=0.6), "m": block(33, 3.0), "m-still": block(32, 2.0), "clips": 1,
        "flicker": {"input": 2.0, "truth": 0.1, "unsharp": 3.0, "cas": 2.5, "m": 1.0, "m-still": 2.4},
        "moving": {"share": 0.1, "psnr": {"input": 28.0, "unsharp": 28.5, "cas": 28, "m": 29.5, "m-still": 29.8}},
        "overshoot": {"input": 0.1, "unsharp": 0.4, "cas": 0.2, "m": 0.15, "m-still": 0.15},
    }  # fmt: skip
    still = {
        "pairs": 3, "clip": False, "input": block(28), "unsharp": block(28.4, 0.4, sigma=1, amount=1),
        "cas": block(28.2, 0.2, strength=0.4), "m": block(29, 1.0),
        "overshoot": {"input": 0.1, "unsharp": 0.4, "cas": 0.2, "m": 0.15},
    }  # fmt: skip
    few = still | {"teacher": block(29.5, 1.5), "overshoot": still["overshoot"] | {"teacher": 0.1}}
    return {
        "machine": {"cpu": "A processor", "cores": 2, "onnxruntime": "1.0"},
        "date": "2026-01-02T",
        "settings": {"models": {"m": "c0ffee", "teacher": "beef"}},
        "sets": {
            "clip-office": {"clip": True, "pictures": 24, "of": 24, "report": clip},
            "webcam": {"clip": False, "pictures": 3, "of": 25, "report": still},
        },
        "few": {"webcam": {"clip": False, "pictures": 1, "of": 25, "report": few}},
    }


def test_page(found: dict[str, Any]) -> None:
    lines = quality.markdown(found).splitlines()
    assert "| set | input | unsharp mask | CAS | `m` | flicker `m` |" in lines
    assert (
        "| clip-office | 30.00 / 0.9000 | +0.50 / 0.9000 | +0.20 / 0.9000 | +3.00 / 0.9000 | 0.50 |" in lines
    )
    assert "| webcam | 28.00 / 0.9000 | +0.40 / 0.9000 | +0.20 / 0.9000 | +1.00 / 0.9000 |  |" in lines
    assert (
        "| unsharp mask (1.5, 0.75) | 30.50 | +0.50 | 0.9000 | 0.0100 | 25% | 0.40 | 3.00 | 28.50 |  |"
        in lines
    )
    assert "| `m` | 33.00 | +3.00 | 0.9000 | 0.0100 | 25% | 0.15 | 1.00 | 29.50 | +0.30 |" in lines
    assert any(line.startswith("| `m` frame by frame | 32.00") for line in lines)
    assert "Not all pictures: webcam 3 of 25." in lines
    assert "Not all pictures: webcam 1 of 25." in lines
    assert any("| `teacher` |" in line and line.startswith("| set |") for line in lines)
    assert (
        "\n".join(lines).count(
            "Share of the teacher's gain:\n\n| set | `m` |\n| --- | ---: |\n| webcam | 67% |\n\n"
        )
        == 1
    )
    blocks = quality.readme(found)
    assert quality.gains_table(found["sets"]) in blocks["gains"]
    assert "teacher" in blocks["slow"]
    found["few"] = {}
    assert list(quality.readme(found)) == ["gains"]


def test_a_teacher_that_gains_nothing_has_no_shares(found: dict[str, Any]) -> None:
    assert quality.shares_table(found["sets"]) == ""  # no teacher
    found["few"]["webcam"]["report"]["teacher"] = block(28.05, 0.05)
    assert quality.shares_table(found["few"]) == ""


def speed_results(**ms: float) -> dict[str, Any]:
    rows = {name.replace("_", "-"): {"ms": {"p50": value}} for name, value in ms.items()}
    machine = {"cpu": "A processor", "cores": 2, "onnxruntime": "1.0", "isa": []}
    return {
        "room": "speed",
        "machine": machine,
        "date": "2026-01-02T",
        "settings": {"models": {"m": "c0ffee", "teacher": "beef"}},
        "cells": {"720p, 2 threads, idle": {"rows": rows}},
    }


def test_points_are_what_both_rooms_know(found: dict[str, Any]) -> None:
    speed = speed_results(m=10, unsharp_bgr=4, ffmpeg_cas=11, teacher=900, nafnet16=1500)
    cell = "720p, 2 threads, idle"
    assert quality.points(found, speed, cell, "clips") == [
        ("unsharp mask", 4, 0.5), ("CAS", 11, 0.2), ("`m`", 10, 3.0),
    ]  # fmt: skip
    stills = quality.points(found, speed, cell, "stills")
    assert stills[-1] == ("`teacher` (few)", 900, 1.5)
    assert ("`m`", 10, 1.0) in stills
    # a published student is known there by its network's name
    for one in found["sets"].values():
        one["report"]["unet-lightunet"] = block(28, -0.3)
    speed = speed_results(m=10, lightunet20k=300)
    assert quality.points(found, speed, cell, "clips")[-1] == ("`unet-lightunet`", 300, -0.3)
    # the mean is over the same sets for all: what was not measured on one of them has none
    del found["sets"]["clip-office"]["report"]["m"]
    assert [name for name, *_ in quality.points(found, speed, cell, "clips")] == ["`unet-lightunet`"]


def test_points_are_of_one_version_of_a_model(found: dict[str, Any]) -> None:
    """The rooms are measured one after the other, and a model may have been exported anew in between."""
    speed, cell = speed_results(m=10, unsharp_bgr=4, teacher=900), "720p, 2 threads, idle"
    speed["settings"]["models"] = {"m": "an older one", "teacher": "beef"}
    names = [name for name, *_ in quality.points(found, speed, cell, "stills")]
    assert names == ["unsharp mask", "`teacher` (few)"]
    speed["settings"]["models"] = {}  # networks that ship nowhere have random weights there
    assert len(quality.points(found, speed, cell, "stills")) == 3


def test_frontier() -> None:
    points = [("a", 1.0, 0.5), ("b", 2.0, 0.4), ("c", 3.0, 2.0), ("d", 3.0, 1.0), ("e", 9.0, 2.0)]
    assert plots.frontier(points[::-1]) == [points[0], points[2]]


def test_plots(found: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Any] = []
    write = plots.write
    monkeypatch.setattr(plots, "write", lambda figure, path: (figures.append(figure), write(figure, path))[1])
    sharp = {"pairs": 2, "clip": False, "input": block(60), "m": block(50, -10.0), "overshoot": {}}
    found["sets"]["sharp"] = {"clip": False, "pictures": 2, "of": 2, "report": sharp}
    assert [path.name for path in quality.draw(found, tmp_path)] == ["quality-gains.png"]
    (axes,) = figures[0].axes
    dots = {
        (float(line.get_xdata()[0]), int(line.get_ydata()[0]))
        for line in axes.lines
        if len(line.get_xdata()) == 1
    }
    assert {(3.0, 1), (1.0, 0), (0.5, 1), (0.4, 0)} <= dots
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["webcam", "clip-office"]
    results.save(speed_results(m=10, unsharp_bgr=4), tmp_path)
    paths = quality.draw(found, tmp_path)
    assert [path.name for path in paths] == ["quality-gains.png", "quality-pareto.png"]
    assert [axes.get_title(loc="left") for axes in figures[-1].axes] == ["clips", "stills"]
    assert all("30 fps" in [text.get_text() for text in axes.texts] for axes in figures[-1].axes)
    assert all(cv2.imread(str(path)) is not None for path in paths)


def test_no_set_with_both_sides(tmp_path: Path) -> None:
    (tmp_path / "one" / "blur").mkdir(parents=True)
    rooms = frame.load_rooms()
    args = frame.arguments(rooms, ["quality", "--sets", str(tmp_path)])
    with pytest.raises(MediaError, match="no sets"):
        quality.find_sets(args)
