"""The test card: the same for everyone, known sharp, really soft, moving, and with a clock that survives."""

from __future__ import annotations

import copy
import threading
import time

import cv2
import numpy as np
import pytest

from sharpcam.errors import ConfigError, FormatMismatch
from sharpcam.frame import Frame
from sharpcam.sources import testcard
from sharpcam.sources.pixelclock import read_clock, write_clock
from sharpcam.sources.testcard import TestCard, TestCardSource

TestCard.__test__ = TestCardSource.__test__ = False  # pytest takes the name for its own
SIZE = (320, 180)
LOOP, WAVE = 120, 360  # frames at 30 a second


@pytest.fixture(scope="module")
def card():
    return TestCard(SIZE)


@pytest.fixture
def drawn(card, monkeypatch):
    """Sources of SIZE share one card: drawing it takes most of a second."""
    monkeypatch.setattr(testcard, "TestCard", lambda *_: card)


def psnr(a, b):
    return 10 * np.log10(255**2 / np.mean((a.buffer.astype(float) - b.buffer) ** 2))


def luma(frame):
    return frame.planes[0].astype(np.float32)


def change(card, n):
    return np.abs(luma(card.truth(n + 1)) - luma(card.truth(n)))


def test_the_same_arguments_give_the_same_pictures(card):
    twin, other = TestCard(SIZE), TestCard(SIZE, seed=8)
    for n in (0, 37, 200):
        np.testing.assert_array_equal(twin.truth(n).buffer, card.truth(n).buffer)
        np.testing.assert_array_equal(twin.soft(n).buffer, card.soft(n).buffer)
    assert psnr(other.truth(0), card.truth(0)) < 30


def test_a_moment_that_is_remembered_is_the_moment_that_was_made(card):
    card._cache.clear()
    card._cached = 0
    first = card.soft(5)
    assert 5 in card._cache
    np.testing.assert_array_equal(card.soft(5).buffer, first.buffer)
    card._cached = 1 << 40  # full
    card._cache.clear()
    np.testing.assert_array_equal(card.soft(5).buffer, first.buffer)
    assert not card._cache
    card._cached = 0


def test_what_is_remembered_stays_within_its_bound():
    small = TestCard((256, 144), fps=240)
    for n in range(0, 960, 2):
        small.soft(n)
    kept = sum(plane.nbytes for planes in small._cache.values() for plane in planes)
    assert 0 < kept <= 88 * 256 * 144


def test_the_webcam_is_softer_and_noisier_than_the_truth(card):
    truth, soft = card.truth(3), card.soft(3)
    assert 18 < psnr(truth, soft) < 34
    edges = [np.abs(cv2.Laplacian(luma(f), cv2.CV_32F)).mean() for f in (truth, soft)]
    assert edges[1] < 0.75 * edges[0]
    noise = luma(card.soft(3)) - luma(card.soft(3 + WAVE))
    assert 1.5 < noise.std() / np.sqrt(2) < 3
    assert abs(noise.mean()) < 0.1
    chroma = card.soft(3).uv.astype(float) - card.soft(3 + WAVE).uv
    assert 0.8 < chroma.std() / np.sqrt(2) < 2


def test_softness_scales_from_nothing_to_much():
    sharp = TestCard(SIZE, softness=0)
    np.testing.assert_array_equal(sharp.soft(9).buffer, sharp.truth(9).buffer)
    a, b = (TestCard(SIZE, softness=s) for s in (0.5, 2))
    assert psnr(a.soft(9), a.truth(9)) > psnr(b.soft(9), b.truth(9)) + 2


def test_mjpeg_leaves_its_blocks(card):
    squeezed = TestCard(SIZE, mjpeg=24)
    plain, coded = luma(card.soft(2)), luma(squeezed.soft(2))
    assert 1 < np.abs(plain - coded).mean() < 12
    steps = np.abs(np.diff(coded, axis=1)).mean(0)
    assert steps[7::8].mean() > 1.05 * steps[3::8].mean()
    with pytest.raises(ConfigError, match="quantiser"):
        TestCard(SIZE, mjpeg=1)


def test_the_loop_has_no_seam(card):
    np.testing.assert_array_equal(card.truth(0).buffer, card.truth(WAVE).buffer)
    usual = max(change(card, n).mean() for n in range(2, LOOP - 2, 9))
    assert change(card, LOOP - 1).mean() < 1.3 * usual


def test_the_head_moves_gently_and_the_hand_fast(card):
    calm, waving = change(card, 60), change(card, 195)
    assert 0.05 < calm.mean() < 3
    assert waving.mean() > 1.5 * calm.mean()
    width = SIZE[0]
    assert change(card, 60)[:, : width // 5].max() == 0  # the bookshelf stands still
    assert waving[:, int(0.62 * width) : int(0.9 * width)].max() > 60


def test_the_hand_is_smeared_by_its_motion(card):
    """Softness of the hand against the truth changes with its speed, that of the still room does not."""
    slow = copy.copy(card)
    slow.fps, slow._cache = 10, {}  # long exposures

    def kept(n, area):
        a, b = (np.abs(np.diff(luma(f)[area], axis=1)).mean() for f in (slow.soft(n), slow.truth(n)))
        return a / b

    moments = range(56, 76)
    hand = [kept(n, np.s_[70:130, 200:290]) for n in moments]
    room = [kept(n, np.s_[0:130, 0:70]) for n in moments]
    assert max(hand) / min(hand) > 1.15
    assert max(room) / min(room) < 1.05


def test_eyes_blink(card):
    eyes = [luma(card.truth(n))[62:78, 138:178] for n in (23, 26, 29)]  # the lids begin to fall at 27
    open_, shutting = np.abs(eyes[1] - eyes[0]).mean(), np.abs(eyes[2] - eyes[1]).mean()
    assert shutting > 1.5 * open_


@pytest.mark.parametrize("size", [(64, 48), (256, 64), (98, 256)])
def test_sizes_in_which_the_scene_vanishes_are_refused(size):
    with pytest.raises(FormatMismatch, match="too small for the test card"):
        TestCard(size)


@pytest.mark.parametrize("size", [(256, 256), (144, 256), (100, 100)])
def test_other_sizes_are_filled(size):
    frame = TestCard(size).truth(0)
    assert frame.size == size
    for plane in frame.planes:
        assert plane.std() > 3
    assert frame.planes[0].min() >= 10
    assert frame.planes[0].max() <= 245


@pytest.mark.parametrize("softness", [-0.1, 4.5])
def test_senseless_softness_is_refused(softness):
    with pytest.raises(ConfigError, match="softness"):
        TestCard(SIZE, softness=softness)


# --- source ---------------------------------------------------------------------------------------------


def test_unpaced_it_keeps_every_frame_and_ends(drawn):
    source = TestCardSource(SIZE, live=False, frames=4)
    frame, numbers, times = Frame(*SIZE), [], []
    for _ in range(4):
        assert source.read(frame, 1.0)
        numbers.append(frame.sequence)
        times.append(frame.captured_ns)
        assert read_clock(frame) == frame.captured_ns // 1000 * 1000
        assert frame.color == source.color
    with pytest.raises(EOFError):
        source.read(frame, 1.0)
    assert numbers == [0, 1, 2, 3]
    assert times == sorted(times)
    assert "320x180" in source.description


def test_without_clock_the_pictures_are_the_cards(drawn):
    source = TestCardSource(SIZE, live=False, clock=False)
    frame = Frame(*SIZE)
    source.read(frame, 1.0)
    np.testing.assert_array_equal(frame.buffer, source.card.soft(0).buffer)
    assert read_clock(frame) is None


def test_live_it_makes_the_reader_wait_and_loses_what_is_not_fetched(drawn):
    source = TestCardSource(SIZE, fps=10)
    frame = Frame(*SIZE)
    assert source.read(frame, 1.0)
    assert not source.read(frame, 0.0)
    assert source.read(frame, 5.0)
    assert frame.sequence >= 1
    before = frame.sequence
    time.sleep(0.55)
    assert source.read(frame, 1.0)
    assert frame.sequence >= before + 4


def test_live_too_it_ends_after_its_frames(drawn):
    source = TestCardSource(SIZE, fps=100, frames=3)
    frame = Frame(*SIZE)
    assert source.read(frame, 1.0)
    time.sleep(0.1)
    with pytest.raises(EOFError):
        source.read(frame, 1.0)


def test_closing_wakes_the_reader(drawn):
    source = TestCardSource(SIZE, fps=1)
    frame = Frame(*SIZE)
    assert source.read(frame, 1.0)
    threading.Timer(0.05, source.close).start()
    with pytest.raises(EOFError):
        source.read(frame, 30.0)
    source.close()
    with pytest.raises(EOFError):
        source.read(frame, 0.0)


def test_senseless_rates_are_refused():
    with pytest.raises(ConfigError, match="frames a second"):
        TestCardSource(SIZE, fps=0)


# --- clock ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(256, 144), (320, 180), (640, 480), (1280, 720), (1920, 1080), (720, 1280)])
@pytest.mark.parametrize("stamp", [0, 1_000, 123_456_789_123_000, ((1 << 48) - 1) * 1000])
def test_the_clock_reads_what_was_written(size, stamp):
    frame = Frame(*size)
    frame.fill(128)
    write_clock(frame, stamp)
    assert read_clock(frame) == stamp


@pytest.mark.parametrize("size", [(320, 180), (1280, 720)])
def test_the_clock_survives_blur_sharpening_compression_and_range(size):
    frame = Frame(*size)
    rng = np.random.default_rng(0)
    for trial in range(5):
        frame.buffer[...] = rng.integers(0, 256, frame.buffer.shape, dtype=np.uint8)
        stamp = int(rng.integers(1, 1 << 47)) * 1000
        write_clock(frame, stamp)
        written = frame.planes[0].copy()
        blur = cv2.GaussianBlur(written, (0, 0), 1.2)
        jpeg = cv2.imdecode(cv2.imencode(".jpg", written, [cv2.IMWRITE_JPEG_QUALITY, 25])[1], 0)
        for changed in (
            blur,
            cv2.addWeighted(written, 3, blur, -2, 0),
            jpeg,
            (written * 0.6 + 20).astype(np.uint8),
        ):
            frame.planes[0][...] = changed
            assert read_clock(frame) == stamp, trial


def test_there_is_no_clock_in_pictures_without():
    frame = Frame(320, 180)
    rng = np.random.default_rng(1)
    for _ in range(50):
        frame.buffer[...] = rng.integers(0, 256, frame.buffer.shape, dtype=np.uint8)
        assert read_clock(frame) is None
    frame.fill(40)
    assert read_clock(frame) is None
    write_clock(frame, 5_000_000)
    frame.planes[0][-4:, 100] = 255
    frame.planes[0][-4:, 96:104] = 255 - frame.planes[0][-4:, 96:104]
    assert read_clock(frame) is None


def test_a_source_too_small_for_the_clock_does_without():
    source, frame = TestCardSource((128, 128), live=False), Frame(128, 128)
    assert source.read(frame, 1.0)
    assert np.array_equal(frame.buffer, TestCard((128, 128)).soft(0).buffer)


def test_a_frame_too_small_for_the_clock_is_refused():
    with pytest.raises(FormatMismatch, match="too small"):
        write_clock(Frame(254, 100), 1)
