"""The whole way from a camera to a virtual camera: SharpCam, the usual Python loop, ffmpeg.

With devices (the V4L2 VM, or two v4l2loopback devices of the host's own): a camera whose pictures carry their number,
the program, and a watcher at the virtual camera: frames a second, pictures lost, added latency, memory, time to the
first picture. From files: CPU time per frame, split into decoding, inference and all the rest, by a CPU clock that
is exact. The programs run one after the other in turns, each in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.pipeline_page import FOURCCS, claims, draw, markdown, readme
from benchmarks.room import Run
from sharpcam.errors import DeviceNotFound, MediaError
from sharpcam.models import find_model

__all__ = ["add_arguments", "draw", "markdown", "measure", "readme", "settings"]

SIZE, FPS = (1280, 720), 30.0
ROOT = Path(__file__).resolve().parent.parent
_MODULES = "v4l2loopback exclusive_caps=1,1 devices=2 video_nr=10,11 card_label=SharpCam,Camera"
_VM_NODES = ("/dev/video11", "/dev/video10")  # camera, virtual camera


def add_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--pipeline-devices", choices=("auto", "vm", "host", "none"), default="auto",
        help="where camera and virtual camera are: the V4L2 VM that SHARPCAM_V4L2VM names, or two v4l2loopback "
        "devices of this machine; none: from files only",
    )  # fmt: skip
    group.add_argument("--pipeline-rounds", type=int, metavar="N", help="default: 3; with --quick 1")
    group.add_argument(
        "--pipeline-seconds", type=float, metavar="S", help="a run's; default: 10; with --quick 4"
    )
    group.add_argument("--pipeline-model", default="m", metavar="NAME", help="default: m")
    group.add_argument(
        "--pipeline-threads", type=int, default=1, metavar="N", help="of every program; default: 1"
    )


def settings(args: argparse.Namespace) -> dict[str, Any]:
    return {
        "size": list(SIZE),
        "fps": FPS,
        "model": args.pipeline_model,
        "model_sha256": find_model(args.pipeline_model).manifest.sha256,
        "threads": args.pipeline_threads,
        "rounds": args.pipeline_rounds or (1 if args.quick else 3),
        "seconds": args.pipeline_seconds or (4.0 if args.quick else 10.0),
        "clip_frames": 30 if args.quick else 100,
        "devices": args.pipeline_devices,
    }


# -- measuring


def measure(run: Run) -> dict[str, Any]:
    from benchmarks.float_twin import float_twin
    from benchmarks.ways import WAYS, Plan

    told = settings(run.args)
    model = find_model(told["model"])
    with tempfile.TemporaryDirectory() as folder:
        twin = Path(folder) / "rgb.onnx"
        twin.write_bytes(float_twin(model.folder / model.manifest.file, "rgb").SerializeToString())
        found: dict[str, Any] = {"ways": list(WAYS), "files": {}, "devices": None}

        def plan(fourcc: str, ways: Sequence[str]) -> Plan:
            how = told["threads"], told["seconds"], told["model"], str(twin)
            return Plan(SIZE, FPS, fourcc, *how, tuple(ways))

        for fourcc in FOURCCS:
            found["files"][fourcc] = _from_files(run, plan(fourcc, WAYS), told, Path(folder))
        rig = _find_rig(told["devices"])
        if isinstance(rig, str):
            run.say(f"no devices: {rig}")
            found["why_no_devices"] = rig
            return found | {"claims": claims(found)}
        found["devices"] = {"where": rig.name}
        for fourcc in FOURCCS:
            rounds = [
                run.step(
                    f"{FOURCCS[fourcc]} camera, {rig.name}, round {n + 1} of {told['rounds']}",
                    partial(rig.run, plan(fourcc, _turned(WAYS, n)), Path(folder), run.say),
                )
                for n in range(told["rounds"])
            ]
            found["devices"][fourcc] = _together(rounds)
    return found | {"claims": claims(found)}


def _turned(ways: Sequence[str], n: int) -> list[str]:
    """Another one goes first in every round."""
    n %= len(ways)
    return [*ways[n:], *ways[:n]]


def _together(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """From a list of rounds to a list of values for everything that a round tells."""
    return {
        name: {key: [r[name][key] for r in rounds] for key in told}
        if isinstance(told, dict)
        else [r[name] for r in rounds]
        for name, told in rounds[0].items()
    }


def _from_files(run: Run, plan: Any, told: dict[str, Any], folder: Path) -> dict[str, Any]:
    from benchmarks.pixel_camera import scenes
    from benchmarks.ways import decoding_cpu_ms, run_file, write_clip

    clip = folder / f"{plan.fourcc}.avi"

    def round_of(n: int) -> dict[str, Any]:
        frames = scenes(SIZE, FPS, 30)
        if not clip.exists():
            write_clip(clip, [frames[i % len(frames)] for i in range(told["clip_frames"])], plan.fourcc)
        found: dict[str, Any] = {"decoding": decoding_cpu_ms(frames)} if plan.fourcc == "MJPG" else {}
        for way in _turned(plan.ways, n):
            found[way] = run_file(way, plan, clip, told["clip_frames"])
            run.say(f"  {way}: {found[way]['cpu_ms_per_frame']:.1f} ms of CPU a frame")
        return found

    name = FOURCCS[plan.fourcc]
    rounds = [
        run.step(f"{name} file, round {n + 1} of {told['rounds']}", partial(round_of, n))
        for n in range(told["rounds"])
    ]
    return _together(rounds)


class _Rig:
    """Where the devices are, and how a command gets there."""

    def __init__(self, name: str, launcher: list[str], camera: str, virtual: str) -> None:
        self.name, self._launcher, self._camera, self._virtual = name, launcher, camera, virtual

    def run(self, plan: Any, folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
        """One round of all ways of `plan`. Raises MediaError when one fails."""
        told = {**asdict(plan), "camera": self._camera, "virtual": self._virtual}
        path = folder / "plan.json"
        path.write_text(json.dumps(told))
        command = [*self._launcher, sys.executable, "-m", "benchmarks.ways", str(path)]
        found: dict[str, Any] = {}
        with (folder / "said").open("w+") as errors:
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            with subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=ROOT, env=environment
            ) as program:
                assert program.stdout
                for line in program.stdout:
                    if line.startswith("RESULT "):
                        name, value = json.loads(line.removeprefix("RESULT "))
                        found[name] = value
                        if "fps" in value:
                            say(f"  {name}: {value['fps']:.1f} fps, {value['latency_ms'][10]:.0f} ms")
            errors.seek(0)
            said = errors.read().strip()[-600:]
        if "failure" in found or program.returncode:
            raise MediaError(f"the round on {self.name} failed: {found.get('failure') or said}")
        return found


def _find_rig(wanted: str) -> _Rig | str:
    """The place with the devices, or why there is none. Raises DeviceNotFound when one was asked for."""
    why = "not asked for"
    if wanted in ("auto", "vm"):
        named = os.environ.get("SHARPCAM_V4L2VM")
        starter = Path(named) if named else ROOT.parent / "shared" / "v4l2-vm" / "v4l2vm"
        if starter.is_file():
            more = os.environ.get("SHARPCAM_V4L2VM_ARGS", "").split()
            options = ["--mem", "4G", "--timeout", "900", "--cwd", str(ROOT), "--modprobe", _MODULES, *more]
            return _Rig("V4L2 VM", [str(starter), "run", *options, "--"], *_VM_NODES)
        why = "there is no V4L2 VM; SHARPCAM_V4L2VM names its starter"
    if wanted in ("auto", "host"):
        from sharpcam.devices import virtual_cameras

        nodes = [device.node for device in virtual_cameras()]
        if len(nodes) >= 2:
            return _Rig("this machine", [], nodes[1], nodes[0])
        why = "this machine has no two v4l2loopback devices"
    if wanted not in ("auto", "none"):
        raise DeviceNotFound(why, f"run: sudo modprobe {_MODULES}")
    return why
