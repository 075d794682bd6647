"""The frame around the rooms: what is written, what an interrupted run goes on with, and the README's blocks."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

import benchmarks.__main__ as frame
from benchmarks import readme, results
from benchmarks.room import Found, Journal, Run
from sharpcam.errors import ConfigError, MediaError


class Counting:
    """A room that counts to a number and can be stopped on the way.

    This line is not for --help.
    """

    def __init__(self) -> None:
        self.measured: list[int] = []
        self.stop_at: int | None = None
        self.error: Exception | None = None

    def add_arguments(self, group: Any) -> None:
        group.add_argument("--count-to", type=int, default=3)

    def settings(self, args: argparse.Namespace) -> dict[str, Any]:
        return {"count_to": args.count_to}

    def measure(self, run: Run) -> dict[str, Any]:
        return {
            "numbers": [run.step(f"number {n}", lambda n=n: self._one(n)) for n in range(run.args.count_to)]
        }

    def _one(self, n: int) -> tuple[int, int]:
        if n == self.stop_at:
            raise self.error or KeyboardInterrupt
        self.measured.append(n)
        return n, n * n

    def markdown(self, found: Found) -> str:
        return "\n".join(f"{n} squared is {square}" for n, square in found["numbers"])

    def draw(self, found: Found, folder: Path) -> list[Path]:
        path = folder / "counting-squares.png"
        path.write_bytes(b"drawn")
        return [path]

    def readme(self, found: Found) -> dict[str, str]:
        return {"last": f"The last is {found['numbers'][-1][1]}.", "date": found["date"]}


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> Counting:
    counting = Counting()
    monkeypatch.setattr(frame, "load_rooms", lambda: {"counting": counting})
    monkeypatch.setattr(readme, "load_rooms", lambda: {"counting": counting})
    return counting


def test_a_room_leaves_json_page_and_plot(room: Counting, tmp_path: Path) -> None:
    assert frame.main(["counting", "--out", str(tmp_path), "--json", str(tmp_path / "all.json")]) == 0
    found = json.loads((tmp_path / "counting.json").read_text())
    assert found["numbers"] == [[0, 0], [1, 1], [2, 4]]
    assert found["settings"] == {"quick": False, "count_to": 3}
    assert found["machine"]["onnxruntime"]
    page = (tmp_path / "counting.md").read_text()
    assert "2 squared is 4" in page
    assert "](counting-squares.png)" in page
    assert found["machine"]["cpu"] in page
    assert found["date"][:10] in page
    assert json.loads((tmp_path / "all.json").read_text())["rooms"] == {"counting": found}
    assert not list(tmp_path.glob(".*"))  # no journal is left


def test_what_was_stopped_goes_on(room: Counting, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    room.stop_at = 2
    assert frame.main(["counting", "--out", str(tmp_path)]) == 130
    assert not (tmp_path / "counting.json").exists()
    room.stop_at = None
    assert frame.main(["--out", str(tmp_path)]) == 0  # no room is all rooms
    assert room.measured == [0, 1, 2]
    assert results.load("counting", tmp_path)["numbers"] == [[0, 0], [1, 1], [2, 4]]
    assert "number 1: measured before" in capsys.readouterr().err


@pytest.mark.parametrize("more", [["--fresh"], ["--count-to", "4"], ["--quick"]])
def test_another_run_begins_anew(room: Counting, tmp_path: Path, more: list[str]) -> None:
    room.stop_at = 2
    assert frame.main(["counting", "--out", str(tmp_path)]) == 130
    room.stop_at, room.measured = None, []
    assert frame.main(["counting", "--out", str(tmp_path), *more]) == 0
    assert room.measured[0] == 0


def test_a_torn_journal_is_used_as_far_as_it_goes(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = Journal(path, {"a": 1})
    journal.put("one", 1)
    journal.put("two", [2])
    path.write_text(path.read_text() + '{"three": ')
    again = Journal(path, {"a": 1})
    assert again.entries == {"one": 1, "two": [2]}
    again.put("four", 4)
    assert Journal(path, {"a": 1}).entries == {"one": 1, "two": [2], "four": 4}
    assert Journal(path, {"a": 2}).entries == {}


def test_a_failing_room_is_one_line_and_the_others_go_on(
    room: Counting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = Counting()
    bad.stop_at, bad.error = 0, ConfigError("it cannot be", "try another")
    bad.add_arguments = lambda group: None  # type: ignore[method-assign]
    monkeypatch.setattr(frame, "load_rooms", lambda: {"bad": bad, "counting": room})
    assert frame.main(["--out", str(tmp_path)]) == 1
    assert "benchmarks: it cannot be\n  hint: try another\n" in capsys.readouterr().err
    assert (tmp_path / "counting.json").exists()
    assert not (tmp_path / "bad.json").exists()


def test_a_room_without_its_packages_says_which_and_the_others_go_on(
    room: Counting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = Counting()
    bad.stop_at, bad.error = 0, ModuleNotFoundError("No module named 'torch'", name="torch")
    bad.add_arguments = lambda group: None  # type: ignore[method-assign]
    monkeypatch.setattr(frame, "load_rooms", lambda: {"bad": bad, "counting": room})
    assert frame.main(["--out", str(tmp_path)]) == 1
    said = "benchmarks: room bad needs torch\n  hint: run: pip install '.[training,benchmarks]'\n"
    assert said in capsys.readouterr().err
    assert (tmp_path / "counting.json").exists()


def test_redraw_measures_nothing(room: Counting, tmp_path: Path) -> None:
    assert frame.main(["--out", str(tmp_path), "--count-to", "2"]) == 0
    room.measured.clear()
    (tmp_path / "counting.md").unlink()
    assert frame.main(["--out", str(tmp_path), "--redraw"]) == 0
    assert room.measured == []
    assert "1 squared is 1" in (tmp_path / "counting.md").read_text()


def test_quick_results_never_take_the_place_of_kept_ones(room: Counting) -> None:
    rooms: Any = {"counting": room}
    assert frame.arguments(rooms, ["--quick"]).out != frame.arguments(rooms, []).out == results.FOLDER


def test_what_cannot_be_written_is_said_before_measuring(room: Counting, tmp_path: Path) -> None:
    assert frame.main(["--out", str(tmp_path), "--json", str(tmp_path / "no" / "all.json")]) == 1
    assert room.measured == []


def test_results_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="cannot read") as error:
        results.load("speed", tmp_path)
    assert error.value.hint == "measure with: python -m benchmarks speed"
    (tmp_path / "speed.json").write_text("{")
    with pytest.raises(MediaError, match="holds no results"):
        results.load("speed", tmp_path)


# --- the README's blocks ------------------------------------------------------------------------------------

PAGE = """# Title
<!-- benchmarks: counting last -->
old
text
<!-- end -->
between
<!-- benchmarks: counting date -->
<!-- end -->
rest
"""


def test_blocks_are_filled_and_the_rest_stays(room: Counting, tmp_path: Path) -> None:
    assert frame.main(["--out", str(tmp_path)]) == 0
    page = tmp_path / "PAGE.md"
    page.write_text(PAGE)
    options = ["--page", str(page), "--results", str(tmp_path)]
    assert readme.main([*options, "--check"]) == 1
    assert page.read_text() == PAGE
    assert readme.main(options) == 0
    date = results.load("counting", tmp_path)["date"]
    filled = PAGE.replace("old\ntext", "The last is 4.").replace("date -->\n", f"date -->\n{date}\n")
    assert page.read_text() == filled
    assert readme.main([*options, "--check"]) == 0


@pytest.mark.parametrize(
    ("page", "message"),
    [
        ("<!-- benchmarks: counting last -->\nrest\n", "not closed"),
        (
            "<!-- benchmarks: counting last -->\n<!-- benchmarks: counting date -->\n<!-- end -->\n",
            "not closed",
        ),
        ("<!-- benchmarks: counting -->\n<!-- end -->\n", "not closed"),
        ("<!-- benchmarks: counting first -->\n<!-- end -->\n", 'no block "first"'),
        ("<!-- benchmarks: attic last -->\n<!-- end -->\n", 'no room "attic"'),
    ],
)
def test_blocks_that_cannot_be_filled(room: Counting, tmp_path: Path, page: str, message: str) -> None:
    assert frame.main(["--out", str(tmp_path)]) == 0
    with pytest.raises(ConfigError, match=message):
        readme.filled(page, {"counting": room}, tmp_path)  # type: ignore[dict-item]
