"""Nothing leaves the machine: not by way of a library either."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import sharpcam

ROOT = Path(sharpcam.__file__).parents[1]
LOAD = (
    "import {module}, onnxruntime as ort; ort.InferenceSession({model!r}, providers=['CPUExecutionProvider'])"
)


def kept_for_reports(module: str, home: Path) -> list[Path]:
    """What ONNX Runtime writes for its reports (an identifier, a queue of events) in a program that imports `module`
    and then loads a model, with an environment that asks for reports and in which no CI keeps it from them."""
    model = str(ROOT / "models" / "s" / "model.onnx")
    env = {"PATH": os.environ["PATH"], "HOME": str(home), "XDG_CACHE_HOME": str(home / "cache")}
    env |= {"PYTHONPATH": str(ROOT), "ORT_DISABLE_TELEMETRY": "0"}
    subprocess.run(
        [sys.executable, "-c", LOAD.format(module=module, model=model)],
        check=True,
        env=env,
        cwd=home,
        timeout=120,
    )
    return [path for path in home.rglob("*") if "onnxruntime" in path.name.lower()]


@pytest.mark.parametrize("module", ["sharpcam", "sharpcam.engine", "training.export", "benchmarks.peaks"])
def test_onnx_runtime_reports_to_nobody(module: str, tmp_path: Path) -> None:
    if module.startswith("training"):
        pytest.importorskip("torch")
    alone = tmp_path / "alone"
    alone.mkdir()
    if not kept_for_reports("os", alone):
        pytest.skip("this ONNX Runtime keeps nothing for reports")
    ours = tmp_path / "ours"
    ours.mkdir()
    assert kept_for_reports(module, ours) == []
