"""Data folders, clips and packs: what is found, which side it stands on, and what is made of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from made_data import drawn, write_pair, write_picture, write_pictures, write_video
from numpy.typing import NDArray

import training.clips
import training.library
from training.clips import ClipSpec, make_clip, screen
from training.data import Clips, Interleaved, orient, pack
from training.degrade import as_float, from_i420, to_i420
from training.library import (
    DataError,
    Library,
    Recent,
    read_picture,
    read_video,
    scan,
    validation_part,
    video_length,
)

SPEC = ClipSpec(frames=3, crop=32, seed=5)


def touch(root: Path, *names: str) -> None:
    """Empty files: `scan` reads names alone."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def both(root: Path) -> tuple[Library, Library]:
    """What trains and what measures; an empty library where there is nothing."""

    def side(validation: bool) -> Library:
        try:
            return scan(root, validation)
        except DataError:
            return Library()

    return side(False), side(True)


def names(paths: list[Path], root: Path) -> set[str]:
    return {p.relative_to(root).as_posix() for p in paths}


def everything(library: Library) -> set[Path]:
    pairs = {p for pair in library.pairs for p in pair}
    return {*library.stills, *library.videos, *pairs, *(p for burst in library.bursts for p in burst)}


# -- layouts -------------------------------------------------------------------------------------------


def test_plain_pictures_and_videos_at_any_depth(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "b/c.JPG", "b/d/e.webp", "talk.mp4", "b/talk2.MKV", "notes.txt", ".hidden.png")
    touch(tmp_path, "b/._c.JPG", ".cache/f.png")
    found = [library for library in both(tmp_path)]
    stills = set().union(*(names(library.stills, tmp_path) for library in found))
    assert stills == {"a.png", "b/c.JPG", "b/d/e.webp"}
    assert set().union(*(names(library.videos, tmp_path) for library in found)) == {"talk.mp4", "b/talk2.MKV"}


def test_div2k_takes_the_sharp_ones_and_measures_on_its_validation(tmp_path: Path) -> None:
    train = [f"DIV2K_train_HR/{i:04d}.png" for i in range(1, 30)]
    valid = [f"DIV2K_valid_HR/{i:04d}.png" for i in range(801, 810)]
    touch(tmp_path, *train, *valid, *(f"DIV2K_train_LR_bicubic/X2/{i:04d}x2.png" for i in range(1, 30)))
    training, validation = both(tmp_path)
    assert names(training.stills, tmp_path) < set(train)
    assert names(validation.stills, tmp_path) >= set(valid)
    assert names(training.stills + validation.stills, tmp_path) == {*train, *valid}


def test_gopro_pairs_by_scene_and_both_gammas(tmp_path: Path) -> None:
    for scene in range(12):
        for frame in range(4):
            for side in ("blur", "blur_gamma", "sharp"):
                touch(tmp_path, f"train/GOPR{scene:04d}_11_00/{side}/{frame:06d}.png")
    touch(tmp_path, "test/GOPR0900_11_00/blur/000001.png", "test/GOPR0900_11_00/sharp/000001.png")
    training, validation = both(tmp_path)
    assert len(training.pairs) + len(validation.pairs) == 12 * 4 * 2 + 1
    assert not training.stills + validation.stills
    for blur, sharp in training.pairs + validation.pairs:
        assert blur.name == sharp.name
        assert blur.parent.parent == sharp.parent.parent
        assert sharp.parent.name == "sharp"
    scenes = [{blur.parent.parent.name for blur, _ in library.pairs} for library in (training, validation)]
    assert not scenes[0] & scenes[1]
    assert "GOPR0900_11_00" in scenes[1]
    assert len(scenes[1]) > 1  # and one of the training's scenes was held out, whole


def test_reds_pairs_its_folders_its_jpeg_twins_and_its_validation(tmp_path: Path) -> None:
    for scene in range(12):
        for frame in range(3):
            name = f"{scene:03d}/{frame:08d}"
            touch(tmp_path, f"train/train_sharp/{name}.png", f"train/train_blur/{name}.png")
            touch(tmp_path, f"train/train_blur_jpeg/{name}.jpg")
    touch(tmp_path, "val/val_sharp/000/00000000.png", "val/val_blur/000/00000000.png")
    training, validation = both(tmp_path)
    pairs = training.pairs + validation.pairs
    assert len(pairs) == 12 * 3 * 2 + 1
    assert all(blur.stem == sharp.stem and blur.parent.name == sharp.parent.name for blur, sharp in pairs)
    assert {sharp.parent.parent.name for _, sharp in pairs} == {"train_sharp", "val_sharp"}
    scenes = [
        {p[0].parent.name for p in lib.pairs if "train" in p[0].parts[-4]} for lib in (training, validation)
    ]
    assert not scenes[0] & scenes[1]
    assert any("val_blur" in blur.parts for blur, _ in validation.pairs)


def test_sharp_frames_alone_are_stills_and_blurred_ones_alone_are_nothing(tmp_path: Path) -> None:
    touch(tmp_path, *(f"train_sharp/{s:03d}/{f:08d}.png" for s in range(12) for f in range(3)))
    touch(tmp_path, "blur/lonely.png", "Blur/lonelier.png")
    training, validation = both(tmp_path)
    assert len(training.stills + validation.stills) == 36
    scenes = [{p.parent.name for p in library.stills} for library in (training, validation)]
    assert not scenes[0] & scenes[1]
    assert not training.pairs + validation.pairs


def test_flat_pairs_whatever_their_case_and_suffix(tmp_path: Path) -> None:
    touch(
        tmp_path,
        *(f"set/Blur/img_{i}.jpg" for i in range(30)),
        *(f"set/Sharp/IMG_{i}.png" for i in range(30)),
    )
    training, validation = both(tmp_path)
    assert len(training.pairs) + len(validation.pairs) == 30
    assert training.pairs  # too few scenes to share out: picture by picture
    assert validation.pairs
    assert all(b.stem.lower() == s.stem.lower() for b, s in training.pairs)


def test_flat_pairs_named_by_their_scenes_are_held_out_by_scene(tmp_path: Path) -> None:
    for scene in range(40):
        for frame in range(5):
            touch(tmp_path, *(f"{side}/GOPR{scene:04d}_11_00_{frame:06d}.png" for side in ("blur", "sharp")))
    training, validation = both(tmp_path)
    assert len(training.pairs) + len(validation.pairs) == 200
    scenes = [{blur.name[:8] for blur, _ in library.pairs} for library in (training, validation)]
    assert not scenes[0] & scenes[1]
    assert scenes[1]


def test_neighbours_are_never_parted_where_scenes_are_few(tmp_path: Path) -> None:
    for scene in (372, 374, 477):
        for frame in range(20):
            touch(tmp_path, *(f"{side}/GOPR{scene:04d}_11_00-{frame}-8.png" for side in ("blur", "sharp")))
    assert len(scan(tmp_path).pairs) == 60  # the hash keeps all three


def test_folder_names_above_the_data_say_nothing(tmp_path: Path) -> None:
    root = tmp_path / "blur-and-sharp" / "test" / "deblurring" / "photos"
    touch(root, *(f"{i}.png" for i in range(20)), "sharpness/x.png", "deblur/y.png")
    training, validation = both(root)
    assert len(training.stills + validation.stills) == 22
    assert len(training.stills) > 12


def test_a_data_folder_that_is_for_measuring_never_trains(tmp_path: Path) -> None:
    root = tmp_path / "DIV2K_valid_HR"
    touch(root, *(f"{i}.png" for i in range(20)))
    with pytest.raises(DataError, match=r"no training pictures.*keep all 20 files for validation"):
        scan(root)
    assert len(scan(root, validation=True).stills) == 20


def test_bursts_are_high_speed_frames_in_order(tmp_path: Path) -> None:
    touch(tmp_path, *(f"gym_240fps/{i:04d}.png" for i in range(9)), "test/x_240fps/1.png", "still.png")
    training, validation = both(tmp_path)
    assert [[p.name for p in burst] for burst in training.bursts] == [[f"{i:04d}.png" for i in range(9)]]
    assert [[p.name for p in burst] for burst in validation.bursts] == [["1.png"]]


def test_no_source_stands_on_both_sides(tmp_path: Path) -> None:
    for i in range(60):  # one name in several folders, sizes and formats: copies of one picture
        touch(
            tmp_path,
            f"full/photo{i}.png",
            f"small/photo{i}.jpg",
            f"deep/er/photo{i}.webp",
            f"clips/talk{i}.mp4",
        )
        touch(tmp_path, f"pairs/scene{i}/blur/{i}.png", f"pairs/scene{i}/sharp/{i}.png")
    touch(
        tmp_path, *(f"kodak/{i:02d}.webp" for i in range(12)), "val/extra.png", "videos/homeoffice_1080p.mp4"
    )
    training, validation = both(tmp_path)
    assert not everything(training) & everything(validation)
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert everything(training) | everything(validation) == set(files)
    for kind in ("stills", "videos"):
        stems = [{p.stem for p in getattr(library, kind)} for library in (training, validation)]
        assert not stems[0] & stems[1]
        assert stems[1]
    assert 20 < len({p.stem for p in training.stills}) < 60
    assert {f"{i:02d}" for i in range(12)} | {"extra"} <= {p.stem for p in validation.stills}
    assert "homeoffice_1080p" in {p.stem for p in validation.videos}
    assert (
        sum(training.folders.values()) + sum(validation.folders.values()) == len(files) - 60
    )  # a pair is one


def test_the_split_is_for_ever() -> None:
    """Weights that were trained with it must not meet their pictures again as new ones."""
    held = [i for i in range(100) if validation_part(f"photo{i}")]
    assert held == [7, 8, 22, 23, 46, 47, 61, 73, 74, 85, 99]


def test_what_is_missing_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^data folder .*nowhere does not exist$"):
        scan(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"^no pictures or videos below"):
        scan(tmp_path)
    touch(tmp_path, "photo1.png")
    with pytest.raises(DataError, match=r"no validation pictures.*all 1 files for training"):
        scan(tmp_path, validation=True)


# -- reading -------------------------------------------------------------------------------------------


def test_pictures_are_rgb_and_bad_ones_named(tmp_path: Path) -> None:
    picture = drawn(20, 30, 0)
    assert np.array_equal(read_picture(write_picture(tmp_path / "a.png", picture)), picture)
    (tmp_path / "b.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"b\.png is not a readable picture$"):
        read_picture(tmp_path / "b.png")


@pytest.mark.parametrize("start", [0, 7, 20])
def test_video_frames_are_those_asked_for(
    tmp_path: Path, start: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_video(tmp_path / "talk.mp4", 40)
    assert video_length(path) == 40
    decoded = read_video(path, start, 6)
    assert decoded.shape == (6, 96, 112, 3)
    brightness = decoded[:, :, :40].mean((1, 2, 3))
    assert brightness == pytest.approx([20 + 2 * (start + i) for i in range(6)], abs=1)
    monkeypatch.setattr(training.library, "_SEEK_FROM", 1)
    monkeypatch.setattr(training.library, "_videos", Recent(1 << 20))
    assert np.array_equal(read_video(path, start, 6), decoded)  # sought in, the same frames
    with pytest.raises(DataError, match="fewer than 46 frames"):
        read_video(path, 40, 6)


def test_bad_videos_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"no video" * 100)
    for read in (video_length, lambda path: read_video(path, 0, 1)):
        with pytest.raises(DataError, match=r"a\.mp4 is not a readable video: \w+"):
            read(tmp_path / "a.mp4")
    with pytest.raises(DataError, match=r"gone\.mp4 is not a readable video: No such file"):
        video_length(tmp_path / "gone.mp4")


def test_recent_keeps_what_fits() -> None:
    recent, made = Recent(limit=1000), []

    def get(key: str, size: int = 400) -> None:
        recent.get(key, lambda: made.append(key) or np.zeros(size, np.uint8))  # type: ignore[func-returns-value]

    for key in ("a", "b", "a", "c", "a", "b"):  # c drives out b, which was asked for longest ago
        get(key)
    assert made == ["a", "b", "c", "b"]
    assert recent.size <= 1000
    get("huge", 5000)
    assert recent.size == 5000  # one always stays


# -- clips ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("library")
    write_pictures(root / "photos", 4)
    write_video(root / "talk.mp4", 26)
    write_pair(root, "pairs/blur/p.png", "pairs/sharp/p.png")
    for i in range(14):
        picture = np.roll(drawn(90, 100, 9), 3 * i, axis=1)
        write_picture(root / "run_240fps" / f"{i:03d}.png", picture)
    return root


def library_of(root: Path, *kinds: str) -> Library:
    library, held = both(root)
    for kind in ("stills", "videos", "pairs", "bursts"):
        mine = getattr(library, kind) + getattr(held, kind) if kind in kinds else []
        setattr(library, kind, mine)
    return library


@pytest.mark.parametrize("kind", ["stills", "videos", "pairs", "bursts"])
def test_a_clip_follows_from_seed_and_number_alone(folder: Path, kind: str) -> None:
    library = library_of(folder, kind)
    first = [make_clip(library, SPEC, i) for i in range(6)]
    again = [make_clip(library, SPEC, i) for i in reversed(range(6))][::-1]
    for (a, b), (c, d) in zip(first, again, strict=True):
        assert a.shape == b.shape == (3, 48, 32)
        assert a.dtype == b.dtype == np.uint8
        assert np.array_equal(a, c)
        assert np.array_equal(b, d)
    assert len({b.tobytes() for _, b in first}) == 6
    assert any(not np.array_equal(a, b) for a, b in first)
    other = make_clip(library, ClipSpec(3, 32, seed=6), 0)
    assert not np.array_equal(other[1], first[0][1])


def test_a_clip_s_sides_show_the_same_thing(folder: Path) -> None:
    """Before and after must lie pixel on pixel: a damaged clip is nearer to its truth than to it moved."""
    library = library_of(folder, "stills", "videos", "pairs", "bursts")
    nearer = []
    for i in range(24):
        soft, sharp = (c[:, :32].astype(float) for c in make_clip(library, SPEC, i))
        if sharp.std() < 5:
            continue
        errors = {
            (dy, dx): np.abs(soft[:, 2:-2, 2:-2] - np.roll(sharp, (dy, dx), (1, 2))[:, 2:-2, 2:-2]).mean()
            for dy in (-2, 0, 2)
            for dx in (-2, 0, 2)
        }
        nearer.append(errors[0, 0] <= min(errors.values()))
    assert len(nearer) > 12
    assert np.mean(nearer) > 0.9


def test_truths_are_crisper_than_averages_made_them(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def details(library: Library) -> NDArray[np.float64]:
        truths = (make_clip(library, SPEC, i)[1][0, :32] for i in range(40))
        return np.array([np.abs(cv2.Laplacian(t, cv2.CV_32F)).mean() for t in truths])

    stills, pairs = library_of(folder, "stills"), library_of(folder, "pairs")
    crisp, pair = details(stills), details(pairs)
    monkeypatch.setattr(training.clips, "CRISP", (0.0, 0.0))
    gained = crisp / details(stills)
    assert np.array_equal(details(pairs), pair), "a truth that was photographed stays as it is"
    assert gained.min() > 0.97
    assert 1.2 < np.median(gained) < 2.2
    assert 3 <= np.sum(np.abs(gained - 1) < 1e-9) <= 18, "a quarter stays as it was"


def test_perfect_cameras_give_the_truth(folder: Path) -> None:
    soft, sharp = make_clip(library_of(folder, "stills"), ClipSpec(3, 32, 0, identity=1.0), 3)
    assert np.array_equal(soft, sharp)


def test_pairs_keep_their_real_blur(folder: Path) -> None:
    library = library_of(folder, "pairs")
    for i in range(4):
        soft, sharp = make_clip(library, ClipSpec(2, 32, 1, identity=1.0), i)
        detail = [float(np.abs(np.diff(c[:, :32].astype(float), axis=2)).mean()) for c in (soft, sharp)]
        assert detail[0] < 0.8 * detail[1]


@pytest.mark.parametrize(("height", "width"), [(20, 30), (33, 200), (64, 64), (66, 70)])
def test_small_pictures_do_not_end_a_run(tmp_path: Path, height: int, width: int) -> None:
    write_picture(tmp_path / "s.png", drawn(height, width, 1))
    write_pair(tmp_path, "blur/p.png", "sharp/p.png", (height, width))
    stills, pairs = library_of(tmp_path, "stills"), library_of(tmp_path, "pairs")
    for i in range(8):
        assert make_clip(stills, SPEC, i)[0].shape == (3, 48, 32)
        assert make_clip(pairs, SPEC, i)[0].shape == (3, 48, 32)


@pytest.mark.parametrize("frames", [1, 2, 8])
def test_short_videos_and_bursts_do_not_end_a_run(tmp_path: Path, frames: int) -> None:
    write_video(tmp_path / "v.mp4", 3, (40, 48))
    for i in range(3):
        write_picture(tmp_path / "b_240fps" / f"{i}.png", drawn(70, 80, i))
    for kind in ("videos", "bursts"):
        library = library_of(tmp_path, kind)
        for i in range(5):
            assert make_clip(library, ClipSpec(frames, 32), i)[0].shape == (frames, 48, 32)


def test_a_pair_of_two_sizes_is_named(tmp_path: Path) -> None:
    write_picture(tmp_path / "blur/p.png", drawn(100, 100, 0))
    write_picture(tmp_path / "sharp/p.png", drawn(100, 102, 0))
    with pytest.raises(DataError, match=r"blur/p\.png and .*sharp/p\.png differ in size"):
        make_clip(library_of(tmp_path, "pairs"), SPEC, 0)


@pytest.mark.parametrize(("frames", "crop"), [(0, 32), (3, 40), (3, 16), (3, 0)])
def test_clips_that_cannot_be_are_refused(frames: int, crop: int) -> None:
    with pytest.raises(DataError, match=f"clips of {frames} frames of {crop} pixels"):
        ClipSpec(frames, crop)


def test_screens_are_pages_of_dark_on_light_or_the_reverse() -> None:
    pages = [screen(96, np.random.default_rng(i)) for i in range(8)]
    assert all(p.shape == (96, 96, 3) and p.dtype == np.uint8 for p in pages)
    assert all(p.std() > 15 for p in pages)
    medians = [np.median(p) for p in pages]
    assert min(medians) < 110 < 160 < max(medians)


# -- batches, orientation, packs ---------------------------------------------------------------------------


@pytest.mark.parametrize("turn", range(8))
def test_orientation_turns_all_three_planes_alike(turn: int) -> None:
    rgb = cv2.GaussianBlur(as_float(drawn(32, 32, 4)), (0, 0), 2.0)
    turned = rgb
    if turn & 1:
        turned = turned[:, ::-1]
    if turn & 2:
        turned = turned[::-1]
    if turn & 4:
        turned = turned.swapaxes(0, 1)
    out = orient(np.stack([to_i420(rgb)] * 2), turn)
    wanted = to_i420(np.ascontiguousarray(turned))
    assert out.shape == (2, 48, 32)
    assert np.abs(out[1].astype(int) - wanted).max() <= 1
    assert from_i420(out[0]) == pytest.approx(
        turned, abs=0.12
    )  # colours and their places, U and V not swapped


def test_packed_clips_are_those_made_on_the_fly(folder: Path, tmp_path: Path) -> None:
    library = scan(folder)
    pack(library, SPEC, 9, tmp_path / "new" / "clips.npy", workers=2)
    packed, made = Clips.open_packed(tmp_path / "new" / "clips.npy"), Clips(library, SPEC)
    assert packed.spec == SPEC
    for a, b in zip(packed.batch(range(9)), made.batch(range(9)), strict=True):
        assert a.shape == (9, 3, 48, 32)
        assert np.array_equal(a, b)
    pack(library, SPEC, 2, tmp_path / "later.npy", first=4)
    later = Clips.open_packed(tmp_path / "later.npy")
    assert later.packed is not None
    assert np.array_equal(later.packed[0], np.stack(make_clip(library, SPEC, 4)))
    assert later.origin["packed"]["first"] == 4
    assert packed.origin["folders"] == library.folders
    assert packed.origin["packed"] == {"file": "clips.npy", "count": 9, "first": 0}
    assert str(folder) not in json.dumps(packed.origin)
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == [
        "clips.json", "clips.npy", "later.json", "later.npy",
    ]  # fmt: skip


@pytest.mark.parametrize("count", [3, 7, 8])
def test_a_small_pack_comes_round_in_all_eight_orientations(count: int) -> None:
    clips = Clips(Library(), SPEC)
    clips.packed = np.random.default_rng(0).integers(0, 256, (count, 2, 3, 48, 32), np.uint8)
    seen = {clips.batch([r * count + 1])[0].tobytes() for r in range(8)}
    assert len(seen) == 8
    soft, sharp = clips.batch(range(2 * count))
    for i in range(2 * count):
        again, number = divmod(i, count)
        assert np.array_equal(soft[i], orient(clips.packed[number, 0], number + again))
        assert np.array_equal(sharp[i], orient(clips.packed[number, 1], number + again))


def test_lenses_blur_the_truth_of_their_share(folder: Path, tmp_path: Path) -> None:
    pack(scan(folder), SPEC, 6, tmp_path / "p.npy")
    clips = Clips.open_packed(tmp_path / "p.npy")
    soft, sharp = clips.batch(range(6))
    clips.lenses = 1.0
    lensed, truth = clips.batch(range(6))
    assert np.array_equal(truth, sharp)
    assert not np.array_equal(lensed, soft)
    assert np.array_equal(lensed[2], clips.batch([2])[0][0])  # by number
    assert not np.array_equal(lensed[2], clips.batch([10])[0][0])  # another lens next time round
    clips.lenses = 0.5
    half = clips.batch(range(40))[0]
    clips.lenses = 0.0
    assert (
        8 < sum(not np.array_equal(a, b) for a, b in zip(half, clips.batch(range(40))[0], strict=True)) < 32
    )


def test_another_camera_for_the_same_truth(folder: Path, tmp_path: Path) -> None:
    pack(scan(folder), ClipSpec(frames=2, crop=32, seed=5, identity=0.0), 6, tmp_path / "p.npy")
    clips = Clips.open_packed(tmp_path / "p.npy")
    soft, sharp = clips.batch(range(6))
    clips.fresh = 1.0
    again, truth = clips.batch(range(6))
    assert np.array_equal(truth, sharp)
    assert all(not np.array_equal(a, b) for a, b in zip(again, soft, strict=True))
    assert all(not np.array_equal(a, b) for a, b in zip(again, truth, strict=True))
    error = np.abs(again.astype(int) - truth).mean((1, 2, 3))
    assert (error < 40).all()  # it is still the picture, not another
    assert np.array_equal(again[3], clips.batch([3])[0][0])
    assert not np.array_equal(again[3], clips.batch([3 + 6 * 8])[0][0])  # eight turns later: a new camera
    clips.lenses, clips.fresh = 0.5, 0.5  # lenses first, cameras for the rest: nothing as it was packed
    assert all(not np.array_equal(a, b) for a, b in zip(clips.batch(range(6))[0], soft, strict=True))


def numbered(count: int, frames: int) -> Clips:
    """A pack whose clip i holds nothing but the grey level i."""
    clips = Clips(Library(), ClipSpec(frames, 32))
    values = np.arange(count, dtype=np.uint8).reshape(-1, 1, 1, 1, 1)
    clips.packed = np.broadcast_to(values, (count, 2, frames, 48, 32))
    return clips


@pytest.mark.parametrize(("share", "wanted"), [(0.5, "cscscscs"), (0.25, "cccscccs"), (0.75, "csss" * 2)])
def test_single_frames_take_their_share_of_the_steps(share: float, wanted: str) -> None:
    both = Interleaved(numbered(200, 3), numbered(200, 1), share, 4)
    drawn: dict[str, list[int]] = {"c": [], "s": []}
    kinds = ""
    for step in range(len(wanted)):
        numbers = range(step * 4, step * 4 + 4)
        soft, sharp = both.batch(numbers)
        assert np.array_equal(soft, sharp)
        kinds += "c" if soft.shape[1] == 3 else "s"
        drawn[kinds[-1]] += soft[:, 0, 0, 0].tolist()
        # one process of two makes its half of the same batch
        halves = [both.batch(numbers[:2]), both.batch(numbers[2:])]
        assert np.array_equal(np.concatenate([a for a, _ in halves]), soft)
    assert kinds == wanted
    assert drawn["c"] == list(range(len(drawn["c"])))  # nothing is left out and nothing comes twice
    assert drawn["s"] == list(range(len(drawn["s"])))
    assert len(drawn["s"]) == 8 * kinds.count("s")


def test_first_frames_stand_in_for_single_ones(folder: Path, tmp_path: Path) -> None:
    pack(scan(folder), SPEC, 3, tmp_path / "p.npy")
    clips = Clips.open_packed(tmp_path / "p.npy")
    for alone, whole in zip(clips.singles().batch(range(5)), clips.batch(range(5)), strict=True):
        assert np.array_equal(alone, whole[:, :1])
    assert clips.singles().origin == clips.origin
    made = Clips(scan(folder), SPEC).singles()
    assert made.batch([2])[0].shape == (1, 1, 48, 32)


def test_a_pack_that_fails_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no picture")
    library = Library(stills=[tmp_path / "bad.png"])
    with pytest.raises(DataError, match=r"bad\.png is not a readable picture"):
        pack(library, SPEC, 3, tmp_path / "out" / "clips.npy")
    assert list((tmp_path / "out").iterdir()) == []


def test_packs_that_are_none_are_refused_in_a_line(tmp_path: Path) -> None:
    path = tmp_path / "clips.npy"
    with pytest.raises(DataError, match=r"no packed clips .*clips\.json: write them with"):
        Clips.open_packed(path)
    path.with_suffix(".json").write_text('{"spec": {"frames": 3, "crop": 32}}')
    with pytest.raises(DataError, match=r"no packed clips .*clips\.npy: write them with"):
        Clips.open_packed(path)
    path.write_bytes(b"short")
    with pytest.raises(DataError, match="holds no packed clips"):
        Clips.open_packed(path)
    np.save(path, np.zeros((2, 2, 3, 48, 48), np.uint8))
    with pytest.raises(DataError, match=r"\(2, 2, 3, 48, 48\), not the clips that its \.json describes"):
        Clips.open_packed(path)
    path.with_suffix(".json").write_text('{"spec": {"framez": 3}}')
    with pytest.raises(DataError, match="holds no packed clips"):
        Clips.open_packed(path)
    path.with_suffix(".json").write_text("{")
    with pytest.raises(DataError, match="holds no packed clips"):
        Clips.open_packed(path)


def test_pack_command(folder: Path, tmp_path: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "training.data", "pack", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    sizes = ("--frames", "2", "--crop", "32", "--clips", "3", "--seed", "7")
    done = run("--data", str(folder), "--out", str(tmp_path / "c.npy"), *sizes)
    assert (done.returncode, done.stderr) == (0, "")
    assert Clips.open_packed(tmp_path / "c.npy").spec == ClipSpec(2, 32, 7)
    failed = run("--data", str(tmp_path / "gone"), "--out", str(tmp_path / "d.npy"), *sizes)
    assert failed.returncode == 1
    assert failed.stderr == f"training: data folder {tmp_path / 'gone'} does not exist\n"
