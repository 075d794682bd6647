from __future__ import annotations

import gc
import threading
import weakref

import numpy as np
import pytest
from numpy.typing import NDArray

from sharpcam.errors import FormatMismatch
from sharpcam.frame import Color, ColorMatrix, ColorRange, Frame, FramePool, check_size, show_left_half


def test_planes_are_views_of_one_i420_buffer() -> None:
    frame = Frame(8, 4)
    assert frame.buffer.shape == (6, 8)
    assert frame.buffer.flags.c_contiguous
    frame.buffer.reshape(-1)[:] = np.arange(48)
    y, u, v = frame.planes
    assert y.tolist() == np.arange(32).reshape(4, 8).tolist()
    assert u.tolist() == np.arange(32, 40).reshape(2, 4).tolist()
    assert v.tolist() == np.arange(40, 48).reshape(2, 4).tolist()
    v[0, 0] = 255
    assert frame.buffer.reshape(-1)[40] == 255


def test_views_for_the_network() -> None:
    frame = Frame(8, 4)
    assert (frame.y.shape, frame.uv.shape) == ((1, 1, 4, 8), (1, 2, 2, 4))
    start = frame.buffer.ctypes.data
    assert frame.y.ctypes.data == start
    assert frame.uv.ctypes.data == start + 32
    assert frame.y.flags.c_contiguous
    assert frame.uv.flags.c_contiguous
    assert frame.size == (8, 4)


def test_fill_paints_each_plane() -> None:
    frame = Frame(8, 4)
    frame.fill(1, 2, 3)
    assert [set(plane.flat) for plane in frame.planes] == [{1}, {2}, {3}]


def test_facts_without_pixels() -> None:
    a, b = Frame(4, 4), Frame(4, 4)
    a.fill(1)
    b.fill(2)
    a.sequence, a.captured_ns, a.color = 5, 6, Color(ColorRange.FULL, ColorMatrix.BT709)
    b.copy_facts(a)
    assert (b.sequence, b.captured_ns, b.color) == (5, 6, a.color)
    assert b.y[0, 0, 0, 0] == 2


@pytest.mark.parametrize("size", [(0, 4), (4, 0), (-2, 4), (5, 4), (4, 5), (7682, 4), (4, 7682)])
def test_sizes_that_cannot_be(size: tuple[int, int]) -> None:
    for make in (Frame, FramePool, check_size):
        with pytest.raises(FormatMismatch) as caught:
            make(*size)  # type: ignore[operator]
        assert f"{size[0]}x{size[1]}" in str(caught.value)
        assert caught.value.hint


def test_odd_size_is_told_the_next_even_one() -> None:
    with pytest.raises(FormatMismatch) as caught:
        check_size(1281, 721)
    assert "1280x720" in caught.value.hint


def test_pool_uses_frames_again() -> None:
    pool = FramePool(4, 4)
    first = pool.acquire()
    first.release()
    assert pool.acquire() is first
    second = pool.acquire()
    assert second is not first
    assert pool.allocated == 2


def test_pool_frames_have_its_color() -> None:
    color = Color(matrix=ColorMatrix.BT709)
    assert FramePool(4, 4, color).acquire().color == color


def test_pool_frames_lie_in_the_memory_that_is_given() -> None:
    given: list[NDArray[np.uint8]] = []

    def allocate(shape: tuple[int, int], dtype: type[np.uint8]) -> NDArray[np.uint8]:
        given.append(np.zeros(shape, dtype))
        return given[-1]

    pool = FramePool(6, 4, allocate=allocate)
    frames = pool.acquire(), pool.acquire()
    assert [memory.shape for memory in given] == [(6, 6), (6, 6)]
    frames[1].uv[:] = 5
    assert (given[1][4:] == 5).all()
    assert not given[0].any()


def test_releasing_twice_is_a_mistake() -> None:
    pool = FramePool(4, 4)
    frame = pool.acquire()
    frame.release()
    with pytest.raises(RuntimeError, match="twice"):
        frame.release()


def test_frame_without_a_pool_may_be_released() -> None:
    Frame(4, 4).release()


def test_pool_and_its_frames_go_without_the_collector() -> None:
    gc.disable()
    try:
        pool = FramePool(4, 4)
        frame = pool.acquire()
        frame.release()
        kept = pool.acquire()
        gone = weakref.ref(pool)
        del pool, frame
        assert gone() is None
        kept.release()  # nowhere to go back to
    finally:
        gc.enable()


def test_pool_between_threads() -> None:
    pool = FramePool(4, 4)
    clash: list[int] = []

    def work(number: int) -> None:
        for _ in range(300):
            frame = pool.acquire()
            frame.sequence = number
            frame.fill(number)
            if frame.sequence != number or frame.buffer.min() != number:
                clash.append(number)
            frame.release()

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not clash
    assert pool.allocated <= 4


def test_left_half_is_shown_up_to_a_white_line() -> None:
    before, after = Frame(16, 8), Frame(16, 8)
    before.fill(50, 60, 70)
    after.fill(150, 160, 170)
    show_left_half(before, after)
    y, u, v = after.planes
    assert (y[:, :8] == 50).all()
    assert (y[:, 8:10] == 235).all()
    assert (y[:, 10:] == 150).all()
    for plane, (left, right) in ((u, (60, 160)), (v, (70, 170))):
        assert plane[0].tolist() == [left] * 4 + [128] + [right] * 3
