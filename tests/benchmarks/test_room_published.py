"""The room published: what it trains, what it makes of the figures, and that it goes on where it was."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("matplotlib", reason="the rooms draw with matplotlib (extra: benchmarks)")
pytest.importorskip("torch", reason="the published systems are trained with torch (extra: training)")

sys.path.insert(0, str(Path(__file__).parent.parent / "training"))

from made_data import drawn, write_picture

import benchmarks.__main__ as frame
from benchmarks import plots, published
from sharpcam.models import find_model
from training import card
from training.recipe import load_recipe
from training.tasks import needs_truth


def block(psnr: float, ssim: float = 0.8) -> dict[str, float]:
    return {"psnr": psnr, "ssim": ssim, "mae": 0.02}


def one(network: str, macs: float, output: dict[str, float] | None = None, **more: Any) -> dict[str, Any]:
    budget = {"steps": 500, "batch": 8, "crop": 48, "minutes": 3.0, "commit": "c0ffee"}
    report = {"pairs": 7, "input": block(26, 0.7), "unsharp": block(28, 0.75), "output": output} | more
    return {"network": network, "parameters": int(macs), "macs_per_pixel": macs, **budget, "report": report}


def found() -> dict[str, Any]:
    rows = {
        "teacher": one("resunet1m3", 325e3),
        "student": one("resunet405k", 104e3, block(27.5), teacher=block(29)),
        "s": one("student", 1.25e3, block(28.5)),
        "m": one("student", 4e3, block(29.25, 0.85)),
        "l": one("student", 12e3, block(30)),  # better, but more than a tenth
    }
    return {
        "date": "2026-11-20T18:00:00", "machine": {"cpu": "a CPU", "cores": 2, "onnxruntime": "1"},
        "systems": {"unet-resunet": rows},
        "cost": {"unet-resunet:student": 3000.0, "s": 10.0, "m": 20.0, "l": 60.0},
    }  # fmt: skip


def test_the_best_of_ours_is_within_a_tenth_of_the_cost() -> None:
    best = published.best_tenth(found(), "unet-resunet")
    assert best == {
        "kind": "m", "psnr": pytest.approx(1.75), "ssim": pytest.approx(0.05), "ratio": pytest.approx(150),
    }  # fmt: skip
    cheap = found()
    cheap["systems"]["unet-resunet"]["student"]["macs_per_pixel"] = 5e3
    assert published.best_tenth(cheap, "unet-resunet") is None
    assert "none so small" in published.summary(cheap)


def test_the_table_has_every_figure_beside_the_reported_one() -> None:
    text = published.markdown(found())
    assert "| input | | | | 26.00 | 0.7000 | 0.0200 | | 24.98 / 0.7622 |" in text
    assert (
        "| teacher `resunet1m3` | 325,000 | 325.0 | | 29.00 | 0.8000 | 0.0200 | 500 | 31.83 / 0.948 |" in text
    )
    assert (
        "| student `resunet405k` | 104,000 | 104.00 | 3,000 | 27.50 | 0.8000 | 0.0200 | 500 | 31.61 / 0.9325 |"
        in text
    )
    assert "| ours, s | 1,250 | 1.25 | 10 | 28.50 | 0.8000 | 0.0200 | 500 |  |" in text
    assert "500 steps of 8 crops of 48 pixels" in text
    assert (
        "| `unet-resunet` | 26.00 / 0.7000 | 27.50 / 0.8000 | `m` 29.25 / 0.8500 | +1.75 dB, +0.0500 | 150 |"
        in published.readme(found())["published"]
    )


def test_the_page_says_what_makes_a_comparison_uneven() -> None:
    rows = found()["systems"]["unet-resunet"]
    text = published.markdown(found() | {
        "systems": {system.name: rows for system in published.SYSTEMS},
        "cost": {f"{s.name}:student": 9.0 for s in published.SYSTEMS} | dict.fromkeys(published.STUDENTS, 1.0),
    })  # fmt: skip
    parts = {part.partition("\n")[0]: part for part in text.split("## ")[1:]}
    assert "7 held-out pairs" in parts["unet-resunet"]  # a picture may be in several
    assert "The input is not the report's" in parts["unet-resunet"]
    assert "portrait that was held out is there several times" in parts["unet-lightunet"]
    assert "469,155 and 20,190" in parts["unet-lightunet"]
    assert "ours learn from the truth." in parts["restormer-cnn"]


def test_the_plot_says_when_and_after_how_many_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Any] = []
    monkeypatch.setattr(plots, "write", lambda figure, path: (figures.append(figure), path)[1])
    assert published.draw(found(), tmp_path) == [tmp_path / "published-gains.png"]
    (axes,) = figures[0].axes
    assert axes.get_title() == "unet-resunet\n500 steps"
    assert {text.get_text() for text in axes.texts} == {"resunet405k", "s", "m", "l"}
    assert figures[0].get_supxlabel() == "a CPU, 2 cores, ONNX Runtime 1, 2026-11-20"
    figures[0].canvas.draw()
    assert {"10", "100", "1,000"} <= {tick.get_text() for tick in axes.get_xticklabels()}


def test_systems_are_those_of_the_recipes() -> None:
    for system in published.SYSTEMS:
        recipe = load_recipe(system.name)
        # ours always see the truth: where the report's student does not, the page says so
        assert needs_truth(recipe) or "never sees a true picture" in system.unlike
        assert (recipe.teacher.recipe if recipe.teacher else "") == system.teacher
        wanting = {"vgg16", "resnet18"} & {n for n, w in recipe.loss.items() if w}
        assert {f"loss.{name}=0" for name in wanting} <= set(system.sets)
        assert bool(wanting) <= bool(system.missing)  # what is left out is said


def test_a_small_run_from_pictures_to_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(10):
        write_picture(tmp_path / "data" / f"photo{i}.png", drawn(64, 72, i))
    card._test_card.cache_clear()
    monkeypatch.setattr(card, "STRIP_SIZE", (192, 112))
    monkeypatch.setattr(card, "STRIP_CROPS", ((70, 20, 40, 32), (120, 30, 40, 16)))
    monkeypatch.setattr(published, "SIZE", (192, 112))
    monkeypatch.setattr(published, "STUDENTS", {"s": (16, 0)})
    arguments = [
        "published", "--data", str(tmp_path / "data"), "--systems", "resnet18-cnn", "--published-steps", "1",
        "--published-runs", str(tmp_path / "runs"), "--published", str(tmp_path / "models"), "--quick",
        "--out", str(tmp_path / "out"),
    ]  # fmt: skip
    (tmp_path / "out").mkdir()
    assert frame.main([*arguments, "--json", "-"]) == 0
    body = json.loads((tmp_path / "out" / "published.json").read_text())
    assert json.loads(capsys.readouterr().out)["rooms"]["published"] == body  # and nothing of the trainings
    rows = body["systems"]["resnet18-cnn"]
    assert rows["student"]["parameters"] == 58_051
    assert rows["student"]["steps"] == rows["s"]["steps"] == 1
    assert rows["student"]["report"]["input"] == rows["s"]["report"]["input"]  # the same pictures
    assert rows["student"]["report"]["input"]["psnr"] > 10
    assert set(body["cost"]) == {"resnet18-cnn:student", "s"}
    assert body["cost"]["resnet18-cnn:student"] > body["cost"]["s"] > 0
    page = (tmp_path / "out" / "published.md").read_text()
    assert "ResNet-18's weights were not at hand" in page
    assert str(tmp_path) not in page + json.dumps(body)
    assert (tmp_path / "out" / "published-gains.png").stat().st_size > 1000
    # where room quality looks for it
    assert find_model(tmp_path / "models" / "resnet18-cnn").manifest.recipe == "resnet18-cnn"
    # trained once: another run exports and measures what is there
    before = (tmp_path / "runs" / "resnet18-cnn" / "student" / "last.pt").read_bytes()
    assert frame.main([*arguments, "--fresh"]) == 0
    assert (tmp_path / "runs" / "resnet18-cnn" / "student" / "last.pt").read_bytes() == before
    card._test_card.cache_clear()


def test_teachers_are_in_the_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With trainings that take no time: every system gives a page with all of its rows."""
    model = found()["systems"]["unet-resunet"]
    trained: list[tuple[str, str]] = []

    def train(run: Any, system: published.System, place: Path, kind: str) -> dict[str, Any]:
        trained.append((system.name, kind))
        (place / kind / system.name).mkdir(parents=True)
        return dict(model[kind])

    def train_teacher(run: Any, system: published.System, place: Path) -> dict[str, Any]:
        trained.append((system.name, "teacher"))
        return dict(model["teacher"])

    monkeypatch.setattr(published, "train", train)
    monkeypatch.setattr(published, "train_teacher", train_teacher)
    monkeypatch.setattr(published, "cost", lambda folders, rounds: dict.fromkeys(folders, 10.0))
    arguments = [
        "published", "--data", str(tmp_path), "--out", str(tmp_path), "--published", str(tmp_path / "models"),
        "--published-runs", str(tmp_path / "runs"),
    ]  # fmt: skip
    assert frame.main(arguments) == 0
    body = json.loads((tmp_path / "published.json").read_text())
    for system in published.SYSTEMS:
        rows = body["systems"][system.name]
        assert ("teacher" in rows) == bool(system.teacher)
        assert {"student", "s", "m", "l"} <= rows.keys()
        wanted = ["teacher"] * bool(system.teacher) + ["student", "s", "m", "l"]
        assert [kind for name, kind in trained if name == system.name] == wanted
        assert f"## {system.name}" in (tmp_path / "published.md").read_text()


def test_a_small_run_takes_the_place_of_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Students of a few steps would be measured in room quality as the published ones."""
    monkeypatch.chdir(tmp_path)
    rooms = frame.load_rooms()

    def folders(*words: str) -> tuple[Path, ...]:
        return published.folders(frame.arguments(rooms, ["published", *words]))

    assert folders() == (Path("runs/published-runs"), Path("runs/published"))
    small = folders("--quick", "--out", "small")
    assert small == (Path("small/published-runs"), Path("small/published"))
    told = ("--published-runs", "here", "--published", "there")
    assert folders("--quick", *told) == folders(*told) == (Path("here"), Path("there"))
    # and the run itself goes there
    kept = tmp_path / "runs" / "published" / "resnet18-cnn" / "model.toml"
    kept.parent.mkdir(parents=True)
    kept.write_text("kept")
    model = found()["systems"]["unet-resunet"]

    def train(run: Any, system: published.System, place: Path, kind: str) -> dict[str, Any]:
        (place / kind / system.name).mkdir(parents=True)
        (place / kind / system.name / "model.toml").write_text("small")
        return dict(model[kind])

    monkeypatch.setattr(published, "train", train)
    monkeypatch.setattr(published, "cost", lambda folders, rounds: dict.fromkeys(folders, 10.0))
    words = ["published", "--quick", "--data", "data", "--systems", "resnet18-cnn", "--out", "small"]
    assert frame.main(words) == 0
    assert kept.read_text() == "kept"
    assert not (tmp_path / "runs" / "published-runs").exists()
    assert (tmp_path / "small" / "published" / "resnet18-cnn" / "model.toml").read_text() == "small"


def test_without_pictures_there_is_nothing_to_train_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert frame.main(["published", "--out", str(tmp_path), "--published-runs", str(tmp_path / "runs")]) == 1
    assert "python -m benchmarks published --data DIR" in capsys.readouterr().err
    arguments = ["published", "--out", str(tmp_path), "--published-runs", str(tmp_path / "runs")]
    assert frame.main([*arguments, "--data", str(tmp_path / "gone"), "--systems", "resnet18-cnn"]) == 1
    assert f"cannot be trained: data folder {tmp_path}/gone does not exist" in capsys.readouterr().err
