"""Times that can be compared: everything in one process, in turns, medians of rounds."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

# ends with whoever wanted it, also when that was killed
_BUSY = "import os, sys\nwhile os.getppid() == int(sys.argv[1]): sum(range(100_000))"


@dataclass
class Times:
    """Wall and CPU milliseconds of single calls, by round. CPU is that of the whole process, all threads."""

    wall: list[list[float]] = field(default_factory=list)
    cpu: list[list[float]] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """Median of the rounds' medians, their quartiles, and the fastest call of all."""
        wall = [float(np.median(times)) for times in self.wall]
        cpu = [float(np.median(times)) for times in self.cpu]
        return {
            "ms": spread(wall) | {"min": round(min(map(min, self.wall)), 4)},
            "cpu_ms": spread(cpu),
            "rounds": len(wall),
            "calls": sum(map(len, self.wall)),
        }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and quartiles."""
    return {f"p{q}": round(float(np.percentile(values, q)), 4) for q in (50, 25, 75)}


def alternate(
    calls: Mapping[str, Callable[[], object]],
    rounds: int,
    slot_ms: float,
    budget_ms: float,
    at_least: int = 3,
) -> dict[str, Times]:
    """Calls everything in turns, `rounds` times; in its turn each is called for `slot_ms`, at least once.

    What is fast has one call before that, which does not count: the others have emptied the caches. What is
    slow leaves the later rounds out once it has taken `budget_ms`, but not before `at_least` rounds. Every
    round begins with another one, so that nobody has always the same neighbour.
    """
    found = {name: Times() for name in calls}
    names = list(calls)
    spent = dict.fromkeys(names, 0.0)
    for number in range(rounds):
        start = number * max(1, len(names) // max(1, rounds))
        for name in [*names[start % len(names) :], *names[: start % len(names)]]:
            if number >= at_least and spent[name] > budget_ms:
                continue
            if not found[name].wall or spent[name] / number < slot_ms * 2:
                calls[name]()
            wall: list[float] = []
            cpu: list[float] = []
            while not wall or sum(wall) < slot_ms:
                elapsed, used = timed(calls[name])
                wall.append(elapsed)
                cpu.append(used)
            spent[name] += sum(wall)
            found[name].wall.append(wall)
            found[name].cpu.append(cpu)
    return found


def timed(call: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU milliseconds of one call."""
    cpu, wall = time.process_time_ns(), time.perf_counter_ns()
    call()
    return (time.perf_counter_ns() - wall) / 1e6, (time.process_time_ns() - cpu) / 1e6


@contextlib.contextmanager
def busy_process() -> Iterator[subprocess.Popen[bytes]]:
    """Another process takes one core for itself, as a meeting does."""
    other = subprocess.Popen([sys.executable, "-c", _BUSY, str(os.getpid())])
    try:
        yield other
    finally:
        other.kill()
        other.wait()
