"""`sharpcam process`: with a sharpener whose every answer is known, and with a real engine at the end."""

from __future__ import annotations

import contextlib
import os
import signal
import struct
import threading
import zlib
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from av.stream import Disposition
from films import GREYS, film, grey, number_of, read_all
from typer.testing import CliRunner

import sharpcam.cli.process
from sharpcam import picture_tiles, process, stills
from sharpcam.cli import app
from sharpcam.errors import ConfigError, FormatMismatch, MediaError, ModelError
from sharpcam.frame import MAX_SIDE, Color, ColorMatrix, ColorRange, Frame
from sharpcam.geometry import from_rgb, to_rgb
from sharpcam.headers import rgb_profile, with_profile
from sharpcam.process import plan, run_job
from sharpcam.sources.media import MediaSource
from sharpcam.stills import apply_change, read_picture, sharpen_picture


class Fake:
    """Adds `lift` to luma, and counts on from the last reset: the state."""

    description = "fake 1.0"

    def __init__(self, size=(0, 0), lift=10, fail_at=None):
        self.sizes, self.lift, self.fail_at = [size], lift, fail_at
        self.strength = 1.0
        self.state = self.seen = self.closed = 0
        self.ages, self.facts = [], []

    def process(self, frame, out):
        if self.seen == self.fail_at:
            raise ModelError("the model fell over")
        self.seen += 1
        self.state += 1
        self.ages.append(self.state)
        self.facts.append((frame.sequence, frame.captured_ns))
        if frame.size != self.sizes[-1]:
            self.sizes.append(frame.size)
        np.copyto(out.buffer, frame.buffer)
        out.copy_facts(frame)
        out.y[...] = np.clip(frame.y.astype(int) + round(self.lift * self.strength), 0, 255)

    def reset(self):
        self.state = 0

    def close(self):
        self.closed += 1


@pytest.fixture
def fake():
    return Fake()


def job(source, output, engine, clip=False, **options):
    def load(size):
        engine.sizes = [size]
        return engine

    return run_job(plan(source, output, clip), load, **options)


def photo(width=60, height=40, seed=0):
    """A colourful picture with detail in colour that 4:2:0 cannot hold."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(path, rgb):
    path.parent.mkdir(exist_ok=True)
    data = cv2.imencode(path.suffix, rgb[..., ::-1])[1]
    path.write_bytes(data.tobytes())
    return path


def load(path):
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)[..., ::-1]


# --- the change of a picture ----------------------------------------------------------------------------


@pytest.mark.parametrize("color", [Color(r, m) for r in ColorRange for m in ColorMatrix])
def test_no_change_gives_the_picture_back_bit_for_bit(color):
    rgb = photo()
    frame = Frame(60, 40, color)
    from_rgb(rgb, frame)
    np.testing.assert_array_equal(apply_change(rgb, frame, frame), rgb)


@pytest.mark.parametrize("color", [Color(r, m) for r in ColorRange for m in ColorMatrix])
def test_a_change_is_what_the_conversion_of_both_would_differ_by(color):
    """On a picture that 4:2:0 can hold, applying the change is converting the answer."""
    small = np.random.default_rng(3).integers(60, 190, (3, 4, 3)).astype(np.float32)
    rgb = cv2.resize(small, (60, 40), interpolation=cv2.INTER_LINEAR).astype(np.uint8)
    before, after = Frame(60, 40, color), Frame(60, 40, color)
    from_rgb(rgb, before)
    np.copyto(after.buffer, before.buffer)
    after.planes[0][10:20] += 12
    after.planes[1][4:9, 3:20] += 9
    after.planes[2][:, 12:] -= 7
    want = to_rgb(after).astype(int) - to_rgb(before)
    got = apply_change(rgb, before, after).astype(int) - rgb
    assert np.abs(got - want).max() <= 3
    assert abs((got - want).mean()) < 0.3


def test_colour_detail_of_the_picture_survives():
    rgb = photo()
    before, after = Frame(60, 40), Frame(60, 40)
    from_rgb(rgb, before)
    np.copyto(after.buffer, before.buffer)
    after.planes[0][...] = np.clip(before.planes[0].astype(int) + 5, 0, 255)
    kept = apply_change(rgb, before, after).astype(int) - rgb
    inside = (rgb > 20) & (rgb < 235)
    assert set(np.unique(kept[inside])) <= {5, 6}
    through_420 = np.abs(to_rgb(after).astype(int) - rgb).mean()
    assert through_420 > 20  # what would be lost without


def test_the_change_is_clipped_not_wrapped():
    for level, lift in ((250, 40), (5, -40)):
        rgb = np.full((16, 16, 3), level, np.uint8)
        before, after = Frame(16, 16), Frame(16, 16)
        from_rgb(rgb, before)
        after.buffer[...] = before.buffer
        after.y[...] = np.clip(before.y.astype(int) + lift, 0, 255)
        assert set(np.unique(apply_change(rgb, before, after))) == {255 if lift > 0 else 0}


@pytest.mark.parametrize("size", [(60, 40), (61, 40), (60, 41), (61, 41), (1, 1), (3, 200), (17, 16)])
def test_pictures_of_any_size_keep_it(fake, size):
    rgb = photo(*size)
    fake.lift = 0
    np.testing.assert_array_equal(sharpen_picture(fake, rgb), rgb)
    width, height = fake.sizes[-1]
    assert width % 2 == height % 2 == 0
    assert min(width, height) >= 16


# --- pictures -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".jpg", ".webp", ".tif", ".JPEG"])
def test_a_picture_comes_out_as_png_of_its_size(tmp_path, fake, suffix):
    source = save(tmp_path / f"a{suffix}", photo(61, 41))
    before = read_picture(source).rgb
    outcome = job(source, tmp_path / "b.png", fake)
    after = load(tmp_path / "b.png")
    assert after.shape == before.shape == (41, 61, 3)
    inside = (before > 30) & (before < 225)
    assert np.abs(after.astype(int) - before - 11.6)[inside].max() < 1  # 10 luma codes of 219 are 11.6 of 255
    assert (outcome.done, outcome.failures, outcome.output) == (1, [], tmp_path / "b.png")
    assert outcome.engine == "fake 1.0"
    assert fake.closed == 1
    assert sorted(os.listdir(tmp_path)) == sorted([source.name, "b.png"])


def test_strength_reaches_the_engine_and_nought_changes_nothing(tmp_path, fake):
    source = save(tmp_path / "a.png", photo())
    job(source, tmp_path / "b.png", fake, strength=0.0)
    np.testing.assert_array_equal(load(tmp_path / "b.png"), load(source))
    assert fake.strength == 0.0


def test_transparency_is_kept(tmp_path, fake):
    rgba = np.dstack([photo(), photo(seed=2)[..., 0]])
    cv2.imwrite(str(tmp_path / "a.png"), cv2.cvtColor(rgba, cv2.COLOR_RGBA2BGRA))
    job(tmp_path / "a.png", tmp_path / "b.png", fake)
    after = cv2.imread(str(tmp_path / "b.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(after[..., 3], rgba[..., 3])


def test_grey_and_16_bit_pictures_are_read(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.full((20, 30), 77, np.uint8))
    assert read_picture(tmp_path / "a.png").rgb.tolist() == [[[77] * 3] * 30] * 20
    deep = np.full((20, 30, 4), 40_000, np.uint16)
    cv2.imwrite(str(tmp_path / "b.png"), deep)
    picture = read_picture(tmp_path / "b.png")
    assert abs(int(picture.rgb[0, 0, 0]) - 40_000 / 257) <= 1
    assert picture.alpha is not None
    assert abs(int(picture.alpha[0, 0]) - 40_000 / 257) <= 1


def test_photographs_are_turned_upright(tmp_path):
    """EXIF orientation 6: the camera was turned, the first row is the right side."""
    rgb = np.zeros((32, 48, 3), np.uint8)
    rgb[:16] = 255
    data = cv2.imencode(".jpg", rgb)[1].tobytes()
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
    marked = data[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + data[2:]
    (tmp_path / "a.jpg").write_bytes(marked)
    upright = read_picture(tmp_path / "a.jpg").rgb
    assert upright.shape == (48, 32, 3)
    assert upright[:, 20:].mean() > 200 > 50 > upright[:, :12].mean()


def chunk(kind, content):
    """Of a PNG."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_transparency_turns_with_its_picture(tmp_path, fake, orientation, depth):
    rgba = np.dstack([photo(), photo(seed=2)[..., 0]]).astype(depth)
    rgba = rgba * 257 if depth is np.uint16 else rgba
    rgba[:10, :20, 3] = 0
    png = cv2.imencode(".png", cv2.cvtColor(rgba, cv2.COLOR_RGBA2BGRA))[1].tobytes()
    exif = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0" + bytes([orientation]) + b"\0\0\0\0\0\0\0"
    (tmp_path / "a.png").write_bytes(png[:33] + chunk(b"eXIf", exif) + png[33:])
    # as the standard of orientations has it: mirrored, and turned clockwise
    mirrored, turns = {
        1: (0, 0),
        2: (1, 0),
        3: (0, 2),
        4: (1, 2),
        5: (1, 1),
        6: (0, 3),
        7: (1, 3),
        8: (0, 1),
    }[orientation]
    upright = np.rot90(rgba[:, ::-1] if mirrored else rgba, turns) // (257 if depth is np.uint16 else 1)
    picture = read_picture(tmp_path / "a.png")
    assert np.abs(picture.rgb.astype(int) - upright[..., :3]).max() <= 1
    np.testing.assert_array_equal(picture.alpha, upright[..., 3])


PROFILE = bytes(16) + b"RGB XYZ " + bytes(12) + b"acsp" + bytes(range(256)) * 300


def with_icc(kind, profile):
    data = cv2.imencode(kind, photo())[1].tobytes()
    if kind == ".png":
        return with_profile(data, profile)
    if kind == ".webp":
        size = struct.pack("<I", 60 - 1)[:3] + struct.pack("<I", 40 - 1)[:3]
        more = b"VP8X" + struct.pack("<I", 10) + b"\x20\0\0\0" + size
        more += b"ICCP" + struct.pack("<I", len(profile)) + profile + bytes(len(profile) % 2)
        return b"RIFF" + struct.pack("<I", 4 + len(more) + len(data) - 12) + b"WEBP" + more + data[12:]
    parts = [profile[i : i + 60_000] for i in range(0, len(profile), 60_000)]
    told = [b"ICC_PROFILE\0" + bytes([n + 1, len(parts)]) + part for n, part in enumerate(parts)]
    marked = b"".join(b"\xff\xe2" + struct.pack(">H", 2 + len(t)) + t for t in reversed(told))
    return data[:2] + marked + data[2:]


@pytest.mark.parametrize("kind", [".png", ".jpg", ".webp"])
@pytest.mark.parametrize("compare", [False, True])
def test_what_colours_mean_goes_along(tmp_path, fake, kind, compare):
    (tmp_path / f"a{kind}").write_bytes(with_icc(kind, PROFILE))
    assert read_picture(tmp_path / f"a{kind}").rgb.shape == (40, 60, 3)
    job(tmp_path / f"a{kind}", tmp_path / "b.png", fake, compare=compare)
    made = (tmp_path / "b.png").read_bytes()
    assert rgb_profile(made) == PROFILE
    assert load(tmp_path / "b.png").shape[0] == 40


@pytest.mark.parametrize("kind", [".png", ".jpg", ".webp", ".bmp"])
def test_profiles_of_other_colours_and_damaged_ones_are_left_out(kind):
    assert rgb_profile(cv2.imencode(kind, photo())[1].tobytes()) is None
    if kind == ".bmp":
        return
    cmyk = PROFILE.replace(b"RGB ", b"CMYK")
    assert rgb_profile(with_icc(kind, cmyk)) is None
    whole = with_icc(kind, PROFILE)
    for cut in range(0, len(whole), 97):
        rgb_profile(whole[:cut])  # says nothing, or a part; such files are refused before


def test_before_and_after_side_by_side(tmp_path, fake):
    source = save(tmp_path / "a.png", photo(61, 41))
    job(source, tmp_path / "b.png", fake, compare=True)
    job(source, tmp_path / "c.png", Fake())
    both = load(tmp_path / "b.png")
    assert both.shape == (41, 61 * 2 + 4, 3)
    np.testing.assert_array_equal(both[:, :61], load(source))
    assert (both[:, 61:65] == 255).all()
    np.testing.assert_array_equal(both[:, 65:], load(tmp_path / "c.png"))


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp"])
@pytest.mark.parametrize("part", [0.0, 0.3, 0.98])
def test_damaged_pictures_are_not_made_up(tmp_path, fake, suffix, part):
    source = save(tmp_path / f"a{suffix}", photo())
    data = source.read_bytes()
    source.write_bytes(data[: int(part * len(data))])
    with pytest.raises(MediaError, match="cannot read") as caught:
        job(source, tmp_path / "b.png", fake)
    assert caught.value.hint
    assert not (tmp_path / "b.png").exists()


def test_a_jpeg_with_a_thumbnail_and_an_appendix_is_whole(tmp_path):
    inner = cv2.imencode(".jpg", photo(16, 16))[1].tobytes()
    outer = cv2.imencode(".jpg", photo())[1].tobytes()
    app1 = b"\xff\xe1" + (len(inner) + 2).to_bytes(2, "big") + inner
    whole = outer[:2] + app1 + outer[2:] + b"motion photo"
    (tmp_path / "a.jpg").write_bytes(whole)
    assert read_picture(tmp_path / "a.jpg").rgb.shape == (40, 60, 3)
    (tmp_path / "a.jpg").write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(MediaError, match="cut short"):
        read_picture(tmp_path / "a.jpg")


def test_a_film_behind_a_picture_may_hold_any_bytes(tmp_path):
    whole = cv2.imencode(".jpg", photo())[1].tobytes()
    progressive = cv2.imencode(".jpg", photo(), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    restarts = cv2.imencode(".jpg", photo(), [cv2.IMWRITE_JPEG_RST_INTERVAL, 1])[1].tobytes()
    film_of_it = np.random.default_rng(0).integers(0, 256, 200_000, np.uint8).tobytes()
    assert b"\xff\xda" in film_of_it
    for picture in (whole, progressive, restarts):
        (tmp_path / "a.jpg").write_bytes(picture + film_of_it + b"\xff\xda")
        assert read_picture(tmp_path / "a.jpg").rgb.shape == (40, 60, 3)
        for length in (len(picture) // 2, len(picture) - 2):
            (tmp_path / "a.jpg").write_bytes(picture[:length])
            with pytest.raises(MediaError, match="cut short"):
                read_picture(tmp_path / "a.jpg")


# --- folders --------------------------------------------------------------------------------------------


def folder(tmp_path, *names):
    for n, name in enumerate(names):
        save(tmp_path / "in" / name, photo(seed=n))
    return tmp_path / "in"


def test_a_folder_gives_pngs_of_the_same_names_each_on_its_own(tmp_path, fake):
    source = folder(tmp_path, "b.png", "a.jpg", "c.webp")
    (source / "notes.txt").write_text("no picture")
    save(source / ".hidden.png", photo())
    outcome = job(source, tmp_path / "deep" / "out", fake)
    assert sorted(os.listdir(tmp_path / "deep" / "out")) == ["a.png", "b.png", "c.png"]
    assert outcome.done == 3
    assert fake.ages == [1, 1, 1]  # reset in between
    single = job(source / "b.png", tmp_path / "b.png", Fake())
    assert single.done == 1
    np.testing.assert_array_equal(load(tmp_path / "b.png"), load(tmp_path / "deep" / "out" / "b.png"))


def test_a_clip_carries_its_state_in_name_order(tmp_path, fake):
    source = folder(tmp_path, "frame10.png", "frame9.png", "frame1.png", "frame11.png")
    order = []
    fake.process, inner = lambda f, o: (order.append(f.buffer.copy()), inner(f, o)), fake.process
    job(source, tmp_path / "out", fake, clip=True)
    assert fake.ages == [1, 2, 3, 4]
    assert [s for s, _ in fake.facts] == [0, 1, 2, 3]
    steps = np.diff([t for _, t in fake.facts])
    assert (steps > 0).all()
    assert (steps < 500_000_000).all()
    for seen, name in zip(order, ("frame1", "frame9", "frame10", "frame11"), strict=True):
        frame = Frame(60, 40)
        from_rgb(load(source / f"{name}.png"), frame)
        np.testing.assert_array_equal(seen, frame.buffer)


def test_sizes_may_differ_within_a_folder(tmp_path, fake):
    source = tmp_path / "in"
    for n, size in enumerate([(60, 40), (31, 77), (60, 40)]):
        save(source / f"{n}.png", photo(*size))
    job(source, tmp_path / "out", fake)
    assert [load(tmp_path / "out" / f"{n}.png").shape[:2] for n in range(3)] == [(40, 60), (77, 31), (40, 60)]


def test_unreadable_pictures_are_left_out_and_listed(tmp_path, fake):
    source = folder(tmp_path, "a.png", "c.png")
    (source / "b.png").write_bytes(b"no picture at all")
    outcome = job(source, tmp_path / "out", fake)
    assert outcome.done == 2
    assert [("b.png" in str(e), bool(e.hint)) for e in outcome.failures] == [(True, True)]
    assert sorted(os.listdir(tmp_path / "out")) == ["a.png", "c.png"]


def test_what_is_too_much_at_once_goes_in_tiles(tmp_path, fake, monkeypatch):
    monkeypatch.setattr(picture_tiles, "TILE", 64)
    monkeypatch.setattr(picture_tiles, "MARGIN", 8)
    rgb = photo(150, 100)
    sizes = []
    real = fake.process
    monkeypatch.setattr(fake, "process", lambda frame, out: sizes.append(frame.size) or real(frame, out))
    save(tmp_path / "a.png", rgb)
    job(tmp_path / "a.png", tmp_path / "b.png", fake)
    assert sizes == [(150, 100)]
    job(tmp_path / "a.png", tmp_path / "c.png", fake, tiled=True)
    assert len(sizes) == 7
    assert set(sizes[1:]) == {(64, 64)}
    assert np.abs(load(tmp_path / "c.png").astype(int) - load(tmp_path / "b.png")).max() <= 2


def test_a_picture_too_large_for_a_frame_is_named(tmp_path, fake):
    save(tmp_path / "in" / "wide.png", photo(MAX_SIDE + 8, 16))
    save(tmp_path / "in" / "small.png", photo(40, 30))
    outcome = job(tmp_path / "in", tmp_path / "out", fake)
    (told,) = outcome.failures
    assert str(told) == f"{tmp_path}/in/wide.png is {MAX_SIDE + 8}x16: a side may have {MAX_SIDE} pixels"
    assert told.hint
    assert os.listdir(tmp_path / "out") == ["small.png"]


def test_pictures_that_do_not_fit_are_left_out_too(tmp_path, fake):
    def process(frame, out, inner=fake.process):
        if frame.width > 60:
            raise FormatMismatch("takes only 60x40")
        inner(frame, out)

    fake.process = process
    source = folder(tmp_path, "a.png")
    save(source / "b.png", photo(80, 40))
    outcome = job(source, tmp_path / "out", fake)
    assert (outcome.done, len(outcome.failures)) == (1, 1)


def test_two_names_that_would_become_one_are_told(tmp_path, fake):
    source = folder(tmp_path, "a.png", "a.jpg", "b.png")
    outcome = job(source, tmp_path / "out", fake)
    assert outcome.done == 2
    assert "a.png" in str(outcome.failures[0])
    assert "a.jpg" in str(outcome.failures[0])
    np.testing.assert_array_equal(
        load(tmp_path / "out" / "a.png"), sharpen_picture(Fake(), read_picture(source / "a.jpg").rgb)
    )


def test_a_model_that_fails_ends_it_and_leaves_no_empty_folder(tmp_path):
    source = folder(tmp_path, "a.png", "b.png")
    engine = Fake(fail_at=0)
    with pytest.raises(ModelError):
        job(source, tmp_path / "out", engine)
    assert not (tmp_path / "out").exists()
    assert engine.closed == 1


def test_a_full_disk_ends_a_folder_with_whole_pictures_only(tmp_path, fake, monkeypatch):
    source = folder(tmp_path, "a.png", "b.png", "c.png")
    real, written = stills.write_whole, []

    def full(path, data):
        if len(written) == 1:
            raise MediaError(f"cannot write {path}: the disk is full", "free some space")
        written.append(path)
        real(path, data)

    monkeypatch.setattr(stills, "write_whole", full)
    with pytest.raises(MediaError, match="disk is full"):
        job(source, tmp_path / "out", fake)
    assert os.listdir(tmp_path / "out") == ["a.png"]


# --- videos ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [("a.mp4", "b.mp4"), ("a.mkv", "b.webm"), ("a.avi", "b.mov")])
def test_every_frame_of_a_video_is_sharpened_once_in_order(tmp_path, fake, names):
    codec = "mpeg4" if names[0] == "a.avi" else "libx264"
    film(tmp_path / names[0], 20, codec=codec)
    progress = []
    outcome = job(tmp_path / names[0], tmp_path / names[1], fake, on_progress=lambda *at: progress.append(at))
    assert outcome.done == 20
    assert fake.ages == list(range(1, 21))  # one clip, one state
    source = MediaSource(tmp_path / names[1])
    frame = Frame(*source.size)
    for n in range(20):
        assert source.read(frame, 1)
        assert abs(float(frame.planes[0].mean()) - grey(n) - 10) < 3
        assert frame.sequence == n
    assert progress[0][0] == 0
    assert progress[-1] == (20, 20)
    assert [done for done, _ in progress] == sorted(done for done, _ in progress)
    assert sorted(os.listdir(tmp_path)) == sorted(names)


def test_sound_rate_colour_and_timing_go_along(tmp_path, fake):
    path = film(tmp_path / "a.mp4", 30, fps=30, tone="aac", tags={"colorspace": 1}, times=None)
    fake.lift = 0
    job(path, tmp_path / "b.mp4", fake)
    old, new = MediaSource(path), MediaSource(tmp_path / "b.mp4")
    assert new.has_audio
    assert new.fps == pytest.approx(old.fps)
    assert new.color == old.color == Color(matrix=ColorMatrix.BT709)
    assert read_all(new) == read_all(old)


def test_a_pause_in_a_film_stays_one(tmp_path, fake):
    times = [0, 40, 80, 880, 920]
    path = film(tmp_path / "a.mkv", 5, times=times)
    job(path, tmp_path / "b.mkv", fake)
    job(path, tmp_path / "c.mkv", Fake(), compare=True)
    for name in ("b.mkv", "c.mkv"):
        with av.open(str(tmp_path / name)) as container:
            seen = [frame.time for frame in container.decode(video=0)]
        assert seen == pytest.approx([t / 1000 for t in times], abs=0.12)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_pictures_that_come_in_bursts_keep_their_times(tmp_path, fake, suffix):
    """Films of a screen: none is late because others come slowly, and the sound stays where it belongs."""
    times = [*range(0, 400, 20), *range(1000, 5000, 1000), *range(5000, 5400, 20)]
    source = film(tmp_path / f"a{suffix}", len(times), fps=50, times=times)
    job(source, tmp_path / f"b{suffix}", fake)
    with av.open(str(tmp_path / f"b{suffix}")) as made:
        came = [round(1000 * picture.time) for picture in made.decode(video=0)]
    assert came == times


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_film_that_lacks_a_few_frames_does_not_run_ahead_of_its_sound(tmp_path, fake, suffix):
    times = [round(n * 1000 / 30) for n in range(900) if not 600 <= n < 606]
    path = film(tmp_path / f"a{suffix}", len(times), fps=30, times=times)
    job(path, tmp_path / f"b{suffix}", fake)
    with av.open(str(tmp_path / f"b{suffix}")) as made:
        came = [1000 * picture.time for picture in made.decode(video=0)]
    assert came == pytest.approx(times, abs=18)


def test_sound_goes_on_beyond_the_last_picture(tmp_path, fake):
    path = film(tmp_path / "a.mkv", 25, fps=5, times=[40 * n for n in range(25)], tone="flac")
    job(path, tmp_path / "b.mkv", fake)
    with av.open(str(path)) as old, av.open(str(tmp_path / "b.mkv")) as new:
        ends = [max(p.pts * p.time_base for p in c.demux(audio=0) if p.pts is not None) for c in (old, new)]
    assert ends[0] > 4.8
    assert ends[1] == pytest.approx(float(ends[0]), abs=0.01)


def test_tracks_keep_their_language(tmp_path, fake):
    plain, spoken = film(tmp_path / "a.mkv", 10, tone="flac"), tmp_path / "b.mkv"
    with av.open(str(plain)) as old, av.open(str(spoken), "w") as new:
        copies = {s.index: new.add_stream_from_template(s) for s in old.streams}
        other = new.add_stream_from_template(old.streams.audio[0])
        sound = copies[old.streams.audio[0].index]
        sound.metadata["language"], other.metadata["language"] = "deu", "eng"
        sound.disposition, other.disposition = 0, Disposition.default
        for packet in old.demux():
            if packet.pts is None:
                continue
            packet.stream = copies[packet.stream.index]
            new.mux(packet)
    job(spoken, tmp_path / "c.mkv", fake)
    with av.open(str(tmp_path / "c.mkv")) as made:
        assert made.streams.audio[0].metadata["language"] == "deu"
        assert not made.streams.audio[0].disposition & Disposition.default


def test_a_name_with_a_colon_is_a_name_and_no_address_is_opened(tmp_path, fake, monkeypatch):
    monkeypatch.chdir(tmp_path)
    film(tmp_path / "film.mp4", 5, tone="aac").rename(tmp_path / "2026-01-01T10:30:00.mp4")
    job(Path("2026-01-01T10:30:00.mp4"), Path("b.mp4"), fake)
    assert MediaSource("b.mp4").has_audio
    for address in ("http://127.0.0.1:9/x.mp4", "udp://239.0.0.1:9/x.mp4"):
        with pytest.raises(MediaError, match="there is no file"):
            MediaSource(address)


def test_files_of_an_even_rate_keep_their_clock(tmp_path, fake):
    for suffix in (".mp4", ".mkv"):
        source = MediaSource(film(tmp_path / f"a{suffix}", 20, fps=24))
        assert not source.is_uneven


def test_wide_pixels_stay_wide_and_turn_with_the_picture(tmp_path, fake):
    job(film(tmp_path / "a.mp4", 3, aspect=Fraction(16, 15)), tmp_path / "b.mp4", fake)
    assert MediaSource(tmp_path / "b.mp4").pixel_aspect == Fraction(16, 15)
    job(film(tmp_path / "c.mp4", 3, aspect=Fraction(16, 15), rotation=90), tmp_path / "d.mp4", Fake())
    assert MediaSource(tmp_path / "d.mp4").pixel_aspect == Fraction(15, 16)


def test_strength_reaches_the_engine_for_videos_too(tmp_path, fake):
    job(film(tmp_path / "a.mkv", 3), tmp_path / "b.mkv", fake, strength=0.0)
    assert fake.strength == 0.0
    assert [n for n, _ in read_all(MediaSource(tmp_path / "b.mkv"))] == [0, 1, 2]


def test_turned_and_odd_films_come_out_upright_and_even(tmp_path, fake):
    job(film(tmp_path / "a.mp4", 3, rotation=90), tmp_path / "b.mp4", fake)
    assert MediaSource(tmp_path / "b.mp4").size == (48, 64)
    assert fake.sizes == [(48, 64)]
    with av.open(str(tmp_path / "b.mp4")) as container:
        assert next(container.decode(video=0)).rotation == 0
    job(film(tmp_path / "c.mkv", 3, (65, 49), codec="ffv1", pix_fmt="yuv444p"), tmp_path / "d.mp4", Fake())
    assert MediaSource(tmp_path / "d.mp4").size == (64, 48)


def test_a_video_before_and_after(tmp_path, fake):
    job(film(tmp_path / "a.mp4", 9), tmp_path / "b.mkv", fake, compare=True)
    source = MediaSource(tmp_path / "b.mkv")
    assert source.size == (64 * 2 + 4, 48)
    frame = Frame(*source.size)
    for n in range(9):
        source.read(frame, 1)
        y = frame.planes[0].astype(int)
        assert abs(y[:, :64].mean() - grey(n)) < 3
        assert abs(y[:, 68:].mean() - grey(n) - 10) < 3
        assert y[:, 65:67].min() > 200


def test_a_video_too_wide_to_compare_is_refused(tmp_path, fake, monkeypatch):
    monkeypatch.setattr(process, "MAX_SIDE", 100)
    assert MAX_SIDE > 100
    with pytest.raises(FormatMismatch, match="too wide"):
        job(film(tmp_path / "a.mp4", 3), tmp_path / "b.mp4", fake, compare=True)
    assert os.listdir(tmp_path) == ["a.mp4"]


@pytest.mark.parametrize("failure", [ModelError("fell over"), KeyboardInterrupt(), MediaError("disk full")])
def test_half_a_film_is_no_film(tmp_path, fake, failure):
    film(tmp_path / "a.mp4", 20)
    (tmp_path / "b.mp4").write_text("before")

    def stop(done, total):
        if done == 12:
            raise failure

    with pytest.raises(type(failure)):
        job(tmp_path / "a.mp4", tmp_path / "b.mp4", fake, on_progress=stop)
    assert sorted(os.listdir(tmp_path)) == ["a.mp4", "b.mp4"]
    assert (tmp_path / "b.mp4").read_text() == "before"
    assert fake.closed == 1


def test_a_damaged_film_gives_what_is_there(tmp_path, fake):
    path = film(tmp_path / "a.mkv", 40)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    outcome = job(path, tmp_path / "b.mkv", fake)
    assert 5 < outcome.done < 40
    seen = read_all(MediaSource(tmp_path / "b.mkv"))
    assert len(seen) == outcome.done


# --- what is refused before anything is done ------------------------------------------------------------


def test_bad_plans_are_explained(tmp_path):
    save(tmp_path / "a.png", photo())
    film(tmp_path / "a.mp4", 2)
    folder(tmp_path, "x.png")
    (tmp_path / "empty").mkdir()
    os.symlink(tmp_path / "a.png", tmp_path / "link.png")
    os.symlink(tmp_path / "in", tmp_path / "link")
    for names, clip, kind, words in [
        (("none.png", "b.png"), False, MediaError, "there is no"),
        (("a.png", "a.png"), False, ConfigError, "the input itself"),
        (("a.png", "link.png"), False, ConfigError, "the input itself"),
        (("a.png", "."), False, ConfigError, "the input itself"),
        (("a.mp4", "./a.mp4"), False, ConfigError, "the input itself"),
        (("in", "in"), False, ConfigError, "the input itself"),
        (("in", "link"), False, ConfigError, "the input itself"),
        (("a.png", "b.jpg"), False, MediaError, "PNG"),
        (("a.png", "b"), False, MediaError, "PNG"),
        (("a.mp4", "b.gif"), False, MediaError, "no video format"),
        (("in", "a.png"), False, MediaError, "is a folder"),
        (("empty", "out"), False, MediaError, "no pictures"),
        (("a.mp4", "b.mp4"), True, ConfigError, "no clip"),
        (("a.png", "b.png"), True, ConfigError, "no clip"),
    ]:
        with pytest.raises(kind, match=words) as caught:
            plan(tmp_path / names[0], tmp_path / names[1], clip)
        assert caught.value.hint, names


def test_an_existing_folder_takes_the_name_of_the_input(tmp_path):
    (tmp_path / "out").mkdir()
    save(tmp_path / "a.jpg", photo())
    assert plan(tmp_path / "a.jpg", tmp_path / "out").output == tmp_path / "out" / "a.png"
    assert plan(film(tmp_path / "a.mkv", 2), tmp_path / "out").output == tmp_path / "out" / "a.mkv"
    assert (
        plan(film(tmp_path / "a.avi", 2, codec="mpeg4"), tmp_path / "out").output
        == tmp_path / "out" / "a.mp4"
    )


# --- the command with a real engine ---------------------------------------------------------------------


def run(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.stdout, result.stderr


def test_the_command_does_a_film(tmp_path, yuv_model):
    film(tmp_path / "a.mp4", 12, tone="aac")
    code, out, err = run(
        "process", tmp_path / "a.mp4", tmp_path / "b.mp4", "--model", yuv_model, "--threads", 1
    )
    assert (code, err) == (0, "")
    assert "12 frames" in out
    assert "tiny" in out
    seen = read_all(MediaSource(tmp_path / "b.mp4"))
    assert [sequence for _, sequence in seen] == list(range(12))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_command_that_is_ended_leaves_nothing(tmp_path, yuv_model, monkeypatch, number):
    film(tmp_path / "a.mp4", 12)

    @contextlib.contextmanager
    def progress(unit):
        yield lambda done, total: os.kill(os.getpid(), number) if done == 5 else None

    monkeypatch.setattr(sharpcam.cli.process, "_progress", progress)
    code, _, _ = run("process", tmp_path / "a.mp4", tmp_path / "b.mp4", "--model", yuv_model, "--threads", 1)
    assert code == 130
    assert sorted(os.listdir(tmp_path)) == ["a.mp4", "models"]


def test_the_command_at_strength_nought_gives_pictures_back(tmp_path, yuv_model):
    source = folder(tmp_path, "a.png", "b.png")
    save(source / "c.png", photo(33, 51))
    code, out, _ = run("process", source, tmp_path / "out", "--model", yuv_model, "--strength", 0)
    assert code == 0
    assert "3 pictures" in out
    for name in ("a.png", "b.png", "c.png"):
        np.testing.assert_array_equal(load(tmp_path / "out" / name), load(source / name))


def test_a_clip_and_its_pictures_differ_by_the_state(tmp_path, yuv_model):
    """The test model answers with the change from the frame before: alike frames change nothing more."""
    source = tmp_path / "in"
    for n in range(3):
        save(source / f"{n}.png", np.clip(photo(seed=5), 100, 140))
    assert run("process", source, tmp_path / "one", "--model", yuv_model)[0] == 0
    assert run("process", source, tmp_path / "clip", "--model", yuv_model, "--clip")[0] == 0
    alone = [load(tmp_path / "one" / f"{n}.png") for n in range(3)]
    clip = [load(tmp_path / "clip" / f"{n}.png") for n in range(3)]
    np.testing.assert_array_equal(alone[0], alone[2])
    np.testing.assert_array_equal(alone[0], clip[0])
    np.testing.assert_array_equal(clip[1], load(source / "1.png"))
    assert (clip[1] != alone[1]).any()


def test_rgb_models_work_on_pictures(tmp_path, rgb_model):
    source = save(tmp_path / "a.png", photo(33, 21))
    assert run("process", source, tmp_path / "b.png", "--model", rgb_model)[0] == 0
    difference = load(tmp_path / "b.png").astype(int) - load(source)
    assert np.abs(difference).mean() < 3  # an identity, but for rounding in 4:2:0
    assert load(tmp_path / "b.png").shape == (21, 33, 3)


def test_the_command_reports_what_it_left_out(tmp_path, yuv_model):
    source = folder(tmp_path, "a.png")
    (source / "b.png").write_bytes(b"nonsense")
    code, out, err = run("process", source, tmp_path / "out", "--model", yuv_model)
    assert code == 1
    assert "b.png" in err
    assert "hint:" in err
    assert "1 picture " in out
    assert "1 left out" in out


def test_the_command_explains_its_failures(tmp_path, yuv_model):
    code, _, err = run("process", tmp_path / "none.mp4", tmp_path / "b.mp4")
    assert (code, err.count("\n")) == (1, 2)
    save(tmp_path / "a.png", photo())
    code, _, err = run("process", tmp_path / "a.png", tmp_path / "b.png", "--model", tmp_path / "none.onnx")
    assert code == 1
    assert "Traceback" not in err
    assert not (tmp_path / "b.png").exists()


def test_a_bar_is_shown_to_people(tmp_path, yuv_model, monkeypatch):
    import io

    from sharpcam.cli import process as command

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(command.sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    source = film(tmp_path / "a.mkv", 12)
    assert command.run_process(source, tmp_path / "b.mkv", model=str(yuv_model)) == 0
    assert "frames" in terminal.getvalue()


def test_nothing_keeps_running_afterwards(tmp_path, fake):
    job(film(tmp_path / "a.mkv", 5), tmp_path / "b.mkv", fake)
    assert [t.name for t in threading.enumerate() if t.name.startswith("sharpcam")] == []
    assert number_of(_first(tmp_path / "b.mkv")) in range(GREYS + 1)


def _first(path):
    source = MediaSource(path)
    frame = Frame(*source.size)
    source.read(frame, 1)
    source.close()
    return frame
