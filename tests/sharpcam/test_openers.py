"""Who has a device open, seen on a real file by real processes; the clock alone is ours."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sharpcam.daemon import openers
from sharpcam.daemon.openers import LOOK_EVERY_S, OPEN_S, Openers
from sharpcam.holding import Holder

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs inotify")

# opens, maps when told to, and leaves when its input ends; says when each is done
PROGRAM = """
import mmap, sys
file = open(sys.argv[1], "r+b")
print("open", flush=True)
for line in sys.stdin:
    if line == "map\\n":
        held = mmap.mmap(file.fileno(), 4096)
    else:
        held.close()
    print(line, end="", flush=True)
"""


class Program:
    """Another process that has the node open."""

    def __init__(self, node: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(node)], stdin=-1, stdout=-1, text=True
        )
        self._hear("open")

    def _hear(self, word: str) -> None:
        assert self.process.stdout
        assert self.process.stdout.readline() == f"{word}\n"

    def tell(self, word: str) -> None:
        assert self.process.stdin
        print(word, file=self.process.stdin, flush=True)
        self._hear(word)

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


class Watch:
    """Openers of a file, with a clock that is moved by hand; `count` is the last number that was told."""

    def __init__(self, node: Path) -> None:
        self.now = 100.0
        self.openers = Openers(str(node), clock=lambda: self.now)
        self.count: int | None = None

    def look(self, seconds: float = 0.0) -> int | None:
        self.now += seconds
        told = self.openers.wait(0)
        assert told is None or told != self.count, "only changes are told"
        self.count = self.count if told is None else told
        return self.count


@pytest.fixture
def node(tmp_path: Path) -> Path:
    path = tmp_path / "video10"
    path.write_bytes(bytes(8192))
    return path


@pytest.fixture
def watch(node: Path) -> Iterator[Watch]:
    made = Watch(node)
    yield made
    made.openers.close()
    made.openers.close()


def test_who_maps_the_buffers_watches_and_who_only_looks_does_not(watch: Watch, node: Path) -> None:
    assert watch.look() == 0
    program = Program(node)
    assert watch.look() == 0, "it may be looking what cameras there are"
    program.tell("map")
    assert watch.look(LOOK_EVERY_S) == 1
    other = Program(node)
    other.tell("map")
    assert watch.look() == 2
    program.end()
    assert watch.look() == 1
    other.end()
    assert watch.look() == 0


def test_a_probe_is_no_viewer(watch: Watch, node: Path) -> None:
    watch.look()
    for _ in range(5):
        Program(node).end()
        assert watch.look(0.1) == 0
    assert watch.look(10.0) == 0


def test_who_keeps_it_open_reads_from_it(watch: Watch, node: Path) -> None:
    program = Program(node)
    assert watch.look() == 0
    assert watch.look(OPEN_S - 0.1) == 0
    assert watch.look(LOOK_EVERY_S) == 1
    program.end()
    assert watch.look() == 0


@pytest.mark.parametrize("name", ["wireplumber", "systemd"])
def test_a_session_server_counts_only_while_it_streams(
    name: str, watch: Watch, node: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = Program(node)
    server = Holder(program.process.pid, name)
    monkeypatch.setattr(openers, "holders", lambda _: [server])
    assert watch.look() == 0
    assert watch.look(1000.0) == 0
    program.tell("map")
    assert watch.look(LOOK_EVERY_S) == 1
    program.tell("unmap")
    assert watch.look(LOOK_EVERY_S) == 0
    program.end()


def test_who_was_there_first_is_seen(node: Path) -> None:
    program = Program(node)
    program.tell("map")
    watch = Watch(node)
    assert watch.look() == 1
    program.end()
    assert watch.look() == 0
    watch.openers.close()


def test_our_own_handles_do_not_count(watch: Watch, node: Path) -> None:
    watch.look()
    with node.open("rb"):
        pass
    assert watch.look(10.0) == 0


def test_somebody_whom_proc_does_not_show(watch: Watch, node: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of another user: only that somebody opened it and did not close it is seen."""
    monkeypatch.setattr(openers, "holders", lambda _: [])
    watch.look()
    program = Program(node)
    assert watch.look() == 1
    program.end()
    assert watch.look() == 0
    assert watch.look(10.0) == 0


def test_a_close_that_was_missed_is_made_up_for(
    watch: Watch, node: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two handles that are closed at once make one event, as equal ones in a row do."""
    watch.look()
    first, second = node.open("rb"), node.open("rb")
    monkeypatch.setattr(openers, "holders", lambda _: [Holder(os.getppid(), "meeting")])
    watch.openers._find()
    watch.openers._balance = 2
    first.close()
    second.close()
    monkeypatch.setattr(openers, "holders", lambda _: [])
    assert watch.look() == 0


def test_a_node_that_is_not_there(tmp_path: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(FileNotFoundError):
        Openers(str(tmp_path / "none"))
    assert set(os.listdir("/proc/self/fd")) == before
