"""Scenarios that run where the devices are; each prints one line with what it found, for the tests to judge.

usage: guest.py SCENARIO...
"""

from __future__ import annotations

import importlib
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import cv2
import numpy as np
from chart import BARS, bars_of, chart_rgb
from numpy.typing import NDArray

from sharpcam import v4l2
from sharpcam.devices import find_camera, find_virtual_camera, loopback_format, video_devices
from sharpcam.errors import DeviceLost, SharpCamError
from sharpcam.frame import Color, ColorMatrix, Frame
from sharpcam.geometry import from_rgb, to_rgb
from sharpcam.sinks.virtual_camera import VirtualCameraSink
from sharpcam.sources.camera import CameraSource

EMULATOR = os.environ.get("SHARPCAM_UVC_EMULATOR", "")
LOOPBACK = "/dev/video10"
SIZE = (1280, 720)


@contextmanager
def usb_camera(source: tuple[str, ...] = (), **options: Any) -> Iterator[Any]:
    """The emulated USB camera, plugged in, with its 1280x720 MJPEG pictures ready."""
    sys.path.insert(0, EMULATOR)
    from uvc_camera import UvcCamera  # type: ignore[import-not-found]

    camera = UvcCamera(**({"source": source} if source else {}), **options)
    camera.node = camera.plug()
    try:
        yield camera
    finally:
        camera.frozen = False
        if camera.sock:
            camera.unplug()


def ready(camera: Any, kind: int, size: int) -> None:
    """Waits until the emulator has encoded a stream, so that encoding does not slow the camera down."""
    pictures = camera.pictures(kind, size)
    with pictures.grown:
        pictures.grown.wait_for(lambda: pictures.complete, 30)


def chart_source() -> tuple[str, ...]:
    cv2.imwrite("/tmp/chart.png", chart_rgb(*SIZE)[:, :, ::-1])
    return ("-loop", "1", "-r", "30", "-i", "/tmp/chart.png")


def watch(source: CameraSource, seconds: float) -> dict[str, Any]:
    """Reads for so long; what came."""
    frame = Frame(*source.size)
    sequences, ages, moved, last = [], [], 0, None
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if source.read(frame, 1.0):
            sequences.append(frame.sequence)
            ages.append((time.monotonic_ns() - frame.captured_ns) / 1e6)
            mean = float(frame.planes[0].mean())
            moved += last is not None and mean != last
            last = mean
    return {
        "description": source.description,
        "notes": source.notes,
        "fps": source.fps,
        "measured_fps": source.measured_fps,
        "frames": len(sequences),
        "seconds": seconds,
        "span": sequences[-1] - sequences[0] + 1,
        "rising": all(a < b for a, b in itertools.pairwise(sequences)),
        "median_age_ms": sorted(ages)[len(ages) // 2],
        "max_age_ms": max(ages),
        "moved": moved,
    }


def failure_of(action: Callable[[], Any]) -> dict[str, str]:
    """The class, text and hint with which `action` fails."""
    try:
        made = action()
    except SharpCamError as error:
        return {"error": type(error).__name__, "text": str(error), "hint": error.hint}
    made.close()
    return {"error": "", "text": "it worked", "hint": ""}


def next_frame(source: CameraSource, skip: int = 0, timeout: float = 3.0) -> Frame:
    frame = Frame(*source.size)
    for _ in range(skip + 1):
        assert source.read(frame, timeout), "no picture"
    return frame


# -- cameras


def any_camera() -> dict[str, Any]:
    source = CameraSource(None, SIZE, 30)
    try:
        return watch(source, 1.0)
    finally:
        source.close()


def vivid() -> dict[str, Any]:
    """The kernel's test camera, raw only."""
    started = time.monotonic()
    source = CameraSource("vivid", SIZE, 30)
    try:
        next_frame(source)
        first = time.monotonic() - started
        return {**watch(source, 1.5), "first_s": first, "address": source.address}
    finally:
        source.close()


def vivid_other_size() -> dict[str, Any]:
    """A size that the camera does not have, at 60 fps: fitted with bars above and below."""
    source = CameraSource("/dev/video0", (1000, 600), 60)
    try:
        frame = next_frame(source, 3)
        luma = frame.planes[0]
        return {
            "description": source.description,
            "notes": source.notes,
            "fps": source.fps,
            "top": int(luma[:16].max()),
            "middle": int(luma[290:310].max()),
            "bottom": int(luma[-16:].max()),
        }
    finally:
        source.close()


def vivid_colors() -> dict[str, Any]:
    """What the driver tells of its colours is believed: the same bars whatever the encoding."""
    controls = {"601": (1, 2), "709": (2, 2), "601 full": (1, 1)}
    found = {}
    for name, (encoding, quantization) in controls.items():
        settings = (
            f"test_pattern=1,y_cbcr_encoding={encoding},quantization={quantization}"  # 100 % colour bars
        )
        subprocess.run(["v4l2-ctl", "-d", "/dev/video0", "-c", settings], check=True)
        source = CameraSource("vivid", SIZE, 30)
        try:
            rgb = to_rgb(next_frame(source, 2))
        finally:
            source.close()
        columns = [int(SIZE[0] * (i + 0.5) / 8) for i in range(8)]
        found[name] = [[int(c) for c in rgb[600, x]] for x in columns]
    return found


def usb(size: tuple[int, int], kind: int, index: int) -> dict[str, Any]:
    with usb_camera(chart_source()) as camera:
        ready(camera, kind, index)
        source = CameraSource("emulated usb", size, 30)
        try:
            seen = watch(source, 1.6)
            return {**seen, "bars": bars_of(to_rgb(next_frame(source))), "address": source.address}
        finally:
            source.close()


def usb_mjpeg() -> dict[str, Any]:
    return usb((1280, 720), 1, 2)


def usb_yuyv() -> dict[str, Any]:
    return usb((640, 480), 2, 1)


def usb_troubles() -> dict[str, Any]:
    """It hangs, sends rubbish, is not read for a while, is unplugged, comes back; and close() ends a wait."""
    found: dict[str, Any] = {}
    frame = Frame(*SIZE)
    with usb_camera() as camera:
        ready(camera, 1, 2)
        source = CameraSource(camera.node, SIZE, 30)
        before = next_frame(source, 5).sequence
        time.sleep(1.0)
        after = next_frame(source)
        found["pause"] = {
            "lost": after.sequence - before - 1,
            "age_ms": (time.monotonic_ns() - after.captured_ns) / 1e6,
        }
        camera.frozen = True
        while source.read(frame, 0.3):
            pass
        started = time.monotonic()
        came = source.read(frame, 0.5)
        found["hang"] = {"came": came, "took_s": time.monotonic() - started}
        camera.frozen = False
        found["hang"]["again"] = source.read(frame, 3.0)
        camera.corrupt = True
        rubbish = [source.read(frame, 0.2) for _ in range(8)]
        camera.corrupt = False
        found["rubbish"] = {"read": len(rubbish), "again": source.read(frame, 3.0)}
        threading.Timer(0.3, camera.unplug).start()
        started = time.monotonic()
        try:
            while time.monotonic() < started + 10:
                source.read(frame, 5.0)
        except DeviceLost as error:
            found["unplug"] = {"text": str(error), "hint": error.hint, "took_s": time.monotonic() - started}
        address = source.address
        source.close()
        source.close()
        camera.plug()
        source = CameraSource(address, SIZE, 30)
        found["replug"] = {"address": address, "came": source.read(frame, 5.0)}
        camera.frozen = True
        while source.read(frame, 0.3):
            pass
        threading.Timer(0.3, source.close).start()
        started = time.monotonic()
        came = source.read(frame, 8.0)
        found["close"] = {"came": came, "took_s": time.monotonic() - started}
        try:
            source.read(frame, 1.0)
        except EOFError:
            found["close"]["then"] = "EOFError"
        camera.frozen = False
    found["threads"] = [t.name for t in threading.enumerate() if "camera" in t.name]
    return found


def refusals() -> dict[str, Any]:
    """What cannot be a source, and how that is said."""
    reader = subprocess.Popen(["v4l2-ctl", "-d", "/dev/video0", "--stream-mmap"], stdout=-3, stderr=-3)
    time.sleep(1.0)
    found = {"busy": failure_of(lambda: CameraSource("vivid")), "pid": reader.pid}
    reader.kill()
    reader.wait()
    os.chmod("/dev/video0", 0)
    os.seteuid(65534)
    found["denied"] = failure_of(lambda: CameraSource("/dev/video0"))
    os.seteuid(0)
    for name, wanted in {"own": 10, "label": "sharp", "none": "nonesuch", "node": "/dev/video77"}.items():
        found[name] = failure_of(lambda wanted=wanted: CameraSource(wanted))  # type: ignore[misc]
    subprocess.run(["rmmod", "vivid"], check=True)
    found["no camera"] = failure_of(CameraSource)
    return found


# -- the virtual camera


@contextmanager
def sending(sink: VirtualCameraSink, frame: Frame) -> Iterator[None]:
    """Sends the same frame at the sink's rate."""
    over = threading.Event()

    def send() -> None:
        while not over.wait(1 / sink.fps):
            sink.send(frame)

    sink.send(frame)
    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def chart_frame(color: Color | None = None) -> Frame:
    frame = Frame(*SIZE, color)
    from_rgb(chart_rgb(*SIZE), frame)
    return frame


def ffmpeg_view() -> dict[str, Any]:
    """What ffmpeg reads from the virtual camera: facts, rate, colours, also of frames in other colours."""
    found: dict[str, Any] = {}
    sink = VirtualCameraSink(None, SIZE, 60)
    found["description"] = sink.description
    found["format"] = [str(v) for v in loopback_format(LOOPBACK) or ()]
    for name, frame in {"plain": chart_frame(), "709": chart_frame(Color(matrix=ColorMatrix.BT709))}.items():
        with sending(sink, frame):
            probe = ["ffprobe", "-v", "error", "-f", "v4l2", "-show_streams", "-of", "json", LOOPBACK]
            if name == "plain":
                told = json.loads(subprocess.run(probe, capture_output=True, check=True).stdout)["streams"][0]
                found["told"] = {k: told[k] for k in ("width", "height", "pix_fmt", "avg_frame_rate")}
            read = ["ffmpeg", "-loglevel", "error", "-f", "v4l2", "-i", LOOPBACK, "-frames:v", "3"]
            done = subprocess.run(
                [*read, "-pix_fmt", "rgb24", "-f", "rawvideo", "-"], capture_output=True, check=True
            )
            pictures = np.frombuffer(done.stdout, np.uint8).reshape(-1, SIZE[1], SIZE[0], 3)
            found[name] = bars_of(pictures[-1])
    cost = []
    frame = chart_frame()
    for _ in range(60):
        start = time.perf_counter()
        sink.send(frame)
        cost.append((time.perf_counter() - start) * 1e3)
    found["send_ms"] = float(np.median(cost))
    sink.close()
    sink.close()
    found["after close"] = failure_of(lambda: VirtualCameraSink(None, SIZE, 30))
    return found


def kept_format() -> dict[str, Any]:
    """The driver answers another format than asked for, without an error."""
    found: dict[str, Any] = {}
    sink = VirtualCameraSink(LOOPBACK, (640, 480))
    sink.send(Frame(640, 480))
    with v4l2.Node(LOOPBACK) as node:
        node.set_control(v4l2.KEEP_FORMAT, 1)
    sink.close()
    found["other size"] = failure_of(lambda: VirtualCameraSink(LOOPBACK, SIZE))
    found["same size"] = failure_of(lambda: VirtualCameraSink(LOOPBACK, (640, 480)))
    with v4l2.Node(LOOPBACK) as node:
        found["still kept"] = node.control(v4l2.KEEP_FORMAT)
        node.set_control(v4l2.KEEP_FORMAT, 0)
    # a reader that outlives the writer holds the format too
    sink = VirtualCameraSink(LOOPBACK, (640, 480))
    with sending(sink, Frame(640, 480)):
        reader = subprocess.Popen(["v4l2-ctl", "-d", LOOPBACK, "--stream-mmap"], stdout=-3, stderr=-3)
        time.sleep(1.0)
    sink.close()
    found["reader"] = {**failure_of(lambda: VirtualCameraSink(LOOPBACK, SIZE)), "pid": reader.pid}
    found["reader, same size"] = failure_of(lambda: VirtualCameraSink(LOOPBACK, (640, 480)))
    reader.kill()
    reader.wait()
    found["reader gone"] = failure_of(lambda: VirtualCameraSink(LOOPBACK, SIZE))
    return found


def second_writer() -> dict[str, Any]:
    """One device, one writer."""
    found: dict[str, Any] = {"pid": os.getpid()}
    sink = VirtualCameraSink(LOOPBACK, SIZE)
    sink.send(Frame(*SIZE))
    found["same process"] = failure_of(lambda: VirtualCameraSink(LOOPBACK, SIZE))
    me = [sys.executable, __file__, "try_to_write"]
    found["other process"] = last_answer(subprocess.run(me, capture_output=True, text=True))
    sink.close()
    write = ["-f", "lavfi", "-i", "testsrc2=size=640x360", "-pix_fmt", "yuyv422", "-f", "v4l2", LOOPBACK]
    other = subprocess.Popen(["ffmpeg", "-loglevel", "error", "-re", *write], stdin=-3)
    for _ in range(100):
        if loopback_format(LOOPBACK):
            break
        time.sleep(0.1)
    time.sleep(0.5)
    found["foreign"] = {**failure_of(lambda: VirtualCameraSink(LOOPBACK, SIZE)), "ffmpeg": other.pid}
    other.terminate()
    other.wait()
    return found


def try_to_write() -> dict[str, Any]:
    return failure_of(lambda: VirtualCameraSink(LOOPBACK, SIZE))


def client_usage() -> dict[str, Any]:
    """The driver tells when a reader streams."""
    sink = VirtualCameraSink(LOOPBACK, SIZE)
    counts = []
    with sending(sink, Frame(*SIZE)):
        usage = v4l2.ClientUsage(LOOPBACK)
        counts.append(usage.wait(1.0))
        counts.append(usage.wait(0.2))
        read = ["v4l2-ctl", "-d", LOOPBACK, "--stream-mmap", "--stream-count=10"]
        reader = subprocess.Popen(read, stdout=-3, stderr=-3)
        counts.append(usage.wait(5.0))
        counts.append(usage.wait(5.0))
        reader.wait()
        usage.close()
    sink.close()
    return {"counts": counts}


def listing() -> dict[str, Any]:
    """`sharpcam devices` while both devices are in use."""
    reader = subprocess.Popen(["v4l2-ctl", "-d", "/dev/video0", "--stream-mmap"], stdout=-3, stderr=-3)
    sink = VirtualCameraSink(None, SIZE)
    sink.send(Frame(*SIZE))
    time.sleep(0.5)
    command = [sys.executable, "-m", "sharpcam", "devices"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    told = subprocess.run([*command, "--json"], capture_output=True, check=True).stdout
    sink.close()
    reader.kill()
    reader.wait()
    return {"text": text, "json": json.loads(told), "reader": reader.pid, "writer": os.getpid()}


def choice() -> dict[str, Any]:
    """Several loopbacks, then none."""
    subprocess.run(["rmmod", "v4l2loopback"], check=True)
    command = "modprobe v4l2loopback devices=2 video_nr=8,10 card_label=Other,SharpCam exclusive_caps=1,1"
    subprocess.run(command.split(), check=True)
    found: dict[str, Any] = {
        "auto": find_virtual_camera().node,
        "label": find_virtual_camera("other").node,
        "listed": [d.node for d in video_devices()],
        "camera": find_camera().node,
        "not virtual": failure_of(lambda: VirtualCameraSink("/dev/video0", SIZE)),
        "unfed": failure_of(lambda: CameraSource("/dev/video8")),
    }
    # another program's loopback may be a source as long as it is fed
    sink = VirtualCameraSink("/dev/video8", SIZE)
    with sending(sink, chart_frame()):
        found["our own, by its lock"] = failure_of(lambda: CameraSource("/dev/video8"))
    sink.close()
    write = ["-f", "lavfi", "-i", "testsrc2=size=640x360", "-pix_fmt", "yuyv422", "-f", "v4l2", "/dev/video8"]
    other = subprocess.Popen(["ffmpeg", "-loglevel", "error", "-re", *write], stdin=-3)
    for _ in range(100):
        if loopback_format("/dev/video8"):
            break
        time.sleep(0.1)
    time.sleep(0.5)
    source = CameraSource("/dev/video8", (640, 360))
    found["fed"] = {"description": source.description, "came": source.read(Frame(640, 360), 2.0)}
    source.close()
    other.terminate()
    other.wait()
    subprocess.run(["rmmod", "v4l2loopback"], check=True)
    found["none"] = failure_of(VirtualCameraSink)
    return found


# -- a meeting


def meeting() -> dict[str, Any]:
    """Chromium sees the virtual camera and its colours, full-range MJPEG in, to the end."""
    import browser

    with usb_camera(chart_source()) as camera:
        ready(camera, 1, 2)
        source = CameraSource(camera.node, SIZE, 30)
        sink = VirtualCameraSink(None, SIZE, 30)
        over = threading.Event()
        frames = 0

        def relay() -> None:
            nonlocal frames
            frame = Frame(*SIZE)
            while not over.is_set():
                if source.read(frame, 0.2):
                    sink.send(frame)
                    frames += 1

        thread = threading.Thread(target=relay)
        thread.start()
        try:
            with browser.page("SharpCam", SIZE, len(BARS)) as page:
                opened = page.next("opened")
                sample = [page.next("sample") for _ in range(2)][-1]
        finally:
            over.set()
            thread.join()
            source.close()
            sink.close()
    return {"opened": opened, "sample": sample, "events": [r["step"] for r in page.all], "frames": frames}


def sharpness(rgb: NDArray[np.uint8]) -> float:
    """The variance of the luma's Laplacian, as the page computes it."""
    luma = rgb.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    return float(cv2.Laplacian(luma, cv2.CV_32F)[1:-1, 1:-1].var())


def talking_head() -> tuple[str, ...]:
    clip = os.environ.get("SHARPCAM_CLIP", "")
    if clip:
        # through a soft lens: the clip itself is from a good one
        return ("-f", "lavfi", "-i", f"movie={clip}:loop=0,setpts=N/30/TB,gblur=sigma=1.8")
    return ("-f", "lavfi", "-i", "testsrc2=size={w}x{h}:rate=30,gblur=sigma=1.5")


@contextmanager
def visible(found: dict[str, Any]) -> Iterator[None]:
    """Looks all the time whether meeting programs could see the virtual camera."""
    over, seen = threading.Event(), []

    def look() -> None:
        while not over.wait(0.02):
            with v4l2.Node(LOOPBACK, os.O_RDONLY | os.O_NONBLOCK) as node:
                seen.append(v4l2.Caps.CAPTURE in node.capability().caps)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        found["looks"], found["hidden"] = len(seen), seen.count(False)


def end_to_end() -> dict[str, Any]:
    """`sharpcam run` from a USB camera to Chromium; the camera is pulled out and plugged in again."""
    import browser

    found: dict[str, Any] = {}
    report = "/tmp/report.json"
    run = [sys.executable, "-m", "sharpcam", "run", "--device", "emulated usb", "--sink", LOOPBACK]
    options = ["--model", os.environ["SHARPCAM_TEST_MODEL"], "--threads", "1", "--report", report]
    with usb_camera(talking_head()) as camera:
        ready(camera, 1, 2)
        source = CameraSource(camera.node, SIZE, 30)
        found["camera"] = [sharpness(to_rgb(next_frame(source, 9))) for _ in range(6)]
        source.close()
        process = subprocess.Popen([*run, *options], stdout=subprocess.PIPE, stderr=-2, text=True)
        try:
            assert process.stdout
            lines = [
                process.stdout.readline() for _ in range(3)
            ]  # source, model, sink: the placeholder is out
            time.sleep(0.5)
            with visible(found), browser.page("SharpCam", SIZE, len(BARS)) as page:
                found["opened"] = page.next("opened")
                found["samples"] = [page.next("sample") for _ in range(3)][1:]
                camera.unplug()
                time.sleep(1.5)
                camera.plug()
                found["after replug"] = [page.next("sample") for _ in range(3)][-1]
                found["events"] = [r["step"] for r in page.all]
        finally:
            process.send_signal(signal.SIGINT)
            rest = process.communicate(timeout=20)[0]
    found["output"], found["rc"] = "".join(lines) + rest, process.returncode
    with open(report) as file:
        found["report"] = json.load(file)
    return found


def last_answer(done: subprocess.CompletedProcess[str]) -> Any:
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    return json.loads(lines[-1].removeprefix("RESULT "))[1] if lines else done.stderr[-500:]


def main(names: list[str]) -> None:
    for name in names:
        try:
            action = globals().get(name) or getattr(importlib.import_module("daemon_scenarios"), name)
            answer = action()
        except Exception:
            answer = {"failure": traceback.format_exc()}
        print("RESULT " + json.dumps([name, answer], default=str), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
