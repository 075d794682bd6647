"""Validation sets: folders of pairs that `training.evaluate` takes, the same for everybody."""

from __future__ import annotations

import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from made_data import drawn, write_pair, write_picture, write_video

from training import degrade, validation
from training.errors import DataError
from training.library import Library
from training.validation import CLIP_FRAMES, SIMULATORS, build, pictures


def read(path: Path) -> np.ndarray:
    picture = cv2.imread(str(path))
    assert picture is not None
    return picture


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    for i in range(3):
        write_picture(root / "kodak" / f"{i:02d}.png", drawn(70, 100, i))
    write_picture(root / "val" / "portrait of one.png", drawn(64, 80, 7))
    write_picture(root / "photos" / "photo0.png", drawn(64, 80, 8))  # trains: its name says so
    write_video(root / "val" / "talk.mp4", 40, (64, 96))
    return root


@pytest.fixture(scope="module")
def sets(data: Path) -> dict[str, Path]:
    return {p.name: p for p in build(data, data.parent / "sets")}


def test_each_set_has_pairs_of_one_name_and_size(sets: dict[str, Path]) -> None:
    assert set(sets) == {*SIMULATORS, "clip-tripod", "clip-talk"}
    for name in SIMULATORS:
        blur, sharp = ({p.name: read(p) for p in (sets[name] / side).iterdir()} for side in ("blur", "sharp"))
        assert blur.keys() == sharp.keys() == {"00.png", "01.png", "02.png", "portrait_of_one.png"}
        for file, picture in sharp.items():
            assert picture.shape == blur[file].shape
            assert picture.shape[0] % 16 == picture.shape[1] % 16 == 0
        same = [np.array_equal(blur[file], sharp[file]) for file in blur]
        assert all(same) if name == "sharp" else not any(same)


def test_the_truth_is_the_middle_of_the_picture(sets: dict[str, Path], data: Path) -> None:
    original, truth = read(data / "kodak" / "01.png"), read(sets["webcam"] / "sharp" / "01.png")
    assert truth.shape == (64, 96, 3)
    assert np.array_equal(truth, original[3:67, 2:98])


def test_a_picture_s_damage_is_by_set_and_name(sets: dict[str, Path]) -> None:
    """Adding a picture changes no other."""
    truth = read(sets["webcam2"] / "sharp" / "01.png")[..., ::-1]
    rng = np.random.default_rng((1, zlib.crc32(b"webcam2/01")))
    soft = SIMULATORS["webcam2"](degrade.as_float(truth), rng)
    written = read(sets["webcam2"] / "blur" / "01.png")[..., ::-1]
    assert np.array_equal(written, np.round(np.clip(soft, 0, 1) * 255))


def test_clips_are_still_or_move_and_have_noise_that_is_new_in_each_frame(sets: dict[str, Path]) -> None:
    for name, size in (("clip-tripod", (64, 80, 3)), ("clip-talk", (32, 48, 3))):
        blur, sharp = ([read(p) for p in sorted((sets[name] / side).iterdir())] for side in ("blur", "sharp"))
        assert len(blur) == len(sharp) == CLIP_FRAMES
        assert {p.shape for p in blur + sharp} == {size}
        assert np.array_equal(sharp[0], sharp[1]) == (name == "clip-tripod")
        assert not np.array_equal(blur[0], blur[1])


def test_the_same_seed_gives_the_same_sets(sets: dict[str, Path], data: Path, tmp_path: Path) -> None:
    again = {p.name: p for p in build(data, tmp_path)}
    for name, folder in sets.items():
        for path in sorted(folder.rglob("*.png")):
            assert np.array_equal(read(path), read(again[name] / path.relative_to(folder))), path
    other = {p.name: p for p in build(data, tmp_path / "other", seed=2)}
    assert not np.array_equal(read(other["webcam2"] / "blur/01.png"), read(sets["webcam2"] / "blur/01.png"))


@pytest.mark.parametrize("name", ["webcam", "webcam2", "lens", "gaussian"])
def test_simulators_take_detail_and_keep_light(name: str) -> None:
    image = degrade.as_float(drawn(64, 96, 2))
    out = np.stack([SIMULATORS[name](image, np.random.default_rng(i)) for i in range(12)])
    assert out.dtype == np.float32
    assert out.mean() == pytest.approx(image.mean(), abs=0.03)
    detail = [
        np.abs(cv2.Laplacian(cv2.GaussianBlur(p, (0, 0), 0.7), cv2.CV_32F)).mean() for p in (image, *out)
    ]
    assert np.median(detail[1:]) < 0.8 * detail[0]


def test_the_lens_is_softer_in_the_corners() -> None:
    checks = (
        np.kron(np.indices((32, 32)).sum(0) % 2, np.ones((3, 3)))[..., None].repeat(3, 2).astype(np.float32)
    )
    out = validation.lens(checks, np.random.default_rng(0))
    middle, corner = out[40:56, 40:56].std(), np.mean([out[:12, :12].std(), out[-12:, -12:].std()])
    assert corner < 0.85 * middle


def test_pictures_of_one_name_do_not_hide_each_other(tmp_path: Path) -> None:
    paths = [write_picture(tmp_path / f / "a b.png", drawn(40, 50, i)) for i, f in enumerate(("x", "y"))]
    tiny = write_picture(tmp_path / "tiny.png", drawn(12, 50, 3))
    names = [name for name, _ in pictures(Library(stills=[*paths, tiny]))]
    assert names == ["a_b", "y_a_b"]


def test_few_and_short_things_do(tmp_path: Path) -> None:
    write_video(tmp_path / "val" / "short.mp4", 5, (48, 64))
    made = build(tmp_path, tmp_path / "sets")
    assert [p.name for p in made] == ["clip-short"]
    assert len(list((made[0] / "sharp").iterdir())) == 5
    write_pair(tmp_path / "pairs", "val/blur/x.png", "val/sharp/x.png")
    with pytest.raises(DataError, match=r"no single pictures and no videos to measure on below .*pairs"):
        build(tmp_path / "pairs", tmp_path / "none")
