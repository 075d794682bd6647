"""A recipe: one TOML file that says everything a training run depends on but the data's place on disk.

It is validated by pydantic when a run starts, echoed into every checkpoint and into every exported model.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

RECIPES = Path(__file__).parent / "recipes"


class RecipeError(ValueError):
    """A recipe is unknown or says something that cannot be."""


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Network(Section):
    kind: str
    options: dict[str, Any] = Field(default_factory=dict, description="keyword arguments of the network")


class Data(Section):
    frames: int = Field(6, ge=1, description="frames per clip")
    crop: int = Field(128, ge=32, multiple_of=16)
    identity: float = Field(0.08, ge=0, le=1, description="share of clips from a perfect camera")
    taught: float = Field(0.25, gt=0, le=1, description="share of a batch that the teacher looks at")


class Optimizer(Section):
    name: Literal["adam", "adamw"] = "adamw"
    lr: float = Field(1e-3, gt=0)
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = Field(0.0, ge=0)
    clip: float = Field(1.0, gt=0, description="largest gradient norm")


class Schedule(Section):
    kind: Literal["cosine", "constant"] = "cosine"
    warmup: int = Field(200, ge=0, description="steps")
    final: float = Field(0.01, ge=0, le=1, description="last learning rate over the first")


class Train(Section):
    steps: int = Field(10_000, ge=1)
    batch: int = Field(16, ge=1, description="clips per step over all processes")
    seed: int = 0
    ema: float = Field(0.999, ge=0, lt=1)
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    quantize_from: float = Field(1.0, ge=0, le=1, description="share of the steps before weights are int8")
    validate_every: int = Field(500, ge=1)
    checkpoint_every: int = Field(500, ge=1)


class Recipe(Section):
    name: str
    task: Literal["clips", "frames"]
    network: Network
    teacher: Network | None = None
    data: Data = Data()
    loss: dict[str, float] = Field(min_length=1, description="weight of each term")
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    train: Train = Train()


def load_recipe(name: str, overrides: dict[str, Any] | None = None) -> Recipe:
    """The recipe of this name, or of this TOML file, with `{"train.steps": 200}`-like overrides on top.

    Raises RecipeError, in one line, when it is unknown or invalid.
    """
    path = Path(name) if name.endswith(".toml") else RECIPES / f"{name}.toml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in RECIPES.glob("*.toml")))
        raise RecipeError(f"no recipe {name!r}; known: {known}")
    try:
        values = tomllib.loads(path.read_text())
    except tomllib.TOMLDecodeError as e:
        raise RecipeError(f"{path}: {e}") from e
    for dotted, value in (overrides or {}).items():
        section, _, key = dotted.rpartition(".")
        target = values
        for part in filter(None, section.split(".")):
            target = target.setdefault(part, {})
        target[key] = value
    try:
        return Recipe.model_validate(values)
    except ValidationError as e:
        first = e.errors()[0]
        where = ".".join(str(p) for p in first["loc"])
        raise RecipeError(f"{path}: {where}: {first['msg']}") from e
