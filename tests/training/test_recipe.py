"""Recipes: what is shipped loads and builds; what is wrong is said in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from training.errors import RecipeError
from training.recipe import RECIPES, Network, Recipe, load_recipe
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
        ({"optimizer.name": "sgd"}, r"optimizer\.name: input should be 'adam', 'adamw' or 'muon'"),
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


PICTURES = {"task": "pictures", "data.protocol": "gaussian", "data.side": 96, "data.crop": 96}


def test_pictures_have_a_protocol_and_clips_a_webcam(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.toml", MINIMAL)
    assert load_recipe(path, PICTURES | {"data.crop": 50}).data.crop == 50  # no multiple of 16 for them
    for changes in ({"data.protocol": "webcam"}, {"task": "clips"}):
        with pytest.raises(RecipeError, match=r"task '.*' and data\.protocol '.*' do not belong together"):
            load_recipe(path, PICTURES | changes)
    with pytest.raises(RecipeError, match=r"data\.crop 112 does not fit pictures of data\.side 96"):
        load_recipe(path, PICTURES | {"data.crop": 112})
    assert load_recipe(path, PICTURES | {"data.side": 0, "data.crop": 112}).data.crop == 112


PINNED: dict[str, dict[str, Any]] = {
    "restormer-unet": {
        "network": "unet32", "teacher": "restormer", "data": {"protocol": "pairs", "crop": 100, "side": 0},
        "losses": {"l1", "vgg16", "ssim", "charbonnier", "l1_teacher"}, "plateau": "ssim", "steps": None,
    },
    "unet-lightunet": {
        "network": "lightunet20k", "teacher": "unet469k",
        "data": {"protocol": "faces", "side": 128, "crop": 128, "held_out": 0.2},
        "losses": {"mse_teacher": 0.7, "mse": 0.3, "ssim": 0.1}, "plateau": "ssim", "steps": 50 * 6400 // 32,
    },
    "unet-lightunet-teacher": {
        "network": "unet469k", "teacher": None, "data": {"protocol": "faces", "side": 128, "crop": 128},
        "losses": {"mse": 0.5, "ssim": 0.5}, "plateau": "ssim", "steps": 50 * 6400 // 16,
    },
    "resnet18-cnn": {
        "network": "cnn58k", "teacher": None, "data": {"protocol": "gaussian", "side": 384, "crop": 384},
        "losses": {"mse": 1.0, "resnet18": 0.1}, "plateau": None, "steps": 200 * 800 // 4,
    },
    "unet-resunet": {
        "network": "resunet405k", "teacher": "resunet1m3",
        "data": {"protocol": "gaussian", "side": 256, "crop": 256, "blur": 1.5, "shrink": 2},
        "losses": {"mse_teacher": 1.0, "mse": 1.0}, "plateau": "psnr", "steps": 10 * 2800 // 4,
    },
    "unet-resunet-teacher": {
        "network": "resunet1m3", "teacher": None,
        "data": {"protocol": "gaussian", "side": 256, "crop": 256, "blur": 1.5, "shrink": 2},
        "losses": {"l1": 1.0, "ssim": 0.5}, "plateau": "psnr", "steps": 10 * 2800 // 4,
    },
    "restormer-cnn": {
        "network": "cnn76k", "teacher": "restormer", "data": {"protocol": "pairs", "side": 256, "crop": 256},
        "losses": {"l1_teacher": 1.0}, "plateau": None, "steps": 2 * 1029 // 4,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", PINNED)
def test_the_published_recipes_say_what_the_reports_say(name: str) -> None:
    recipe, said = load_recipe(name), PINNED[name]
    assert recipe.task == "pictures"
    assert recipe.network.kind == said["network"]
    assert (recipe.teacher and recipe.teacher.kind) == said["teacher"]
    assert recipe.data.model_dump() | said["data"] == recipe.data.model_dump()
    losses = said["losses"]
    assert recipe.loss == losses if isinstance(losses, dict) else recipe.loss.keys() == losses
    assert recipe.optimizer.name == "adam"
    assert recipe.optimizer.betas == (0.9, 0.999)
    assert recipe.schedule.kind == ("plateau" if said["plateau"] else "constant")
    if said["plateau"]:
        assert recipe.train.watch == said["plateau"]
    assert said["steps"] in (None, recipe.train.steps)
    assert recipe.train.ema == 0
    if recipe.teacher:  # what trains a teacher trains this one, on the same pictures
        taught = load_recipe(recipe.teacher.recipe)
        assert taught.network == Network(kind=recipe.teacher.kind, options=recipe.teacher.options)
        assert taught.data.protocol == recipe.data.protocol


def test_early_stops_and_checkpoints_are_the_reports() -> None:
    assert load_recipe("unet-lightunet").train.stop_after == 8
    assert load_recipe("unet-lightunet-teacher").train.stop_after == 5
    for name, epoch in (("unet-lightunet", 200), ("unet-lightunet-teacher", 400), ("resnet18-cnn", 200)):
        train = load_recipe(name).train
        assert train.validate_every == train.checkpoint_every == epoch  # step-N.pt every tenth
    assert [load_recipe(n).optimizer.lr for n in ("unet-lightunet", "resnet18-cnn", "restormer-cnn")] == [
        1e-3, 1e-4, 1e-4,
    ]  # fmt: skip


def test_recipes_do_not_change_under_way() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        load_recipe("sharpcam").train.steps = 3  # type: ignore[misc]


def test_networks_that_cannot_be_are_recipe_errors() -> None:
    recipe = load_recipe("sharpcam", {"network.kind": "sponge"})
    with pytest.raises(RecipeError, match=r"unknown network 'sponge'; known: .*student"):
        build(recipe.network)
    with pytest.raises(RecipeError, match=r"network 'student': .*depht"):
        build(load_recipe("sharpcam", {"network.options.depht": 3}).network)
    with pytest.raises(RecipeError, match=r"network 'restormer': "):  # what the network itself refuses
        build(Network(kind="restormer", options={"layer_norm": "sponge"}))
