"""`python -m benchmarks [ROOM ...]`: SharpCam beside what people would use instead.

Each room writes `ROOM.json`, `ROOM.md` and plots into `benchmarks/results/`. A run that was stopped goes on where
it was when the same command is given again. `python -m benchmarks.readme` then brings README.md up to date.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from benchmarks import results
from benchmarks.room import Found, Journal, Room, Run
from sharpcam.errors import ConfigError, SharpCamError
from sharpcam.files import temporary_beside, write_whole

# a small run never takes the place of results that are kept
QUICK_FOLDER = Path("out") / "benchmarks"
NEEDED = ("onnx", "matplotlib")
EXTRAS = "training,benchmarks"  # all that any room asks for
ROOMS = ("speed", "quality", "pipeline", "scaling", "published")
ON_REQUEST = ("gpu", "training")  # not among all of them: they want hardware of their own


def load_rooms() -> dict[str, Room]:
    """The rooms by name. Raises ConfigError when what they need is not installed."""
    for package in NEEDED:
        if importlib.util.find_spec(package) is None:
            raise ConfigError(f"the benchmarks need {package}", "run: pip install '.[benchmarks]'")
    return {name: cast(Room, importlib.import_module(f"benchmarks.{name}")) for name in (*ROOMS, *ON_REQUEST)}


def arguments(rooms: dict[str, Room], argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.partition("\n\n")[2])
    parser.add_argument(
        "rooms", nargs="*", metavar="ROOM", choices=[*rooms, "all"], default="all",
        help=f"{', '.join(rooms)}; without one, all but {' and '.join(ON_REQUEST)}",
    )  # fmt: skip
    parser.add_argument("--json", metavar="FILE", help="write all results into one file too; - for stdout")
    parser.add_argument("--quick", action="store_true", help="a small run: fewer sizes, pictures and rounds")
    parser.add_argument("--fresh", action="store_true", help="do not go on with a run that was stopped")
    parser.add_argument("--redraw", action="store_true", help="pages and plots anew from the last results")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="default: benchmarks/results; with --quick, out/benchmarks"
    )
    for name, room in rooms.items():
        room.add_arguments(parser.add_argument_group(name, (room.__doc__ or "").partition("\n")[0]))
    args = parser.parse_args(argv)
    if "all" in args.rooms:
        args.rooms = [name for name in rooms if name not in ON_REQUEST]
    if args.out is None:
        args.out = QUICK_FOLDER if args.quick else results.FOLDER
    return args


def visit(name: str, room: Room, args: argparse.Namespace) -> Found:
    """Measures (or, with --redraw, reads) the results of one room, and writes what belongs to them."""
    if args.redraw:
        found = results.load(name, args.out)
    else:
        machine, settings = results.machine(), {"quick": args.quick, **room.settings(args)}
        about = {"machine": machine, "settings": settings}
        journal = Journal(args.out / f".{name}.partial.jsonl", about, args.fresh)
        run = Run(name, args, journal)
        before = results.load_average()
        body = room.measure(run)
        load = {"before": before, "after": results.load_average()}
        results.save({"room": name, "date": results.today(), "load": load, **about, **body}, args.out)
        journal.discard()
        found = results.load(name, args.out)
    figures = room.draw(found, args.out)
    page = results.page(found, room.markdown(found), figures)
    write_whole(args.out / f"{name}.md", page.encode())
    print(f"{name}: {args.out / f'{name}.md'}", file=sys.stderr)
    return found


def work(args: argparse.Namespace, rooms: dict[str, Room]) -> int:
    args.out.mkdir(parents=True, exist_ok=True)
    if args.json not in (None, "-"):
        temporary_beside(Path(args.json)).unlink()  # says now that it cannot be written
    found: dict[str, Found] = {}
    failures = 0
    for name in args.rooms:
        try:
            found[name] = visit(name, rooms[name], args)
        except SharpCamError as error:  # the other rooms are still worth their time
            explain(error)
            failures += 1
        except ModuleNotFoundError as error:
            explain(ConfigError(f"room {name} needs {error.name}", f"run: pip install '.[{EXTRAS}]'"))
            failures += 1
    if args.json is not None:
        text = json.dumps({"machine": results.machine(), "rooms": found}, indent=1) + "\n"
        if args.json == "-":
            sys.stdout.write(text)
        else:
            write_whole(Path(args.json), text.encode())
    return 1 if failures else 0


def explain(error: SharpCamError) -> None:
    print(f"benchmarks: {error}", file=sys.stderr)
    if error.hint:
        print(f"  hint: {error.hint}", file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> int:
    try:
        rooms = load_rooms()
        return work(arguments(rooms, argv), rooms)
    except SharpCamError as error:
        explain(error)
        return 1
    except KeyboardInterrupt:
        print("benchmarks: stopped; the same command goes on from here", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
