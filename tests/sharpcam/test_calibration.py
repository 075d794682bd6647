"""Costs that are measured once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sharpcam.calibration import FRAMES, KEPT, LONGEST_S, Calibration, Cost, cache_file, measure
from sharpcam.frame import Frame


class Clock:
    """An engine that takes as long as it is told, by a clock of its own."""

    def __init__(self, seconds: Iterator[float]) -> None:
        self.now, self.frames, self._seconds = 0.0, 0, seconds

    def process(self, frame: Frame, out: Frame) -> None:
        assert frame.size == out.size == (32, 16)
        assert frame.planes[0].std() > 10, "a flat picture may be quicker than a real one"
        assert frame.sequence == self.frames
        self.frames += 1
        self.now += next(self._seconds)


def measured(*seconds: float) -> tuple[Cost, int]:
    engine = Clock(iter(seconds))
    cost = measure(engine, (32, 16), lambda: engine.now, lambda: 2 * engine.now)
    return cost, engine.frames


def test_stalls_of_the_machine_are_not_remembered() -> None:
    cost, frames = measured(*([0.01] * 10 + [0.5] * 3 + [0.012] * 11))
    assert frames == FRAMES == 24
    assert cost.seconds == pytest.approx(0.01)
    assert cost.cpu_seconds == pytest.approx(2 * (0.09 + 1.5 + 0.132) / 23), "on average"


def test_the_first_frame_may_run_twice() -> None:
    """As that of a scene does: less than that is what a frame costs, also where there is time for few."""
    assert measured(2.0, 1.0, 1.0)[0] == Cost(1.0, 2.0)


def test_what_is_hopelessly_slow_is_not_measured_for_long() -> None:
    cost, frames = measured(*[1.5 * LONGEST_S] * FRAMES)
    assert frames == 3
    assert cost.seconds == pytest.approx(1.5 * LONGEST_S)


def test_it_is_measured_once(tmp_path: Path) -> None:
    file, asked = tmp_path / "deep" / "er" / "c.json", list[str]()

    def cost(name: str, seconds: float) -> Cost:
        asked.append(name)
        return Cost(seconds, 2 * seconds)

    first = Calibration(file).cost({"model": "m", "size": (1280, 720)}, lambda: cost("m", 0.02))
    again = Calibration(file).cost({"size": (1280, 720), "model": "m"}, lambda: cost("m", 0.5))
    assert first == again == Cost(0.02, 0.04)
    other = Calibration(file).cost({"model": "m", "size": (640, 360)}, lambda: cost("half", 0.01))
    assert other.seconds == 0.01
    assert asked == ["m", "half"]
    entries = list(json.loads(file.read_text()).values())
    assert [entry["size"] for entry in entries] == [[1280, 720], [640, 360]], "people can read it"


@pytest.mark.parametrize("text", ["", "{", "[]", "7", '{"a": 1}', "\xff\xfe"])
def test_a_damaged_cache_is_done_without(tmp_path: Path, text: str) -> None:
    file = tmp_path / "c.json"
    file.write_text(text, encoding="latin-1")
    assert Calibration(file).cost({"model": "m"}, lambda: Cost(1.0, 2.0)) == Cost(1.0, 2.0)
    assert Calibration(file).cost({"model": "m"}, lambda: Cost(3.0, 4.0)) == Cost(1.0, 2.0), "and mended"


@pytest.mark.parametrize("damage", [{"seconds": "much"}, {"seconds": None}, {}])
def test_a_damaged_entry_is_measured_anew(tmp_path: Path, damage: dict[str, Any]) -> None:
    file = tmp_path / "c.json"
    Calibration(file).cost({"model": "m"}, lambda: Cost(1.0, 2.0))
    (key,) = json.loads(file.read_text())
    file.write_text(json.dumps({key: damage}))
    assert Calibration(file).cost({"model": "m"}, lambda: Cost(3.0, 4.0)) == Cost(3.0, 4.0)


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    calibration = Calibration(tmp_path / "file" / "c.json")
    for _ in range(2):
        assert calibration.cost({"model": "m"}, lambda: Cost(1.0, 2.0)) == Cost(1.0, 2.0)


def test_the_oldest_entries_go(tmp_path: Path) -> None:
    file = tmp_path / "c.json"
    file.write_text(json.dumps({f"old{i}": {} for i in range(KEPT)}))
    Calibration(file).cost({"model": "m"}, lambda: Cost(1.0, 2.0))
    kept = list(json.loads(file.read_text()))
    assert len(kept) == KEPT
    assert "old0" not in kept
    assert "old1" in kept


def test_it_lies_in_the_users_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_file() == tmp_path / "sharpcam" / "calibration.json"
