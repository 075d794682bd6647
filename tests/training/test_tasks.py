"""Tasks: what a batch is, what is learnt from it, and what a teacher's word is worth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_data import drawn
from torch import Tensor, nn

from sharpcam.errors import ConfigError
from sharpcam.frame import Frame
from sharpcam.stills import sharpen_picture
from training import degrade
from training.errors import RecipeError
from training.losses import charbonnier, charbonnier_planes, distillation
from training.networks.student import Conv, viewed
from training.networks.vgg import VGG16Features
from training.recipe import Recipe, load_recipe
from training.tasks import (
    ClipTask,
    FrameTask,
    PictureTask,
    feature_files,
    make_task,
    needs_teacher,
    needs_truth,
    planes,
    to_rgb,
)
from training.weights import REGISTRY

FRAMES = 4


def recipe_of(name: str = "sharpcam", **overrides: Any) -> Recipe:
    tiny: dict[str, Any] = {"data.crop": 32, "data.frames": FRAMES, "train.steps": 10}
    if name == "sharpcam":
        tiny |= {"network.options": {"channels": 32, "depth": 0, "gate": 16}, "loss": {"charbonnier": 1.0}}
    else:
        tiny["network.options"] = {"dim": 8, "num_blocks": [1, 1, 1, 1], "heads": [1, 1, 1, 1]}
    return load_recipe(name, tiny | {key.replace("__", "."): value for key, value in overrides.items()})


def batch(count: int = 4, frames: int = FRAMES, perfect: int = 0) -> tuple[Tensor, Tensor]:
    """Degraded and true clips; the last `perfect` of them are the truth itself."""
    rng = np.random.default_rng(0)
    sharp = np.stack([[degrade.to_i420(degrade.as_float(drawn(32, 32, i)))] * frames for i in range(count)])
    soft = np.clip(np.round(sharp + 6 * rng.standard_normal(sharp.shape)), 0, 255).astype(np.uint8)
    if perfect:
        soft[-perfect:] = sharp[-perfect:]
    return torch.from_numpy(soft), torch.from_numpy(sharp)


class Said(nn.Module):
    """A teacher that always gives the same answer, and remembers what it was shown."""

    def __init__(self, answer: float) -> None:
        super().__init__()
        self.answer = nn.Parameter(torch.tensor(answer))
        self.shown: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.shown.append(x)
        return torch.zeros_like(x) + self.answer


# -- planes --------------------------------------------------------------------------------------------


def test_planes_are_views_in_i420_order() -> None:
    buffer = (
        torch.arange(2 * 3 * 24 * 32, dtype=torch.int64).remainder(251).to(torch.uint8).view(2, 3, 24, 32)
    )
    y, uv = planes(buffer)
    assert y.shape == (2, 3, 1, 16, 32)
    assert uv.shape == (2, 3, 2, 8, 16)
    assert torch.equal(y[1, 2, 0], buffer[1, 2, :16].float())
    assert torch.equal(uv[1, 2, 0].flatten(), buffer[1, 2, 16:20].flatten().float())
    assert torch.equal(uv[1, 2, 1].flatten(), buffer[1, 2, 20:].flatten().float())


def test_rgb_is_that_of_the_simulator() -> None:
    pictures = [degrade.to_i420(degrade.as_float(drawn(32, 48, i))) for i in range(2)]
    rgb = to_rgb(*planes(torch.from_numpy(np.stack(pictures)))).clamp(0, 1)
    assert rgb.shape == (2, 3, 32, 48)
    for mine, picture in zip(rgb, pictures, strict=True):
        assert mine.permute(1, 2, 0).numpy() == pytest.approx(degrade.from_i420(picture), abs=2e-3)
    clips = to_rgb(*planes(torch.from_numpy(np.stack(pictures))[None]))
    assert torch.equal(clips[0].clamp(0, 1), rgb)


# -- the student's task --------------------------------------------------------------------------------


def test_a_step_is_by_its_number_and_sees_a_few_frames() -> None:
    task, clips = make_task(recipe_of()), batch()
    first, parts = task(clips, 3)
    assert torch.equal(first, task(clips, 3)[0])
    assert first.item() == pytest.approx(float(parts["charbonnier"]))
    assert len({round(task(clips, step)[0].item(), 7) for step in range(12)}) > 1


def test_single_frames_begin_without_memory_and_have_no_flicker() -> None:
    losses = {"charbonnier_planes": 1.0, "temporal_planes": 0.5}
    task, (soft, sharp) = make_task(recipe_of(loss=losses, data__singles=0.5)), batch(frames=1)
    total, parts = task((soft, sharp), 3)
    assert set(parts) == {"charbonnier_planes"}
    y, uv = task.student.clip(*planes(soft))  # type: ignore[operator]
    wanted = charbonnier_planes(y[:, 0] - planes(sharp)[0][:, 0], uv[:, 0] - planes(sharp)[1][:, 0])
    assert total.item() == pytest.approx(wanted.item(), rel=1e-5)
    assert set(task(batch(), 3)[1]) == set(losses)


def test_the_loss_is_of_the_restored_clip() -> None:
    task, (soft, sharp) = make_task(recipe_of(data__frames=3)), batch(frames=3)
    total, _ = task((soft, sharp), 0)  # 3 frames: all of them are kept
    y, uv = task.student.clip(*planes(soft))  # type: ignore[operator]
    wanted = charbonnier(to_rgb(y, uv).flatten(0, 1), to_rgb(*planes(sharp)).flatten(0, 1))
    assert total.item() == pytest.approx(wanted.item(), rel=1e-5)


def test_clips_longer_than_the_recipe_s_are_cut() -> None:
    task, (soft, sharp) = make_task(recipe_of(data__frames=2)), batch(frames=6)
    seen = []
    task.student.clip = lambda y, uv, keep, view: seen.append(y.shape[1]) or (y[:, keep], uv[:, keep])  # type: ignore[assignment, func-returns-value, misc]
    for step in range(5):
        task((soft, sharp), step)
    assert set(seen) == {2}


def test_weights_are_int8_from_the_asked_step_on_and_back() -> None:
    task, clips = make_task(recipe_of(train__quantize_from=0.5)), batch()

    def levels() -> set[int]:
        return {m.levels for m in task.student.modules() if isinstance(m, Conv)}

    for step, wanted in ((0, 0), (4, 0), (5, 63), (9, 63), (2, 0)):
        task(clips, step)
        assert levels() == {wanted}


def test_a_teacher_is_shown_a_share_of_one_frame_and_learns_nothing() -> None:
    teacher = Said(0.5)
    task = make_task(recipe_of(loss={"charbonnier": 1.0, "distill": 1.0}, data__taught=0.5), teacher)
    (soft, sharp) = batch(count=4)
    total, parts = task((soft, sharp), 1)
    assert parts.keys() == {"charbonnier", "distill"}
    assert [x.shape for x in teacher.shown] == [(2, 3, 32, 32)]
    frames = to_rgb(*planes(soft))
    assert any(torch.allclose(teacher.shown[0], frames[:2, t], atol=1e-5) for t in range(FRAMES))
    total.backward()
    assert teacher.answer.grad is None
    assert not teacher.training


@pytest.mark.parametrize("view", [0, 16])
def test_the_teacher_s_word_is_about_the_frame_that_it_saw(view: int) -> None:
    """A teacher who repeats what he sees must find a student agreeing who does the same."""

    class Echo(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x

    recipe = recipe_of(loss={"l1_teacher": 1.0}, data__taught=1.0, data__view=view)
    soft = torch.from_numpy(np.random.default_rng(0).integers(40, 200, (2, FRAMES, 48, 32), np.uint8))
    task = make_task(recipe, Echo())
    sides = set()

    def repeat(
        y: Tensor, uv: Tensor, keep: slice, view: tuple[int, int, int] | None
    ) -> tuple[Tensor, Tensor]:
        out = y[:, keep], uv[:, keep]
        out = viewed(out, *view) if view else out
        sides.add(tuple(out[0].shape[-2:]))
        return out

    task.student.clip = repeat  # type: ignore[assignment, method-assign]
    for step in range(6):
        assert float(task((soft, soft), step)[0]) == pytest.approx(0, abs=1e-6)
    assert sides == {(view, view) if view else (32, 32)}


def test_the_teacher_s_word_fades_out_where_there_is_truth() -> None:
    with_truth, without = (
        make_task(recipe_of(loss=loss), Said(0.9))
        for loss in ({"mse": 1.0, "mse_teacher": 1.0}, {"mse_teacher": 1.0})
    )
    clips = batch()
    shares = []
    for step in (0, 5, 9):
        total, parts = with_truth(clips, step)
        shares.append(((total - parts["mse"]) / parts["mse_teacher"]).item())
    assert shares == pytest.approx([1, 0.5, 0.5 * (1 + np.cos(np.pi * 0.9))], abs=1e-3)
    total, parts = without(clips, 9)
    assert parts.keys() == {"mse_teacher"}
    assert total.item() == pytest.approx(float(parts["mse_teacher"]))


def test_the_word_counts_where_it_is_nearer_to_the_truth() -> None:
    truth, student = torch.full((1, 3, 8, 8), 0.5), torch.full((1, 3, 8, 8), 0.6)
    near, far = torch.full_like(truth, 0.52), torch.full_like(truth, 0.8)
    assert distillation(student, near, truth) > 0.05
    assert distillation(student, far, truth) == 0


@pytest.mark.parametrize("kind", ["clips", "frames"])
def test_validation_measures_damaged_and_perfect_input_apart(kind: str) -> None:
    task = make_task(recipe_of("sharpcam" if kind == "clips" else "teacher"))
    task.eval()
    soft, sharp = batch(count=3, perfect=1)
    task.restore = lambda clips: to_rgb(*planes(clips))  # type: ignore[method-assign]
    figures = task.validate(soft, sharp)
    assert figures["psnr"] == figures["psnr_input"]
    assert figures["gain"] == 0
    assert figures["ssim"] == figures["ssim_input"]
    assert figures["kept"] == 60
    assert figures["flicker"] == figures["flicker_input"] > 1
    assert 25 < figures["psnr"] < 35
    only = task.validate(soft[2:], sharp[2:])
    assert only.keys() == {"kept", "flicker", "flicker_input"}
    assert "flicker" not in task.validate(soft[:, :1], sharp[:, :1])


def test_restoring_rounds_as_the_product_does() -> None:
    task, (soft, _) = make_task(recipe_of()), batch()
    with torch.no_grad():
        task.student.tail.bias += 0.3 / 128  # type: ignore[union-attr]
        rgb = task.restore(soft)
    y, uv = task.student.clip(*planes(soft))  # type: ignore[operator]
    assert torch.allclose(rgb, to_rgb(y.round().clamp(0, 255), uv.round().clamp(0, 255)))
    assert not torch.allclose(rgb, to_rgb(y, uv))


# -- the teacher's task --------------------------------------------------------------------------------


def test_the_teacher_learns_from_single_frames() -> None:
    task, (soft, sharp) = make_task(recipe_of("teacher")), batch(count=2)
    assert isinstance(task, FrameTask)
    total, parts = task((soft, sharp), 0)
    assert parts.keys() == load_recipe("teacher").loss.keys()
    total.backward()
    assert all(p.grad is not None for p in task.student.parameters())
    restored = task.restore(soft)
    assert restored.shape == (2, FRAMES, 3, 32, 32)
    alone = task.student(to_rgb(*planes(soft[1, 2:3])))[0]
    assert torch.allclose(restored[1, 2], alone, atol=1e-4)


# -- what cannot be ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "overrides", "error", "message"),
    [
        ("sharpcam", {"loss": {"sharpness": 1.0}}, ConfigError, "unknown loss 'sharpness'"),
        ("sharpcam", {"loss": {"distill": 1.0}}, ConfigError, "no loss has a weight above 0"),
        ("sharpcam", {"loss": {"l1": 1.0, "temporal": 1.0}, "data__frames": 1}, RecipeError, "2 or more"),
        ("sharpcam", {"loss": {"temporal": 1.0}, "data__singles": 0.5}, RecipeError, "data.singles is for"),
        ("sharpcam", {"loss": {"vgg16": 1.0}}, ConfigError, "needs the file of vgg16's weights"),
        ("teacher", {"loss": {"temporal": 1.0}}, RecipeError, "cannot have the loss 'temporal'"),
        ("teacher", {"loss": {"l1_teacher": 1.0}}, RecipeError, "cannot have the loss 'l1_teacher'"),
        ("teacher", {"network.kind": "sponge"}, RecipeError, "unknown network 'sponge'"),
    ],
)
def test_recipes_that_cannot_be_are_refused_before_the_first_step(
    name: str, overrides: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make_task(recipe_of(name, **overrides))


def test_which_losses_ask_a_teacher() -> None:
    assert {n for n in ("l1", "distill", "mse_teacher", "temporal", "unknown") if needs_teacher(n)} == {
        "distill", "mse_teacher",
    }  # fmt: skip
    assert isinstance(make_task(recipe_of()), ClipTask)


# -- single pictures -----------------------------------------------------------------------------------


def pictures(count: int = 3) -> tuple[Tensor, Tensor]:
    sharp = np.stack([drawn(32, 32, i).transpose(2, 0, 1)[None] for i in range(count)])
    soft = np.clip(sharp + 9 * np.random.default_rng(0).standard_normal(sharp.shape), 0, 255).astype(np.uint8)
    return torch.from_numpy(soft), torch.from_numpy(sharp)


def picture_recipe(kind: str = "cnn58k", **overrides: Any) -> Recipe:
    tiny: dict[str, Any] = {"network": {"kind": kind}, "data.crop": 32, "data.side": 0, "loss": {"mse": 1.0}}
    return load_recipe("restormer-unet", tiny | {k.replace("__", "."): v for k, v in overrides.items()})


def test_an_rgb_network_learns_from_what_it_put_out() -> None:
    task, (soft, sharp) = make_task(picture_recipe()), pictures()
    assert isinstance(task, PictureTask)
    total, parts = task((soft, sharp), 0)
    out = task.student(soft[:, 0].float() / 255)
    assert total.item() == pytest.approx(((out - sharp[:, 0].float() / 255) ** 2).mean().item(), rel=1e-5)
    assert parts.keys() == {"mse"}
    assert torch.allclose(task.restore(soft)[:, 0], out, atol=1e-6)


@torch.no_grad()
def test_a_student_s_change_is_added_to_the_picture_as_the_product_adds_it() -> None:
    """The bridge from RGB to planes and back is the product's own, to half a grey level."""
    options = {"channels": 32, "depth": 0, "temporal": False}
    task = make_task(picture_recipe("student", network__options=options)).eval()
    soft, _ = pictures()
    assert torch.allclose(task.restore(soft), task.show(soft), atol=1e-6)  # untrained, it changes nothing
    torch.manual_seed(0)
    torch.nn.init.normal_(task.student.tail.weight, std=0.02)  # type: ignore[union-attr, arg-type]

    class Same:
        """The student as an engine."""

        def process(self, frame: Frame, out: Frame) -> None:
            y, uv = (torch.from_numpy(p.copy()).float() for p in (frame.y, frame.uv))
            answer = task.student(y, uv)[:2]
            for plane, values in zip((out.y, out.uv), answer, strict=True):
                plane[...] = values.clamp(0, 255).round().to(torch.uint8).numpy()

    for i, picture in enumerate(soft[:, 0].permute(0, 2, 3, 1).numpy()):
        product = sharpen_picture(Same(), np.ascontiguousarray(picture))  # type: ignore[arg-type]
        mine = (task.restore(soft[i : i + 1])[0, 0].clamp(0, 1) * 255).permute(1, 2, 0).numpy()
        assert np.abs(product.astype(int) - picture).max() > 3
        assert np.abs(mine - product).max() < 2.5  # a level of chroma is 1.8 of blue
        assert np.abs(mine - product).mean() < 0.3


def test_a_teacher_of_pictures_sees_all_of_them_and_stays_asleep() -> None:
    teacher = nn.Sequential(Said(0.5), nn.Dropout(0.9))
    task = make_task(picture_recipe(loss={"mse": 1.0, "mse_teacher": 2.0}), teacher)
    soft, sharp = pictures()
    task.train()
    assert not teacher.training
    total, parts = task((soft, sharp), 0)
    assert [x.shape for x in teacher[0].shown] == [(3, 3, 32, 32)]
    assert torch.equal(teacher[0].shown[0], soft[:, 0].float() / 255)
    assert total.item() == pytest.approx((parts["mse"] + 2 * parts["mse_teacher"]).item())
    assert total.item() == pytest.approx(task((soft, sharp), task.steps - 1)[0].item())  # no fading here
    total.backward()
    assert all(p.grad is None for p in teacher.parameters())
    alone = make_task(picture_recipe(loss={"mse": 1.0, "mse_teacher": 2.0}))
    assert alone((soft, sharp), 0)[1].keys() == {"mse"}


def test_a_loss_without_truth_does_not_look_at_it() -> None:
    recipe = picture_recipe(loss={"l1_teacher": 1.0, "mse": 0.0})
    assert not needs_truth(recipe)
    assert needs_truth(picture_recipe(loss={"l1_teacher": 1.0, "mse": 0.5}))
    assert needs_truth(picture_recipe(loss={"distill": 1.0}))
    soft, sharp = pictures()
    losses = [make_task(recipe, Said(0.4))((soft, truth), 0)[0] for truth in (sharp, 255 - sharp, sharp * 0)]
    assert torch.equal(losses[0], losses[1])
    assert torch.equal(losses[0], losses[2])


def test_weights_of_a_student_of_pictures_become_int8() -> None:
    options = {"channels": 32, "depth": 0, "temporal": False}
    recipe = picture_recipe("student", network__options=options, train__quantize_from=0.5, train__steps=10)
    task, batch_ = make_task(recipe), pictures()
    for step, wanted in ((4, 0), (5, 63)):
        task(batch_, step)
        assert {m.levels for m in task.student.modules() if isinstance(m, Conv)} == {wanted}


def test_validation_of_pictures() -> None:
    task = make_task(picture_recipe()).eval()
    soft, sharp = pictures()
    task.restore = lambda batch_: task.show(batch_)  # type: ignore[method-assign]
    figures = task.validate(soft, sharp)
    assert figures["psnr"] == figures["psnr_input"]
    assert 25 < figures["psnr"] < 35
    assert "flicker" not in figures


def test_published_weights_are_wanted_by_name_and_nothing_stands_in(tmp_path: Path) -> None:
    recipe = picture_recipe(loss={"mse": 1.0, "vgg16": 0.1, "resnet18": 0.0})
    with pytest.raises(
        ConfigError, match=r"loss 'vgg16' needs vgg16's published weights, and .* not there"
    ) as e:
        feature_files(recipe, tmp_path)
    assert f"python -m training.weights vgg16 --out {tmp_path}" in e.value.hint
    assert "--set loss.vgg16=0" in e.value.hint
    file = tmp_path / REGISTRY["vgg16"].file
    torch.save(VGG16Features().state_dict(), file)
    files = feature_files(recipe, tmp_path)
    assert files == {"vgg16": file}
    task = make_task(recipe, features=files)
    total, parts = task(pictures(1), 0)
    assert parts.keys() == {"mse", "vgg16"}
    total.backward()
    assert task.student.layers[0].weight.grad is not None  # type: ignore[union-attr, index]
    assert all("vgg" not in name for name, p in task.named_parameters() if p.requires_grad)


def test_pictures_do_not_flicker() -> None:
    with pytest.raises(RecipeError, match="single pictures have none"):
        make_task(picture_recipe(loss={"mse": 1.0, "temporal": 0.1}))
