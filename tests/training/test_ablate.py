"""The ablation: its statistics against SciPy's, and small trainings from end to end."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import training.ablate
import training.distill
from training.ablate import HELD_OUT, STUDENT_T, Run, compare, compare_all, conclusion, main
from training.checkpoint import read_checkpoint
from training.data import Clips
from training.distill import run
from training.recipe import load_recipe
from training.tasks import build

RECIPE = """
name = "tiny"
task = "clips"
[network]
kind = "student"
options = { channels = 32, depth = 1, grid = 4, gate = 32 }
[teacher]
kind = "restormer"
[data]
frames = 2
crop = 32
[loss]
charbonnier = 1.0
distill = 5.0
[optimizer]
lr = 1e-2
[schedule]
warmup = 0
[train]
steps = 2
batch = 2
stop_after = 1
"""


# --- the statistics -----------------------------------------------------------------------------------------


def test_interval_is_that_of_the_paired_t_test() -> None:
    stats = pytest.importorskip("scipy.stats", reason="the reference is SciPy's (extra: dev)")
    rng = np.random.default_rng(0)
    for count in (2, 3, 5, 11):
        taught, alone = rng.normal(30, 0.2, (2, count)).tolist()
        found = compare("psnr", taught, alone)
        low, high = stats.ttest_rel(taught, alone).confidence_interval(0.95)
        assert found["interval"] == pytest.approx([low, high], abs=1e-3)
        assert found["difference"] == pytest.approx(np.mean(np.subtract(taught, alone)))
        assert found["spread"] == pytest.approx(np.std(np.subtract(taught, alone), ddof=1))
    exact = [stats.t.ppf(0.975, degrees) for degrees in range(1, len(STUDENT_T) + 1)]
    assert list(STUDENT_T) == pytest.approx(exact, abs=1e-3)


def test_beyond_the_table_the_interval_is_rather_too_wide() -> None:
    differences = [0.1 * (i % 5) for i in range(30)]
    low, high = compare("psnr", differences, [0.0] * 30)["interval"]
    assert (high - low) / 2 == pytest.approx(STUDENT_T[-1] * stdev(differences) / 30**0.5)


@pytest.mark.parametrize(
    ("name", "taught", "alone", "verdict"),
    [
        ("psnr", [30.1, 30.3, 30.2], [30.0, 30.2, 30.1], "better"),
        ("psnr", [30.0, 30.2, 30.1], [30.1, 30.31, 30.2], "worse"),
        ("mae", [0.020, 0.021, 0.022], [0.030, 0.0311, 0.032], "better"),
        ("flicker", [3.0, 3.1, 3.2], [2.0, 2.11, 2.2], "worse"),
        ("psnr", [30.1, 29.9, 30.4], [30.0, 30.0, 30.0], "within the spread"),
        ("ssim", [0.9, 0.8], [0.9, 0.8], "the same"),
        ("psnr", [31.0], [30.0], "one seed"),
    ],
)
def test_verdicts(name: str, taught: list[float], alone: list[float], verdict: str) -> None:
    assert compare(name, taught, alone)["verdict"] == verdict


def test_a_pair_of_seeds_is_a_pair_whatever_the_order() -> None:
    """Seeds differ by far more than the sides: only seed by seed the difference shows."""
    values = {
        (0, True): 20.1,
        (1, True): 30.11,
        (2, True): 25.1,
        (0, False): 20.0,
        (1, False): 30.0,
        (2, False): 25,
    }
    runs = [Run(seed, taught, "", 1.0, {"set": {"psnr": value}}) for (seed, taught), value in values.items()]
    for order in (runs, runs[::-1]):
        found = compare_all(order)["set"]["psnr"]
        assert found["with"] == [20.1, 30.11, 25.1]
        assert found["without"] == [20.0, 30.0, 25]
        assert found["verdict"] == "better"


@pytest.mark.parametrize(
    ("verdicts", "words"),
    [
        (["within the spread", "the same"], "No difference is larger than the spread"),
        (["better", "worse", "within the spread"], "1 of 3 figures are better, 1 worse"),
        (["one seed"], "One seed tells nothing"),
    ],
)
def test_conclusion_claims_no_more_than_the_verdicts(verdicts: list[str], words: str) -> None:
    report = {
        "sets": {"set": {str(i): {"verdict": v} for i, v in enumerate(verdicts)}},
        "seconds": {"with": [90.0, 110.0], "without": [50.0, 52.0]},
    }
    text = conclusion(report)
    assert words in text
    assert "100 s with it, 51 s without" in text


# --- end to end ---------------------------------------------------------------------------------------------


def picture(seed: int, side: int = 96) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (side // 8, side // 8, 3), np.uint8)
    return np.asarray(cv2.resize(small, (side, side), interpolation=cv2.INTER_NEAREST), np.uint8)


def write(path: Path, pixels: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    """A recipe, pictures to train on and pictures to measure on, and a teacher."""
    for i in range(3):
        write(tmp_path / "data" / "train" / f"a{i}.png", picture(i))
        write(tmp_path / "data" / "val" / f"b{i}.png", picture(10 + i))
    (tmp_path / "tiny.toml").write_text(RECIPE)
    options = {"dim": 4, "num_blocks": [1, 1, 1, 1], "num_refinement_blocks": 1, "heads": [1, 1, 2, 2]}
    recipe = load_recipe("teacher", {"network.options": options})
    content = {
        "recipe": recipe.model_dump(mode="json"),
        "average": build(recipe.network).state_dict(),
        "step": 7,
    }
    torch.save(content, tmp_path / "teacher.pt")
    given = {
        "recipe": "tiny.toml",
        "data": "data",
        "teacher-weights": "teacher.pt",
        "out": "out",
        "json": "o.json",
    }
    return [x for name, value in given.items() for x in (f"--{name}", str(tmp_path / value))] + [
        "--clips",
        "4",
    ]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_both_sides_get_the_same_but_for_the_teacher(
    arguments: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    first: list[dict[str, torch.Tensor]] = []
    seen: list[list[tuple[int, ...]]] = []
    make_task, batch = training.ablate.make_task, Clips.batch

    def watched_task(recipe: Any, teacher: Any, features: Any) -> Any:
        assert features == {"vgg16": tmp_path / "vgg16.pth"}
        task = make_task(recipe, teacher)
        first.append({name: value.clone() for name, value in task.student.state_dict().items()})
        seen.append([])
        return task

    def watched_batch(self: Clips, indices: Any) -> Any:
        soft, sharp = batch(self, numbers := list(indices))
        if soft.shape[1] == 2:  # the training's; the held-out clips are longer
            seen[-1].append((*numbers, int(soft.sum()), int(sharp.sum())))
        return soft, sharp

    # as a recipe with feature losses would find them
    monkeypatch.setattr(
        training.distill, "feature_files", lambda recipe, folder: {"vgg16": tmp_path / "vgg16.pth"}
    )
    monkeypatch.setattr(training.ablate, "make_task", watched_task)
    monkeypatch.setattr(Clips, "batch", watched_batch)
    main([*arguments, "--seeds", "2", "--first-seed", "5"])
    report = json.loads((tmp_path / "o.json").read_text())

    assert [(r["seed"], r["taught"]) for r in report["runs"]] == [
        (5, True),
        (5, False),
        (6, True),
        (6, False),
    ]
    for i in (0, 2):
        assert all(torch.equal(value, first[i + 1][name]) for name, value in first[i].items())
        assert sorted(seen[i]) == sorted(seen[i + 1])
        assert len(seen[i]) == 2
    assert any(not torch.equal(value, first[2][name]) for name, value in first[0].items())
    assert sorted(seen[0]) != sorted(seen[2])

    contents = [read_checkpoint(Path(r["folder"]) / "last.pt") for r in report["runs"]]
    taught, alone = contents[0], contents[1]
    assert any(not torch.equal(v, alone["average"][n]) for n, v in taught["average"].items())
    assert [c["step"] for c in contents] == [
        2,
        2,
        2,
        2,
    ]  # an early stop would have given budgets of their own
    psnr = report["sets"][HELD_OUT]["psnr"]
    assert psnr["with"] == [contents[0]["figures"]["psnr"], contents[2]["figures"]["psnr"]]
    assert psnr["without"] == [contents[1]["figures"]["psnr"], contents[3]["figures"]["psnr"]]
    assert psnr["difference"] == pytest.approx(fmean(psnr["with"]) - fmean(psnr["without"]))
    assert psnr["difference"] != 0
    assert {"psnr", "ssim", "flicker"} <= report["sets"][HELD_OUT].keys()
    assert not any(name.endswith("_input") for name in report["sets"][HELD_OUT])
    assert (report["recipe"], report["steps"], report["seeds"]) == ("tiny", 2, [5, 6])
    assert report["teacher"]["step"] == 7
    assert [entry["teacher"] for entry in taught["provenance"] + alone["provenance"]] == [
        report["teacher"],
        None,
    ]
    assert report["seconds"]["with"] == [contents[0]["seconds"], contents[2]["seconds"]]
    out = capsys.readouterr().out
    assert "tiny, 2 steps, 2 seeds" in out
    assert f"{psnr['difference']:+.3f}" in out


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_goes_on_where_it_stopped_and_never_over_a_run(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*arguments, "--seeds", "1"]
    main(arguments)
    before = json.loads((tmp_path / "o.json").read_text())
    assert "One seed tells nothing" in capsys.readouterr().out
    with pytest.raises(SystemExit) as left:
        run(lambda: main(arguments))
    assert left.value.code == 1
    assert "--resume" in capsys.readouterr().err
    (tmp_path / "out" / "seed-0" / "alone" / "last.pt").unlink()  # that one had not begun
    steps: list[int] = []
    batch = Clips.batch

    def watched(self: Clips, indices: Any) -> Any:
        soft, sharp = batch(self, indices)
        steps.append(soft.shape[1])
        return soft, sharp

    monkeypatch.setattr(Clips, "batch", watched)
    main([*arguments, "--resume"])
    assert steps.count(2) == 2  # the steps of one run, not of two
    assert json.loads((tmp_path / "o.json").read_text())["sets"] == before["sets"]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_measures_what_ships_on_pairs_and_clips(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "training.card.STRIP_FRAMES", 1, raising=False
    )  # the card's picture is another matter
    for i in range(2):
        for side, blur in (("blur", 1.2), ("sharp", 0.0)):
            pixels = picture(20 + i, 48)
            write(
                tmp_path / "set" / side / f"{i}.png",
                cv2.GaussianBlur(pixels, (0, 0), blur) if blur else pixels,
            )
    main([*arguments, "--seeds", "1", "--pairs", str(tmp_path / "set"), "--clip", str(tmp_path / "set")])
    report = json.loads((tmp_path / "o.json").read_text())
    sets = report["sets"]
    assert set(sets) == {HELD_OUT, f"{tmp_path / 'set'}", f"{tmp_path / 'set'} (clip)"}
    assert set(sets[str(tmp_path / "set")]) == {"psnr", "ssim", "mae"}
    assert set(sets[f"{tmp_path / 'set'} (clip)"]) == {"psnr", "ssim", "mae", "flicker"}
    from training.evaluate import evaluate
    from training.pairs import find_pairs
    from training.subjects import Shipped

    folder = Path(report["runs"][0]["folder"]) / "model"
    subject = Shipped.load(str(folder), 1.0, "cpu", 1, False)
    again = evaluate(find_pairs(tmp_path / "set"), {"output": subject}, tuned_on=0).report
    assert sets[str(tmp_path / "set")]["psnr"]["with"] == [again["output"]["psnr"]]


def _loss(old: str, new: str) -> Callable[[Path], list[str]]:
    def change(folder: Path) -> list[str]:
        text = (folder / "tiny.toml").read_text()
        assert old in text
        (folder / "tiny.toml").write_text(text.replace(old, new))
        return []

    return change


def _no_validation(folder: Path) -> list[str]:
    for path in (folder / "data" / "val").iterdir():
        path.unlink()
    return []


def _no_teacher(folder: Path) -> list[str]:
    (folder / "teacher.pt").unlink()
    return []


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (_loss("distill = 5.0", ""), "no loss that asks a teacher"),
        (_loss("charbonnier = 1.0", ""), "learns from its teacher alone"),
        (_no_validation, "nothing to compare on"),
        (_no_teacher, "no weights at"),
        (lambda folder: ["--pairs", str(folder / "nowhere")], "there is no folder"),
        (lambda folder: ["--json", str(folder / "no" / "such.json")], "no such folder"),
    ],
)
def test_explains_at_once_what_cannot_be_compared(
    arguments: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[Path], list[str]],
    cause: str,
) -> None:
    more = change(tmp_path)
    with pytest.raises(SystemExit) as left:
        run(lambda: main([*arguments, *more]))
    assert left.value.code == 1
    assert cause in capsys.readouterr().err.strip().splitlines()[-1]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("wrong", [["--seeds", "0"], ["--clips", "x"], []])
def test_wrong_usage(arguments: list[str], wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    given = (
        [*arguments, *wrong] if wrong else ["--data", "x"]
    )  # without a teacher there is nothing to compare
    with pytest.raises(SystemExit) as left:
        main(given)
    assert left.value.code == 2
    assert "usage" in capsys.readouterr().err
