"""Video files as sinks: what is in them, when they appear, and what is said when they cannot be written."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import stat
import subprocess
from fractions import Fraction

import av
import numpy as np
import pytest
from films import GREYS, film, grey, read_all

from sharpcam import files
from sharpcam.errors import FormatMismatch, MediaError
from sharpcam.frame import Color, ColorMatrix, ColorRange, Frame
from sharpcam.sinks import media
from sharpcam.sinks.media import MediaSink
from sharpcam.sinks.null import NullSink
from sharpcam.sources.media import MediaSource

SIZE = (64, 48)


def frame_of(n, size=SIZE, color=None):
    frame = Frame(*size, color)
    frame.fill(grey(n))
    frame.sequence, frame.captured_ns = n, 10**12 + n * 40_000_000
    return frame


def write(path, count=12, size=SIZE, fps=25.0, color=None, **options):
    sink = MediaSink(path, size, fps, color or Color(), **options)
    for n in range(count):
        sink.send(frame_of(n, size, color))
    sink.close()
    return sink


def noise(n):
    frame = frame_of(n, (320, 240))
    frame.buffer[...] = np.random.default_rng(n).integers(0, 256, frame.buffer.shape, dtype=np.uint8)
    return frame


def times_of(path, kind="video"):
    with av.open(str(path)) as container:
        stream = getattr(container.streams, kind)[0]
        packets = [p for p in container.demux(stream) if p.pts is not None]
        return sorted(float(p.pts * p.time_base) for p in packets)


@pytest.mark.parametrize("suffix", [".mp4", ".m4v", ".mov", ".mkv", ".webm", ".MP4"])
def test_every_frame_is_there_and_right(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    sink = write(path, 20)
    assert not sink.live
    assert f"a{suffix}" in sink.description
    source = MediaSource(path)
    assert source.fps == pytest.approx(25, rel=0.01)
    assert read_all(source) == [(n % GREYS, n) for n in range(20)]
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("color", [Color(r, m) for r in ColorRange for m in ColorMatrix])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm"])
def test_colours_are_tagged_and_survive(tmp_path, suffix, color):
    path = tmp_path / f"a{suffix}"
    write(path, 3, color=color)
    source = MediaSource(path)
    assert source.color == color
    frame = Frame(*SIZE)
    source.read(frame, 1)
    assert np.abs(frame.planes[0].astype(int) - grey(0)).max() <= 2
    assert np.abs(frame.uv.astype(int) - 128).max() <= 1


def test_quality_is_high(tmp_path):
    rng = np.random.default_rng(0)
    frame = Frame(320, 240)
    frame.buffer[...] = np.cumsum(rng.integers(-2, 3, frame.buffer.shape), axis=1).clip(-60, 60) + 128
    sink = MediaSink(tmp_path / "a.mp4", (320, 240), 30, Color())
    for n in range(5):
        frame.sequence = n
        sink.send(frame)
    sink.close()
    back = Frame(320, 240)
    MediaSource(tmp_path / "a.mp4").read(back, 1)
    error = np.mean((frame.planes[0].astype(float) - back.planes[0]) ** 2)
    assert 10 * np.log10(255**2 / error) > 42


@pytest.mark.parametrize("fps", [25, 30000 / 1001, 7.5, 60, 59.94])
def test_rates(tmp_path, fps):
    write(tmp_path / "a.mp4", 12, fps=fps)
    times = times_of(tmp_path / "a.mp4")
    assert times == pytest.approx([n / fps for n in range(12)], abs=1e-3)


def test_a_gap_in_the_numbers_is_a_pause(tmp_path):
    sink = MediaSink(tmp_path / "a.mkv", SIZE, 25, Color())
    for n in (100, 101, 102, 120, 121, 121, 110):
        sink.send(frame_of(n))
    sink.close()
    assert times_of(tmp_path / "a.mkv") == pytest.approx([0, 0.04, 0.08, 0.8, 0.84, 0.88, 0.92], abs=2e-3)


def test_captured_times_are_kept_for_cameras(tmp_path):
    sink = MediaSink(tmp_path / "a.mkv", SIZE, 30, Color(), timing="captured")
    for n, milliseconds in enumerate((0, 66, 133, 150, 400)):
        frame = frame_of(n)
        frame.captured_ns = 5 * 10**9 + milliseconds * 1_000_000
        sink.send(frame)
    sink.close()
    assert times_of(tmp_path / "a.mkv") == pytest.approx([0, 0.066, 0.133, 0.15, 0.4], abs=2e-3)


def test_the_frame_may_change_after_send(tmp_path):
    sink = MediaSink(tmp_path / "a.mkv", SIZE, 25, Color())
    frame = frame_of(0)
    for n in range(12):
        frame.fill(grey(n))
        frame.sequence = n
        sink.send(frame)
        frame.fill(255)
    sink.close()
    assert [n for n, _ in read_all(MediaSource(tmp_path / "a.mkv"))] == [n % GREYS for n in range(12)]


def test_pixel_aspect_is_kept(tmp_path):
    write(tmp_path / "a.mp4", 3, pixel_aspect=Fraction(16, 15))
    assert MediaSource(tmp_path / "a.mp4").pixel_aspect == Fraction(16, 15)


@pytest.mark.skipif(not shutil.which("ffprobe"), reason="no ffprobe here")
def test_ffprobe_agrees(tmp_path):
    write(tmp_path / "a.mp4", 25, color=Color(matrix=ColorMatrix.BT709))
    command = ["ffprobe", "-v", "error", "-show_streams", "-of", "json", str(tmp_path / "a.mp4")]
    done = subprocess.run(command, capture_output=True, check=True)
    assert not done.stderr
    (stream,) = json.loads(done.stdout)["streams"]
    wanted = {"codec_name": "h264", "width": 64, "height": 48, "pix_fmt": "yuv420p", "nb_frames": "25"}
    wanted |= {"color_range": "tv", "color_space": "bt709", "avg_frame_rate": "25/1", "start_pts": 0}
    assert {key: stream[key] for key in wanted} == wanted
    command = ["ffmpeg", "-v", "error", "-i", str(tmp_path / "a.mp4"), "-f", "null", "-"]
    assert not subprocess.run(command, capture_output=True, check=True).stderr


# --- audio ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "tone", "target"),
    [
        ("a.mp4", "aac", "b.mp4"),
        ("a.mkv", "libopus", "b.webm"),
        ("a.mkv", "flac", "b.mkv"),
        ("a.mp4", "aac", "b.mov"),
    ],
)
def test_audio_is_copied_unchanged(tmp_path, source, tone, target):
    original = film(tmp_path / source, 50, tone=tone)
    write(tmp_path / target, 50, audio_from=original)
    packets = []
    for path in (original, tmp_path / target):
        with av.open(str(path)) as container:
            stream = container.streams.audio[0]
            packets.append([bytes(p) for p in container.demux(stream) if p.size])
    assert len(packets[1]) >= 0.9 * len(packets[0])
    assert (
        packets[1] == packets[0][: len(packets[1])] or packets[1][:-2] == packets[0][1 : len(packets[1]) - 1]
    )
    assert times_of(tmp_path / target, "audio")[0] == pytest.approx(0, abs=0.03)
    assert abs(times_of(tmp_path / target, "audio")[-1] - times_of(tmp_path / target)[-1]) < 0.1


def test_audio_stays_with_the_pictures_of_a_film_that_starts_late(tmp_path):
    original = film(tmp_path / "a.mkv", 25, tone="flac", start=3000)
    write(tmp_path / "b.mkv", 25, audio_from=original)
    assert times_of(tmp_path / "b.mkv", "audio")[0] == pytest.approx(0, abs=0.03)


def test_audio_ends_with_the_pictures(tmp_path):
    original = film(tmp_path / "a.mkv", 100, tone="flac")
    write(tmp_path / "b.mkv", 25, audio_from=original)
    assert times_of(tmp_path / "b.mkv", "audio")[-1] < 1.05


def test_audio_that_the_container_cannot_hold_is_left_out_with_a_word(tmp_path, caplog):
    original = film(tmp_path / "a.mp4", 10, tone="aac")
    write(tmp_path / "b.webm", 10, audio_from=original)
    assert "aac" in caplog.text
    assert not MediaSource(tmp_path / "b.webm").has_audio
    assert len(read_all(MediaSource(tmp_path / "b.webm"))) == 10


def test_no_audio_is_no_trouble(tmp_path):
    write(tmp_path / "b.mp4", 5, audio_from=film(tmp_path / "a.mp4", 5))
    assert not MediaSource(tmp_path / "b.mp4").has_audio


def test_audio_from_nowhere_leaves_nothing(tmp_path):
    with pytest.raises(MediaError, match="audio"):
        MediaSink(tmp_path / "b.mp4", SIZE, 25, Color(), audio_from=tmp_path / "none.mp4")
    assert not os.listdir(tmp_path)


# --- all or nothing -------------------------------------------------------------------------------------


def test_the_name_appears_only_at_the_end(tmp_path):
    path = tmp_path / "a.mp4"
    sink = MediaSink(path, SIZE, 25, Color())
    sink.send(frame_of(0))
    assert not path.exists()
    sink.close()
    assert path.exists()
    sink.close()
    sink.abort()
    assert path.exists()
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~_umask()
    with pytest.raises(MediaError, match="closed"):
        sink.send(frame_of(1))


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_abort_leaves_nothing_and_keeps_what_was_there(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_text("before")
    sink = MediaSink(path, SIZE, 25, Color())
    for n in range(30):
        sink.send(frame_of(n))
    sink.abort()
    sink.abort()
    sink.close()
    assert os.listdir(tmp_path) == ["a.mp4"]
    assert path.read_text() == "before"


def test_a_finished_file_takes_the_place_of_an_old_one(tmp_path):
    (tmp_path / "a.mp4").write_text("before")
    write(tmp_path / "a.mp4", 5)
    assert len(read_all(MediaSource(tmp_path / "a.mp4"))) == 5


def test_no_frames_no_file(tmp_path, caplog):
    write(tmp_path / "a.mp4", 0)
    assert not os.listdir(tmp_path)
    assert "no frame" in caplog.text


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_full_disk_is_explained_and_leaves_nothing(tmp_path, suffix):
    """A limit on file size stands in for the disk: writes fail in the same places."""
    sink = MediaSink(tmp_path / f"a{suffix}", (320, 240), 25, Color())
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))
    try:
        with pytest.raises(MediaError, match="too large") as caught:
            _send_noise(sink)
        sink.abort()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.hint
    assert not os.listdir(tmp_path)


def test_what_cannot_be_removed_hides_no_cause(tmp_path, monkeypatch):
    def read_only(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    sink = MediaSink(tmp_path / "a.mp4", (320, 240), 25, Color())
    monkeypatch.setattr(os, "replace", read_only)
    monkeypatch.setattr(media.Path, "unlink", read_only)
    with pytest.raises(MediaError, match="the disk can only be read"):
        _send_noise(sink)


def _send_noise(sink):
    for n in range(30):
        sink.send(noise(n))
    sink.close()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a.txt", "no video format"),
        ("a", "no video format"),
        ("none/a.mp4", "no such folder"),
        ("file/a.mp4", "its folder is a file"),
        ("folder.mp4", "is a folder"),
    ],
)
def test_bad_names_are_explained(tmp_path, name, words):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(MediaError, match=words) as caught:
        MediaSink(tmp_path / name, SIZE, 25, Color())
    assert caught.value.hint
    assert sorted(os.listdir(tmp_path)) == ["file", "folder.mp4"]


def test_a_folder_of_others_is_explained(tmp_path, monkeypatch):
    def denied(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(files.tempfile, "mkstemp", denied)
    with pytest.raises(MediaError, match="permission denied"):
        MediaSink(tmp_path / "a.mp4", SIZE, 25, Color())


def test_without_x264_there_is_mpeg4_with_a_word(tmp_path, monkeypatch, caplog):
    real = av.Codec

    def without(name, mode="r"):
        if name == "libx264":
            raise av.codec.codec.UnknownCodecError(name)
        return real(name, mode)

    monkeypatch.setattr(media.av, "Codec", without)
    sink = write(tmp_path / "a.mp4", 12)
    assert "MPEG-4" in sink.description
    assert "libx264" in caplog.text
    assert read_all(MediaSource(tmp_path / "a.mp4")) == [(n % GREYS, n) for n in range(12)]


def test_another_size_is_refused(tmp_path):
    sink = MediaSink(tmp_path / "a.mp4", SIZE, 25, Color())
    with pytest.raises(FormatMismatch):
        sink.send(frame_of(0, (66, 48)))
    sink.abort()
    with pytest.raises(FormatMismatch):
        MediaSink(tmp_path / "a.mp4", (63, 48), 25, Color())


def test_nowhere_takes_everything():
    sink = NullSink(SIZE, 30)
    for n in range(3):
        sink.send(frame_of(n))
    sink.close()
    sink.close()
    sink.abort()
    assert (sink.frames, sink.live, sink.size, sink.fps) == (3, False, SIZE, 30)
