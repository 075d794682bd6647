"""`sharpcam process`: prints what `sharpcam.process` does."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from sharpcam.cli.ending import ending_signals
from sharpcam.engine import Engine
from sharpcam.models import find_model
from sharpcam.picture_tiles import goes_in_tiles
from sharpcam.process import OnProgress, Outcome, plan, run_job


def run_process(
    input: Path,
    output: Path,
    *,
    model: str = "auto",
    strength: float = 1.0,
    compare: bool = False,
    clip: bool = False,
    provider: str = "auto",
    threads: int | None = None,
) -> int:
    """Sharpens `input` into `output`; gives the exit code: 1 when a picture of a folder could not be done."""
    job = plan(input, output, clip)

    found = find_model(model)

    def load(size: tuple[int, int]) -> Engine:
        return Engine.load(found, size, provider, threads)

    start = time.monotonic()
    with ending_signals(), _progress("frames" if job.video else "pictures") as on_progress:
        outcome = run_job(
            job, load, strength=strength, compare=compare, tiled=goes_in_tiles(found), on_progress=on_progress
        )
    _report(outcome, job.video is not None, time.monotonic() - start)
    return 1 if outcome.failures else 0


def _report(outcome: Outcome, is_video: bool, seconds: float) -> None:
    for error in outcome.failures:
        print(f"sharpcam: {error}", file=sys.stderr)
        if error.hint:
            print(f"  hint: {error.hint}", file=sys.stderr)
    what = "frame" if is_video else "picture"
    plural = "" if outcome.done == 1 else "s"
    left_out = f", {len(outcome.failures)} left out" if outcome.failures else ""
    by = f" by {outcome.engine}" if outcome.engine else ""
    rate = f" ({outcome.done / seconds:.1f} a second)" if outcome.done > 1 else ""
    print(
        f"{outcome.done} {what}{plural} to {outcome.output}{by} in {seconds:.1f} s{rate}{left_out}",
        flush=True,
    )


@contextlib.contextmanager
def _progress(unit: str) -> Iterator[OnProgress]:
    """A bar with the remaining time on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(unit), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(unit, total=None, rate="")
        yield _updater(bar.update, task)


def _updater(update: Callable[..., None], task: int) -> OnProgress:
    start = time.monotonic()

    def on_progress(done: int, total: int | None) -> None:
        passed = time.monotonic() - start
        rate = f"{done / passed:.1f}/s" if done and passed > 1 else ""
        update(task, completed=done, total=total if total is None else max(total, done), rate=rate)

    return on_progress
