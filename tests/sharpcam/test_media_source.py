"""Video files as sources: every frame, size and colour, and what is said about files that are none."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from films import GREYS, film, read_all

from sharpcam.errors import FormatMismatch, MediaError
from sharpcam.frame import Color, ColorMatrix, ColorRange, Frame
from sharpcam.sources.media import MediaSource


def in_order(count):
    return [(n % GREYS, n) for n in range(count)]


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.mp4", "libx264"),
        ("a.mkv", "libx264"),
        ("a.webm", "libvpx-vp9"),
        ("a.mov", "mpeg4"),
        ("a.avi", "mjpeg"),
    ],
)
def test_every_frame_of_a_file_comes_once_and_in_order(tmp_path, name, codec):
    path = film(tmp_path / name, 20, codec=codec, pix_fmt="yuvj420p" if codec == "mjpeg" else "yuv420p")
    source = MediaSource(path)
    assert (source.size, round(source.fps), source.live) == ((64, 48), 25, False)
    assert name in source.description
    assert "64x48" in source.description
    assert read_all(source) == in_order(20)
    with pytest.raises(EOFError):
        source.read(Frame(64, 48), 0)
    source.close()
    source.close()


def test_what_the_file_tells(tmp_path):
    silent = MediaSource(film(tmp_path / "a.mp4", 50))
    assert silent.frame_count == 50
    assert silent.duration == pytest.approx(2.0, abs=0.05)
    assert not silent.has_audio
    assert MediaSource(film(tmp_path / "b.mkv", 50, tone="aac")).has_audio


@pytest.mark.parametrize(
    ("pix_fmt", "size"), [("yuv444p", (65, 49)), ("yuv444p", (64, 49)), ("gray", (65, 48))]
)
def test_odd_sides_lose_their_last_pixel(tmp_path, pix_fmt, size):
    source = MediaSource(film(tmp_path / "a.mkv", 3, size, codec="ffv1", pix_fmt=pix_fmt))
    assert source.size == (64, 48)
    frame = Frame(64, 48)
    source.read(frame, 1)
    if pix_fmt == "yuv444p":
        assert set(np.unique(frame.planes[0])) == {25, 55}  # nothing was resampled


def test_another_size_is_letterboxed_or_cropped(tmp_path):
    path = film(tmp_path / "a.mkv", 3, codec="ffv1")
    boxed, cropped = Frame(128, 48), Frame(48, 48)
    MediaSource(path, (128, 48)).read(boxed, 1)
    assert set(np.unique(boxed.planes[0][:, :32])) == {16}
    assert boxed.planes[0][24, 40] == 25
    MediaSource(path, (48, 48), fit="crop").read(cropped, 1)
    assert cropped.planes[0].min() > 20
    with pytest.raises(FormatMismatch):
        MediaSource(path, (47, 48))


@pytest.mark.parametrize(("rotation", "size"), [(90, (48, 64)), (-90, (48, 64)), (180, (64, 48))])
def test_films_are_turned_upright(tmp_path, rotation, size):
    source = MediaSource(film(tmp_path / "a.mp4", 3, rotation=rotation))
    assert source.size == size
    frame = Frame(*size)
    source.read(frame, 1)
    y = frame.planes[0].astype(int)
    ends = {90: (y[4], y[-4]), -90: (y[-4], y[4]), 180: (y[:, 4], y[:, -4])}[rotation]
    assert ends[0].mean() > ends[1].mean() + 20  # the bright half of the upright film is known


@pytest.mark.parametrize(
    ("tags", "size", "pix_fmt", "color"),
    [
        ({}, (64, 48), "yuv420p", Color()),
        ({}, (1280, 16), "yuv420p", Color(matrix=ColorMatrix.BT709)),
        ({"colorspace": 1}, (64, 48), "yuv420p", Color(matrix=ColorMatrix.BT709)),
        ({"colorspace": 6}, (1280, 16), "yuv420p", Color()),
        ({"color_range": 2}, (64, 48), "yuv420p", Color(ColorRange.FULL)),
        ({}, (64, 48), "rgb24", Color()),
    ],
)
def test_colour_is_the_files_own(tmp_path, tags, size, pix_fmt, color):
    codec = "libx264rgb" if pix_fmt == "rgb24" else "libx264"
    source = MediaSource(film(tmp_path / "a.mkv", 3, size, codec=codec, pix_fmt=pix_fmt, tags=tags))
    assert source.color == color
    frame = Frame(*source.size)
    source.read(frame, 1)
    assert frame.color == color


def test_sequence_follows_the_timestamps(tmp_path):
    times = [0, 40, 80, 480, 520, 560, 561, 600, 640]  # a pause, and two at nearly one time
    source = MediaSource(film(tmp_path / "a.mkv", len(times), times=times))
    source.fps = 25.0
    assert [s for _, s in read_all(source)] == [0, 1, 2, 12, 13, 14, 15, 16, 17]


def test_a_film_that_starts_late_starts_at_nought(tmp_path):
    source = MediaSource(film(tmp_path / "a.mkv", 6, start=2000))
    assert source.start_time == pytest.approx(2.0, abs=0.05)
    assert read_all(source) == in_order(6)


def test_a_loop_goes_on_counting(tmp_path):
    source = MediaSource(film(tmp_path / "a.mkv", 5), loop=True)
    frame, seen = Frame(64, 48), []
    for _ in range(17):
        assert source.read(frame, 1)
        seen.append(frame.sequence)
    assert seen == list(range(17))


def test_a_loop_keeps_the_pauses_of_the_file(tmp_path):
    source = MediaSource(film(tmp_path / "a.mkv", 5, times=[0, 40, 80, 480, 520]), loop=True)
    source.fps = 25.0
    frame, seen = Frame(64, 48), []
    for _ in range(10):
        assert source.read(frame, 1)
        seen.append(frame.sequence)
    assert seen == [0, 1, 2, 12, 13, 14, 15, 16, 26, 27]


# --- live -----------------------------------------------------------------------------------------------


def test_live_frames_come_at_their_time(tmp_path):
    source = MediaSource(film(tmp_path / "a.mkv", 8, fps=10), live=True)
    frame = Frame(64, 48)
    begin = time.monotonic()
    assert source.read(frame, 1)
    assert not source.read(frame, 0)
    while source.read(frame, 2) and frame.sequence < 4:
        assert time.monotonic() - begin >= frame.sequence / 10 - 0.01
    source.close()


def test_live_frames_that_are_late_are_left_out(tmp_path):
    source = MediaSource(film(tmp_path / "a.mkv", 40, fps=20), live=True)
    frame = Frame(64, 48)
    assert source.read(frame, 1)
    time.sleep(0.3)
    assert source.read(frame, 1)
    assert frame.sequence >= 4
    source.close()


def test_a_machine_that_is_always_late_still_gets_frames(tmp_path):
    source = MediaSource(film(tmp_path / "a.mkv", 30, fps=25), live=True)
    frame, seen = Frame(64, 48), []
    for _ in range(5):
        assert source.read(frame, 1)
        seen.append(frame.sequence)
        time.sleep(0.25)  # six frame times
    assert seen == sorted(set(seen))


def test_a_hopelessly_late_source_skips_only_so_much(tmp_path, monkeypatch):
    source = MediaSource(film(tmp_path / "a.mkv", 30), live=True)
    monkeypatch.setattr(source, "_lateness", lambda _: 5.0)
    frame, seen = Frame(64, 48), []
    for _ in range(3):
        assert source.read(frame, 1)
        seen.append(frame.sequence)
    assert seen == [4, 9, 14]


def test_closing_ends_a_waiting_read(tmp_path):
    source = MediaSource(film(tmp_path / "a.mkv", 3, times=[0, 60_000, 120_000]), live=True)
    frame = Frame(64, 48)
    assert source.read(frame, 1)
    threading.Timer(0.05, source.close).start()
    with pytest.raises(EOFError):
        source.read(frame, 30)


# --- what is no video -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p: None, "there is no file"),
        (lambda p: p.mkdir(), "is a folder"),
        (lambda p: p.write_bytes(b""), "not a video"),
        (lambda p: p.write_bytes(b"no video at all " * 50), "not a video"),
        (
            lambda p: p.write_bytes(np.random.default_rng(0).bytes(5000)),
            "not a video|no video|can be decoded",
        ),
    ],
)
def test_files_that_are_no_video_are_named(tmp_path, make, words):
    path = tmp_path / "film.mp4"
    make(path)
    with pytest.raises(MediaError, match=words) as caught:
        MediaSource(path)
    assert "film.mp4" in str(caught.value)
    assert caught.value.hint


def test_text_is_not_shown_as_a_terminal(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("FFmpeg would draw this\n" * 20)
    with pytest.raises(MediaError, match="no video"):
        MediaSource(path)


def test_sound_alone_is_no_video(tmp_path):
    with av.open(str(tmp_path / "a.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        block = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        block.sample_rate = 8000
        container.mux(stream.encode(block))
    with pytest.raises(MediaError, match="no video in it"):
        MediaSource(tmp_path / "a.wav")


def test_a_truncated_file_gives_what_is_there(tmp_path):
    path = film(tmp_path / "a.mkv", 40)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    cut = read_all(MediaSource(path))
    assert 5 < len(cut) < 40
    assert cut == in_order(len(cut))


def test_damage_is_passed_over_and_reported_once(tmp_path, caplog):
    path = film(tmp_path / "a.avi", 30, codec="mjpeg", pix_fmt="yuvj420p")
    data = bytearray(path.read_bytes())
    starts = [i for i in range(data.index(b"movi"), len(data) - 8) if data[i : i + 4] == b"00dc"]
    for at in starts[10:14]:
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        data[at + 8 : at + 8 + size] = bytes(size)
    path.write_bytes(data)
    source = MediaSource(path)
    seen = read_all(source)
    assert seen == [(n % GREYS, n) for n in range(30) if not 10 <= n < 14]
    assert source.damaged
    assert sum("damaged" in r.message for r in caplog.records) == 1


def test_an_mp4_without_its_index_is_explained(tmp_path):
    path = film(tmp_path / "a.mp4", 30)
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"moov") - 4])
    with pytest.raises(MediaError, match=r"a\.mp4"):
        MediaSource(path)


def test_pictures_can_be_sources_too(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.full((48, 64, 3), 128, np.uint8))
    source = MediaSource(tmp_path / "a.png")
    assert len(read_all(source)) == 1


def test_permission_is_explained(tmp_path, monkeypatch):
    path = film(tmp_path / "a.mp4", 3)

    def denied(name: str) -> None:
        raise PermissionError(13, "Permission denied", name)

    monkeypatch.setattr(av, "open", denied)
    with pytest.raises(MediaError, match="permission denied"):
        MediaSource(Path(path))
