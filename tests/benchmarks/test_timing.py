"""Turns, slots and budgets, with a clock that tells what the test wants."""

from __future__ import annotations

import itertools
import os
import subprocess
from collections import Counter
from collections.abc import Callable

import pytest

from benchmarks import timing
from benchmarks.timing import Times, alternate, busy_process, spread, timed


@pytest.fixture
def cost(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Milliseconds that a call takes, by name; the calls are those of `calls_of`."""
    told: dict[str, float] = {}

    def clock(call: Callable[[], object]) -> tuple[float, float]:
        name = str(call())
        return told[name], 2 * told[name]

    monkeypatch.setattr(timing, "timed", clock)
    return told


def calls_of(names: str, log: list[str]) -> dict[str, Callable[[], object]]:
    def call(name: str) -> str:
        log.append(name)
        return name

    return {name: lambda name=name: call(name) for name in names}  # type: ignore[misc]


def test_each_fills_its_slot_in_every_round(cost: dict[str, float]) -> None:
    cost |= {"a": 10, "b": 50, "c": 300}
    log: list[str] = []
    found = alternate(calls_of("abc", log), rounds=4, slot_ms=100, budget_ms=1e9)
    assert {name: [len(r) for r in times.wall] for name, times in found.items()} == {
        "a": [10] * 4, "b": [2] * 4, "c": [1] * 4,
    }  # fmt: skip
    # one call before each slot warms up, but not for what is slow
    assert Counter(log) == {"a": 44, "b": 12, "c": 5}
    assert found["b"].cpu[0] == [100, 100]


def test_turns_alternate_and_begin_elsewhere(cost: dict[str, float]) -> None:
    cost |= dict.fromkeys("abcdef", 1000)
    log: list[str] = []
    alternate(calls_of("abcdef", log), rounds=3, slot_ms=1, budget_ms=1e9)
    order = [name for name, _ in itertools.groupby(log)]
    rounds = [order[0:6], order[6:12], order[12:18]]
    assert all(sorted(one) == list("abcdef") for one in rounds)
    assert len({one[0] for one in rounds}) == 3


def test_what_is_slow_leaves_when_its_time_is_used_up(cost: dict[str, float]) -> None:
    cost |= {"a": 1, "b": 400, "c": 9000}
    found = alternate(calls_of("abc", []), rounds=10, slot_ms=10, budget_ms=2000, at_least=3)
    assert {name: len(times.wall) for name, times in found.items()} == {"a": 10, "b": 6, "c": 3}


def test_summary_is_of_the_rounds_medians() -> None:
    times = Times([[1, 2, 30], [4], [3, 5], [10, 10, 11]], [[2], [4], [6], [8]])
    told = times.summary()
    assert told["ms"] == {"p50": 4, "p25": 3.5, "p75": 5.5, "min": 1}
    assert told["cpu_ms"] == {"p50": 5, "p25": 3.5, "p75": 6.5}
    assert (told["rounds"], told["calls"]) == (4, 9)
    assert spread([7.0]) == {"p50": 7, "p25": 7, "p75": 7}


def test_timed_is_the_wall_and_all_threads_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    wall, cpu = iter([1_000_000, 4_500_000]), iter([0, 6_000_000])
    monkeypatch.setattr(timing.time, "perf_counter_ns", lambda: next(wall))
    monkeypatch.setattr(timing.time, "process_time_ns", lambda: next(cpu))
    called: list[int] = []
    assert timed(lambda: called.append(1)) == (3.5, 6.0)
    assert called == [1]


def test_busy_process_lives_as_long_as_it_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []

    class Watched(subprocess.Popen[bytes]):
        def __init__(self, *args: object, **kwargs: object) -> None:
            super().__init__(*args, **kwargs)  # type: ignore[call-overload]
            started.append(self)

    monkeypatch.setattr(timing.subprocess, "Popen", Watched)

    def fail() -> None:
        with busy_process():
            assert started[0].poll() is None
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert started[0].returncode is not None


def test_busy_process_ends_with_the_one_that_wanted_it() -> None:
    code = (
        "import os, signal\nfrom benchmarks.timing import busy_process\n"
        "with busy_process():\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    # it holds the pipe that is read here: that ends when both have
    done = subprocess.run([timing.sys.executable, "-c", code], stdout=subprocess.PIPE, timeout=60)
    assert done.returncode == -9


def test_busy_process_never_sleeps() -> None:
    # what it runs, for a moment, in a process that is told to end: all of its time is CPU time
    code = f"import resource\nresource.setrlimit(resource.RLIMIT_CPU, (1, 1))\n{timing._BUSY}"
    command = [timing.sys.executable, "-c", code, str(os.getpid())]
    done = subprocess.run(command, timeout=60, check=False)
    assert done.returncode < 0  # killed for the CPU time that it used
