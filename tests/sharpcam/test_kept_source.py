"""A source that is closed and opened again, without the pipeline around it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from test_pipeline import SIZE, FakeSource

import sharpcam.kept_source
from sharpcam.errors import DeviceLost, DeviceNotFound, FormatMismatch, MediaError, SharpCamError
from sharpcam.frame import Frame
from sharpcam.kept_source import KeptSource
from sharpcam.sources import Source

FRAME = Frame(*SIZE)
QUICK = 0.001


class Camera(FakeSource):
    """Must not be read once it is closed."""

    def read(self, frame: Frame, timeout: float) -> bool:
        assert not self.closed
        return super().read(frame, timeout)


class Tries:
    """What each reopening comes to, and how often there was one."""

    def __init__(self, *steps: Source | SharpCamError) -> None:
        self.steps, self.count, self.returns = list(steps), 0, 0

    def __call__(self) -> Source:
        self.count += 1
        step = self.steps.pop(0) if len(self.steps) > 1 else self.steps[0]
        if isinstance(step, SharpCamError):
            raise step
        return step

    def returned(self) -> None:
        self.returns += 1


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharpcam.kept_source, "BACKOFF_S", (QUICK, 2 * QUICK))


def reads(kept: KeptSource, until: Callable[[], bool]) -> list[bool]:
    came = []
    for _ in range(10_000):
        came.append(kept.read(FRAME, QUICK))
        if until():
            return came
    raise AssertionError("in vain")


def test_a_lost_camera_is_not_read_until_it_is_back() -> None:
    camera, back = Camera(1, DeviceLost("gone")), Camera(2)
    tries = Tries(*[DeviceNotFound("no camera at usb-1")] * 3, back)
    kept = KeptSource(camera, tries, tries.returned)
    assert kept.read(FRAME, QUICK)
    assert not kept.read(FRAME, QUICK)
    assert (str(kept.lost), camera.closed) == ("gone", 1)
    reads(kept, lambda: tries.count == 3)
    assert str(kept.lost) == "no camera at usb-1"
    since = kept.lost_at
    assert reads(kept, lambda: FRAME.sequence == 2)[-1]
    assert (kept.lost, kept.source, tries.returns) == (None, back, 1)
    assert kept.lost_at == since, "it was away all that time"


def test_a_shut_camera_is_opened_by_the_next_read_and_was_not_lost() -> None:
    camera, back = Camera(1), Camera(2)
    tries = Tries(back)
    kept = KeptSource(camera, tries, tries.returned)
    kept.shut()
    kept.shut()
    assert camera.closed == 1
    assert tries.count == 0
    reads(kept, lambda: FRAME.sequence == 2)
    assert tries.returns == 0


def test_a_shut_one_that_cannot_be_opened_is_lost() -> None:
    tries = Tries(DeviceNotFound("taken"))
    kept = KeptSource(Camera(), tries, tries.returned)
    kept.shut()
    reads(kept, lambda: tries.count == 2)
    assert str(kept.lost) == "taken"
    assert kept.lost_at > 0
    kept.shut()
    assert kept.lost is None, "nobody wants it"


def test_one_that_comes_back_in_another_size_is_closed_again() -> None:
    other = Camera(size=(64, 64))
    tries = Tries(other)
    kept = KeptSource(Camera(DeviceLost("gone")), tries, tries.returned)
    reads(kept, lambda: tries.count == 1)
    assert isinstance(kept.lost, FormatMismatch)
    assert other.closed == 1


def test_silence_is_loss_only_of_what_is_live(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharpcam.kept_source, "STALL_S", 0.0)
    tries = Tries(DeviceNotFound("away"))
    kept = KeptSource(Camera(), tries, tries.returned)
    reads(kept, lambda: kept.lost is not None)
    file = KeptSource(Camera(live=False), tries, tries.returned)
    assert not any(file.read(FRAME, QUICK) for _ in range(5))
    assert file.lost is None


def test_a_rest_is_no_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharpcam.kept_source, "STALL_S", 50.0)
    now = [0.0]
    monkeypatch.setattr(sharpcam.kept_source.time, "monotonic", lambda: now[0])
    source = Camera(1)
    kept = KeptSource(source, None, lambda: None)
    assert kept.read(FRAME, QUICK)
    now[0] = 60.0
    kept.shut()
    assert not kept.read(FRAME, QUICK), "and no DeviceLost"
    now[0] = 120.0
    with pytest.raises(DeviceLost, match="no picture"):
        kept.read(FRAME, QUICK)


def test_without_a_way_back_loss_is_an_error_and_shut_leaves_it_open() -> None:
    camera = Camera(1, DeviceLost("gone"))
    kept = KeptSource(camera, None, lambda: None)
    kept.shut()
    assert not camera.closed
    assert kept.read(FRAME, QUICK)
    with pytest.raises(DeviceLost, match="gone"):
        kept.read(FRAME, QUICK)


def test_other_failures_come_through() -> None:
    tries = Tries(Camera())
    for error in (EOFError(), MediaError("broken")):
        with pytest.raises(type(error)):
            KeptSource(Camera(error), tries, tries.returned).read(FRAME, QUICK)
    assert tries.count == 0


def test_one_that_is_back_has_its_time_to_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(sharpcam.kept_source.time, "monotonic", lambda: now[0])
    back = Camera()
    tries = Tries(back)
    kept = KeptSource(Camera(1, DeviceLost("gone")), tries, tries.returned)
    assert kept.read(FRAME, QUICK)
    kept.read(FRAME, QUICK)
    now[0] = 60.0
    kept.read(FRAME, QUICK)
    assert kept.source is back
    kept.read(FRAME, QUICK)
    assert kept.lost is None
