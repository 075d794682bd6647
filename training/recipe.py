"""A recipe: one TOML file that says everything a training run depends on but the data's place on disk.

It is validated by pydantic when a run starts, echoed into every checkpoint and into every exported model.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sharpcam.errors import validation_line
from training.errors import RecipeError

__all__ = ["Network", "Recipe", "RecipeError", "Teacher", "load_recipe", "validated"]

RECIPES = Path(__file__).parent / "recipes"


Share = Annotated[float, Field(ge=0, lt=1)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Network(Section):
    kind: str
    options: dict[str, Any] = Field(default_factory=dict, description="keyword arguments of the network")


class Teacher(Network):
    recipe: str = Field(default="teacher", description="the recipe that trains one where none is given")


class Data(Section):
    """The first eight are for clips, from a simulated webcam; the others for single pictures, which one of
    `training.protocols` makes."""

    frames: int = Field(default=6, ge=1, description="frames per clip")
    crop: int = Field(default=128, ge=32, description="side of what a step sees")
    view: int = Field(
        default=0,
        ge=0,
        description="side of the part of the crop that a step sharpens, with a scene known from all of it; 0: all",
    )
    identity: float = Field(default=0.05, ge=0, le=1, description="share of clips from a perfect camera")
    lenses: float = Field(
        default=0.0, ge=0, le=1, description="share of clips whose camera is a soft lens alone"
    )
    fresh: float = Field(default=0.0, ge=0, le=1, description="share of packed clips seen by another camera")
    singles: float = Field(
        default=0.0, ge=0, lt=1, description="share of the steps that see single frames instead of clips"
    )
    taught: float = Field(default=0.25, gt=0, le=1, description="share of a batch that the teacher looks at")
    protocol: Literal["webcam", "pairs", "faces", "gaussian"] = "webcam"
    side: int = Field(default=0, ge=0, description="side of a whole picture; 0 leaves it as it is")
    blur: float = Field(default=0.0, ge=0, description="gaussian: its sigma in pixels")
    shrink: int = Field(default=1, ge=1, le=8, description="gaussian: scaled down by this and up again")
    only: str = Field(default="", description="regular expression that the paths of files must contain")
    held_out: float = Field(default=0.1, gt=0, lt=1, description="share of the files that only measure")


class Optimizer(Section):
    name: Literal["adam", "adamw", "muon"] = "adamw"
    lr: float = Field(default=1e-3, gt=0)
    betas: tuple[Share, Share] = (0.9, 0.99)
    weight_decay: float = Field(default=0.0, ge=0)
    clip: float = Field(default=1.0, gt=0, description="largest gradient norm")
    only: str = Field(
        default="", description="regular expression: the weights whose names match learn, the others stay"
    )


class Schedule(Section):
    kind: Literal["cosine", "constant", "plateau"] = "cosine"
    warmup: int = Field(default=200, ge=0, description="steps")
    final: float = Field(default=0.01, ge=0, le=1, description="last learning rate over the first")
    factor: float = Field(default=0.5, gt=0, lt=1, description="plateau: learning rate after it over before")
    patience: int = Field(default=5, ge=1, description="plateau: validations that do not improve make one")


class Train(Section):
    steps: int = Field(default=10_000, ge=1)
    minutes: float = Field(
        default=0.0,
        ge=0,
        description="end after as many, the schedule with it, if steps are not over before; 0: never",
    )
    batch: int = Field(default=16, ge=1, description="clips per step over all processes")
    seed: int = 0
    ema: float = Field(default=0.999, ge=0, lt=1)
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    quantize_from: float = Field(
        default=1.0, ge=0, le=1, description="share of the steps before weights are int8"
    )
    validate_every: int = Field(default=500, ge=1)
    checkpoint_every: int = Field(default=500, ge=1)
    watch: Literal["psnr", "ssim"] = Field(default="psnr", description="the figure that decides what is best")
    stop_after: int = Field(default=0, ge=0, description="stop after as many validations without a new best")


class Recipe(Section):
    name: str
    task: Literal["clips", "frames", "pictures"]
    network: Network
    teacher: Teacher | None = None
    data: Data = Data()
    loss: dict[str, float] = Field(min_length=1, description="weight of each term")
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    train: Train = Train()

    @model_validator(mode="after")
    def _data_fit_the_task(self) -> Recipe:
        pictures = self.task == "pictures"
        if self.data.view % 16:
            raise ValueError("data.view: input should be a multiple of 16")
        if not pictures and self.data.crop % 16:
            raise ValueError("data.crop: input should be a multiple of 16")
        if pictures != (self.data.protocol != "webcam"):
            raise ValueError(
                f"task {self.task!r} and data.protocol {self.data.protocol!r} do not belong together:"
                " pictures come from pairs, faces or gaussian, all else from a webcam"
            )
        if pictures and self.data.side and self.data.crop > self.data.side:
            raise ValueError(
                f"data.crop {self.data.crop} does not fit pictures of data.side {self.data.side}"
            )
        return self


def load_recipe(name: str, overrides: dict[str, Any] | None = None) -> Recipe:
    """The recipe of this name, or of this TOML file, with `{"train.steps": 200}`-like overrides on top.

    Raises RecipeError, in one line, when it is unknown or invalid.
    """
    path = Path(name) if name.endswith(".toml") else RECIPES / f"{name}.toml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in RECIPES.glob("*.toml")))
        raise RecipeError(f"no recipe {name!r}; known: {known}, or a .toml file of your own")
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise RecipeError(f"{path}: {e}") from e
    for dotted, value in (overrides or {}).items():
        *sections, key = dotted.split(".")
        target = values
        for section in sections:
            target = target.setdefault(section, {})
            if not isinstance(target, dict):
                raise RecipeError(f"{path}: {dotted}: {section} is a value, not a section")
        target[key] = value
    return validated(values, str(path))


def validated(values: Any, where: str) -> Recipe:
    """`values` as a recipe; raises RecipeError, which begins with `where`, when they are none."""
    try:
        return Recipe.model_validate(values)
    except ValidationError as e:
        raise RecipeError(f"{where}: {validation_line(e.errors())}") from e


def differences(recipe: Recipe, other: Recipe) -> dict[str, Any]:
    """What `recipe` says otherwise than `other`: dotted keys and values, as `load_recipe` takes them. The options
    of a network are one value: what they do not say has defaults, which no value of their own would tell."""
    mine, theirs = (_flat(r.model_dump(mode="json")) for r in (recipe, other))
    return {key: value for key, value in mine.items() if theirs.get(key) != value}


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        whole = not isinstance(value, dict) or key == "options"
        flat |= {f"{prefix}{key}": value} if whole else _flat(value, f"{prefix}{key}.")
    return flat
