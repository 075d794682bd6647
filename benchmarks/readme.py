"""`python -m benchmarks.readme [--check]`: fills the marked blocks of README.md from the last results.

A block begins with the line `<!-- benchmarks: ROOM NAME -->` and ends with `<!-- end -->`; what stands between
is replaced by what the room's `readme` gives for NAME. With `--check` nothing is written, and the exit code
tells whether the page is up to date.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import results
from benchmarks.__main__ import explain, load_rooms
from benchmarks.room import Room
from sharpcam.errors import ConfigError, MediaError, SharpCamError
from sharpcam.files import write_whole

README = Path(__file__).resolve().parent.parent / "README.md"
_BLOCK = re.compile(
    r"^(<!-- benchmarks: (?P<room>\S+) (?P<name>\S+) -->\n)(?P<text>.*?)^(<!-- end -->)$", re.M | re.S
)
_BEGINNING = re.compile(r"^<!-- benchmarks:.*$", re.M)


def filled(text: str, rooms: dict[str, Room], folder: Path) -> str:
    """`text` with every block brought up to date from the results in `folder`.

    Raises ConfigError for a block that is not closed or that no room fills, MediaError for results that are
    not there.
    """
    blocks = list(_BLOCK.finditer(text))
    inside = [len(_BEGINNING.findall(block[0])) for block in blocks]
    if len(_BEGINNING.findall(text)) != len(blocks) or any(count != 1 for count in inside):
        raise ConfigError(
            "a block of the page is not closed",
            "write <!-- benchmarks: ROOM NAME --> ... <!-- end -->, each on a line of its own",
        )
    known: dict[str, dict[str, str]] = {}
    for block in blocks:
        room, name = block["room"], block["name"]
        if room not in rooms:
            raise ConfigError(f'there is no room "{room}"', f"rooms are {', '.join(rooms)}")
        if room not in known:
            known[room] = rooms[room].readme(results.load(room, folder))
        if name not in known[room]:
            raise ConfigError(f'room {room} has no block "{name}"', f"it has {', '.join(known[room])}")
    return _BLOCK.sub(lambda b: f"{b[1]}{known[b['room']][b['name']].strip()}\n{b[5]}", text)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.readme", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 when out of date")
    parser.add_argument("--page", type=Path, default=README, metavar="FILE.md", help="default: README.md")
    parser.add_argument("--results", type=Path, default=results.FOLDER, metavar="DIR")
    parser.add_argument("--list", action="store_true", help="print all blocks that the results would fill")
    args = parser.parse_args(argv)
    try:
        rooms = load_rooms()
        if args.list:
            for room in rooms:
                if (args.results / f"{room}.json").is_file():
                    for name, text in rooms[room].readme(results.load(room, args.results)).items():
                        print(f"<!-- benchmarks: {room} {name} -->\n{text.strip()}\n<!-- end -->\n")
            return 0
        try:
            before = args.page.read_text(encoding="utf-8")
        except OSError as error:
            raise MediaError(f"cannot read {args.page}: {error.strerror}") from error
        after = filled(before, rooms, args.results)
        if after == before:
            return 0
        if args.check:
            print(f"{args.page} is not up to date: python -m benchmarks.readme", file=sys.stderr)
            return 1
        write_whole(args.page, after.encode())
        return 0
    except SharpCamError as error:
        explain(error)
        return 1


if __name__ == "__main__":
    sys.exit(main())
