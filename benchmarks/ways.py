"""The ways from a camera to a virtual camera, each as a command, and one run of one of them.

python -m benchmarks.ways PLAN.json     # where the devices are; prints one line of JSON a run
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import cv2
import numpy as np
from av.video.stream import VideoStream

from benchmarks.pixel_camera import Watcher, judge, mjpeg, numbered, pixel_camera, scenes, yuyv
from sharpcam.errors import MediaError, SharpCamError
from sharpcam.frame import Frame
from sharpcam.sources.v4l2_pictures import decode, mjpeg_decoder

WARM_S = 2.0  # from the first picture until the measuring begins
START_S = 120.0  # how long the first picture may take
STOP_S = 15.0
FFMPEG_TIMES = 5  # it goes through a clip so often: its own figures include its start
FILTERS = {"ffmpeg unsharp": "unsharp=5:5:1.0", "ffmpeg cas": "cas=0.5"}
SHARPCAM, USUAL = "SharpCam", "usual Python loop"
WAYS = (SHARPCAM, USUAL, *FILTERS)


@dataclass(frozen=True)
class Plan:
    """What every way of a comparison is given."""

    size: tuple[int, int]
    fps: float
    fourcc: str  # how the camera sends its pictures
    threads: int
    seconds: float
    model: str  # for SharpCam
    float_model: str  # for the usual loop
    ways: tuple[str, ...] = WAYS
    camera: str = ""
    virtual: str = ""


def command(way: str, plan: Plan, source: str, sink: str | None, report: Path) -> list[str]:
    """`way` from a camera node or a video file to a virtual camera, or to nowhere."""
    live = source.startswith("/dev/")
    size, fps, threads = f"{plan.size[0]}x{plan.size[1]}", f"{plan.fps:g}", str(plan.threads)
    if way == SHARPCAM:
        ends = ["--device" if live else "--source", source, "--sink", sink or "null"]
        how = ["--size", size, "--fps", fps, "--model", plan.model, "--threads", threads, "--provider", "cpu"]
        always = ["--always-on"] if live else []
        return [sys.executable, "-m", "sharpcam", "run", *ends, *how, *always, "--report", str(report)]
    if way == USUAL:
        sides = [str(side) for side in plan.size]
        how = ["--size", *sides, "--fps", fps, "--fourcc", plan.fourcc, "--threads", threads]
        ends = [*(["--virtual", sink] if sink else []), "--model", plan.float_model, "--report", str(report)]
        return [sys.executable, "-m", "benchmarks.usual_loop", source, *ends, *how]
    taken = {"YUYV": "yuyv422", "MJPG": "mjpeg"}[plan.fourcc]
    again = ["-stream_loop", str(FFMPEG_TIMES - 1)]
    device = ["-f", "v4l2", "-input_format", taken, "-framerate", fps, "-video_size", size]
    quick = ["-fflags", "nobuffer", "-threads", threads, "-filter_threads", threads]
    out = ["-f", "v4l2", sink] if sink else ["-f", "null", "-"]
    return [
        *(
            "ffmpeg",
            "-hide_banner",
            "-loglevel",
            "info" if not sink else "error",
            "-nostdin",
            "-benchmark",
            *quick,
        ),
        *(*(device if live else again), "-i", source, "-vf", f"{FILTERS[way]},format=yuv420p", *out),
    ]


# -- one run with devices


def run_live(way: str, plan: Plan, sent: Callable[[], list[int]]) -> dict[str, Any]:
    """One run between the devices of `plan`, whose camera is being fed; `sent` tells when its pictures left.

    CPU and memory are those of the program's process, by the kernel's account, while it was measured. Raises
    MediaError when the program fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        report, said = Path(folder) / "report.json", Path(folder) / "said"
        watcher = None
        with said.open("wb") as output:
            began = time.monotonic_ns()
            program = subprocess.Popen(
                command(way, plan, plan.camera, plan.virtual, report), stdout=output, stderr=output
            )
        try:
            watcher = Watcher(plan.virtual, plan.size, plan.fps, START_S)
            first = watcher.watch(START_S, until_number=True)
            watcher.watch(WARM_S)
            cpu, start = cpu_ns(program.pid), time.monotonic()
            sights = watcher.watch(plan.seconds)
            cpu, seconds = cpu_ns(program.pid) - cpu, time.monotonic() - start
            memory = resident_mb(program.pid)
        except (SharpCamError, OSError) as error:
            end(program)
            raise MediaError(f"{way} did not work: {error}; it said: {tail(said)}") from error
        finally:
            end(program)
            if watcher:
                watcher.close()
        told = json.loads(report.read_text()) if report.exists() else {}
    found = judge(sights, sent())
    arrived = len(found.delays_ms)
    if not arrived:
        raise MediaError(f"{way}: no picture with a number came out")
    inference = told.get("stages_cpu_ms", {}).get("inference", 0.0)
    return {
        "fps": arrived / seconds,
        "sent": found.sent,
        "lost": found.lost,
        "unreadable": found.unreadable,
        "latency_ms": percentiles(found.delays_ms),
        "cpu_ms_per_frame": cpu / arrived / 1e6,
        "inference_cpu_ms": inference,
        "memory_mb": memory,
        "first_picture_s": (first[-1].time_ns - began) / 1e9,
        "stages_cpu_ms": told.get("stages_cpu_ms", {}),
    }


def end(program: subprocess.Popen[bytes]) -> None:
    """As Ctrl-C does; a program that does not mind is killed."""
    if program.poll() is None:
        program.send_signal(signal.SIGINT)
        try:
            program.wait(STOP_S)
        except subprocess.TimeoutExpired:
            program.kill()
            program.wait()


def cpu_ns(pid: int) -> int:
    """User and system time of all threads of a process, by its CPU clock (clock_getcpuclockid(3))."""
    return time.clock_gettime_ns(~pid << 3 | 2)


def resident_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def percentiles(values: list[float]) -> list[float]:
    """Every fifth percentile, from the least to the greatest value: the whole curve."""
    return [round(float(v), 3) for v in np.percentile(values, range(0, 101, 5))]


def tail(path: Path) -> str:
    return path.read_text(errors="replace").strip()[-600:] or "nothing"


# -- one run from a file


def write_clip(path: Path, frames: list[Frame], fourcc: str) -> None:
    """An AVI of these frames as a webcam sends them: raw YUYV or MJPEG."""
    with av.open(str(path), "w") as container:
        codec = {"YUYV": "rawvideo", "MJPG": "mjpeg"}[fourcc]
        stream = cast(VideoStream, container.add_stream(codec, rate=30))
        stream.width, stream.height = frames[0].size
        stream.pix_fmt = {"YUYV": "yuyv422", "MJPG": "yuvj420p"}[fourcc]
        for n, data in enumerate(map(yuyv, frames) if fourcc == "YUYV" else mjpeg(frames, frames[0].size)):
            packet = av.Packet(data)
            packet.stream, packet.pts, packet.dts = stream, n, n
            packet.time_base = Fraction(1, 30)
            packet.is_keyframe = True
            container.mux(packet)


def run_file(way: str, plan: Plan, clip: Path, frames: int) -> dict[str, Any]:
    """One run from a clip of so many frames to nowhere, as fast as it goes; CPU is by the program's own account.

    Raises MediaError when the program fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        try:
            done = subprocess.run(
                command(way, plan, str(clip), None, report), capture_output=True, text=True, timeout=600
            )
        except FileNotFoundError as error:
            raise MediaError(f"{way} cannot be run: there is no {error.filename}", "install it") from error
        if done.returncode:
            raise MediaError(f"{way} did not work: {done.stderr.strip()[-600:] or 'it said nothing'}")
        if report.exists():
            told = json.loads(report.read_text())
        else:  # ffmpeg's own figures: bench: utime=1.234s stime=0.123s rtime=...
            utime, stime = (float(v) for v in re.findall(r"[us]time=([\d.]+)s", done.stderr)[:2])
            shown = frames * FFMPEG_TIMES
            told = {"cpu_ms_per_frame": (utime + stime) * 1e3 / shown, "stages_cpu_ms": {}}
    return {
        "cpu_ms_per_frame": told["cpu_ms_per_frame"],
        "inference_cpu_ms": told["stages_cpu_ms"].get("inference", 0.0),
        "stages_cpu_ms": told["stages_cpu_ms"],
    }


def decoding_cpu_ms(frames: list[Frame]) -> dict[str, float]:
    """CPU of decoding one MJPEG picture: by FFmpeg, to planes; by OpenCV, to BGR, its change of colours included."""
    decoder = mjpeg_decoder()
    pictures = [np.frombuffer(data, np.uint8) for data in mjpeg(frames, frames[0].size)]
    found = {}
    for name, decoded in (
        ("FFmpeg", lambda data: decode(decoder, data)),
        ("OpenCV", lambda data: cv2.imdecode(data, cv2.IMREAD_COLOR)),
    ):
        start = time.process_time_ns()
        for data in pictures:
            decoded(data)
        found[name] = (time.process_time_ns() - start) / len(pictures) / 1e6
    return found


def clock_step_ms() -> float:
    """How finely this kernel tells CPU time: some virtual machines count timer ticks of 10 ms."""
    last, end = time.process_time_ns(), time.monotonic() + 0.1
    steps: list[float] = []
    while time.monotonic() < end or not steps:
        now = time.process_time_ns()
        if now != last:
            steps.append((now - last) / 1e6)
            last = now
    return min(steps)


# -- where the devices are


def main() -> None:
    plan = Plan(**json.loads(Path(sys.argv[1]).read_text()))
    frames = scenes(plan.size, plan.fps)
    say("about", {"clock_step_ms": clock_step_ms(), "decoding": decoding_cpu_ms(list(numbered(frames, 30)))})
    try:
        with pixel_camera(plan.camera, frames, plan.fps, plan.fourcc) as sent:
            for way in plan.ways:
                say(way, run_live(way, plan, sent.times))
    except SharpCamError as error:
        say("failure", str(error))
        raise SystemExit(1) from None


def say(what: str, found: Any) -> None:
    print("RESULT " + json.dumps([what, found]), flush=True)


if __name__ == "__main__":
    main()
