"""Checkpoints: all that the next step depends on, in one file that appears whole or not at all.

A checkpoint also says where it comes from: the recipe, the commit, and for each stretch of steps the teacher,
the data and the checkpoint that it was started from (`State.provenance`). Keys that older checkpoints lack
have defaults.
"""

from __future__ import annotations

import hashlib
import math
import os
import pickle
import subprocess
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from training.errors import RecipeError, TrainingError
from training.recipe import Recipe, validated
from training.weights import REGISTRY


@dataclass
class State:
    """Where a run stands, beside weights and optimizer."""

    step: int = 0
    seconds: float = 0.0
    best: float = -math.inf  # of the watched figure
    stale: int = 0  # validations since then
    unjudged: bool = False  # it was stopped where a validation was due, which resuming makes up for
    lr_scale: float = 1.0  # what plateaus have left of the learning rate
    figures: dict[str, float] = field(default_factory=dict)  # of the last validation
    provenance: list[dict[str, Any]] = field(default_factory=list)  # who taught with what, from which step on

    def note_provenance(self, entry: dict[str, Any]) -> None:
        """Adds `entry` (teacher, data, started_from) unless teacher and data are as they were."""
        last = self.provenance[-1] if self.provenance else {}
        if not last or any(last.get(key) != entry.get(key) for key in ("teacher", "data")):
            if self.step:
                entry = {key: value for key, value in entry.items() if key != "started_from"}
            self.provenance.append({"from_step": self.step, **entry})


class Averaged(Protocol):
    """What `training.loop.Average` is to a checkpoint."""

    model: nn.Module
    updates: int


def save_checkpoint(
    paths: list[Path],
    recipe: Recipe,
    student: nn.Module,
    average: Averaged,
    optimizer: Any,
    state: State,
    precision: dict[str, Any] | None = None,
) -> None:
    """Writes one checkpoint under each name, whole or not at all. Raises TrainingError."""
    content = {
        "recipe": recipe.model_dump(mode="json"),
        "student": student.state_dict(),
        "average": average.model.state_dict(),
        "updates": average.updates,
        "optimizer": optimizer.state_dict(),
        "torch_rng": torch.get_rng_state(),
        "precision": precision or {},
        "commit": commit(),
        **asdict(state),
    }
    for path in paths:
        partial = path.with_name(path.name + ".part")
        try:
            with partial.open("wb") as file:
                torch.save(content, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        except (OSError, RuntimeError) as e:
            partial.unlink(missing_ok=True)
            raise TrainingError(f"cannot write {path}: {_line(e)}; the checkpoint before it is whole") from e


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Raises TrainingError when there is none, or it is no checkpoint of ours. Nothing in it is executed."""
    content = _load(path)
    if not isinstance(content, dict) or not {"recipe", "average", "step"} <= content.keys():
        raise TrainingError(f"{path} is not a checkpoint of this package")
    try:
        validated(content["recipe"], "its recipe")
    except RecipeError as e:
        raise TrainingError(f"{path} is not a checkpoint of this package: {e}") from e
    return content


def _load(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as e:
        raise TrainingError(f"no checkpoint {path}") from e
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError) as e:
        raise TrainingError(f"{path} is not a readable checkpoint: {_line(e)}") from e


def load_checkpoint(
    path: Path, recipe: Recipe, student: nn.Module, average: Averaged, optimizer: Any, state: State
) -> dict[str, Any]:
    """Everything back to where `path` was written; returns the state of the precision (a loss scale).

    Raises TrainingError for another recipe; steps, batch and the like may differ.
    """
    content = read_checkpoint(path)
    try:
        theirs = validated(content["recipe"], str(path))
        for section in ("network", "data", "loss", "optimizer", "schedule", "task"):
            if getattr(theirs, section) != getattr(recipe, section):
                raise TrainingError(
                    f"{path} was trained with another [{section}]; use that recipe or start anew"
                )
        student.load_state_dict(content["student"])
        average.model.load_state_dict(content["average"])
        average.updates = content["updates"]
        optimizer.load_state_dict(content["optimizer"])
        torch.set_rng_state(content["torch_rng"])
    except (RecipeError, KeyError, ValueError) as e:
        raise TrainingError(f"{path} is not a checkpoint of this package: {_line(e)}") from e
    except RuntimeError as e:
        if isinstance(e, TrainingError):
            raise
        raise TrainingError(f"{path} holds another network: {_line(e)}") from e
    for item in fields(state):
        if item.name in content:
            setattr(state, item.name, content[item.name])
    return dict(content.get("precision", {}))


def load_average(network: nn.Module, path: Path) -> dict[str, Any]:
    """Loads the averaged weights of a checkpoint into a network of the same shape; returns the checkpoint.

    Raises TrainingError.
    """
    content = read_checkpoint(path)
    try:
        network.load_state_dict(content["average"])
    except RuntimeError as e:
        raise TrainingError(f"{path} holds another network: {_line(e)}") from e
    return content


def origin(path: Path, content: dict[str, Any] | None = None) -> dict[str, Any]:
    """What a file of weights is, for provenance: name, checksum, and of a checkpoint (its `content`) the
    recipe, the step and its own provenance; of a published file its name and licence."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    facts: dict[str, Any] = {"file": path.name, "sha256": digest}
    if content is not None:
        facts |= {key: content.get(key) for key in ("recipe", "step", "commit", "provenance")}
    for name, entry in REGISTRY.items():
        if entry.sha256 == digest:
            facts |= {"published": name, "licence": entry.licence}
    return facts


@cache
def commit() -> str:
    """The commit that trained, with "-dirty" where the tree was changed; empty where git knows nothing."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        run = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return run.stdout.strip()


def _line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
