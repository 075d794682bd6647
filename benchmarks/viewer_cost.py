"""`python -m benchmarks.viewer_cost`: what the page costs the pipeline, with and without people who look at it.

The test card at 30 fps through the default model to nowhere, and the page beside it as in the daemon. Viewers and
attackers are processes of their own. CPU time is that of the page's own threads and of copying frames for it, in
percent of a core; the modes take turns, so that a machine that is busy is busy for all of them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from http.client import HTTPConnection
from typing import Any

import cv2

from sharpcam.daemon.live_engine import LiveEngine
from sharpcam.engine import Engine
from sharpcam.frame import Frame
from sharpcam.pipeline import Pipeline
from sharpcam.sinks.null import NullSink
from sharpcam.sources.testcard import TestCardSource
from sharpcam.web.page import Page

SIZE, FPS = (1280, 720), 30.0
WIDTH = 1280  # of the picture that viewers ask for: the largest there is
MODES = {"closed": 0, "open": 0, "1 viewer": 1, "8 viewers": 8, "attacked": 0}


class Watched:
    """A pipeline as the page sees it, with a clock on what it does for the page in the sharpening thread."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self.copy_s = 0.0

    @property
    def watcher(self) -> Callable[[Frame, Frame], None] | None:
        return self._pipeline.watcher

    @watcher.setter
    def watcher(self, watcher: Callable[[Frame, Frame], None] | None) -> None:
        def timed(before: Frame, after: Frame) -> None:
            start = time.thread_time()
            if watcher is not None:
                watcher(before, after)
            self.copy_s += time.thread_time() - start

        self._pipeline.watcher = timed if watcher else None


def page_cpu_s() -> float:
    """CPU time so far of the threads that are the page's."""
    threads = [t for t in threading.enumerate() if t.name.startswith("sharpcam-page") and t.ident]
    return sum(time.clock_gettime(time.pthread_getcpuclockid(t.ident)) for t in threads if t.ident)


def entered(link: str) -> dict[str, str]:
    """Host, prefix and cookie of a page, as a browser gets them."""
    found = re.fullmatch(r"http://([^/]+)/#(.+)", link)
    assert found
    connection = HTTPConnection(found[1])
    headers = {"Content-Type": "application/json", "X-SharpCam": "1"}
    connection.request("POST", "/enter", json.dumps({"code": found[2]}), headers)
    answer = connection.getresponse()
    cookie = answer.headers["set-cookie"].partition(";")[0]
    return {"host": found[1], "path": json.loads(answer.read())["path"], "cookie": cookie}


def look(page: Mapping[str, str], seconds: float) -> None:
    """A viewer: asks for picture after picture, and prints how many came."""
    from wsproto import ConnectionType, WSConnection
    from wsproto.events import BytesMessage, Request, TextMessage

    protocol, count, end = WSConnection(ConnectionType.CLIENT), 0, time.monotonic() + seconds
    headers = [(b"Origin", f"http://{page['host']}".encode()), (b"Cookie", page["cookie"].encode())]
    host, _, port = page["host"].partition(":")
    with socket.create_connection((host, int(port))) as connection:
        target = f"{page['path']}live"
        connection.sendall(protocol.send(Request(host=page["host"], target=target, extra_headers=headers)))
        asked = False
        while time.monotonic() < end:
            protocol.receive_data(connection.recv(1 << 16))
            for event in protocol.events():
                if isinstance(event, BytesMessage) and event.message_finished:
                    count, asked = count + 1, False
                elif isinstance(event, TextMessage) and not event.message_finished:
                    continue
                if not asked:
                    asked = True
                    connection.sendall(protocol.send(TextMessage(data=f"look {WIDTH}")))
    print(count)


def attack(page: Mapping[str, str], seconds: float) -> None:
    """Another program: names that are not the page's, no token, uploads that are too large, silent connections."""
    end, count = time.monotonic() + seconds, 0
    host, _, port = page["host"].partition(":")
    path = page["path"]
    upload = f"POST {path}compare HTTP/1.1\r\nHost: {page['host']}\r\nContent-Length: {100 << 20}\r\n\r\n"
    requests = [
        b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        f"GET {path}about HTTP/1.1\r\nHost: {page['host']}\r\n\r\n".encode(),
        upload.encode() + bytes(1 << 16),
        b"",
    ]
    while time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=0.05) as one:
            one.sendall(requests[count % len(requests)])
            one.recv(1 << 12)
        count += 1
    print(count)


@contextlib.contextmanager
def helpers(mode: str, page: Mapping[str, str], seconds: float) -> Iterator[list[subprocess.Popen[str]]]:
    """The processes of a mode; they end by themselves."""
    work = ["attack"] if mode == "attacked" else ["look"] * MODES[mode]
    command = [sys.executable, "-m", "benchmarks.viewer_cost", "--page", json.dumps(dict(page))]
    command += ["--seconds", str(seconds)]
    started = [subprocess.Popen([*command, "--as", what], stdout=subprocess.PIPE, text=True) for what in work]
    try:
        yield started
    finally:
        for process in started:
            process.wait()


def stretch(mode: str, pipeline: Pipeline, watched: Watched, page: Page, seconds: float) -> dict[str, float]:
    """What one mode costs over so many seconds, once it has begun."""
    facts = {} if mode == "closed" else entered(page.open())
    lead = 5.0 if MODES[mode] or mode == "attacked" else 1.0  # until its processes run
    with helpers(mode, facts, lead + seconds + 1) as started:
        time.sleep(lead)
        telemetry = pipeline.telemetry
        before = (
            page_cpu_s() + watched.copy_s,
            telemetry["frames_out"],
            telemetry["dropped"],
            time.monotonic(),
        )
        time.sleep(seconds)
        after = page_cpu_s() + watched.copy_s, telemetry["frames_out"], telemetry["dropped"], time.monotonic()
    took = after[3] - before[3]
    done = [int(process.communicate()[0]) / (lead + seconds + 1) for process in started]
    page.close()
    return {
        "cpu": 100 * (after[0] - before[0]) / took,
        "fps": (after[1] - before[1]) / took,
        "dropped": (after[2] - before[2]) / took,
        "served": sum(done) / max(len(done), 1),
    }


def measure(seconds: float, rounds: int) -> dict[str, list[dict[str, float]]]:
    cv2.setNumThreads(1)
    sys.setswitchinterval(0.001)  # as `sharpcam run` does
    engine = LiveEngine(Engine.load("auto", SIZE, "cpu"))
    pipeline = Pipeline(TestCardSource(SIZE, FPS), engine, NullSink(SIZE, FPS))
    watched = Watched(pipeline)

    def status(command: str, request: Mapping[str, Any]) -> dict[str, Any]:
        fps, latency_ms = pipeline.telemetry.recent()
        return {"state": "live", "fps": fps, "latency_ms": latency_ms}

    page = Page(status, watched)
    found: dict[str, list[dict[str, float]]] = {mode: [] for mode in MODES}
    pipeline.start()
    try:
        time.sleep(5)  # the test card keeps its moving parts after one turn
        for _ in range(rounds):
            for mode, seen in found.items():
                seen.append(stretch(mode, pipeline, watched, page, seconds))
    finally:
        page.close()
        pipeline.stop()
        while not pipeline.wait(0.1):
            pass
        engine.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.viewer_cost", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--seconds", type=float, default=15.0, help="of each stretch")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--as", dest="role", choices=["look", "attack"], help=argparse.SUPPRESS)
    parser.add_argument("--page", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.role:
        {"look": look, "attack": attack}[args.role](args.page, args.seconds)
        return
    print("mode         CPU %   fps  dropped/s  served/s  (each round)")
    for mode, rounds in measure(args.seconds, args.rounds).items():
        for seen in rounds:
            columns = (seen["cpu"], seen["fps"], seen["dropped"], seen["served"])
            print(
                f"{mode:10}{columns[0]:8.2f}{columns[1]:6.1f}{columns[2]:11.1f}{columns[3]:10.1f}", flush=True
            )


if __name__ == "__main__":
    main()
