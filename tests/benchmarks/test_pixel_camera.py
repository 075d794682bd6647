"""Numbers in pixels survive what a camera does to pictures, and tell delays and losses."""

from __future__ import annotations

import itertools
from typing import Any

import av
import numpy as np
import pytest

from benchmarks.pixel_camera import (
    CYCLE,
    Pictures,
    Sent,
    Sight,
    judge,
    mjpeg,
    number_of,
    numbered,
    scenes,
    yuyv,
)
from sharpcam.frame import Frame
from sharpcam.geometry import Converter
from sharpcam.sources.v4l2_pictures import decode, mjpeg_decoder

SIZE = (256, 192)


@pytest.fixture(scope="module")
def frames() -> list[Frame]:
    return scenes(SIZE, 30, 3)


def from_yuyv(data: Any) -> Frame:
    picture = av.VideoFrame(*SIZE, "yuyv422")
    lines = np.frombuffer(memoryview(picture.planes[0]), np.uint8).reshape(SIZE[1], -1)
    lines[:, : 2 * SIZE[0]] = np.frombuffer(bytes(data), np.uint8).reshape(SIZE[1], 2 * SIZE[0])
    frame = Frame(*SIZE)
    Converter(*SIZE, frame.color).into(picture, frame)
    return frame


def from_jpeg(data: bytes) -> Frame:
    picture = decode(mjpeg_decoder(), np.frombuffer(data, np.uint8))
    assert picture is not None
    frame = Frame(*SIZE)
    Converter(*SIZE, frame.color).into(picture, frame)
    return frame


def test_every_number_is_read_back(frames: list[Frame]) -> None:
    assert [number_of(frame) for frame in numbered(frames)] == list(range(CYCLE))
    assert number_of(frames[0]) is None, "a frame without a number has none"


def test_raw_pictures_carry_their_numbers_and_scenes(frames: list[Frame]) -> None:
    pictures = Pictures(frames, "YUYV")
    for n in (0, 1, 7, CYCLE - 1, CYCLE, 3 * CYCLE + 11):
        data = pictures[n]
        assert len(data) == SIZE[0] * SIZE[1] * 2 == pictures.largest
        frame = from_yuyv(data)
        assert number_of(frame) == n % CYCLE
        scene = frames[n % len(frames)].planes[0][:150].astype(float)
        assert np.abs(frame.planes[0][:150] - scene).max() <= 1, "the scene goes on under the numbers"


def test_jpeg_pictures_carry_their_numbers(frames: list[Frame]) -> None:
    pictures = Pictures(frames, "MJPG")
    for n in (0, 1, CYCLE - 1, CYCLE + 5):
        assert bytes(pictures[n][:2]) == b"\xff\xd8"
        frame = from_jpeg(bytes(pictures[n]))
        assert number_of(frame) == n % CYCLE
        assert (
            np.abs(frame.planes[0][:150] - frames[n % len(frames)].planes[0][:150].astype(float)).mean() < 4
        )
    assert pictures.largest == max(len(pictures[n]) for n in range(CYCLE))


def test_encoders_give_one_picture_a_frame(frames: list[Frame]) -> None:
    assert len(mjpeg(frames, SIZE)) == len(frames)
    assert len(yuyv(frames[0])) == SIZE[0] * SIZE[1] * 2


def test_times_are_kept_in_order() -> None:
    sent = Sent()
    for time_ns in (5, 8, 13):
        sent.add(time_ns)
    assert sent.times() == [5, 8, 13]


MS = 1_000_000


def times(count: int) -> list[int]:
    return [1000 * MS + n * 33 * MS for n in range(count)]


def test_delay_is_from_sending_to_sight() -> None:
    sent = times(10)
    sights = [Sight(n, sent[n] + (20 + n) * MS) for n in range(2, 8)]
    found = judge(sights, sent, cycle=10)
    assert found.delays_ms == [22, 23, 24, 25, 26, 27]
    assert (found.sent, found.lost, found.unreadable) == (6, 0, 0)


def test_a_picture_seen_again_counts_once_and_first() -> None:
    sent = times(4)
    sights = [Sight(1, sent[1] + 5 * MS), Sight(1, sent[1] + 40 * MS), Sight(2, sent[2] + 6 * MS)]
    assert judge(sights, sent, cycle=4).delays_ms == [5, 6]


def test_what_never_arrives_is_lost_and_rubbish_is_counted() -> None:
    sent = times(10)
    sights = [Sight(1, sent[1] + MS), Sight(None, sent[3]), Sight(6, sent[6] + MS), Sight(77, sent[7])]
    found = judge(sights, sent, cycle=10)
    assert (found.sent, found.lost, found.unreadable) == (6, 4, 1)


def test_numbers_begin_again() -> None:
    """Delays longer than a period, over the seam of the numbers, and the same number in two rounds."""
    sent = times(25)
    seen = (3, 8, 9, 10, 11, 13, 23)
    sights = [Sight(n % 10, sent[n] + 100 * MS) for n in seen]
    found = judge(sights, sent, cycle=10)
    assert found.delays_ms == [100] * len(seen)
    assert found.sent == 21
    assert found.lost == 21 - len(seen)


def test_a_number_from_the_future_is_an_old_one() -> None:
    sent = times(30)
    assert judge([Sight(9, sent[28] + MS)], sent, cycle=10).delays_ms == [(28 - 19) * 33 + 1]
    assert judge([Sight(5, sent[2])], sent, cycle=10).delays_ms == [], "it was never sent"


def test_nothing_seen_is_nothing_lost() -> None:
    found = judge([], times(5))
    assert (found.delays_ms, found.sent, found.lost) == ([], 0, 0)


def test_numbers_differ_in_their_pixels(frames: list[Frame]) -> None:
    buffers = [frame.buffer.copy() for frame in itertools.islice(numbered(frames[:1]), 3)]
    assert len({buffer.tobytes() for buffer in buffers}) == 3
