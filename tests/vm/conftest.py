"""Where there are real V4L2 devices: in the V4L2 VM, or on this very machine.

`SHARPCAM_V4L2VM` names the VM's starter; without it one beside the project is taken. On a machine that has a
camera and v4l2loopback as /dev/video10 of its own, `SHARPCAM_VM_HOST=1` uses those instead, for the scenarios
that a test module names in ON_HOST: the others load and unload modules.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sharpen_model import write_sharpen_model

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
RESULT = "RESULT "

Answers = dict[str, Any]


class Rig:
    """Runs scenarios of guest.py where the devices are, each group in one process (and one boot)."""

    def __init__(self, launcher: list[str], emulator: Path | None) -> None:
        self.launcher, self.emulator = launcher, emulator
        self.environment = {"PYTHONPATH": str(ROOT), "SHARPCAM_UVC_EMULATOR": str(emulator or "")}

    def run(self, *scenarios: str, timeout: float = 120) -> Answers:
        """Scenario -> what it returned, or the string of its failure."""
        command = [*self.launcher, sys.executable, str(HERE / "guest.py"), *scenarios]
        environment = {**os.environ, **self.environment}
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout, env=environment, cwd=ROOT
        )
        lines = [line.removeprefix(RESULT) for line in done.stdout.splitlines() if line.startswith(RESULT)]
        answers: Answers = dict(json.loads(line) for line in lines)
        tail = f"rc {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        return {name: answers.get(name, {"failure": f"no answer; {tail}"}) for name in scenarios}


def find_rig() -> Rig | str:
    """The rig, or why there is none."""
    if os.environ.get("SHARPCAM_VM_HOST"):
        return Rig([], None)
    named = os.environ.get("SHARPCAM_V4L2VM")
    starter = Path(named) if named else ROOT.parent / "shared" / "v4l2-vm" / "v4l2vm"
    if not starter.is_file():
        return f"no V4L2 VM at {starter}; set SHARPCAM_V4L2VM, or SHARPCAM_VM_HOST=1 where there is a camera"
    more = os.environ.get("SHARPCAM_V4L2VM_ARGS", "").split()  # such as --suite trixie
    launcher = [str(starter), "run", "--mem", "4G", "--timeout", "110", "--cwd", str(ROOT), *more, "--"]
    try:
        probe = subprocess.run([*launcher, "true"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"the V4L2 VM does not start: {error}"
    if probe.returncode:
        return f"the V4L2 VM does not start: {probe.stderr.strip()[-300:]}"
    return Rig(launcher, starter.parent / "demo")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.vm)


@pytest.fixture(scope="session")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Rig:
    found = find_rig()
    if isinstance(found, str):
        pytest.skip(found)
    shipped = ROOT / "models" / "m"
    found.environment["SHARPCAM_TEST_MODEL"] = str(
        shipped
        if (shipped / "model.toml").is_file()
        else write_sharpen_model(tmp_path_factory.mktemp("models") / "unsharp")
    )
    clip = (
        os.environ.get("SHARPCAM_CLIP") or ROOT.parent / "shared" / "data" / "video" / "homeoffice_1080p.mp4"
    )
    if Path(clip).is_file():
        found.environment["SHARPCAM_CLIP"] = str(clip)
    return found


@pytest.fixture(scope="module")
def answer(rig: Rig, request: pytest.FixtureRequest) -> Callable[[str], Any]:
    """Gives a scenario's answer; all SCENARIOS of the module run in one go when the first is asked for."""
    answers = rig.run(*(request.module.SCENARIOS if rig.emulator else request.module.ON_HOST))

    def get(name: str) -> Any:
        if name not in answers:
            pytest.skip("needs the V4L2 VM: not on this machine's own devices")
        found = answers[name]
        if isinstance(found, dict) and "failure" in found:
            pytest.fail(f"{name}: {found['failure']}", pytrace=False)
        return found

    return get
