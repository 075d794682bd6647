"""The five published systems, each from a folder of pictures to a model that the product runs."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime as ort
import pytest
import torch
from made_data import drawn, write_pair, write_picture

from sharpcam.engine import Engine
from sharpcam.errors import ModelError
from sharpcam.frame import Frame
from sharpcam.models import find_model
from training import distill
from training.checkpoint import load_average, read_checkpoint
from training.errors import TrainingError, run
from training.export import main as export_main
from training.metrics import psnr
from training.networks.published import PUBLISHED
from training.published import export_rgb, rgb_graph
from training.recipe import Network, load_recipe
from training.tasks import build, make_task

pytestmark = pytest.mark.usefixtures("small_strip")

TINY_TEACHER = "{dim=8, num_blocks=[1,1,1,1], num_refinement_blocks=1, heads=[1,1,1,1]}"
RECIPES: dict[str, list[str]] = {
    "restormer-unet": ["loss.vgg16=0", f"teacher.options={TINY_TEACHER}"],
    "unet-lightunet": ["data.side=48", "train.stop_after=0"],
    "resnet18-cnn": ["data.side=48", "loss.resnet18=0"],
    "unet-resunet": ["data.side=48"],
    "restormer-cnn": ["data.side=48", f"teacher.options={TINY_TEACHER}"],
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data"))


def make_data(root: Path) -> Path:
    for i in range(10):  # photo7 and photo8 measure; of a fifth, more
        write_picture(root / "portraits" / f"photo{i}.png", drawn(64, 72, i))
    for i in range(3):
        write_pair(root, f"train/scene{i}/blur/{i}.png", f"train/scene{i}/sharp/{i}.png", (56, 64), 20 + i)
    for i in range(2):
        write_pair(root, f"val/other{i}/blur/{i}.png", f"val/other{i}/sharp/{i}.png", (56, 64), 30 + i)
    return root


def command(module: Any, *arguments: object) -> int:
    old, sys.argv = sys.argv, ["x", *map(str, arguments)]
    try:
        run(module)
    except SystemExit as e:
        return int(e.code or 0)
    finally:
        sys.argv = old
    return 0


def distilled(name: str, data: Path, out: Path, *more: object) -> int:
    sets = [word for item in RECIPES[name] for word in ("--set", item)]
    tiny = ["--batch", 2, "--threads", 1, "--set", "data.crop=32", "--set", "train.validate_every=1"]
    arguments = ["--recipe", name, "--data", data, "--out", out, "--steps", 2, *tiny, *sets, *more]
    return command(distill.main, *arguments)


@pytest.mark.parametrize("name", RECIPES)
def test_from_a_folder_of_pictures_to_a_model_that_runs(
    name: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert distilled(name, data, out) == 0
    said = capsys.readouterr()
    recipe = load_recipe(name)
    # a teacher of its own where the recipe has one, of the kind that it says
    if recipe.teacher:
        assert f"training a teacher of 2 steps in {out}/teacher first" in said.err
        content = read_checkpoint(out / "teacher" / "best.pt")
        assert content["recipe"]["name"] == recipe.teacher.recipe
        assert content["recipe"]["network"]["kind"] == recipe.teacher.kind
        assert content["recipe"]["data"]["protocol"] == recipe.data.protocol
        assert not content["provenance"][0]["data"]["pictures"]["blind"]
        (entry,) = read_checkpoint(out / "last.pt")["provenance"]
        assert entry["teacher"]["recipe"]["name"] == recipe.teacher.recipe
    else:
        assert said.err == ""
        assert not (out / "teacher").exists()
    # measured beside its input
    report = json.loads((out / "results.json").read_text())
    kinds = {"input", "unsharp", "output"} | ({"teacher"} if recipe.teacher else set())
    assert all(2 < report[kind]["psnr"] <= 60 for kind in kinds)
    assert ("teacher" in report) == bool(recipe.teacher)
    assert f"{recipe.data.protocol}, held out: input   {report['input']['psnr']:.2f} dB" in said.out
    rows = list(csv.DictReader((out / "results.csv").open()))
    shown = sorted((out / "results").glob("*.png"))
    assert len(rows) == len(shown) == report["pairs"] == len(list((out / "held-out/sharp").iterdir()))
    sharp = cv2.imread(str(out / "held-out" / "sharp" / shown[0].name))
    assert psnr(cv2.imread(str(shown[0])), sharp) == pytest.approx(float(rows[0]["output_psnr"]), abs=1e-3)
    assert cv2.imread(str(out / "results.png")) is not None
    # and a model of the product, with what it costs on its card
    folder = out / name
    manifest = find_model(folder).manifest
    assert manifest.layout == "rgb"
    assert manifest.recipe == name
    assert manifest.metrics[0].psnr_before == pytest.approx(report["input"]["psnr"], abs=1e-4)
    assert manifest.metrics[0].psnr_after == pytest.approx(report["output"]["psnr"], abs=1e-4)
    text = (folder / "CARD.md").read_text()
    assert " ms of CPU for a frame of 1280x720, on one thread" in text
    assert "training/PUBLISHED.md" in text
    told = text + (folder / "model.toml").read_text() + (out / "results.json").read_text()
    assert str(data) not in told
    assert str(tmp_path) not in told
    engine = Engine.load(folder, (64, 48), provider="cpu", threads=1)
    frame, answer = Frame(64, 48), Frame(64, 48)
    frame.fill(100)
    engine.process(frame, answer)
    engine.close()
    assert not np.array_equal(frame.buffer, answer.buffer)


def test_the_student_without_truth_reads_none(data: Path, tmp_path: Path) -> None:
    """With every true training picture destroyed, the same weights come out, bit for bit."""
    assert distilled("restormer-cnn", data, tmp_path / "whole") == 0
    blind = make_data(tmp_path / "data")
    for path in blind.glob("train/*/sharp/*.png"):
        path.write_bytes(b"no picture at all")
    teacher = ["--teacher-weights", tmp_path / "whole" / "teacher" / "best.pt"]
    assert distilled("restormer-cnn", data, tmp_path / "again", *teacher) == 0
    assert distilled("restormer-cnn", blind, tmp_path / "blind", *teacher) == 0
    runs = [read_checkpoint(tmp_path / n / "last.pt")["student"] for n in ("whole", "again", "blind")]
    first = make_task(load_recipe("restormer-cnn"), torch.nn.Identity()).student.state_dict()
    for key, weight in runs[0].items():
        assert not torch.equal(weight, first[key])  # it has learnt
        assert torch.equal(weight, runs[1][key])
        assert torch.equal(weight, runs[2][key])
    # while one that wants the truth stumbles
    assert distilled("restormer-cnn", blind, tmp_path / "seeing", *teacher, "--set", "loss.mse=1") == 1


def test_what_is_not_there_is_not_replaced(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, wanted in (("restormer-unet", "vgg16"), ("resnet18-cnn", "resnet18")):
        tiny = ["--steps", 1, "--batch", 1, "--set", "data.crop=32"]
        folder = ["--feature-weights", tmp_path / "weights"]
        arguments = ["--recipe", name, "--data", data, "--out", tmp_path / "out", *tiny, *folder]
        assert command(distill.main, *arguments) == 1
        said = capsys.readouterr().err
        assert said.startswith(f"training: loss '{wanted}' needs {wanted}'s published weights")
        assert f"python -m training.weights {wanted} --out {tmp_path}/weights" in said
        assert said.count("\n") == 1
        assert not (tmp_path / "out").exists()  # before a teacher is trained for hours


def test_the_published_restormer_teaches_where_it_is_given(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is another size than the recipes' own, and comes as {"params": ...}."""
    options = {"dim": 8, "num_blocks": [1, 1, 1, 1], "num_refinement_blocks": 2, "heads": [1, 1, 1, 1]}
    monkeypatch.setattr(distill, "PUBLISHED_RESTORMER", Network(kind="restormer", options=options))
    official = build(Network(kind="restormer", options=options))
    torch.save({"params": official.state_dict()}, tmp_path / "motion_deblurring.pth")
    recipe = load_recipe("restormer-cnn")
    teacher = distill.load_teacher(recipe, tmp_path / "motion_deblurring.pth")
    for name, weight in official.state_dict().items():
        assert torch.equal(teacher.state_dict()[name], weight)
    torch.save({"x": torch.zeros(1)}, tmp_path / "other.pth")  # the first, which names the recipe's network
    with pytest.raises(ModelError, match=r"other\.pth does not fit Restormer"):
        distill.load_teacher(recipe, tmp_path / "other.pth")
    with pytest.raises(ModelError, match=r"does not fit EnhancedUNet"):
        distill.load_teacher(load_recipe("unet-lightunet"), tmp_path / "motion_deblurring.pth")


def test_portraits_are_wanted_by_name(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert distilled("unet-lightunet", data, tmp_path / "out", "--set", "data.only='celeba'") == 1
    assert "whose path contains 'celeba'" in capsys.readouterr().err
    packed = ["--recipe", "unet-lightunet", "--packed", tmp_path / "clips.npy"]
    assert command(distill.main, *packed) == 1
    assert "is for pictures, not for packed clips: name --data DIR" in capsys.readouterr().err


def test_a_student_of_ours_learns_by_a_published_protocol(data: Path, tmp_path: Path) -> None:
    ours = ["network.kind='student'", "network.options={channels=32, depth=0, temporal=false}"]
    more = [word for item in [*ours, "loss={charbonnier=1.0}"] for word in ("--set", item)]
    assert distilled("unet-resunet", data, tmp_path, *more, "--no-teacher") == 0
    manifest = find_model(tmp_path / "unet-resunet").manifest
    assert (manifest.layout, manifest.precision) == ("yuv420", "uint8")
    report = json.loads((tmp_path / "results.json").read_text())
    assert report["output"]["model"]["precision"] == "uint8"  # measured as the product runs it
    assert report["output"]["psnr"] == pytest.approx(report["input"]["psnr"], abs=1.5)
    with pytest.raises(TrainingError, match="holds a student"):
        export_rgb(tmp_path / "last.pt", tmp_path / "x")


# -- the graphs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", PUBLISHED)
def test_graphs_are_the_networks_at_any_size(kind: str) -> None:
    torch.manual_seed(0)
    network = PUBLISHED[kind]().eval()
    session = ort.InferenceSession(rgb_graph(network).SerializeToString())
    for size in ((16, 24), (40, 32)):
        x = torch.rand(1, 3, *size)
        with torch.no_grad():
            wanted = network(x).numpy()
        (found,) = session.run(None, {"input": x.numpy()})
        assert found.shape == wanted.shape
        assert np.abs(found - wanted).max() < 1e-5


def test_a_checkpoint_can_be_exported_again(data: Path, tmp_path: Path) -> None:
    assert distilled("resnet18-cnn", data, tmp_path / "run", "--measure", 2) == 0
    assert json.loads((tmp_path / "run" / "results.json").read_text())["pairs"] == 2
    checkpoint = tmp_path / "run" / "last.pt"
    assert command(export_main, checkpoint, "--out", tmp_path / "again") == 0
    one, two = (find_model(tmp_path / n).manifest for n in ("run/resnet18-cnn", "again"))
    assert one.sha256 == two.sha256
    network = build(load_recipe("resnet18-cnn").network)
    load_average(network, checkpoint)
    x = torch.rand(1, 3, 16, 16)
    (found,) = ort.InferenceSession(str(tmp_path / "again" / "model.onnx")).run(None, {"input": x.numpy()})
    assert np.abs(found - network(x).detach().numpy()).max() < 1e-5
