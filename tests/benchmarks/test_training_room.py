"""Images a second of the training's own step, on the CPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import benchmarks.__main__ as frame
from benchmarks import training as room
from training.recipe import Recipe, load_recipe


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> list[Recipe]:
    """Recipes of the shipped kind with networks that a test can wait for."""
    import training.recipe

    torch.set_num_threads(1)  # more of them wait for each other where others are at work
    loaded: list[Recipe] = []
    small = {"dim": 4, "num_blocks": [1, 1, 1, 1], "num_refinement_blocks": 1, "heads": [1, 1, 1, 1]}

    def load(name: str, overrides: dict[str, Any]) -> Recipe:
        more: dict[str, Any] = {"data.frames": 2, "data.crop": 32}
        if name == "teacher":
            more |= {"network.options": small}
        else:
            more |= {"network.options": {"channels": 32, "depth": 1}, "teacher.options": small}
        loaded.append(load_recipe(name, overrides | more))
        return loaded[-1]

    monkeypatch.setattr(training.recipe, "load_recipe", load)
    return loaded


def test_teacher_and_student_in_both_precisions(tiny: list[Recipe], tmp_path: Path) -> None:
    chosen = "--batch 2 --steps 2 --precisions 32-true bf16-mixed"
    arguments = f"training --quick {chosen} --out".split()
    assert frame.main([*arguments, str(tmp_path)]) == 0
    found = json.loads((tmp_path / "training.json").read_text())
    rows = found["rows"]
    assert list(rows) == [f"{who}, {p}" for who in ("teacher", "student") for p in ("32-true", "bf16-mixed")]
    for row in rows.values():
        assert row["images"] == 4
        assert row["images_per_second"] == pytest.approx(4e3 / row["step_ms"], rel=0.02)
    assert [r.train.precision for r in tiny] == ["32-true", "bf16-mixed"] * 2
    assert [r.name for r in tiny] == ["teacher", "teacher", "sharpcam", "sharpcam"]
    assert "| teacher, 32-true |" in (page := (tmp_path / "training.md").read_text())
    assert "| 1.00 |" in page


def test_half_precision_wants_a_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    args = frame.arguments(frame.load_rooms(), ["training", "--out", str(tmp_path)])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert room.settings(args)["precisions"] == ["32-true", "bf16-mixed"]
    assert room.settings(args)["batch"] is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Fake 4090")
    assert room.settings(args)["precisions"] == list(room.PRECISIONS)
    assert room.settings(args)["batch"] == 64
    args.batch = 8
    assert room.settings(args)["batch"] == 8
