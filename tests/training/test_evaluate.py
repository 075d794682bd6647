"""Figures against scikit-image and against the files that `sharpcam process` writes; and every refusal."""

from __future__ import annotations

import csv
import itertools
import json
import math
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from tiny_models import rgb_graph, write_yuv_model
from typer.testing import CliRunner

import training.evaluate
from sharpcam.cli import app
from sharpcam.errors import MediaError
from training import metrics, report
from training.evaluate import evaluate, main, spread
from training.pairs import clips, find_pairs, read_pair

Picture = NDArray[np.uint8]
CLOSE = {"rel": 1e-9}


def write(path: Path, picture: Picture) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.ascontiguousarray(picture[..., ::-1]))
    return path


def read(path: Path) -> Picture:
    return np.ascontiguousarray(cv2.imread(str(path))[..., ::-1], np.uint8)


def scene(seed: int, width: int = 48, height: int = 40, shift: int = 0) -> Picture:
    """Tiles, a ramp and a little texture: what blur damages and an unsharp mask mends."""
    y, x = np.mgrid[:height, :width]
    rng = np.random.default_rng(seed)
    tiles = np.where(((x + shift) // 8 + y // 8) % 2, 180, 60)
    rgb = np.stack([tiles, 2 * x + y, 255 - tiles], axis=2) + rng.integers(-6, 7, (height, width, 3))
    return np.asarray(rgb.clip(0, 255), np.uint8)


def blurred(picture: Picture, sigma: float = 1.0) -> Picture:
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), sigma), np.uint8)


@pytest.fixture
def pairs_dir(tmp_path: Path) -> Path:
    """Five pairs, one of them of odd sides."""
    folder = tmp_path / "set"
    for i in range(5):
        truth = scene(i, *((47, 41) if i == 3 else (48, 40)))
        write(folder / "sharp" / f"p{i}.png", truth)
        write(folder / "blur" / f"p{i}.png", blurred(truth, 0.6 + 0.2 * i))
    return folder


@pytest.fixture
def clip_dir(tmp_path: Path) -> Path:
    """Six frames: the left half moves, and the noise of the camera is new in each; 2 comes before 10."""
    folder = tmp_path / "clip"
    for i in range(6):
        truth = scene(0, 48, 48)
        truth[:, :20] = scene(0, 48, 48, shift=3 * i)[:, :20]
        rng = np.random.default_rng(100 + i)
        soft = blurred(truth) + rng.integers(-5, 6, truth.shape)
        write(folder / "sharp" / f"f{2 * i}.png", truth)
        write(folder / "blur" / f"f{2 * i}.png", np.asarray(soft.clip(0, 255), np.uint8))
    return folder


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    """Runs the program, which must do well, and gives its JSON."""

    def go(*arguments: object) -> dict[str, Any]:
        assert main([*map(str, arguments), "--json", "--no-lpips", "--provider", "cpu"]) == 0
        report: dict[str, Any] = json.loads(capsys.readouterr().out)
        return report

    return go


def skimage_figures(pictures: list[Picture], truths: list[Picture]) -> dict[str, float]:
    measure = pytest.importorskip("skimage.metrics", reason="the reference is scikit-image's (extra: dev)")
    rows = [
        (
            measure.peak_signal_noise_ratio(truth, picture, data_range=255),
            measure.structural_similarity(
                picture, truth, gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
                data_range=255, channel_axis=2,
            ),
            np.abs(picture.astype(float) - truth).mean() / 255,
        )
        for picture, truth in zip(pictures, truths, strict=True)
    ]  # fmt: skip
    return dict(zip(("psnr", "ssim", "mae"), np.mean(rows, axis=0), strict=True))


def figures_of(block: dict[str, Any]) -> dict[str, float]:
    return {name: block[name] for name in ("psnr", "ssim", "mae")}


def in_folder(folder: Path) -> list[Picture]:
    return [read(path) for path in sorted(folder.iterdir(), key=lambda p: int(p.stem[1:]))]


def process(source: Path, out: Path, model: Path, *more: str) -> list[Picture]:
    """What a user gets for these pictures."""
    command = ["process", str(source), str(out), "--model", str(model), "--provider", "cpu", *more]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    return in_folder(out)


# --- the figures --------------------------------------------------------------------------------------------


def test_input_and_unsharp_mask_as_scikit_image_has_them(pairs_dir: Path, run: Callable[..., Any]) -> None:
    found = run("--model", "none", "--pairs", pairs_dir)
    softs, truths = (in_folder(pairs_dir / side) for side in ("blur", "sharp"))
    assert found["pairs"] == 5
    assert figures_of(found["input"]) == pytest.approx(skimage_figures(softs, truths), rel=1e-6)
    best = found["unsharp"]
    assert best["amount"] > 0
    assert best["tuned_on"] == 5
    mended = [metrics.unsharp(soft, best["sigma"], best["amount"]) for soft in softs]
    assert figures_of(best) == pytest.approx(skimage_figures(mended, truths), rel=1e-6)
    assert best["psnr"] > found["input"]["psnr"]
    assert best["gain"]["psnr"]["mean"] == pytest.approx(best["psnr"] - found["input"]["psnr"])
    assert found["output"] is None
    assert "flicker" not in found


@pytest.mark.parametrize("strength", ["1", "0.4"])
def test_output_is_what_sharpcam_process_gives(
    pairs_dir: Path, tmp_path: Path, yuv_model: Path, run: Callable[..., Any], strength: str
) -> None:
    found = run("--model", yuv_model, "--pairs", pairs_dir, "--strength", strength)
    outputs = process(pairs_dir / "blur", tmp_path / "out", yuv_model, "--strength", strength)
    truths = in_folder(pairs_dir / "sharp")
    assert figures_of(found["output"]) == pytest.approx(skimage_figures(outputs, truths), rel=1e-6)
    assert found["overshoot"]["output"] == pytest.approx(
        np.mean([metrics.overshoot(o, t) for o, t in zip(outputs, truths, strict=True)])
    )
    assert abs(found["output"]["psnr"] - found["input"]["psnr"]) > 0.1  # it does something
    model = found["output"]["model"]
    assert (model["name"], model["strength"], model["provider"]) == ("tiny", float(strength), "cpu")
    assert len(model["sha256"]) == 64


def test_strength_0_gives_the_input(pairs_dir: Path, yuv_model: Path, run: Callable[..., Any]) -> None:
    found = run("--model", yuv_model, "--pairs", pairs_dir, "--strength", 0)
    assert figures_of(found["output"]) == figures_of(found["input"])
    assert found["output"]["worse"] == {"psnr": 0, "ssim": 0}


def test_rgb_models_are_measured_too(pairs_dir: Path, tmp_path: Path, run: Callable[..., Any]) -> None:
    dark = tmp_path / "dark.onnx"
    dark.write_bytes(rgb_graph(gains=(0.5, 0.5, 0.5)))
    found = run("--model", dark, "--pairs", pairs_dir)
    assert found["output"]["psnr"] < found["input"]["psnr"] - 5
    assert found["output"]["worse"] == {"psnr": 1, "ssim": 1}


def test_stills_know_nothing_of_one_another(
    pairs_dir: Path, yuv_model: Path, run: Callable[..., Any]
) -> None:
    everything = run("--model", yuv_model, "--pairs", pairs_dir, "--csv", pairs_dir.parent / "all.csv")
    assert everything["pairs"] == 5
    rows = {row["name"]: row for row in csv.DictReader((pairs_dir.parent / "all.csv").open())}
    for side in ("blur", "sharp"):
        for i in (0, 1, 3, 4):
            (pairs_dir / side / f"p{i}.png").unlink()
    alone = run("--model", yuv_model, "--pairs", pairs_dir)
    assert float(rows["p2"]["output_psnr"]) == pytest.approx(alone["output"]["psnr"], rel=1e-5)


def test_a_picture_that_is_its_truth_counts_as_60_db(tmp_path: Path, run: Callable[..., Any]) -> None:
    for side in ("blur", "sharp"):
        write(tmp_path / side / "p0.png", scene(0))
        write(tmp_path / side / "p1.png", scene(1))
    found = run("--model", "none", "--pairs", tmp_path)
    assert figures_of(found["input"]) == {"psnr": metrics.CEILING, "ssim": 1, "mae": 0}
    assert found["unsharp"]["amount"] == 0
    assert found["unsharp"]["worse"] == {"psnr": 0, "ssim": 0}


def test_summary_by_hand() -> None:
    before, after = [10.0, 20.0, 30.0, 40.0], [12.0, 19.0, 33.0, 40.0]
    rows = [
        {
            "input": {"psnr": a, "ssim": 0.5, "overshoot": 1},
            "output": {"psnr": b, "ssim": 0.4, "overshoot": 2},
        }
        for a, b in zip(before, after, strict=True)
    ]
    block = report.summary(rows, "output")
    assert block["psnr"] == 26
    assert block["quantiles"]["psnr"]["p50"] == 26
    assert block["quantiles"]["psnr"]["p25"] == 17.25
    assert block["gain"]["psnr"]["mean"] == 1
    assert block["gain"]["psnr"]["p50"] == 1
    assert block["worse"] == {"psnr": 0.25, "ssim": 1}
    assert "overshoot" not in block
    assert "gain" not in report.summary(rows, "input")


# --- clips --------------------------------------------------------------------------------------------------


def test_a_clip_carries_the_state_and_knows_its_flicker(
    clip_dir: Path, tmp_path: Path, yuv_model: Path, run: Callable[..., Any]
) -> None:
    found = run("--model", yuv_model, "--pairs", clip_dir, "--clip")
    outputs = process(clip_dir / "blur", tmp_path / "out", yuv_model, "--clip")
    softs, truths = (in_folder(clip_dir / side) for side in ("blur", "sharp"))
    assert figures_of(found["output"]) == pytest.approx(skimage_figures(outputs, truths), rel=1e-6)
    best = found["unsharp"]
    mended = [metrics.unsharp(soft, best["sigma"], best["amount"]) for soft in softs]
    expected = {"input": softs, "truth": truths, "output": outputs, "unsharp": mended}
    assert found["flicker"] == pytest.approx({k: metrics.flicker(v, truths) for k, v in expected.items()})
    assert found["flicker"]["truth"] == 0
    assert found["flicker"]["input"] > 1
    assert (found["clip"], found["clips"], found["pairs"]) == (True, 1, 6)
    # the tiny model answers to change: without its memory it does something else
    stills = run("--model", yuv_model, "--pairs", clip_dir)
    assert abs(stills["output"]["psnr"] - found["output"]["psnr"]) > 0.5


def test_error_where_something_moves(clip_dir: Path, yuv_model: Path, run: Callable[..., Any]) -> None:
    found = run("--model", yuv_model, "--pairs", clip_dir, "--clip")["moving"]
    softs, truths = (in_folder(clip_dir / side) for side in ("blur", "sharp"))
    moving = [metrics.moving_pixels(a, b) for a, b in itertools.pairwise(truths)]
    errors = [
        ((soft.astype(float) - truth) ** 2)[where]
        for soft, truth, where in zip(softs[1:], truths[1:], moving, strict=True)
    ]
    assert found["psnr"]["input"] == pytest.approx(10 * np.log10(255**2 / np.concatenate(errors).mean()))
    assert found["share"] == pytest.approx(np.mean(moving))
    assert 0.2 < found["share"] < 0.6  # the left half
    assert set(found["psnr"]) == {"input", "unsharp", "output"}


def test_nothing_moves(tmp_path: Path, run: Callable[..., Any]) -> None:
    for i in range(3):
        write(tmp_path / "sharp" / f"{i}.png", scene(0))
        write(tmp_path / "blur" / f"{i}.png", scene(0))
    found = run("--model", "none", "--pairs", tmp_path, "--clip")["moving"]
    assert found == {"share": 0, "psnr": {"input": None, "unsharp": None}}


def test_from_one_scene_to_the_next_nothing_moves(tmp_path: Path, run: Callable[..., Any]) -> None:
    for number in range(2):
        for i in range(2):
            for side in ("blur", "sharp"):
                write(tmp_path / f"scene{number}" / side / f"{i}.png", scene(number))
    assert run("--model", "none", "--pairs", tmp_path, "--clip")["moving"]["share"] == 0


def test_every_scene_is_a_clip_of_its_own(
    clip_dir: Path, tmp_path: Path, yuv_model: Path, run: Callable[..., Any]
) -> None:
    alone = run("--model", yuv_model, "--pairs", clip_dir, "--clip")
    for number in "12":
        for side in ("blur", "sharp"):
            for path in (clip_dir / side).iterdir():
                write(tmp_path / "both" / f"scene{number}" / side / path.name, read(path))
    both = run("--model", yuv_model, "--pairs", tmp_path / "both", "--clip")
    assert (both["pairs"], both["clips"]) == (12, 2)
    assert both["flicker"] == pytest.approx(alone["flicker"])
    assert figures_of(both["output"]) == pytest.approx(figures_of(alone["output"]))


@pytest.mark.parametrize("clip", [False, True])
def test_only_the_frames_of_one_clip_have_to_do_with_each_other(tmp_path: Path, clip: bool) -> None:
    class Watched:
        def __init__(self) -> None:
            self.facts: dict[str, Any] = {}
            self.calls = ""

        def restart(self) -> None:
            self.calls += "|"

        def __call__(self, picture: Picture) -> Picture:
            self.calls += "."
            return picture

    for name in ("a/0", "a/1", "b/0", "b/1", "b/2"):
        for side in ("blur", "sharp"):
            write(tmp_path / name[0] / side / f"{name[2]}.png", scene(0, 24, 24))
    subject = Watched()
    evaluate(find_pairs(tmp_path), {"output": subject}, clip=clip, tuned_on=0)
    assert subject.calls == ("|..|..." if clip else "|.|.|.|.|.")


def test_a_clip_needs_two_frames_of_one_size(
    clip_dir: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    options = ["--model", "none", "--clip", "--no-lpips"]
    assert main(["--pairs", str(clip_dir), "--limit", "1", *options]) == 1
    assert "2 frames or more" in capsys.readouterr().err
    for side in ("blur", "sharp"):
        write(clip_dir / side / "f99.png", scene(0, 32, 32))
    assert main(["--pairs", str(clip_dir), *options]) == 1
    assert "f99.png is 32x32, the clip begins with 48x48" in capsys.readouterr().err
    for side in ("blur", "sharp"):
        write(tmp_path / "two" / "a" / side / "0.png", scene(0))
        write(tmp_path / "two" / "b" / side / "0.png", scene(0))
    assert main(["--pairs", str(tmp_path / "two"), *options]) == 1
    assert "holds one picture" in capsys.readouterr().err


# --- which pictures belong together -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("soft", "sharp", "name"),
    [
        ("blur/a.png", "sharp/a.webp", "a"),
        ("blur/S1/a.jpg", "sharp/S1/a.png", "S1/a"),
        ("GOPR/blur/000001.png", "GOPR/sharp/000001.png", "GOPR/000001"),
        ("val_blur/003/00000007.png", "val_sharp/003/00000007.png", "val/003/00000007"),
        ("val/val_blur/003/7.png", "val/val_sharp/003/7.png", "val/val/003/7"),
        ("test/Blur/x.PNG", "test/Sharp/x.PNG", "test/x"),
        ("input/1.png", "target/1.png", "1"),
        ("blur_gamma/1.png", "sharp/1.png", "1"),
    ],
)
def test_known_layouts(tmp_path: Path, soft: str, sharp: str, name: str) -> None:
    files = write(tmp_path / soft, blurred(scene(0))), write(tmp_path / sharp, scene(0))
    write(tmp_path / "elsewhere" / "b.png", scene(1))
    write(tmp_path / ".cache" / "blur" / "b.png", scene(1))
    (tmp_path / "blur").mkdir(exist_ok=True)
    (tmp_path / "blur" / "notes.txt").write_text("not a picture")
    (pair,) = find_pairs(tmp_path)
    assert (pair.soft, pair.sharp, pair.name) == (*files, name)


def test_gopros_gamma_corrected_blur_is_not_a_second_set(tmp_path: Path) -> None:
    for folder in ("blur", "blur_gamma", "sharp"):
        write(tmp_path / "GOPR1" / folder / "1.png", scene(0))
    (pair,) = find_pairs(tmp_path)
    assert pair.soft == tmp_path / "GOPR1" / "blur" / "1.png"


def test_scene_by_scene_and_2_before_10(tmp_path: Path) -> None:
    for name in ("b/10", "b/2", "a/1", "b/1a"):
        for side in ("blur", "sharp"):
            write(tmp_path / name[0] / side / f"{name[2:]}.png", scene(0))
    pairs = find_pairs(tmp_path)
    assert [p.name for p in pairs] == ["a/1", "b/1a", "b/2", "b/10"]
    assert [len(clip) for clip in clips(pairs)] == [1, 3]


def test_limit_takes_the_first(pairs_dir: Path, run: Callable[..., Any]) -> None:
    found = run("--model", "none", "--pairs", pairs_dir, "--limit", 2, "--csv", pairs_dir / "out.csv")
    assert found["pairs"] == 2
    assert [row["name"] for row in csv.DictReader((pairs_dir / "out.csv").open())] == ["p0", "p1"]
    assert run("--model", "none", "--pairs", pairs_dir, "--limit", 99)["pairs"] == 5


def _lonely(folder: Path) -> None:
    (folder / "sharp" / "p1.png").rename(folder / "sharp" / "q1.png")


def _empty(folder: Path) -> None:
    for path in [*(folder / "blur").iterdir(), *(folder / "sharp").iterdir()]:
        path.unlink()


def _corrupt(folder: Path) -> None:
    path = folder / "blur" / "p2.png"
    path.write_bytes(path.read_bytes()[:200])


def _no_picture(folder: Path) -> None:
    (folder / "sharp" / "p2.png").write_bytes(b"")


def _other_size(folder: Path) -> None:
    write(folder / "sharp" / "p2.png", scene(0, 46, 40))


def _tiny(folder: Path) -> None:
    for side in ("blur", "sharp"):
        write(folder / side / "p2.png", scene(0, 10, 40))


def _same_name(folder: Path) -> None:
    write(folder / "blur" / "p2.webp", scene(0))


@pytest.mark.parametrize(
    ("harm", "cause"),
    [
        (_lonely, "no partner for p1 of blur/ in sharp/, nor for q1 of sharp/ in blur/"),
        (_empty, "holds no pairs of pictures"),
        (_corrupt, "blur/p2.png"),
        (_no_picture, "sharp/p2.png"),
        (_other_size, "p2.png is 48x40, "),
        (_tiny, "10x40: too small"),
        (_same_name, "p2.webp have one name"),
    ],
)
def test_explains_a_set_that_cannot_be_measured(
    pairs_dir: Path, capsys: pytest.CaptureFixture[str], harm: Callable[[Path], None], cause: str
) -> None:
    harm(pairs_dir)
    outputs = [pairs_dir / "o.json", pairs_dir / "o.csv", pairs_dir / "o.png"]
    options = [x for o, p in zip(("--json", "--csv", "--figure"), outputs, strict=True) for x in (o, str(p))]
    assert main(["--model", "none", "--pairs", str(pairs_dir), "--no-lpips", *options]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    first, hint = err.strip().splitlines()
    assert first.startswith("evaluate: ")
    assert cause in first
    assert hint.startswith("  hint: ")
    assert {p.name for p in pairs_dir.iterdir()} == {"blur", "sharp"}  # nothing written, nothing half-written


def test_many_lonely_pictures_are_not_all_named(pairs_dir: Path) -> None:
    for path in (pairs_dir / "sharp").iterdir():
        path.unlink()
    with pytest.raises(MediaError, match=r"no partner for p0, p1, p2 and 2 more of blur/ in sharp/$"):
        find_pairs(pairs_dir)


def test_a_folder_one_too_deep(pairs_dir: Path) -> None:
    with pytest.raises(MediaError, match="holds no pairs") as failure:
        find_pairs(pairs_dir / "blur")
    assert "above" in failure.value.hint
    with pytest.raises(MediaError, match="there is no folder"):
        find_pairs(pairs_dir / "nothing")


# --- what comes out ---------------------------------------------------------------------------------------


def test_json_alone_on_stdout_and_a_table_without_it(pairs_dir: Path, yuv_model: Path) -> None:
    """In a process of its own: nothing else may print either."""
    command = [
        sys.executable,
        "-m",
        "training.evaluate",
        "--model",
        str(yuv_model),
        "--pairs",
        str(pairs_dir),
    ]
    command += ["--limit", "2", "--provider", "cpu", "--no-lpips"]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["pairs"] == 2
    assert done.stderr == ""


def test_table_for_people(
    pairs_dir: Path, yuv_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "out.json"
    options = ["--model", str(yuv_model), "--pairs", str(pairs_dir), "--no-lpips", "--json", str(file)]
    assert main(options) == 0
    out = capsys.readouterr().out
    found = json.loads(file.read_text())
    assert "tiny 1.0" in out
    assert "unsharp mask (" in out
    for kind in ("input", "unsharp", "output"):
        assert f"{found[kind]['psnr']:.2f}" in out
        assert f"{found[kind]['ssim']:.4f}" in out
    assert f"{found['output']['worse']['psnr']:.0%}" in out


def test_csv_has_a_row_for_every_picture(pairs_dir: Path, yuv_model: Path, run: Callable[..., Any]) -> None:
    found = run("--model", yuv_model, "--pairs", pairs_dir, "--csv", pairs_dir / "out.csv")
    rows = list(csv.DictReader((pairs_dir / "out.csv").open()))
    assert [row["name"] for row in rows] == [f"p{i}" for i in range(5)]
    assert (rows[3]["width"], rows[3]["height"]) == ("47", "41")
    for kind in ("input", "unsharp", "output"):
        for name in ("psnr", "ssim", "mae"):
            mean = np.mean([float(row[f"{kind}_{name}"]) for row in rows])
            assert mean == pytest.approx(found[kind][name], rel=1e-5)


def test_figure_has_a_row_for_each_sample(
    pairs_dir: Path, yuv_model: Path, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training.evaluate, "SAMPLES", 3)
    run("--model", yuv_model, "--pairs", pairs_dir, "--figure", pairs_dir / "f.png")
    page = read(pairs_dir / "f.png")
    gap, line = report.GAP, report.LINE
    assert page.shape == (line + 3 * (40 + 2 * line), gap + 4 * (48 + gap), 3)
    soft, truth = read(pairs_dir / "blur" / "p0.png"), read(pairs_dir / "sharp" / "p0.png")
    top = 2 * line
    assert np.array_equal(page[top : top + 40, gap : gap + 48], soft)
    left = gap + 3 * (48 + gap)
    assert np.array_equal(page[top : top + 40, left : left + 48], truth)
    for band in (page[:line], page[line : 2 * line], page[top + 40 : top + 40 + line]):
        assert band.min() < 100  # something is written there


def test_crop_is_where_the_difference_is_largest() -> None:
    before = scene(0, 60, 50)
    after = before.copy()
    after[33:37, 12:15] ^= 255
    after[2, 55] ^= 3
    rows, columns = report.crop_window(before, after, 16)
    changed = np.abs(before.astype(int) - after)
    sums = {
        (y, x): changed[y : y + 16, x : x + 16].sum() for y in range(50 - 16 + 1) for x in range(60 - 16 + 1)
    }
    assert sums[rows.start, columns.start] == max(sums.values())
    assert (rows.stop - rows.start, columns.stop - columns.start) == (16, 16)
    middle = report.crop_window(before, before, 16)
    assert middle == (slice(17, 33), slice(22, 38))
    assert report.crop_window(before, after, 55) == (slice(0, 50), slice(1, 56))


@pytest.mark.parametrize("option", ["--json", "--csv", "--figure"])
def test_says_at_once_that_it_cannot_write(
    pairs_dir: Path, capsys: pytest.CaptureFixture[str], option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training.evaluate, "evaluate", lambda *_, **__: pytest.fail("too late"))
    target = pairs_dir / "no" / "such" / "x.png"
    assert main(["--model", "none", "--pairs", str(pairs_dir), option, str(target)]) == 1
    assert "no such folder" in capsys.readouterr().err


def test_exit_codes(
    pairs_dir: Path, no_models: object, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    there = ["--pairs", str(pairs_dir)]
    usage: list[list[str]] = [
        [], [*there, "--strength", "1.5"], [*there, "--strength", "x"], [*there, "--limit", "0"],
        [*there, "--threads", "-1"], [*there, "--figure", "figure.txt"], [*there, "--provider", "npu"],
    ]  # fmt: skip
    for wrong in usage:
        with pytest.raises(SystemExit) as left:
            main(wrong)
        assert left.value.code == 2
        assert "usage" in capsys.readouterr().err
    assert main([*there, "--model", "nobody", "--no-lpips"]) == 1
    assert 'there is no model "nobody"' in capsys.readouterr().err

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(training.evaluate, "evaluate", interrupt)
    assert main([*there, "--model", "none", "--no-lpips"]) == 130
    assert capsys.readouterr().err == ""


# --- large sets -------------------------------------------------------------------------------------------


def test_large_sets_tune_the_unsharp_mask_on_some(pairs_dir: Path) -> None:
    pairs = find_pairs(pairs_dir)
    found = evaluate(pairs, {}, tuned_on=2).report
    best = metrics.best_unsharp([read_pair(pairs[0]), read_pair(pairs[4])])
    assert found["unsharp"]["tuned_on"] == 2
    assert (found["unsharp"]["sigma"], found["unsharp"]["amount"]) == (best.sigma, best.amount)
    assert found["pairs"] == 5
    assert training.evaluate.TUNED_ON == 40
    assert "unsharp" not in evaluate(pairs, {}, tuned_on=0).report


def test_spread_is_even_and_holds_both_ends(pairs_dir: Path) -> None:
    pairs = find_pairs(pairs_dir)
    assert spread(pairs, 3) == [pairs[0], pairs[2], pairs[4]]
    assert spread(pairs, 9) == pairs
    assert spread(pairs, 0) == []


@pytest.mark.parametrize("clip", [False, True])
def test_holds_only_a_few_pictures_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clip: bool
) -> None:
    for i in range(12):
        write(tmp_path / "sharp" / f"{i}.png", scene(i))
        write(tmp_path / "blur" / f"{i}.png", blurred(scene(i)))
    alive = most = 0

    def gone() -> None:
        nonlocal alive
        alive -= 1

    def watched(pair: Any) -> tuple[Picture, Picture]:
        nonlocal alive, most
        pictures = read_pair(pair)
        for picture in pictures:
            weakref.finalize(picture, gone)
        alive += 2
        most = max(most, alive)
        return pictures

    monkeypatch.setattr(training.evaluate, "read_pair", watched)
    found = evaluate(find_pairs(tmp_path), {}, clip=clip)
    assert found.report["pairs"] == 12
    assert 2 <= most <= 6


def test_progress_counts_to_the_end(pairs_dir: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    evaluate(find_pairs(pairs_dir), {}, tick=lambda *step: seen.append(step))
    assert seen == [
        *(("tuning the unsharp mask", i, 5) for i in range(1, 6)),
        *(("measuring", i, 5) for i in range(1, 6)),
    ]
    with pytest.raises(ValueError, match="no pairs"):
        evaluate([], {})


# --- teacher and LPIPS ------------------------------------------------------------------------------------


def teacher_checkpoint(path: Path, kind: str = "restormer") -> Any:
    """A checkpoint of a tiny network as the training loop writes it, and the network."""
    torch = pytest.importorskip("torch", reason="networks need torch (extra: training)")
    from training.recipe import load_recipe
    from training.tasks import build

    options: dict[str, Any] = {"channels": 32, "depth": 1, "grid": 4, "gate": 32}
    if kind == "restormer":
        options = {"dim": 4, "num_blocks": [1, 1, 1, 1], "num_refinement_blocks": 1, "heads": [1, 1, 2, 2]}
    recipe = load_recipe("teacher", {"network.kind": kind, "network.options": options})
    torch.manual_seed(0)
    network = build(recipe.network).eval()
    torch.save({"recipe": recipe.model_dump(mode="json"), "average": network.state_dict(), "step": 1}, path)
    return network


def test_teacher_runs_on_rgb_in_tiles(
    pairs_dir: Path, tmp_path: Path, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    network = teacher_checkpoint(tmp_path / "teacher.pt")
    import torch

    import training.subjects
    from training.networks.restormer import tiled

    def outputs(tile: int) -> list[Picture]:
        out = []
        for soft in in_folder(pairs_dir / "blur"):
            x = torch.tensor(soft.astype(np.float32) / 255).permute(2, 0, 1)[None]
            with torch.no_grad():
                y = tiled(network, x, tile, overlap=32)[0].permute(1, 2, 0).numpy()
            out.append(np.rint(y.clip(0, 1) * 255).astype(np.uint8))
        return out

    truths = in_folder(pairs_dir / "sharp")
    whole = run("--model", "none", "--pairs", pairs_dir, "--teacher", tmp_path / "teacher.pt")
    assert figures_of(whole["teacher"]) == pytest.approx(skimage_figures(outputs(4096), truths), rel=1e-5)
    assert whole["teacher"]["checkpoint"] == str(tmp_path / "teacher.pt")
    assert whole["output"] is None
    monkeypatch.setattr(training.subjects, "TILE", 40)
    parts = run("--model", "none", "--pairs", pairs_dir, "--teacher", tmp_path / "teacher.pt")
    assert figures_of(parts["teacher"]) == pytest.approx(skimage_figures(outputs(40), truths), rel=1e-5)
    assert parts["teacher"]["psnr"] != whole["teacher"]["psnr"]


def test_explains_a_teacher_that_is_none(
    pairs_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher_checkpoint(tmp_path / "student.pt", "student")
    (tmp_path / "text.pt").write_text("not a checkpoint")
    options = ["--model", "none", "--pairs", str(pairs_dir), "--no-lpips", "--teacher"]
    for name, cause in (
        ("nothing.pt", "there is no checkpoint"),
        ("text.pt", "is not a checkpoint"),
        ("student.pt", "holds a student"),
    ):
        assert main([*options, str(tmp_path / name)]) == 1
        first, *rest = capsys.readouterr().err.strip().splitlines()
        assert cause in first
        assert len(rest) <= 1


def test_lpips_where_its_weights_are(
    pairs_dir: Path, yuv_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch = pytest.importorskip("torch", reason="LPIPS needs torch (extra: training)")
    from training.lpips import FILES, LPIPS

    options = ["--model", str(yuv_model), "--pairs", str(pairs_dir), "--provider", "cpu", "--json"]
    options += ["--weights", str(tmp_path)]
    assert main(options) == 0
    out, err = capsys.readouterr()
    without = json.loads(out)
    assert "lpips" not in without["input"]
    assert f"LPIPS is not measured: {tmp_path} has no {FILES[0]}" in err
    assert "python -m training.weights lpips" in err
    assert without["notes"] == [err.strip()]

    torch.manual_seed(0)
    model = LPIPS()
    for head in model.heads.parameters():
        head.uniform_(0, 1)
    torch.save(model.trunk.state_dict(), tmp_path / FILES[0])
    torch.save(model.heads.state_dict(), tmp_path / FILES[1])
    assert main([*options, "--csv", str(tmp_path / "out.csv")]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert err == ""
    assert found["notes"] == []
    softs, truths = (in_folder(pairs_dir / side) for side in ("blur", "sharp"))
    expected = [model.measure([soft], truth)[0] for soft, truth in zip(softs, truths, strict=True)]
    assert found["input"]["lpips"] == pytest.approx(np.mean(expected), rel=1e-4)
    assert found["output"]["lpips"] != found["input"]["lpips"]
    assert math.isfinite(found["unsharp"]["lpips"])
    assert "output_lpips" in (tmp_path / "out.csv").read_text()
    assert main([o for o in options if o != "--json"]) == 0
    assert "LPIPS" in capsys.readouterr().out

    for side in ("blur", "sharp"):
        write(pairs_dir / side / "p2.png", scene(0, 30, 40))
    assert main(options) == 1
    assert "at least 31 a side, not 30x40" in capsys.readouterr().err
    torch.save({}, tmp_path / FILES[1])
    assert main(options) == 1
    assert "does not fit Heads" in capsys.readouterr().err


def test_models_with_other_blocks_take_any_size(tmp_path: Path, run: Callable[..., Any]) -> None:
    """Sides that are no multiple of the model's block, and odd ones."""
    model = write_yuv_model(tmp_path / "m" / "blocks", size_multiple=8)
    for i, (width, height) in enumerate([(50, 42), (33, 37), (64, 16)]):
        write(tmp_path / "set" / "sharp" / f"{i}.png", scene(i, width, height))
        write(tmp_path / "set" / "blur" / f"{i}.png", blurred(scene(i, width, height)))
    assert run("--model", model, "--pairs", tmp_path / "set")["pairs"] == 3
