"""`python -m training.teacher` and `python -m training.distill` from data to a model that the product runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_data import drawn, write_picture

import training.distill
import training.export
import training.teacher
from sharpcam.engine import Engine
from sharpcam.frame import Frame
from sharpcam.models import find_model
from training.checkpoint import State, read_checkpoint, save_checkpoint
from training.clips import ClipSpec
from training.data import Clips, pack, scan
from training.errors import Interrupted, run
from training.loop import Average, make_optimizer
from training.recipe import load_recipe
from training.tasks import make_task

TINY = [
    "--batch", "2", "--threads", "1", "--set", "data.crop=32", "--set", "data.frames=2",
    "--set", "train.precision='32-true'", "--set", "train.validate_every=2",
]  # fmt: skip
STUDENT = ["--set", "network.options={channels=32, depth=0, grid=4, gate=16}"]
DEEPER = ["--set", "network.options={channels=32, depth=1, grid=4, gate=16}"]
TEACHER = ["--set", "network.options={dim=8, num_blocks=[1,1,1,1], num_refinement_blocks=1, heads=[1,1,1,1]}"]

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a training command in this process: (exit code, stdout, stderr)."""

    def call(program: str, *arguments: object) -> tuple[int, str, str]:
        module = getattr(training, program)
        monkeypatch.setattr(sys, "argv", [f"training.{program}", *map(str, arguments)])
        code = 0
        try:
            run(module.main)
        except SystemExit as e:
            code = int(e.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "pictures"
    for i in range(10):  # photo7 and photo8 measure
        write_picture(root / "holiday" / f"photo{i}.png", drawn(80, 90, i))
    return root


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


def test_1_a_teacher_is_trained(command: Command, data: Path, runs: Path) -> None:
    code, out, err = command(
        "teacher", "--data", data, "--out", runs / "teacher", "--steps", 2, *TINY, *TEACHER
    )
    assert (code, err) == (0, "")
    assert out.splitlines()[-1].startswith(f"wrote {runs}/teacher/best.pt: give it to")
    content = read_checkpoint(runs / "teacher" / "best.pt")
    assert content["provenance"][0]["data"]["folders"] == {"holiday": 8}
    assert content["provenance"][0]["teacher"] is None


def test_2_a_student_is_distilled_and_the_product_runs_it(command: Command, data: Path, runs: Path) -> None:
    notes = runs / "notes.toml"
    notes.write_text('[[data]]\nname = "My holidays"\nlicence = "mine"\ncount = 10\n')
    code, out, err = command(
        "distill", "--data", data, "--out", runs / "s", "--steps", 2, *TINY, *STUDENT, "--name", "mine",
        "--teacher-weights", runs / "teacher" / "best.pt", "--data-notes", notes,
    )  # fmt: skip
    assert (code, err) == (0, "")
    assert out.splitlines()[-1].startswith(f"exported {runs}/s/mine: try `sharpcam process --model")
    manifest = find_model(runs / "s" / "mine").manifest
    assert manifest.teacher.startswith("recipe teacher, step 2 (Restormer of ")
    assert [(d.name, d.licence) for d in manifest.training_data] == [("My holidays (10 files)", "mine")]
    assert manifest.metrics[0].psnr_after is not None
    engine = Engine.load(runs / "s" / "mine", (64, 48), provider="cpu", threads=1)
    frame, out_frame = Frame(64, 48), Frame(64, 48)
    frame.fill(100)
    engine.process(frame, out_frame)
    assert np.abs(out_frame.buffer.astype(int) - frame.buffer).max() < 40
    engine.close()
    card = (runs / "s" / "mine" / "CARD.md").read_text()
    assert "| My holidays | 10 files | mine | training |" in card
    assert str(data) not in card


def test_3_the_run_is_resumed(command: Command, data: Path, runs: Path) -> None:
    arguments = ["--data", data, "--out", runs / "s", "--steps", 3, *TINY, *STUDENT, "--name", "mine"]
    teacher = ["--teacher-weights", runs / "teacher" / "best.pt"]
    code, _, err = command("distill", *arguments, *teacher)
    assert code == 1
    assert err == f"training: {runs}/s holds a run already: go on with --resume, or choose another --out\n"
    code, _, err = command("distill", *arguments, *teacher, "--resume")
    assert (code, err) == (0, "")
    content = read_checkpoint(runs / "s" / "last.pt")
    assert content["step"] == 3
    assert len(content["provenance"]) == 1
    assert content["provenance"][0]["teacher"]["recipe"]["name"] == "teacher"
    assert tomllib.loads((runs / "s" / "mine" / "model.toml").read_text())["recipe"] == "sharpcam"


def test_4_a_second_stage_starts_from_the_first(command: Command, data: Path, runs: Path) -> None:
    pack(scan(data), ClipSpec(2, 32, seed=4), 4, runs / "clips.npy")
    pack(scan(data), ClipSpec(1, 32, seed=5), 3, runs / "singles.npy")
    code, _, err = command(
        "distill", "--packed", runs / "clips.npy", "--out", runs / "second", "--steps", 2, *TINY, *STUDENT,
        "--no-teacher", "--start-from", runs / "s" / "last.pt", "--workers", 2, "--name", "second",
        "--packed-singles", runs / "singles.npy", "--set", "data.singles=0.5",
    )  # fmt: skip
    assert (code, err) == (0, "")
    (entry,) = read_checkpoint(runs / "second" / "last.pt")["provenance"]
    assert entry["teacher"] is None
    assert entry["started_from"]["step"] == 3
    assert len(entry["started_from"]["sha256"]) == 64
    assert entry["data"]["packed"]["count"] == 4
    assert entry["data"]["singles"]["packed"]["count"] == 3
    # the teacher of the first stage is in these weights, too
    assert find_model(runs / "second" / "second").manifest.teacher.startswith("recipe teacher, step 2")


def test_4_what_had_died_begins_anew(command: Command, data: Path, runs: Path) -> None:
    arguments = ["distill", "--packed", runs / "clips.npy", "--steps", 1, *TINY, *DEEPER, "--no-teacher"]
    assert command(*arguments, "--out", runs / "living")[0] == 0
    content = torch.load(runs / "living" / "last.pt", weights_only=True)
    content["average"]["body.0.bias"][:3] = -1e4
    torch.save(content, runs / "died.pt")
    code, _, err = command(*arguments, "--out", runs / "again", "--start-from", runs / "died.pt")
    assert (code, err) == (0, "3 channels that had died begin anew\n")
    after = read_checkpoint(runs / "again" / "last.pt")["average"]["body.0.bias"]
    assert (after[:3].abs() < 0.1).all()


def test_5_a_model_folder_is_a_beginning_too(command: Command, data: Path, runs: Path) -> None:
    folder = runs / "shipped"
    code, _, err = command(
        "export", runs / "s" / "last.pt", "--out", folder, "--data", data, "--version", "0.7"
    )
    assert (code, err) == (0, "")
    arguments = ["distill", "--data", data, "--steps", 1, *TINY, "--no-teacher", "--start-from", folder]
    code, _, err = command(*arguments, *STUDENT, "--out", runs / "third")
    assert (code, err) == (0, "")
    (entry,) = read_checkpoint(runs / "third" / "last.pt")["provenance"]
    assert (entry["started_from"]["model"], entry["started_from"]["version"]) == ("shipped", "0.7")
    card = (runs / "third" / "sharpcam" / "CARD.md").read_text()
    assert "- started from model `shipped` 0.7 (sha256 " in card
    assert "# models/shipped is version 0.7 here" in card
    assert " --start-from models/shipped\n" in card
    assert (
        "| what model shipped 0.7 learnt from, in whose weights this began | any number | see its card |"
        in card
    )
    # its teacher is in these weights, too
    assert find_model(runs / "third" / "sharpcam").manifest.teacher.startswith("recipe teacher, step 2")
    seeing = ["--set", "network.options={channels=32, depth=0, grid=4, gate=16, scene=true}"]
    assert command(*arguments, *seeing, "--out", runs / "seeing")[::2] == (0, "")
    deeper = ["--set", "network.options={channels=32, depth=1, pointwise=1, grid=4, gate=16}"]
    assert command(*arguments, *deeper, "--out", runs / "deeper")[::2] == (0, "")
    wider = ["--set", "network.options={channels=48, depth=0, grid=4, gate=16}"]
    code, _, err = command(*arguments, *wider, "--out", runs / "fourth")
    assert code == 1
    assert f"{folder} holds another network: its recipe has {{'channels': 32, " in err
    code, _, err = command(*arguments[:-1], runs, *STUDENT, "--out", runs / "fourth")
    assert (code, err.count("\n")) == (1, 1)


def test_a_student_without_a_teacher_gets_one_of_its_own(
    command: Command, data: Path, tmp_path: Path
) -> None:
    options = [
        "--set",
        "teacher.options={dim=8, num_blocks=[1,1,1,1], num_refinement_blocks=1, heads=[1,1,1,1]}",
    ]
    arguments = ["--data", data, "--out", tmp_path, *TINY, *STUDENT, *options]
    code, _, err = command("distill", *arguments, "--steps", 1)
    assert code == 0
    assert err == f"no --teacher-weights: training a teacher of 1 steps in {tmp_path}/teacher first\n"
    kept = (tmp_path / "teacher" / "best.pt").read_bytes()
    teacher = read_checkpoint(tmp_path / "last.pt")["provenance"][0]["teacher"]
    assert (teacher["recipe"]["name"], teacher["step"]) == ("teacher", 1)
    assert "--teacher-weights runs/teacher/best.pt" in (tmp_path / "sharpcam" / "CARD.md").read_text()
    code, _, err = command("distill", *arguments, "--steps", 2)
    assert code == 1  # before it trains a new teacher
    assert "holds a run already" in err
    code, _, err = command("distill", *arguments, "--steps", 2, "--resume")
    assert (code, err) == (0, "")
    assert (tmp_path / "teacher" / "best.pt").read_bytes() == kept


def test_a_run_that_was_stopped_in_its_teacher_goes_on(
    command: Command, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = "teacher.options={dim=8, num_blocks=[1,1,1,1], num_refinement_blocks=1, heads=[1,1,1,1]}"
    out = tmp_path / "run"
    arguments = ["distill", "--data", data, "--out", out, *TINY, *STUDENT, "--set", options, "--steps", 6]
    code, _, err = command(*arguments, "--resume")
    assert (code, err.count("\n")) == (1, 1)
    assert f"no checkpoint {out}/last.pt" in err
    batch, made = Clips.batch, []

    def pressed(clips: Clips, indices: Any) -> Any:
        made.append(clips.library.stills)
        if made.count(made[-1]) == 2 and len(made[-1]) == 8:  # of what trains
            os.kill(os.getpid(), signal.SIGINT)
        return batch(clips, indices)

    monkeypatch.setattr(Clips, "batch", pressed)
    code, _, err = command(*arguments)
    assert (code, err.splitlines()[-1][:26]) == (130, "training: stopped at step ")
    code, _, err = command(*arguments)
    assert code == 1
    assert "teacher holds a run already: go on with --resume" in err
    code, _, err = command(*arguments, "--resume")
    assert (code, err.count("\n")) == (0, 1)
    for folder in (out / "teacher", out):
        assert read_checkpoint(folder / "last.pt")["step"] == 6


def test_int8_is_fitted_to_what_trained_not_to_what_measures(
    command: Command, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    export = training.export.export_student

    def watch(*arguments: Any, **options: Any) -> Path:
        seen.append(options["clips"])
        return export(*arguments, **options)

    monkeypatch.setattr(training.export, "export_student", watch)
    arguments = ["--data", data, "--out", tmp_path, *TINY, *STUDENT, "--no-teacher", "--steps", 1]
    assert command("distill", *arguments)[0] == 0
    (clips,) = seen
    assert {path.stem for path in clips.library.stills} == {f"photo{i}" for i in (0, 1, 2, 3, 4, 5, 6, 9)}


def test_packed_clips_of_another_split_are_refused(command: Command, data: Path, tmp_path: Path) -> None:
    pack(scan(data, share=0.3), ClipSpec(frames=2, crop=32), 2, tmp_path / "p.npy")
    arguments = ["distill", "--packed", tmp_path / "p.npy", *TINY, *STUDENT, "--no-teacher", "--steps", 1]
    code, _, err = command(*arguments, "--out", tmp_path / "a")
    assert (code, err.count("\n")) == (1, 1)
    assert "hold out 0.3 of the data, data.held_out is 0.1" in err
    assert command(*arguments, "--set", "data.held_out=0.3", "--out", tmp_path / "b")[0] == 0
    # nor may what measures be of another
    pack(scan(data), ClipSpec(frames=2, crop=32), 2, tmp_path / "q.npy")
    arguments[2:3] = [tmp_path / "q.npy", "--packed-validation", tmp_path / "p.npy"]
    code, _, err = command(*arguments, "--out", tmp_path / "c")
    assert (code, err.count("\n")) == (1, 1)
    assert "hold out 0.3 of the data, data.held_out is 0.1" in err


@pytest.mark.parametrize(
    ("program", "change", "message"),
    [
        ("teacher", "loss.psnr_planes=0.1", "loss 'psnr_planes' compares the planes of clips"),
        ("distill", "optimizer.betas=[1.5, 0.9]", "optimizer.betas.0: input should be less than 1"),
        ("distill", "network.options={channels=-3}", "network 'student': "),
    ],
)
def test_what_cannot_be_is_said_in_one_line(
    command: Command, data: Path, tmp_path: Path, program: str, change: str, message: str
) -> None:
    more = ["--no-teacher"] if program == "distill" else []
    code, _, err = command(program, "--data", data, "--out", tmp_path, *TINY, *more, "--set", change)
    assert (code, err.count("\n")) == (1, 1)
    assert message in err


def test_a_checkpoint_without_a_recipe_of_ours_is_refused(command: Command, tmp_path: Path) -> None:
    for recipe in ({}, {"name": "x"}):
        torch.save({"recipe": recipe, "average": {}, "step": 1}, tmp_path / "a.pt")
        code, _, err = command("export", tmp_path / "a.pt", "--out", tmp_path / "m", "--data", tmp_path)
        assert (code, err.count("\n")) == (1, 1)
        assert f"{tmp_path}/a.pt is not a checkpoint of this package: its recipe: " in err


def test_starting_from_means_the_averaged_weights(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load_recipe("sharpcam", {"network.options": {"channels": 32, "depth": 0, "grid": 4, "gate": 16}})
    student = make_task(recipe).student
    average = Average(student, 0.9)
    with torch.no_grad():
        for parameter in average.model.parameters():
            parameter += 1
    save_checkpoint(
        [tmp_path / "a.pt"], recipe, student, average, make_optimizer(student, recipe), State(step=1)
    )
    clips = Clips(scan(data), ClipSpec(2, 32))
    seen: list[dict[str, Any]] = []
    monkeypatch.setattr(
        training.distill, "train", lambda *arguments, **options: seen.append(options["provenance"])
    )
    for resume in (False, True):
        task = make_task(recipe)
        job = training.distill.Job(recipe, clips, None, tmp_path / "b", tmp_path / "a.pt", resume, 1)
        job.train(task)
        wanted = student if resume else average.model  # a resumed run has weights of its own
        for name, weight in wanted.state_dict().items():
            assert torch.equal(task.student.state_dict()[name], weight)
    assert seen[0]["started_from"]["step"] == 1
    assert "started_from" not in seen[1]


# -- what cannot be ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "say where the pictures are: --data DIR (or --packed FILE)"),
        (["--data", "{tmp}/gone"], "data folder {tmp}/gone does not exist"),
        (["--data", "{tmp}"], "no pictures or videos below {tmp}"),
        (["--data", "{data}", "--packed-singles", "{tmp}/gone.npy"], "no packed clips {tmp}/gone.json"),
        (["--packed", "{tmp}/gone.npy"], "no packed clips {tmp}/gone.json: write them with"),
        (["--recipe", "sharpkam", "--data", "{data}"], "no recipe 'sharpkam'; known: "),
        (["--set", "train.stepz=3", "--data", "{data}"], "train.stepz: this key is not known"),
        (["--set", "train.steps", "--data", "{data}"], "--set train.steps: say KEY=VALUE"),
        (["--steps", "0", "--data", "{data}"], "train.steps: input should be greater than or equal to 1"),
        (["--recipe", "{tmp}/none.toml", "--data", "{data}"], "recipe 'none' has no teacher: name one with"),
        (["--data", "{data}", "--teacher-weights", "{tmp}/gone.pt"], "no weights at {tmp}/gone.pt"),
        (["--data", "{data}", "--teacher-weights", "{tmp}/bad.pt"], "{tmp}/bad.pt is not a checkpoint"),
        (["--data", "{data}", "--teacher-weights", "{tmp}/student.pt"], "{tmp}/student.pt holds a student"),
        (
            ["--data", "{data}", "--teacher-weights", "{tmp}/bad.pt", "--no-teacher"],
            "makes no sense with --no-teacher",
        ),
        (
            ["--data", "{data}", "--no-teacher", "--start-from", "{tmp}/gone.pt"],
            "no checkpoint {tmp}/gone.pt",
        ),
        (["--data", "{data}", "--no-teacher", "--start-from", "{tmp}/student.pt"], "holds another network"),
        (["--data", "{data}", "--no-teacher", "--resume"], "no checkpoint {tmp}/out/last.pt"),
        (
            ["--data", "{data}", "--no-teacher", "--set", "loss.sharpness=1"],
            "unknown loss 'sharpness'; known: ",
        ),
        (["--data", "{data}", "--no-teacher", "--set", "loss.vgg16=1"], "python -m training.weights vgg16"),
        (["--data", "{data}", "--no-teacher", "--out", "{tmp}/bad.pt/x"], "Not a directory"),
    ],
)
def test_failures_are_one_line_and_exit_1(
    command: Command, data: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    (tmp_path / "bad.pt").write_bytes(b"no weights")
    (tmp_path / "none.toml").write_text(
        'name = "none"\ntask = "clips"\n[network]\nkind = "student"\n[loss]\nl1_teacher = 1.0\n'
    )
    if any("student.pt" in a for a in arguments):
        recipe = load_recipe(
            "sharpcam", {"network.options": {"channels": 32, "depth": 1, "grid": 8, "gate": 16}}
        )
        student = make_task(recipe).student
        parts = student, Average(student, 0.9), make_optimizer(student, recipe)
        save_checkpoint([tmp_path / "student.pt"], recipe, *parts, State())
    places = {"{tmp}": str(tmp_path), "{data}": str(data)}

    def filled(text: str) -> str:
        for name, place in places.items():
            text = text.replace(name, place)
        return text

    # should it train for all that, then not for long
    steps = [] if "--steps" in arguments else ["--steps", 1]
    code, out, err = command("distill", "--out", tmp_path / "out", *TINY, *steps, *map(filled, arguments))
    assert (code, out) == (1, "")
    assert err.startswith("training: ")
    assert err.count("\n") == 1
    assert filled(message) in err
    assert not (tmp_path / "out" / "last.pt").exists()


def test_wrong_usage_is_2(command: Command, data: Path) -> None:
    for wrong in (["--stepz", "3"], ["--data", data, "--name", "a b", "--no-teacher"]):
        assert command("distill", *wrong)[0] == 2


def test_few_pictures_train_without_validation(command: Command, tmp_path: Path) -> None:
    write_picture(tmp_path / "pictures" / "photo1.png", drawn(70, 70, 0))
    code, out, err = command(
        "teacher", "--data", tmp_path / "pictures", "--out", tmp_path / "out", "--steps", 1, *TINY, *TEACHER
    )
    assert code == 0
    assert err.startswith("training without validation: no validation pictures or videos below")
    assert f"wrote {tmp_path}/out/last.pt" in out


def test_a_bad_picture_under_way_is_named(command: Command, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "photo1.png").write_bytes(b"no picture")
    code, _, err = command("teacher", "--data", tmp_path / "data", "--out", tmp_path / "out", *TINY, *TEACHER)
    assert code == 1
    assert err.splitlines()[-1] == f"training: {tmp_path}/data/photo1.png is not a readable picture"


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (
            Interrupted("stopped at step 3; go on with --resume"),
            130,
            "training: stopped at step 3; go on with",
        ),
        (KeyboardInterrupt(), 130, "training: stopped"),
        (PermissionError(13, "Permission denied", "x"), 1, "training: [Errno 13] Permission denied: 'x'"),
    ],
)
def test_exit_codes(capsys: pytest.CaptureFixture[str], error: BaseException, code: int, line: str) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(SystemExit) as caught:
        run(fail)
    assert caught.value.code == code
    assert capsys.readouterr().err.startswith(line)


def test_ctrl_c_saves_and_exits_130(data: Path, tmp_path: Path) -> None:
    """As a user does it: another process, a real signal."""
    arguments = ["--data", str(data), "--out", str(tmp_path / "out"), "--steps", "100000", *TINY, *STUDENT]
    command = [sys.executable, "-u", "-m", "training.distill", "--no-teacher", *arguments]
    log = tmp_path / "log"
    with log.open("w") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=file, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""}
        )
    try:
        deadline = time.monotonic() + 120
        while "step 2 " not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    finally:
        process.kill()
        process.wait()
    step = read_checkpoint(tmp_path / "out" / "last.pt")["step"]
    assert log.read_text().splitlines()[-1] == f"training: stopped at step {step}; go on with --resume"
    assert "Traceback" not in log.read_text()
