"""The published data protocols: what each does to a picture, and which pictures come when."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from made_data import drawn, write_pair, write_picture
from numpy.typing import NDArray

from training import protocols
from training.errors import DataError
from training.library import read_picture, scan
from training.protocols import Pictures, PictureSpec, faces, gaussian, pairs, squashed

SHARP = drawn(90, 120, 0)


# -- the protocols -------------------------------------------------------------------------------------


def test_pairs_are_squashed_alike_or_left_alone() -> None:
    blur = protocols.blurred(SHARP, 2.0)
    soft, truth = pairs(blur, SHARP)
    assert soft is blur
    assert truth is SHARP
    soft, truth = pairs(blur, SHARP, 64)
    assert soft.shape == truth.shape == (64, 64, 3)
    assert np.array_equal(truth, cv2.resize(SHARP, (64, 64), interpolation=cv2.INTER_AREA))
    assert np.array_equal(soft, cv2.resize(blur, (64, 64), interpolation=cv2.INTER_AREA))


def test_gaussian_is_that_of_the_code_and_then_that_of_the_text() -> None:
    soft, truth = gaussian(SHARP, 64, 1.5)
    assert np.array_equal(truth, squashed(SHARP, 64))
    assert np.array_equal(soft, cv2.GaussianBlur(truth, (0, 0), 1.5))
    less, _ = gaussian(SHARP, 64, 1.5, shrink=2)
    halved = soft.reshape(32, 2, 32, 2, 3).mean(axis=(1, 3))
    assert np.abs(cv2.resize(less, (32, 32), interpolation=cv2.INTER_AREA) - halved).mean() < 4
    # nothing is left between the pixels of the small picture
    assert np.abs(cv2.Laplacian(less, cv2.CV_32F)).mean() < np.abs(cv2.Laplacian(soft, cv2.CV_32F)).mean()
    assert np.array_equal(gaussian(SHARP, 64, 0.0)[0], truth)


def test_faces_are_the_middle_under_either_blur() -> None:
    middle = squashed(SHARP[:, 15:105], 48)
    kinds = set()
    for seed in range(12):
        soft, truth = faces(SHARP, 48, np.random.default_rng(seed))
        assert np.array_equal(truth, middle)
        assert np.array_equal(soft, faces(SHARP, 48, np.random.default_rng(seed))[0])
        draw = np.random.default_rng(seed)
        is_gaussian = draw.random() < 0.5
        kinds.add(is_gaussian)
        if is_gaussian:
            sigma = float(draw.uniform(1.0, 2.5))
            assert np.array_equal(soft, cv2.GaussianBlur(truth, (0, 0), sigma))
        else:  # straight motion keeps what runs along it: not the Gaussian of any allowed size
            assert all(
                np.abs(cv2.GaussianBlur(truth, (0, 0), s).astype(int) - soft).mean() > 1
                for s in (1.0, 1.5, 2.0, 2.5)
            )
    assert kinds == {True, False}


def test_small_pictures_are_enlarged_to_the_side() -> None:
    assert squashed(SHARP[:20, :30], 64).shape == (64, 64, 3)
    square = SHARP[:64, :64]
    assert squashed(square, 64) is square


# -- pictures by number --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    for i in range(5):
        write_picture(root / "portraits" / f"photo{i}.png", drawn(70, 80, i))
    for i in range(2):
        write_pair(root, f"train/scene{i}/blur/{i}.png", f"train/scene{i}/sharp/{i}.png", seed=20 + i)
    return root


def test_a_batch_is_by_its_numbers(root: Path) -> None:
    pictures = Pictures(scan(root), PictureSpec("gaussian", side=48, crop=32, blur=1.5))
    soft, sharp = pictures.batch([3, 11, 4])
    assert soft.shape == sharp.shape == (3, 1, 3, 32, 32)
    assert soft.dtype == np.uint8
    for place, number in enumerate((3, 11, 4)):
        alone = pictures.batch([number])
        assert np.array_equal(alone[0][0], soft[place])
        assert np.array_equal(alone[1][0], sharp[place])
    other = Pictures(scan(root), PictureSpec("gaussian", side=48, crop=32, blur=1.5, seed=1))
    assert not np.array_equal(other.batch([3])[1], pictures.batch([3])[1])


def holds(whole: NDArray[np.uint8], crop: NDArray[np.uint8]) -> bool:
    views = np.lib.stride_tricks.sliding_window_view(whole, crop.shape)
    return bool((views == crop).all(axis=(-3, -2, -1)).any())


def test_crops_are_cut_from_both_halves_alike_and_mirrored_at_times(root: Path) -> None:
    pictures = Pictures(scan(root), PictureSpec("gaussian", side=48, crop=32))  # blur 0: the truth itself
    wholes = [pictures.whole(i)[1] for i in range(len(pictures))]
    mirrored = set()
    for number in range(20):
        soft, sharp = pictures.batch([number])
        assert np.array_equal(soft, sharp)
        crop = sharp[0, 0].transpose(1, 2, 0)
        found = [
            turned
            for turned in (False, True)
            for whole in wholes
            if holds(whole[:, ::-1] if turned else whole, crop)
        ]
        assert found
        mirrored |= set(found)
    assert mirrored == {False, True}


def test_an_epoch_shows_every_picture_once_in_another_order(root: Path) -> None:
    pictures = Pictures(scan(root), PictureSpec("gaussian", side=48, crop=48))
    shown = []
    wholes = [pictures.whole(i)[1] for i in range(len(pictures))]
    for number in range(3 * len(pictures)):
        crop = pictures.batch([number])[1][0, 0].transpose(1, 2, 0)
        shown.append(next(i for i, w in enumerate(wholes) if (w == crop).all() or (w[:, ::-1] == crop).all()))
    epochs = [shown[i : i + len(pictures)] for i in range(0, len(shown), len(pictures))]
    assert all(sorted(epoch) == list(range(len(pictures))) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_sharp_pictures_are_stills_and_the_sharp_half_of_pairs(root: Path) -> None:
    gaussian_ones = Pictures(scan(root), PictureSpec("gaussian", side=48, crop=32))
    names = sorted(gaussian_ones.name(i) for i in range(len(gaussian_ones)))
    assert names == sorted(["0", "1", *(p.stem for p in scan(root).stills)])
    assert all("blur" not in str(path) for path, _ in gaussian_ones.files)
    real = Pictures(scan(root), PictureSpec("pairs", crop=32))
    assert [real.name(i) for i in range(len(real))] == ["0", "1"]
    soft, sharp = real.whole(1)
    assert np.array_equal(soft, read_picture(root / "train/scene1/blur/1.png"))
    assert np.array_equal(sharp, read_picture(root / "train/scene1/sharp/1.png"))


def test_each_time_round_has_another_blur_by_chance(root: Path) -> None:
    pictures = Pictures(scan(root), PictureSpec("faces", side=48, crop=32))
    n = len(pictures)
    assert np.array_equal(pictures.whole(1)[0], pictures.whole(1)[0])
    assert np.array_equal(pictures.whole(1)[1], pictures.whole(1 + n)[1])
    assert not np.array_equal(pictures.whole(1)[0], pictures.whole(1 + n)[0])


def test_the_blind_open_no_truth(root: Path, tmp_path: Path) -> None:
    for i in range(2):
        write_pair(tmp_path, f"scene{i}/blur/{i}.png", f"scene{i}/sharp/{i}.png", seed=20 + i)
    spec = PictureSpec("pairs", crop=32, blind=True)
    before = Pictures(scan(tmp_path), spec).batch(range(4))
    assert not before[1].any()
    for path in tmp_path.glob("*/sharp/*.png"):
        path.write_bytes(b"no picture at all")
    after = Pictures(scan(tmp_path), spec)
    assert np.array_equal(after.batch(range(4))[0], before[0])
    with pytest.raises(DataError, match=r"sharp/\d\.png is not a readable picture"):
        after.seeing().batch([0])


def test_what_cannot_be(root: Path, tmp_path: Path) -> None:
    write_picture(tmp_path / "holiday.png", SHARP)
    with pytest.raises(DataError, match=r"protocol 'pairs' needs pairs of a blurred and a sharp picture"):
        Pictures(scan(tmp_path), PictureSpec("pairs"))
    with pytest.raises(DataError, match="only pairs can do without reading it"):
        PictureSpec("gaussian", side=64, blind=True)
    with pytest.raises(DataError, match=r"crops of 110 do not fit; lower data\.crop"):
        Pictures(scan(root), PictureSpec("pairs", crop=110)).batch([0])
    write_picture(tmp_path / "blur" / "a.png", SHARP)
    write_picture(tmp_path / "sharp" / "a.png", SHARP[:-2])
    with pytest.raises(DataError, match="differ in size"):
        Pictures(scan(tmp_path), PictureSpec("pairs", crop=32)).whole(0)


def test_where_they_come_from_is_told_without_paths(root: Path) -> None:
    origin = Pictures(scan(root), PictureSpec("gaussian", side=48, crop=32, blur=1.5)).origin
    assert origin["folders"].keys() == {"portraits", "train"}
    assert origin["pictures"]["blur"] == 1.5
    assert str(root) not in str(origin)


# -- which files ---------------------------------------------------------------------------------------


def test_files_are_chosen_by_their_paths(root: Path) -> None:
    chosen = scan(root, only="CELEBA|portrait")
    assert chosen.pairs == []
    assert {p.parent.name for p in chosen.stills} == {"portraits"}
    with pytest.raises(DataError, match=r"whose path contains 'celeba'"):
        scan(root, only="celeba")
    with pytest.raises(DataError, match=r"data\.only '\(' is no regular expression"):
        scan(root, only="(")


def test_more_may_be_held_out(tmp_path: Path) -> None:
    for i in range(40):
        write_picture(tmp_path / f"face{i}.png", drawn(16, 16, i))
    few, many = ({p.name for p in scan(tmp_path, True, share).stills} for share in (0.1, 0.4))
    assert few < many
    assert 8 < len(many) < 24
    assert {p.name for p in scan(tmp_path, share=0.4).stills}.isdisjoint(many)
