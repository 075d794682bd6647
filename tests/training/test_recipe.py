"""Recipes: what is shipped loads and builds; what is wrong is said in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from training.errors import RecipeError
from training.recipe import RECIPES, Recipe, load_recipe
from training.tasks import build

SHIPPED = sorted(p.stem for p in RECIPES.glob("*.toml"))


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


MINIMAL = 'name = "r"\ntask = "clips"\n[network]\nkind = "student"\n[loss]\ncharbonnier = 1.0\n'


OLD = """{"name": "sharpcam", "task": "clips",
"network": {"kind": "student", "options": {"channels": 32, "depth": 3, "grid": 4, "gate": 32}}, "teacher": null,
"data": {"frames": 6, "crop": 128, "identity": 0.08, "taught": 0.25}, "loss": {"charbonnier": 1.0},
"optimizer": {"name": "adamw", "lr": 0.003, "betas": [0.9, 0.99], "weight_decay": 0.0, "clip": 1.0},
"schedule": {"kind": "cosine", "warmup": 200, "final": 0.01},
"train": {"steps": 12000, "batch": 8, "seed": 0, "ema": 0.999, "precision": "bf16-mixed", "quantize_from": 0.6,
"validate_every": 500, "checkpoint_every": 500}}"""


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_recipes_load_build_and_survive_a_checkpoint(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert Recipe.model_validate(json.loads(json.dumps(recipe.model_dump(mode="json")))) == recipe
    build(recipe.network)
    if recipe.teacher:
        build(recipe.teacher)


def test_there_are_recipes() -> None:
    assert {"sharpcam", "teacher"} <= set(SHIPPED)


def test_recipes_of_older_checkpoints_load() -> None:
    """As the first commit wrote them, before plateaus and early stopping."""
    recipe = Recipe.model_validate(json.loads(OLD))
    assert recipe.train.stop_after == 0
    assert recipe.schedule == type(recipe.schedule)(kind="cosine")


def test_a_recipe_of_one_s_own_and_overrides_at_any_depth(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.toml", MINIMAL)
    recipe = load_recipe(
        path, {"train.steps": 7, "loss.edge": 0.5, "network.options.depth": 1, "optimizer.betas": [0.5, 0.6]}
    )
    assert recipe.train.steps == 7
    assert recipe.loss == {"charbonnier": 1.0, "edge": 0.5}
    assert recipe.network.options == {"depth": 1}
    assert recipe.optimizer.betas == (0.5, 0.6)
    assert load_recipe(path).train.steps == 10_000


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"train.stepz": 7}, r"train\.stepz: this key is not known"),
        ({"colour": "red"}, r"colour: this key is not known"),
        ({"train.steps": "many"}, r"train\.steps: input should be a valid integer"),
        ({"train.steps": 0}, r"train\.steps: input should be greater than or equal to 1"),
        ({"data.crop": 100}, r"data\.crop: input should be a multiple of 16"),
        ({"optimizer.name": "sgd"}, r"optimizer\.name: input should be 'adam' or 'adamw'"),
        ({"schedule.kind": "linear"}, r"schedule\.kind: input should be 'cosine', 'constant' or 'plateau'"),
        ({"loss": {}}, r"loss: dictionary should have at least 1 item"),
        ({"loss.edge": "much"}, r"loss\.edge: input should be a valid number"),
        ({"name.first": "x"}, r"name\.first: name is a value, not a section"),
        ({"train.steps.x": 1, "train.steps": 3}, r"."),
    ],
)
def test_what_is_wrong_is_named_in_one_line(tmp_path: Path, overrides: dict[str, Any], message: str) -> None:
    path = write(tmp_path / "mine.toml", MINIMAL + "[train]\nsteps = 5\n")
    with pytest.raises(RecipeError, match=message) as caught:
        load_recipe(path, overrides)
    assert "\n" not in str(caught.value)
    assert "mine.toml" in str(caught.value)


def test_missing_keys_unreadable_files_and_unknown_names(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"^no recipe 'sharpkam'; known: .*sharpcam.*, or a \.toml file"):
        load_recipe("sharpkam")
    with pytest.raises(RecipeError, match="no recipe"):
        load_recipe(str(tmp_path / "gone.toml"))
    with pytest.raises(RecipeError, match=r"task: field required"):
        load_recipe(write(tmp_path / "a.toml", 'name = "x"\n'))
    with pytest.raises(RecipeError, match=r"b\.toml: "):
        load_recipe(write(tmp_path / "b.toml", "name = \n"))
    (tmp_path / "c.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match=r"c\.toml: "):
        load_recipe(str(tmp_path / "c.toml"))


def test_recipes_do_not_change_under_way() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        load_recipe("sharpcam").train.steps = 3  # type: ignore[misc]


def test_networks_that_cannot_be_are_recipe_errors() -> None:
    recipe = load_recipe("sharpcam", {"network.kind": "sponge"})
    with pytest.raises(RecipeError, match=r"unknown network 'sponge'; known: .*student"):
        build(recipe.network)
    with pytest.raises(RecipeError, match=r"network 'student': .*depht"):
        build(load_recipe("sharpcam", {"network.options.depht": 3}).network)
