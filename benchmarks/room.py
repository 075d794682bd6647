"""What a room of the benchmarks is, and what it is given to work with.

A room is one module, `benchmarks/NAME.py`, with these functions and nothing that runs at import (torch, OpenVINO
and other heavy or optional packages are imported where they are used)::

    \"\"\"First line: what the room measures, for --help.\"\"\"

    def add_arguments(group: argparse._ArgumentGroup) -> None
        # its own options; their names are shared with all rooms, so be specific. --quick is there already
    def settings(args: argparse.Namespace) -> dict[str, Any]
        # all that its numbers depend on, JSON-able and without paths of this machine; kept in the results
    def measure(run: Run) -> dict[str, Any]
        # measures, step by step through run.step, and gives the body of the results, JSON-able
    def markdown(found: dict[str, Any]) -> str
        # the results as a page: found is what the JSON file holds (see benchmarks.results)
    def draw(found: dict[str, Any], folder: Path) -> list[Path]
        # plots, written as folder / "NAME-what.png"; gives the files
    def readme(found: dict[str, Any]) -> dict[str, str]
        # Markdown for marked blocks of the README, by block name (see benchmarks.readme)

`markdown`, `draw` and `readme` see nothing but the results, so that they can be done again without measuring.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

Found = dict[str, Any]


class Room(Protocol):
    """The functions of a room's module."""

    __doc__: str | None

    @staticmethod
    def add_arguments(group: argparse._ArgumentGroup) -> None: ...
    @staticmethod
    def settings(args: argparse.Namespace) -> dict[str, Any]: ...
    @staticmethod
    def measure(run: Run) -> dict[str, Any]: ...
    @staticmethod
    def markdown(found: Found) -> str: ...
    @staticmethod
    def draw(found: Found, folder: Path) -> list[Path]: ...
    @staticmethod
    def readme(found: Found) -> dict[str, str]: ...


class Journal:
    """What a run has measured so far, one JSON line a step, so that one that was stopped goes on.

    The first line tells what the run was (settings, machine); entries of another run are thrown away.
    """

    def __init__(self, path: Path, about: dict[str, Any], fresh: bool = False) -> None:
        self._path = path
        self.entries: dict[str, Any] = {}
        head = json.dumps(about, sort_keys=True)
        if not fresh and path.is_file():
            first, *lines = path.read_text(encoding="utf-8").splitlines() or [""]
            if first == head:
                for line in lines:
                    try:
                        self.entries.update(json.loads(line))
                    except ValueError:  # the run was killed in the middle of this line
                        break
        # written anew, without a torn last line
        path.write_text("".join(f"{line}\n" for line in [head, *map(_entry, self.entries.items())]), "utf-8")

    def put(self, key: str, value: Any) -> None:
        self.entries[key] = value
        with self._path.open("a", encoding="utf-8") as file:
            file.write(_entry((key, value)) + "\n")

    def discard(self) -> None:
        self._path.unlink(missing_ok=True)


def _entry(item: tuple[str, Any]) -> str:
    return json.dumps(dict([item]))


class Run:
    """One run of a room: `args` are the options, `quick` asks for a small one."""

    def __init__(self, room: str, args: argparse.Namespace, journal: Journal) -> None:
        self.args = args
        self.quick: bool = args.quick
        self.journal = journal
        self._room = room
        self._start = time.monotonic()

    def say(self, text: str) -> None:
        """A line of progress on stderr."""
        seconds = int(time.monotonic() - self._start)
        line = f"[{self._room} {seconds // 60:d}:{seconds % 60:02d}] {text}"
        print(line, file=sys.stderr, flush=True)

    def step(self, key: str, work: Callable[[], Any]) -> Any:
        """The result of `work`, JSON-able, or what an interrupted run already has for `key`.

        Steps should take minutes at most: what is not finished is measured again.
        """
        if key in self.journal.entries:
            self.say(f"{key}: measured before")
            return self.journal.entries[key]
        self.say(key)
        value = json.loads(json.dumps(work()))  # the same whether measured now or read from the journal
        self.journal.put(key, value)
        return value
