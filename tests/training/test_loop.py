"""The training loop: exact resume, whole checkpoints, clean ends, and that it learns at all."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_data import drawn
from torch import Tensor, nn

import training.checkpoint
import training.loop
from training import degrade
from training.checkpoint import (
    State,
    commit,
    load_average,
    load_checkpoint,
    origin,
    read_checkpoint,
    save_checkpoint,
)
from training.data import Clips, ClipSpec
from training.errors import Interrupted, TrainingError
from training.library import Library
from training.loop import (
    Average,
    Prefetch,
    elapsed,
    judge,
    learning_rate,
    make_fabric,
    make_optimizer,
    together,
    train,
)
from training.recipe import Recipe, RecipeError, load_recipe
from training.tasks import Batch, Task, make_task, planes, to_rgb

FABRIC = make_fabric("32-true")
SIDE, FRAMES = 32, 3


def recipe_of(steps: int = 6, **overrides: Any) -> Recipe:
    values = {
        "network.options": {"channels": 32, "depth": 1, "grid": 4, "gate": 16},
        "data.crop": SIDE, "data.frames": FRAMES, "train.steps": steps, "train.batch": 2,
        "train.precision": "32-true", "train.ema": 0.5, "train.validate_every": 100, "train.checkpoint_every": 100,
        "schedule.warmup": 2, "optimizer.lr": 1e-3, "loss": {"charbonnier": 1.0, "temporal": 0.1},
    } | {key.replace("__", "."): value for key, value in overrides.items()}  # fmt: skip
    return load_recipe("sharpcam", values)


def packed_clips(count: int = 5, seed: int = 0, noise: float = 3.0) -> Clips:
    """Stills, blurred and noisy."""
    rng = np.random.default_rng(seed)
    clips = Clips(Library(), ClipSpec(FRAMES, SIDE))
    pairs = []
    for i in range(count):
        sharp = degrade.as_float(drawn(SIDE, SIDE, 10 * seed + i))
        soft = degrade.convolve(sharp, degrade.gaussian_kernel(0.8))
        noisy = [
            soft + np.float32(noise / 255) * rng.standard_normal(soft.shape, np.float32)
            for _ in range(FRAMES)
        ]
        pairs.append([[degrade.to_i420(f) for f in noisy], [degrade.to_i420(sharp)] * FRAMES])
    clips.packed = np.array(pairs, np.uint8)
    return clips


CLIPS, HELD = packed_clips(), packed_clips(3, seed=1)


def run(
    recipe: Recipe, out: Path, *, clips: Clips = CLIPS, held: Clips | None = None, **options: Any
) -> Task:
    task = make_task(recipe)
    train(task, recipe, clips, held, out, fabric=FABRIC, validation_clips=3, **options)
    return task


class Stopping(Clips):
    """Clips that press Ctrl-C when step `at` is being made ready."""

    def __init__(self, clips: Clips, at: int, number: int = signal.SIGINT) -> None:
        super().__init__(clips.library, clips.spec)
        self.packed, self.at, self.number = clips.packed, at, number

    def batch(self, indices: Any) -> tuple[np.ndarray, np.ndarray]:
        indices = list(indices)
        if indices[0] // 2 == self.at:
            os.kill(os.getpid(), self.number)
        return super().batch(indices)


def same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return torch.equal(a, b) if isinstance(a, Tensor) else bool(a == b)


# -- resume --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_half_and_resumed_is_the_whole_bit_for_bit(tmp_path: Path, number: int) -> None:
    """A signal after some steps, then --resume: weights, their average, optimizer and all."""
    recipe = recipe_of(steps=7, train__quantize_from=0.5)
    run(recipe, tmp_path / "whole")
    with pytest.raises(Interrupted, match=r"stopped at step [1-6]; go on with --resume"):
        run(recipe, tmp_path / "halves", clips=Stopping(CLIPS, at=3, number=number))
    stopped = read_checkpoint(tmp_path / "halves" / "last.pt")
    assert 1 <= stopped["step"] <= 5
    run(recipe, tmp_path / "halves", resume=True)
    whole, halves = (read_checkpoint(tmp_path / n / "last.pt") for n in ("whole", "halves"))
    assert halves["step"] == 7
    for key in ("student", "average", "updates", "optimizer", "torch_rng", "step", "recipe", "provenance"):
        assert same(whole[key], halves[key]), key
    assert not same(stopped["student"], halves["student"])
    assert not same(halves["student"], halves["average"])


def test_the_seed_decides_the_weights(tmp_path: Path) -> None:
    torch.manual_seed(1)
    first = make_task(recipe_of()).state_dict()
    noise = torch.rand(3)
    torch.manual_seed(1)
    torch.rand(1)
    assert same(first, make_task(recipe_of()).state_dict())
    assert not same(first, make_task(recipe_of(train__seed=1)).state_dict())
    torch.manual_seed(1)
    assert torch.equal(torch.rand(3), noise)  # and building one moves nobody else's dice


def test_resume_continues_the_figures_and_the_clock(tmp_path: Path) -> None:
    recipe = recipe_of(steps=4, train__validate_every=2)
    run(recipe, tmp_path, held=HELD)
    before = read_checkpoint(tmp_path / "last.pt")
    longer = recipe_of(steps=5, train__validate_every=2)
    run(longer, tmp_path, held=HELD, resume=True)
    after = read_checkpoint(tmp_path / "last.pt")
    assert after["step"] == 5
    assert after["seconds"] > before["seconds"]
    assert after["best"] >= before["best"] > 0
    run(longer, tmp_path, held=HELD, resume=True)  # nothing left to do
    assert read_checkpoint(tmp_path / "last.pt")["step"] == 5


@pytest.mark.parametrize("name", ["network.options.depth", "loss.edge", "optimizer.lr", "schedule.warmup"])
def test_another_recipe_is_not_resumed(tmp_path: Path, name: str) -> None:
    run(recipe_of(steps=1), tmp_path)
    other = recipe_of(steps=1, **{name.replace(".", "__"): 3})
    with pytest.raises(TrainingError, match=rf"was trained with another \[{name.split('.')[0]}\]"):
        run(other, tmp_path, resume=True)


def test_a_run_never_overwrites_another(tmp_path: Path) -> None:
    run(recipe_of(steps=1), tmp_path)
    kept = (tmp_path / "last.pt").read_bytes()
    with pytest.raises(
        TrainingError, match=r"holds a run already: go on with --resume, or choose another --out"
    ):
        run(recipe_of(steps=2), tmp_path)
    assert (tmp_path / "last.pt").read_bytes() == kept


def test_nothing_to_resume(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"^no checkpoint .*last\.pt$"):
        run(recipe_of(), tmp_path, resume=True)


# -- checkpoints ---------------------------------------------------------------------------------------


def parts(recipe: Recipe) -> tuple[nn.Module, Average, torch.optim.Optimizer]:
    student = make_task(recipe).student
    return student, Average(student, 0.9), make_optimizer(student, recipe)


def test_checkpoints_of_older_versions_resume(tmp_path: Path) -> None:
    """As the first commit wrote them: no provenance, no plateaus, no precision."""
    recipe = recipe_of(steps=3)
    run(recipe_of(steps=2), tmp_path)
    content = read_checkpoint(tmp_path / "last.pt")
    for key in ("provenance", "stale", "lr_scale", "precision"):
        del content[key]
    for section, keys in {"train": ("watch", "stop_after"), "schedule": ("factor", "patience")}.items():
        for key in keys:
            del content["recipe"][section][key]
    torch.save(content, tmp_path / "last.pt")
    run(recipe, tmp_path, resume=True, provenance={"teacher": None, "data": {"folders": {"x": 1}}})
    content = read_checkpoint(tmp_path / "last.pt")
    assert content["step"] == 3
    assert content["provenance"] == [{"from_step": 2, "teacher": None, "data": {"folders": {"x": 1}}}]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a readable checkpoint"),
        (b"no checkpoint at all", "not a readable checkpoint"),
        ({"params": {}}, "not a checkpoint of this package"),
        ([1, 2], "not a checkpoint of this package"),
        ({"recipe": {"name": "x"}, "average": {}, "step": 3}, "task: field required"),
        (Path("/etc"), "not a readable checkpoint"),  # a pickled object: nothing of it may run
    ],
)
def test_what_is_no_checkpoint_is_refused_in_one_line(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "last.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    recipe = recipe_of()
    with pytest.raises(TrainingError, match=message) as caught:
        load_checkpoint(path, recipe, *parts(recipe), State())
    assert "last.pt" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_half_a_checkpoint_is_refused(tmp_path: Path) -> None:
    recipe = recipe_of()
    save_checkpoint([tmp_path / "last.pt"], recipe, *parts(recipe), State())
    whole = (tmp_path / "last.pt").read_bytes()
    (tmp_path / "last.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(TrainingError, match="not a readable checkpoint"):
        read_checkpoint(tmp_path / "last.pt")


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    recipe = recipe_of()
    save_checkpoint([tmp_path / "a.pt"], recipe, *parts(recipe), State())
    other = make_task(recipe_of(network__options={"channels": 64, "depth": 1})).student
    with pytest.raises(TrainingError, match=r"a\.pt holds another network: ") as caught:
        load_average(other, tmp_path / "a.pt")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), RuntimeError("unexpected pos 64 vs 0\nmore")]
)
def test_a_full_disk_leaves_the_checkpoint_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    run(recipe_of(steps=2), tmp_path)
    kept = (tmp_path / "last.pt").read_bytes()

    def full(content: object, file: Any) -> None:
        file.write(b"half")
        raise error

    monkeypatch.setattr(training.checkpoint.torch, "save", full)
    with pytest.raises(
        TrainingError, match=r"cannot write .*last\.pt: .*; the checkpoint before it is whole$"
    ) as e:
        run(recipe_of(steps=4), tmp_path, resume=True)
    assert "\n" not in str(e.value)
    assert (tmp_path / "last.pt").read_bytes() == kept
    assert not list(tmp_path.glob("*.part"))
    monkeypatch.undo()
    run(recipe_of(steps=4), tmp_path, resume=True)
    assert read_checkpoint(tmp_path / "last.pt")["step"] == 4


def test_checkpoints_come_as_often_as_asked(tmp_path: Path) -> None:
    run(recipe_of(steps=21, train__checkpoint_every=2, train__batch=1), tmp_path)
    assert {p.name for p in tmp_path.glob("*.pt")} == {"last.pt", "step-20.pt"}
    assert read_checkpoint(tmp_path / "step-20.pt")["step"] == 20
    assert read_checkpoint(tmp_path / "last.pt")["step"] == 21


def test_provenance_keeps_each_stretch_of_steps(tmp_path: Path) -> None:
    data = {"folders": {"photos": 3}}
    teacher = {"file": "best.pt", "sha256": "ab", "kind": "Restormer", "parameters": 5}
    first = {"teacher": teacher, "data": data, "started_from": {"file": "last.pt"}}
    run(recipe_of(steps=2), tmp_path, provenance=first)
    run(recipe_of(steps=3), tmp_path, resume=True, provenance={"teacher": teacher, "data": data})
    run(
        recipe_of(steps=4),
        tmp_path,
        resume=True,
        provenance={"teacher": None, "data": data, "started_from": {}},
    )
    assert read_checkpoint(tmp_path / "last.pt")["provenance"] == [
        {"from_step": 0, **first},
        {"from_step": 3, "teacher": None, "data": data},
    ]


def test_the_origin_of_weights(tmp_path: Path) -> None:
    recipe = recipe_of()
    save_checkpoint([tmp_path / "a.pt"], recipe, *parts(recipe), State(step=9, provenance=[{"from_step": 0}]))
    facts = origin(tmp_path / "a.pt", read_checkpoint(tmp_path / "a.pt"))
    assert facts["file"] == "a.pt"
    assert len(facts["sha256"]) == 64
    assert facts["recipe"]["name"] == "sharpcam"
    assert facts["step"] == 9
    assert facts["provenance"] == [{"from_step": 0}]
    assert origin(tmp_path / "a.pt").keys() == {"file", "sha256"}


def test_no_git_is_no_reason_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    commit.cache_clear()
    monkeypatch.setenv("PATH", "")
    assert commit() == ""
    commit.cache_clear()


# -- ends ----------------------------------------------------------------------------------------------


class Broken(Task):
    """A student of one number that does as it is told at step 3."""

    def __init__(self, what: Any) -> None:
        super().__init__(recipe_of())
        self.student = nn.Linear(1, 1)
        self.what = what

    def forward(
        self, batch: Batch, step: int, passed: float | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        out = self.student(batch[0].float().mean().reshape(1, 1) / 255).sum()
        if step == 3:
            if isinstance(self.what, Exception):
                raise self.what
            out = out * self.what
        return out, {}


def test_a_loss_that_was_no_number_between_two_looks_is_found() -> None:
    """A GPU's losses are looked at a few steps later."""

    def seen(*losses: float) -> tuple[float, float, bool, bool]:
        return together(FABRIC, [torch.tensor([loss, 2.0]) for loss in losses], False, True)

    assert seen(1.0, 3.0) == (3.0, 2.0, False, True)
    for wrong in (math.inf, math.nan):
        value, norm, _, _ = seen(1.0, wrong, 3.0)
        assert not math.isfinite(value)
        assert math.isfinite(norm)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops_the_run_with_its_checkpoint(tmp_path: Path, value: float) -> None:
    recipe = recipe_of(steps=9, train__checkpoint_every=2)
    with pytest.raises(
        TrainingError, match=rf"the loss is -?{value:g}.* at step 3: lower optimizer\.lr; last\.pt"
    ):
        train(Broken(value), recipe, CLIPS, None, tmp_path, fabric=FABRIC)
    content = read_checkpoint(tmp_path / "last.pt")
    assert content["step"] == 2
    assert all(torch.isfinite(p).all() for p in content["student"].values())
    with pytest.raises(TrainingError, match="there is no checkpoint yet"):
        train(Broken(value), recipe_of(steps=9), CLIPS, None, tmp_path / "new", fabric=FABRIC)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"
        ),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 1 bytes."),
        torch.OutOfMemoryError("CUDA out of memory."),
        MemoryError(),
    ],
)
def test_out_of_memory_is_explained(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(TrainingError, match=r"^out of memory: lower train\.batch or data\.crop"):
        train(Broken(error), recipe_of(steps=9), CLIPS, None, tmp_path, fabric=FABRIC)


def test_other_errors_are_left_alone(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="shapes do not match"):
        train(
            Broken(RuntimeError("shapes do not match")),
            recipe_of(steps=9),
            CLIPS,
            None,
            tmp_path,
            fabric=FABRIC,
        )


def test_handlers_and_threads_are_as_before(tmp_path: Path) -> None:
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    run(recipe_of(steps=2), tmp_path / "a")
    with pytest.raises(Interrupted):
        run(recipe_of(steps=9), tmp_path / "b", clips=Stopping(CLIPS, at=2))
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
    for thread in threading.enumerate():
        if "ThreadPoolExecutor" in thread.name:
            thread.join(10)
            assert not thread.is_alive()


def test_a_signal_saves_without_validating_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    validations = []

    def validate(*arguments: object) -> dict[str, float]:
        validations.append(1)
        return {"psnr": 1.0, "gain": 0.0, "ssim": 0.0}

    monkeypatch.setattr(training.loop, "validate", validate)
    with pytest.raises(Interrupted):
        run(recipe_of(steps=50, train__validate_every=1), tmp_path, held=HELD, clips=Stopping(CLIPS, at=3))
    assert read_checkpoint(tmp_path / "last.pt")["step"] == len(validations) + 1  # nobody waits for the last


@pytest.mark.parametrize("at", [2, 3, 4, 5, 6, 7])
def test_stopped_at_a_validation_and_resumed_is_the_whole(tmp_path: Path, at: int) -> None:
    """What a plateau takes from the rate hangs on every validation, that of the step it was stopped at, too."""
    recipe = recipe_of(8, train__validate_every=2, schedule__kind="plateau", schedule__patience=1)
    run(recipe, tmp_path / "whole", held=HELD)
    with pytest.raises(Interrupted):
        run(recipe, tmp_path / "half", held=HELD, clips=Stopping(CLIPS, at=at))
    run(recipe, tmp_path / "half", held=HELD, resume=True)
    for name in ("last.pt", "best.pt"):
        whole, half = (read_checkpoint(tmp_path / folder / name) for folder in ("whole", "half"))
        for key in ("student", "average", "step", "best", "stale", "lr_scale", "figures"):
            assert same(whole[key], half[key]), (name, key)


# -- schedules -----------------------------------------------------------------------------------------


def test_learning_rates_by_their_formulas() -> None:
    cosine = recipe_of(steps=102, optimizer__lr=1.0, schedule__final=0.1)
    assert [learning_rate(cosine, s) for s in (0, 1)] == [0.5, 1.0]
    assert learning_rate(cosine, 2) == 1.0
    assert learning_rate(cosine, 52) == pytest.approx(0.55)
    assert learning_rate(cosine, 27) == pytest.approx(0.1 + 0.9 * (1 + np.cos(np.pi / 4)) / 2)
    assert learning_rate(cosine, 102) == learning_rate(cosine, 500) == pytest.approx(0.1)
    for kind in ("constant", "plateau"):
        flat = recipe_of(steps=102, optimizer__lr=1.0, schedule__kind=kind)
        assert {learning_rate(flat, s) for s in (1, 50, 101)} == {1.0}
    assert learning_rate(recipe_of(schedule__warmup=0, optimizer__lr=1.0), 0) == 1.0


def test_minutes_end_a_run_where_steps_do_not() -> None:
    timed = recipe_of(
        steps=100, train__minutes=2.0, schedule__warmup=0, optimizer__lr=1.0, schedule__final=0.1
    )
    assert elapsed(timed, 10, 0) == pytest.approx(0.1)
    assert elapsed(timed, 10, 60) == pytest.approx(0.5)
    assert elapsed(timed, 10, 600) == elapsed(timed, 500, 0) == 1
    assert elapsed(recipe_of(steps=100), 10, 1e6) == pytest.approx(0.1)
    assert learning_rate(timed, 10, 0.5) == pytest.approx(0.55)
    assert learning_rate(timed, 10, 1.0) == pytest.approx(0.1)


def test_a_run_by_the_clock_ends_with_its_schedule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that goes on by six seconds whenever the loop looks at it: a minute has ten steps."""

    class Clock:
        now = 0.0

        def monotonic(self) -> float:
            self.now += 6
            return self.now

    monkeypatch.setattr(training.loop, "time", Clock())
    rates: list[float] = []

    def noted(*arguments: Any) -> float:
        rates.append(learning_rate(*arguments))
        return rates[-1]

    monkeypatch.setattr(training.loop, "learning_rate", noted)
    recipe = recipe_of(steps=1000, train__minutes=1.0, train__quantize_from=0.5, schedule__warmup=0)
    task = run(recipe, tmp_path)
    content = read_checkpoint(tmp_path / "last.pt")
    assert content["step"] == 10
    assert content["seconds"] == 60
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 0.1 * rates[0]
    assert task.quantized


def test_plateaus_lower_the_rate_and_a_new_best_counts_anew() -> None:
    recipe = recipe_of(
        schedule__kind="plateau", schedule__patience=2, schedule__factor=0.5, schedule__final=0.2
    )
    state, scales, best = State(), [], []
    for psnr in (30, 31, 30, 31, 32, 31, 31, 31, 31, 31, 31):
        state.figures = {"psnr": float(psnr)}
        best.append(judge(state, recipe))
        scales.append(state.lr_scale)
    assert best == [True, True, False, False, True, *[False] * 6]
    assert scales == [1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.2, 0.2, 0.2]


def test_the_watched_figure_decides_and_perfect_clips_have_one_too() -> None:
    state = State(figures={"psnr": 30.0, "ssim": 0.8})
    assert judge(state, recipe_of(train__watch="ssim"))
    assert state.best == 0.8
    state = State(figures={"kept": 50.0})
    assert judge(state, recipe_of())
    assert state.best == 50
    assert not judge(State(figures={}), recipe_of())


def test_early_stopping_and_plateaus_in_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = iter([30.0, 31.0, 30.5, 30.4, 30.3, 99.0])

    def validate(*arguments: object) -> dict[str, float]:
        return {"psnr": next(figures), "gain": 0.0, "ssim": 0.5}

    monkeypatch.setattr(training.loop, "validate", validate)
    recipe = recipe_of(
        steps=40, train__validate_every=2, train__stop_after=3, schedule__kind="plateau", schedule__patience=2
    )
    run(recipe, tmp_path, held=HELD)
    content = read_checkpoint(tmp_path / "last.pt")
    assert content["step"] == 10
    assert (content["best"], content["stale"], content["lr_scale"]) == (31.0, 3, 0.5)
    assert content["optimizer"]["param_groups"][0]["lr"] == pytest.approx(0.5e-3)
    assert read_checkpoint(tmp_path / "best.pt")["step"] == 4


# -- learning ------------------------------------------------------------------------------------------


def test_one_pair_is_learnt_by_heart(tmp_path: Path) -> None:
    clips = packed_clips(1, noise=0.0)
    clips.batch = lambda indices: (clips.packed[[0] * len(indices), 0], clips.packed[[0] * len(indices), 1])  # type: ignore[method-assign, assignment, index]
    recipe = recipe_of(
        steps=120, train__batch=1, optimizer__lr=1e-3, loss={"mse": 1.0}, train__ema=0.0, data__frames=1,
        network__options={"channels": 64, "depth": 1, "gate": 16, "temporal": False},
    )  # fmt: skip
    task = make_task(recipe)
    figures = train(task, recipe, clips, clips, tmp_path, fabric=FABRIC, validation_clips=1)
    assert figures["psnr_input"] < 29
    assert figures["psnr"] > 35


@pytest.mark.parametrize("kind", ["muon", "adamw"])
def test_what_shall_not_learn_stays_as_it_is(tmp_path: Path, kind: str) -> None:
    options = {"channels": 32, "depth": 1, "grid": 4, "gate": 16, "scene": True, "chroma": 16}
    recipe = recipe_of(
        4, network__options=options, optimizer__only="^(chroma_|tail.bias)", optimizer__name=kind
    )
    before = make_task(recipe).student.state_dict()
    run(recipe, tmp_path / "a")
    after = read_checkpoint(tmp_path / "a" / "last.pt")["student"]
    moved = {name for name, weight in after.items() if not torch.equal(weight, before[name])}
    chroma = {name for name in after if name.startswith("chroma_")}
    assert moved <= chroma | {"tail.bias"}
    assert {"tail.bias", "chroma_out.weight", "chroma_in.weight"} <= moved
    for wrong, why in (("nothing", "has no weights named like 'nothing'"), ("(", "is no regular expression")):
        with pytest.raises(RecipeError, match=why):
            run(recipe_of(4, network__options=options, optimizer__only=wrong), tmp_path / "b")


def test_the_average_follows_and_is_what_is_measured(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Linear(2, 2)
    average = Average(model, 0.9)
    expected = model.weight.detach().clone()
    for n in range(1, 30):
        with torch.no_grad():
            model.weight += 1
        average.update(model)
        decay = min(0.9, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * model.weight.detach()
        assert torch.allclose(average.model.weight, expected, atol=1e-4)
    assert not average.model.weight.requires_grad
    seen = []

    class Watched(Broken):
        def validate(self, soft: Tensor, sharp: Tensor) -> dict[str, float]:
            assert not self.training
            seen.append(self.student.weight.detach().clone())
            return {"psnr": 1.0, "gain": 0.0, "ssim": 0.0}

        def restore(self, soft: Tensor) -> Tensor:
            return to_rgb(*planes(soft))

    task = Watched(1.0)
    train(task, recipe_of(steps=3, train__ema=0.5), CLIPS, HELD, tmp_path, fabric=FABRIC)
    content = read_checkpoint(tmp_path / "last.pt")
    assert torch.equal(seen[-1], content["average"]["weight"])
    assert not torch.equal(seen[-1], content["student"]["weight"])
    assert torch.equal(task.student.weight, content["average"]["weight"])  # what train leaves behind


def test_prefetch_makes_every_batch_once_in_order() -> None:
    for workers in (1, 3):
        with Prefetch(CLIPS, 2, 3, 9, FABRIC, workers) as batches:
            made = list(batches)
        assert len(made) == 6
        for step, (soft, sharp) in zip(range(3, 9), made, strict=True):
            wanted = CLIPS.batch(range(2 * step, 2 * step + 2))
            assert np.array_equal(soft.numpy(), wanted[0])
            assert np.array_equal(sharp.numpy(), wanted[1])


def test_a_log_without_a_terminal_has_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(training.loop, "LOG_EVERY", 2)
    run(recipe_of(steps=5, train__validate_every=4), tmp_path, held=HELD)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["step 2/5", "step 4/5", "step 4", "step 5"]
    assert "psnr_input" in lines[2]
    assert list((tmp_path / "tensorboard").iterdir())


# -- many processes ------------------------------------------------------------------------------------

SHARED = """
import sys
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads(1)
from pathlib import Path
from test_loop import CLIPS, HELD, recipe_of
from training.loop import train
from training.tasks import make_task
recipe = recipe_of(steps=4, train__validate_every=2)
train(make_task(recipe), recipe, CLIPS, HELD, Path({out!r}), validation_clips=3)
"""


def test_two_processes_share_a_batch_and_learn_the_same(tmp_path: Path) -> None:
    recipe = recipe_of(steps=4, train__validate_every=2)
    run(recipe, tmp_path / "one", held=HELD)
    script = tmp_path / "shared.py"
    script.write_text(SHARED.format(tests=str(Path(__file__).parent), out=str(tmp_path / "two")))
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        str(script),
    ]
    environment = os.environ | {"PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    one, two = (read_checkpoint(tmp_path / n / "last.pt") for n in ("one", "two"))
    for name, weight in one["student"].items():
        assert two["student"][name] == pytest.approx(weight, abs=2e-5), name
    assert two["figures"] == pytest.approx(one["figures"], abs=1e-2)
    assert two["step"] == 4
    assert done.stdout.count("step 4 ") == 1  # one of them speaks
