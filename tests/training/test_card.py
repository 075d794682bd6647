"""Manifest and card: what they say is what the checkpoint holds and what was measured, and no more."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import training
from sharpcam.manifest import Manifest
from sharpcam.models import find_model
from training.account import (
    data_rows,
    differences,
    metrics,
    read_notes,
    read_reports,
    rebuild,
    teacher_line,
    to_toml,
)
from training.card import write_card, write_manifest
from training.errors import DataError
from training.export import calibrate
from training.graph import build_model
from training.networks.student import Student, StudentConfig
from training.recipe import Network, Recipe, load_recipe

SHARED_NOTES = Path(training.__file__).parent / "data_notes" / "shared.toml" if training.__file__ else Path()
OPTIONS = {"channels": 32, "depth": 0, "grid": 4, "gate": 16, "scene": True}
RECIPE = load_recipe("sharpcam", {"network.options": OPTIONS, "train.steps": 40, "loss.edge": 0.25})
DATA = {
    "folders": {"photos": 109, "video": 18},
    "clips": {"frames": 6, "crop": 128, "seed": 1, "identity": 0.05},
    "packed": {"file": "clips.npy", "count": 5000, "first": 0},
}
TEACHER = {
    "file": "best.pt", "sha256": "ab" * 32, "kind": "Restormer", "parameters": 237023, "step": 3000,
    "recipe": load_recipe("teacher", {"train.steps": 3000}).model_dump(mode="json"),
    "provenance": [{"from_step": 0, "teacher": None, "data": {"folders": {"photos": 109}}}],
}  # fmt: skip
PUBLISHED = {
    "file": "motion_deblurring.pth", "sha256": "cd" * 32, "kind": "Restormer", "parameters": 26126644,
    "published": "restormer-motion-deblurring", "licence": "contested",
}  # fmt: skip
REPORT = {
    "pairs": 8,
    "input": {"psnr": 30.12345, "ssim": 0.8, "mae": 0.02},
    "unsharp": {"psnr": 30.5, "ssim": 0.81, "mae": 0.019},
    "output": {"psnr": 31.0, "ssim": 0.85, "mae": 0.018},
    "flicker": {"input": 2.5, "output": 1.25, "truth": 0.1},
}


def content(*provenance: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"step": 40, "commit": "c0ffee", "seconds": 7200.0, "provenance": list(provenance)} | more


def entry(teacher: dict[str, Any] | None = None, step: int = 0, **more: Any) -> dict[str, Any]:
    return {"from_step": step, "teacher": teacher, "data": DATA} | more


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Student]:
    """A folder with graphs, and their student."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    folder.mkdir()
    student = Student(StudentConfig(**OPTIONS)).eval()  # type: ignore[arg-type]
    student.quantize_weights()
    grey = np.full((2, 48, 32), 100, np.uint8)
    model = build_model(student, "uint8", calibrate(student, [grey]))
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return folder, student


def manifest_of(made: tuple[Path, Student], facts: dict[str, Any]) -> Manifest:
    write_manifest(*made, RECIPE, facts)
    return find_model(made[0]).manifest


# -- teachers ------------------------------------------------------------------------------------------


def test_the_teacher_is_who_taught() -> None:
    ours = "recipe teacher, step 3,000 (Restormer of 237,023 parameters; sha256 abababababababab)"
    theirs = "restormer-motion-deblurring (Restormer of 26,126,644 parameters; licence contested)"
    plain = {"file": "mine.pth", "sha256": "ef" * 32, "kind": "Restormer", "parameters": 5}
    assert teacher_line(content(entry(TEACHER))) == ours
    assert teacher_line(content(entry(PUBLISHED))) == theirs
    assert (
        teacher_line(content(entry(plain)))
        == "file mine.pth (Restormer of 5 parameters; sha256 efefefefefefefef)"
    )
    assert teacher_line(content(entry(None))) == "none: learnt from the truth alone"
    assert teacher_line(content(entry(TEACHER), entry(None, 20), entry(PUBLISHED, 30))) == f"{ours}; {theirs}"


def test_who_taught_before_taught_too() -> None:
    start = {"file": "last.pt", "sha256": "12" * 32, "step": 10, "recipe": RECIPE.model_dump(mode="json")}
    taught = start | {"provenance": [entry(TEACHER)]}
    assert teacher_line(content(entry(None, started_from=taught))).startswith("recipe teacher, step 3,000")
    untaught = start | {"provenance": [entry(None)]}
    assert teacher_line(content(entry(None, started_from=untaught))) == "none: learnt from the truth alone"
    unknown = start | {"provenance": None}
    assert teacher_line(content(entry(None, started_from=unknown))) == "not recorded"


def test_what_was_not_recorded_is_not_claimed() -> None:
    for old in ({"step": 40}, content(), {"step": 40, "provenance": None}):
        assert teacher_line(old) == "not recorded"
    assert teacher_line(content(entry(None, step=20))) == "not recorded; none"


# -- data ----------------------------------------------------------------------------------------------


def notes(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_notes_say_what_trained_and_what_measured(tmp_path: Path) -> None:
    rows = read_notes(
        notes(
            tmp_path / "n.toml",
            '[[data]]\nname = "Bilder"\nlicence = "CC0"\ncount = 3\nunit = "pictures"\nurl = "https://x.example/"\n'
            '[[data]]\nname = "B"\nlicence = "MIT"\nuse = "measuring"\n',
        )
    )
    assert [(r.name, r.licence, r.amount, r.use) for r in rows] == [
        ("Bilder", "CC0", "3 pictures", "training"),
        ("B", "MIT", "any number", "measuring"),
    ]
    assert read_notes(None) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"no \[\[data\]\] with name"),
        ('[[data]]\nname = "x"\n', r"0\.licence: field required"),
        ('[[data]]\nname = "x"\nlicence = "y"\npath = "/home"\n', r"0\.path: this key is not known"),
        ('[[data]]\nname = "x"\nlicence = "y"\ncount = 0\n', r"0\.count: input should be greater"),
        ('data = "x"\n', "input should be a valid list"),
        ("[[data]\n", "data notes"),
    ],
)
def test_bad_notes_are_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read_notes(notes(tmp_path / "n.toml", text))
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match=r"gone\.toml: No such file"):
        read_notes(tmp_path / "gone.toml")


def test_the_notes_of_the_shipped_students_are_good() -> None:
    rows = read_notes(SHARED_NOTES)
    assert len(rows) > 10
    assert {r.use for r in rows} == {"training", "measuring"}
    assert all(r.licence and "/" not in r.licence for r in rows)
    assert "/work" not in SHARED_NOTES.read_text(encoding="utf-8")


def test_without_notes_the_folders_are_named() -> None:
    rows = data_rows(content(entry(None), entry(None, 20) | {"data": {"folders": {"more": 2}}}))
    assert [(r.name, r.amount) for r in rows] == [
        ("photos", "109 files"),
        ("video", "18 files"),
        ("more", "2 files"),
    ]
    assert {r.licence for r in rows} == {"as stated by its owner"}
    assert data_rows({"step": 3}) == []


# -- figures -------------------------------------------------------------------------------------------


def report(path: Path, values: Any) -> Path:
    path.write_text(json.dumps(values), encoding="utf-8")
    return path


def test_reports_become_rows(tmp_path: Path) -> None:
    reports = read_reports([report(tmp_path / "gopro.json", REPORT)])
    (row,) = metrics({"reports": reports, "figures": {"psnr": 1.0}})
    assert row == {
        "set": "gopro", "pictures": 8, "psnr_before": 30.1234, "psnr_after": 31.0, "psnr_unsharp": 30.5,
        "ssim_before": 0.8, "ssim_after": 0.85, "ssim_unsharp": 0.81, "mae_before": 0.02, "mae_after": 0.018,
        "mae_unsharp": 0.019, "flicker_input": 2.5, "flicker_output": 1.25, "flicker_truth": 0.1,
    }  # fmt: skip


def test_without_reports_the_last_validation_counts() -> None:
    figures = {"psnr_input": 29.0, "psnr": 30.0, "ssim_input": 0.7, "ssim": 0.75, "gain": 1.0}
    (row,) = metrics({"figures": figures})
    assert (row["psnr_before"], row["psnr_after"], row["ssim_after"]) == (29.0, 30.0, 0.75)
    assert metrics({"figures": {"kept": 50.0}}) == metrics({}) == []


def test_a_set_is_named_without_its_place() -> None:
    assert metrics({"reports": {"a": REPORT | {"set": "/home/me/sets/webcam"}}})[0]["set"] == "webcam"


@pytest.mark.parametrize(
    "values", [{}, [], {"input": REPORT["input"], "output": None}, {**REPORT, "output": {"psnr": 3.0}}, "x"]
)
def test_what_is_no_report_is_refused(tmp_path: Path, values: Any) -> None:
    with pytest.raises(DataError, match=r"r\.json is not one of training\.evaluate"):
        read_reports([report(tmp_path / "r.json", values)])
    with pytest.raises(DataError, match=r"report .*gone\.json: No such file"):
        read_reports([tmp_path / "gone.json"])


def test_a_report_about_another_file_is_refused(made: tuple[Path, Student]) -> None:
    mine = manifest_of(made, content(entry(None))).sha256
    good = REPORT | {"output": {**REPORT["output"], "model": {"sha256": mine}}}  # type: ignore[dict-item]
    bad = REPORT | {"output": {**REPORT["output"], "model": {"sha256": "0" * 64}}}  # type: ignore[dict-item]
    assert len(manifest_of(made, content(entry(None), reports={"a": good})).metrics) == 1
    with pytest.raises(DataError, match=r"report a is about another file \(sha256 0000000000000000"):
        manifest_of(made, content(entry(None), reports={"a": bad}))


# -- the manifest --------------------------------------------------------------------------------------


def test_the_manifest_is_one_that_the_product_takes(made: tuple[Path, Student]) -> None:
    rows = read_notes(SHARED_NOTES)
    facts = content(entry(TEACHER), notes=rows, reports={"webcam": REPORT}, version="2.1")
    manifest = manifest_of(made, facts)
    assert (manifest.name, manifest.version, manifest.recipe) == ("tiny", "2.1", "sharpcam")
    assert manifest.teacher == teacher_line(facts)
    assert [d.licence for d in manifest.training_data] == [r.licence for r in rows if r.use == "training"]
    assert "GoPro motion-blur pairs, test" not in str(manifest.training_data)
    assert manifest.metrics[0].set == "webcam"
    assert manifest.metrics[0].psnr_after == 31.0
    assert manifest.macs_per_pixel == made[1].macs_per_pixel()
    assert not manifest.variants
    assert not manifest.default


def test_a_still_student_has_no_state_in_its_manifest(made: tuple[Path, Student]) -> None:
    still = Student(StudentConfig(32, 0, 4, 16, temporal=False))
    write_manifest(made[0], still, RECIPE, content(entry(None)))
    text = tomllib.loads((made[0] / "model.toml").read_text())
    assert "state" not in text
    assert text["size_multiple"] == 4


@pytest.mark.parametrize(
    "values",
    [
        {"a": 'quote " backslash \\ newline \n tab \t ü 猫', "b": [1, 2.5, True], "c": 0.001, "d": 1e-12},
        {
            "t": {"x": 1, "inner": {"y": "z"}},
            "rows": [{"a": 1, "b": {"c": 2}}, {"a": 2}],
            "empty": {},
            "list": [],
        },
        RECIPE.model_dump(mode="json", exclude_none=True),
    ],
)
def test_toml_is_read_back_as_written(values: dict[str, Any]) -> None:
    assert tomllib.loads(to_toml(values)) == values


# -- how to make it again ------------------------------------------------------------------------------


def recipe_of_command(line: str) -> Recipe:
    """The recipe that a printed training command would train."""
    words = shlex.split(line)
    overrides = {}
    for flag, value in pairwise(words):
        if flag == "--set":
            key, _, text = value.partition("=")
            overrides[key] = tomllib.loads(f"v = {text}")["v"]
    return load_recipe(words[words.index("--recipe") + 1], overrides)


def test_the_printed_commands_train_this_very_recipe() -> None:
    facts = content(entry(TEACHER))
    teacher, pack, distill, export = rebuild(RECIPE, facts).splitlines()
    assert pack == (
        "python -m training.data pack --data DIR --out runs/clips.npy --clips 5000 --frames 6 --crop 128 --seed 1"
    )
    assert recipe_of_command(teacher) == Recipe.model_validate(TEACHER["recipe"])
    assert recipe_of_command(distill) == RECIPE
    assert " --packed runs/clips.npy " in distill
    assert distill.endswith("--teacher-weights runs/teacher/best.pt")
    assert "--set loss.edge=0.25" in distill
    assert export.startswith("python -m training.export runs/sharpcam/last.pt --out models/NAME")


def test_a_pack_of_single_frames_is_part_of_the_commands() -> None:
    singles = {
        "clips": DATA["clips"] | {"frames": 1, "seed": 2},
        "packed": DATA["packed"] | {"file": "one.npy"},
    }
    told = entry(TEACHER)
    told["data"] = DATA | {"singles": singles}
    _, first, second, distill, _ = rebuild(RECIPE, content(told)).splitlines()
    assert " --out runs/one.npy --clips 5000 --frames 1 --crop 128 --seed 2" in first
    assert " --out runs/clips.npy --clips 5000 --frames 6 " in second
    assert " --packed runs/clips.npy --packed-singles runs/one.npy --data DIR " in distill
    later = entry(
        TEACHER,
        started_from={
            "file": "last.pt",
            "sha256": "12" * 32,
            "step": 40,
            "recipe": RECIPE.model_dump(mode="json"),
            "provenance": [told],
        },
    )
    later["data"] = told["data"]
    assert rebuild(RECIPE, content(later)).count("training.data pack") == 2, "one pack serves all stages"
    both = content(later, mean_with=[later["started_from"]])
    assert "training.export runs/sharpcam-2/last.pt runs/sharpcam/last.pt --out" in rebuild(RECIPE, both)
    assert teacher_line(both) == teacher_line(content(later))
    told["data"] = DATA | {"singles": DATA}  # the first frames of the clips
    assert "singles" not in rebuild(RECIPE, content(told)).replace("data.singles", "")


def test_a_loss_that_the_shipped_recipe_has_gained_is_taken_away() -> None:
    other = RECIPE.model_copy(update={"loss": {"l1": 2.0}})
    command = rebuild(other, content(entry(None))).splitlines()[1]
    trained = recipe_of_command(command)
    assert {name: weight for name, weight in trained.loss.items() if weight} == {"l1": 2.0}
    assert trained.train == other.train


def test_a_recipe_that_no_flags_can_make_is_named_as_a_file() -> None:
    other = RECIPE.model_copy(update={"teacher": None})
    command = rebuild(other, content(entry(None))).splitlines()[1]
    assert "--recipe RECIPE.toml" in command
    assert "--set" not in command


def test_a_network_that_says_less_than_the_shipped_one_is_named_whole() -> None:
    options = {"channels": 32, "depth": 3, "grid": 4}
    other = RECIPE.model_copy(update={"network": Network(kind="student", options=options)})
    command = rebuild(other, content(entry(None))).splitlines()[1]
    assert "--set 'network.options={channels=32, depth=3, grid=4}'" in command
    assert recipe_of_command(command).network == other.network


def test_a_run_that_the_clock_ended_is_as_many_steps_anywhere() -> None:
    timed = RECIPE.model_copy(
        update={"train": RECIPE.train.model_copy(update={"steps": 10**6, "minutes": 4.3})}
    )
    facts = content(entry(None)) | {"step": 900}
    lines = [line for line in rebuild(timed, facts).splitlines() if "training.distill" in line or "#" in line]
    (command,) = lines  # it did not stop before its end
    trained = recipe_of_command(command)
    assert (trained.train.steps, trained.train.minutes) == (900, 0.0)


def test_stages_have_places_of_their_own_and_come_in_their_order() -> None:
    def stage(provenance: list[dict[str, Any]], step: int = 40) -> dict[str, Any]:
        recipe = RECIPE.model_dump(mode="json")
        return {
            "file": "last.pt",
            "sha256": "12" * 32,
            "step": step,
            "recipe": recipe,
            "provenance": provenance,
        }

    first = stage([entry(None)], step=17)
    second = stage([entry(TEACHER, started_from=first)])
    lines = rebuild(RECIPE, content(entry(TEACHER, started_from=second)), "m").splitlines()
    assert [line for line in lines if "training.teacher" in line] == lines[3:4]  # once for both stages
    assert lines[1] == "# stopped at step 17:"
    stages = [line for line in lines if "training.distill" in line]
    assert [line.split("--out ")[1].split(" ")[0] for line in stages] == [
        "runs/sharpcam", "runs/sharpcam-2", "runs/sharpcam-3",
    ]  # fmt: skip
    assert stages[0].endswith("--no-teacher")
    assert stages[1].endswith("--teacher-weights runs/teacher/best.pt --start-from runs/sharpcam/last.pt")
    assert stages[2].endswith("--teacher-weights runs/teacher/best.pt --start-from runs/sharpcam-2/last.pt")
    assert lines[-1] == "python -m training.export runs/sharpcam-3/last.pt --out models/m --data DIR"


def test_a_run_that_went_on_otherwise_says_so() -> None:
    other = TEACHER | {"sha256": "34" * 32}
    lines = rebuild(RECIPE, content(entry(TEACHER), entry(other, step=20))).splitlines()
    assert [line.split("--out ")[1] for line in lines if "training.teacher" in line] == [
        "runs/teacher",
        "runs/teacher-2",
    ]
    assert lines[-2].startswith("# went on from step 20 with --resume; teacher: recipe teacher, step 3,000 (")
    assert "3434343434343434" in lines[-2]


def test_differences_are_those_that_were_made() -> None:
    assert differences(RECIPE, load_recipe("sharpcam")) == {
        "network.options": OPTIONS, "train.steps": 40, "loss.edge": 0.25,
    }  # fmt: skip
    assert differences(RECIPE, RECIPE) == {}


# -- the card ------------------------------------------------------------------------------------------


def test_the_card_says_it_all_and_shows_it(made: tuple[Path, Student]) -> None:
    folder, student = made
    facts = content(entry(TEACHER), reports={"webcam": REPORT}, notes=read_notes(SHARED_NOTES))
    write_manifest(folder, student, RECIPE, facts)
    write_card(folder, RECIPE, facts)
    text = (folder / "CARD.md").read_text(encoding="utf-8")
    assert text.startswith("# tiny 1.0\n")
    for part in (
        f"{student.parameter_count():,} parameters",
        f"{student.macs_per_pixel() * 1280 * 720 / 1e9:.2f} billion",
        teacher_line(facts),
        "commit: c0ffee",
        "seed 0, 40 steps of 10 clips, 2.0 hours",
        "| webcam | 8 | 30.12 | 30.50 | 31.00 | 0.8000 | 0.8100 | 0.8500 | 2.50 to 1.25 |",
        "| Unsplash photos | 39 pictures | Unsplash licence | training |",
        rebuild(RECIPE, facts, "tiny"),
        "## Limits",
    ):
        assert part in text, part
    toml = re.search(r"```toml\n(.*?)```", text, re.S)
    assert toml
    assert Recipe.model_validate(tomllib.loads(toml[1])) == RECIPE
    assert str(folder.parent) not in text
    picture = cv2.imread(str(folder / "card.png"))
    assert picture is not None
    assert (folder / "card.png").stat().st_size < 400_000
    before, after, truth = np.hsplit(picture.astype(int), 3)
    assert np.abs(before - truth).mean() > 2  # soft, as it came
    assert np.abs(before - after).mean() < np.abs(before - truth).mean()  # an untrained student harms nothing


def test_a_loss_is_not_kept_quiet(made: tuple[Path, Student]) -> None:
    folder, student = made
    worse = REPORT | {"output": {"psnr": 29.0, "ssim": 0.7}}
    facts = content(entry(None), reports={"lens": worse})
    write_manifest(folder, student, RECIPE, facts)
    write_card(folder, RECIPE, facts)
    assert "Measured to be no gain in PSNR: lens." in (folder / "CARD.md").read_text(encoding="utf-8")
