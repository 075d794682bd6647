"""The training loop, for one process or many: read it from top to bottom.

Exact resume: a checkpoint holds everything that the next step depends on, and which clips a step sees follows
from its number alone. On a CPU, N steps and N/2 + resume give the same weights bit for bit.
"""

from __future__ import annotations

import copy
import math
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn

from training.data import Clips
from training.recipe import Recipe
from training.tasks import Batch, Task, planes, to_rgb


class TrainingError(RuntimeError):
    """Training cannot go on; the last checkpoint is whole."""


class Interrupted(KeyboardInterrupt):
    """Stopped by the user, after a checkpoint."""


def train(
    task: Task, recipe: Recipe, clips: Clips, validation: Clips | None, out: Path, *, resume: bool = False,
    validation_clips: int = 32, fabric: Fabric | None = None,
) -> dict[str, float]:  # fmt: skip
    """Trains `task.student` as `recipe` says, into the folder `out`; returns the last validation's figures.

    Writes `last.pt` (resume), `best.pt` (best PSNR of the averaged weights), `step-N.pt`, TensorBoard scalars and
    picture strips. Raises TrainingError (NaN loss, out of memory) and Interrupted (Ctrl-C, SIGTERM).
    """
    settings = recipe.train
    fabric = fabric or Fabric(accelerator="auto", devices=1, precision=settings.precision)
    fabric.launch()
    fabric.seed_everything(settings.seed)
    if settings.batch % fabric.world_size:
        raise TrainingError(f"batch {settings.batch} does not divide among {fabric.world_size} processes")
    task.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = Average(task.student, settings.ema)
    optimizer = make_optimizer(task.student, recipe)
    model, optimizer = fabric.setup(task, optimizer)
    average.model.to(fabric.device)
    state = {"step": 0, "best": -math.inf, "figures": {}, "seconds": 0.0}
    if resume:
        load_checkpoint(out / "last.pt", recipe, task.student, average, optimizer, state)
    if fabric.is_global_zero:
        out.mkdir(parents=True, exist_ok=True)
        (out / "recipe.json").write_text(recipe.model_dump_json(indent=2))
    board = Board(out / "tensorboard") if fabric.is_global_zero else None
    held = _validation_batches(validation, validation_clips) if validation and fabric.is_global_zero else []

    def save(*names: str) -> None:
        if fabric.is_global_zero:
            save_checkpoint([out / n for n in names], recipe, task.student, average, optimizer, state)

    stop = StopRequest()
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}"), disable=not fabric.is_global_zero, refresh_per_second=1,
    )  # fmt: skip
    with stop, bar, Prefetch(clips, settings.batch, state["step"], settings.steps, fabric) as batches:
        line = bar.add_task(recipe.name, total=settings.steps, completed=state["step"], figures="")
        started = time.monotonic() - state["seconds"]
        for step in range(state["step"], settings.steps):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(recipe, step)
            try:
                with fabric.autocast():
                    loss, parts = model(next(batches), step)
                optimizer.zero_grad()
                fabric.backward(loss)
                norm = fabric.clip_gradients(
                    model, optimizer, max_norm=recipe.optimizer.clip, error_if_nonfinite=False
                )
            except torch.OutOfMemoryError as e:
                raise TrainingError(
                    "out of memory: lower train.batch or data.crop; resume with --resume"
                ) from e
            if not math.isfinite(value := float(fabric.all_reduce(loss.detach()))) or not torch.isfinite(
                norm
            ):
                raise TrainingError(
                    f"the loss is {value} at step {step}: lower optimizer.lr; the last checkpoint is whole"
                )
            optimizer.step()
            average.update(task.student)
            state["step"], state["seconds"] = step + 1, time.monotonic() - started
            bar.update(line, completed=step + 1)
            done = step + 1 == settings.steps or stop.requested
            if board and (step % 20 == 0 or done):
                board.scalars(
                    step + 1, {"loss": value, "lr": learning_rate(recipe, step), "gradient": float(norm)}
                )
                board.scalars(step + 1, {f"loss/{k}": float(v) for k, v in parts.items()})
            if held and ((step + 1) % settings.validate_every == 0 or done):
                state["figures"] = figures = validate(task, average, held)
                if board:
                    board.scalars(step + 1, {f"validation/{k}": v for k, v in figures.items()})
                    board.strip(step + 1, task, average, held[0])
                text = "  ".join(f"{k} {v:.3f}" for k, v in figures.items())
                bar.update(
                    line,
                    figures=f"PSNR {figures['psnr']:.2f} ({figures['gain']:+.2f})  SSIM {figures['ssim']:.4f}",
                )
                bar.console.print(
                    f"step {step + 1}  loss {value:.5f}  {text}  {state['seconds']:.0f} s", soft_wrap=True
                )
                if figures["psnr"] > state["best"]:
                    state["best"] = figures["psnr"]
                    save("best.pt")
            if (step + 1) % settings.checkpoint_every == 0 or done:
                save(
                    "last.pt",
                    *([f"step-{step + 1}.pt"] if (step + 1) % (10 * settings.checkpoint_every) == 0 else []),
                )
            if stop.requested:
                raise Interrupted(f"stopped at step {step + 1}; go on with --resume")
    average.copy_to(task.student)
    return dict(state["figures"])


# -- the parts -------------------------------------------------------------------------------------------


def learning_rate(recipe: Recipe, step: int) -> float:
    """Linear warm-up, then constant or a cosine to `final`."""
    schedule, lr = recipe.schedule, recipe.optimizer.lr
    if step < schedule.warmup:
        return lr * (step + 1) / schedule.warmup
    if schedule.kind == "constant":
        return lr
    progress = (step - schedule.warmup) / max(1, recipe.train.steps - schedule.warmup)
    return lr * (schedule.final + (1 - schedule.final) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


def make_optimizer(student: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    kind = torch.optim.AdamW if recipe.optimizer.name == "adamw" else torch.optim.Adam
    o = recipe.optimizer
    return kind(student.parameters(), lr=o.lr, betas=o.betas, weight_decay=o.weight_decay)


class Average:
    """Exponential moving average of a model's weights, quick at first (as in timm's ModelEmaV3)."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False).eval()
        self.decay, self.updates = decay, 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        mine, theirs = list(self.model.parameters()), [p.detach() for p in model.parameters()]
        torch._foreach_lerp_(mine, theirs, 1 - decay)
        for kept, new in zip(self.model.buffers(), model.buffers(), strict=True):
            kept.copy_(new)

    def copy_to(self, model: nn.Module) -> None:
        model.load_state_dict(self.model.state_dict())


def validate(task: Task, average: Average, held: list[Batch]) -> dict[str, float]:
    """Mean figures of the averaged weights over the held-out batches."""
    student, training = task.student, task.training
    task.student = average.model
    task.eval()
    try:
        device = next(average.model.parameters()).device
        rows = [task.validate(soft.to(device), sharp.to(device)) for soft, sharp in held]
    finally:
        task.student = student
        task.train(training)
        if (teacher := getattr(task, "teacher", None)) is not None:
            teacher.eval()
    return {k: float(np.mean([r[k] for r in rows if k in r])) for k in {k: 0 for r in rows for k in r}}


def _validation_batches(validation: Clips, count: int, batch: int = 4) -> list[Batch]:
    arrays = [validation.batch(range(i, min(i + batch, count))) for i in range(0, count, batch)]
    return [(torch.from_numpy(a), torch.from_numpy(b)) for a, b in arrays]


class Prefetch:
    """Batches of the steps to come, made by a thread while the step before them is computed."""

    def __init__(self, clips: Clips, batch: int, first: int, last: int, fabric: Fabric) -> None:
        self.clips, self.batch, self.steps, self.fabric = clips, batch, iter(range(first, last)), fabric

    def _load(self, step: int) -> Batch:
        share = self.batch // self.fabric.world_size
        start = step * self.batch + self.fabric.global_rank * share
        soft, sharp = self.clips.batch(range(start, start + share))
        return torch.from_numpy(soft), torch.from_numpy(sharp)

    def __enter__(self) -> Iterator[Batch]:
        self.pool = ThreadPoolExecutor(1)
        return self._batches()

    def _batches(self) -> Iterator[Batch]:
        ahead = [self.pool.submit(self._load, s) for s in [next(self.steps, None)] if s is not None]
        while ahead:
            current = ahead.pop()
            if (upcoming := next(self.steps, None)) is not None:
                ahead.append(self.pool.submit(self._load, upcoming))
            soft, sharp = current.result()
            yield soft.to(self.fabric.device), sharp.to(self.fabric.device)

    def __exit__(self, *exc: object) -> None:
        self.pool.shutdown(wait=False, cancel_futures=True)


class StopRequest:
    """Turns the first Ctrl-C or SIGTERM into a request to stop after this step, with a checkpoint."""

    def __init__(self) -> None:
        self.requested = False
        self._old: dict[int, Any] = {}

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a second Ctrl-C does not wait

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._old[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)


class Board:
    """TensorBoard scalars and before/teacher/student/truth strips."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter  # type: ignore[attr-defined]

        self.writer = SummaryWriter(str(folder))  # type: ignore[no-untyped-call]

    def scalars(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def strip(self, step: int, task: Task, average: Average, batch: Batch) -> None:
        soft, sharp = (b[:4].to(next(average.model.parameters()).device) for b in batch)
        columns = [to_rgb(*planes(soft))[:, -1]]
        if (teacher := getattr(task, "teacher", None)) is not None:
            columns.append(teacher(columns[0]).float())
        student, task.student = task.student, average.model
        columns.append(task.restore(soft)[:, -1])
        task.student = student
        columns.append(to_rgb(*planes(sharp))[:, -1])
        rows = [torch.cat([c[i] for c in columns], dim=2) for i in range(len(soft))]
        self.writer.add_image(
            "before, teacher, student, truth", torch.cat(rows, dim=1).clamp(0, 1).cpu(), step
        )  # type: ignore[no-untyped-call]


# -- checkpoints -----------------------------------------------------------------------------------------


def save_checkpoint(
    paths: list[Path],
    recipe: Recipe,
    student: nn.Module,
    average: Average,
    optimizer: Any,
    state: dict[str, Any],
) -> None:
    """Writes one checkpoint under each name, whole or not at all."""
    content = {
        "recipe": recipe.model_dump(mode="json"), "student": student.state_dict(), "average": average.model.state_dict(),
        "updates": average.updates, "optimizer": optimizer.state_dict(), "torch_rng": torch.get_rng_state(),
        "commit": commit(), **state,
    }  # fmt: skip
    for path in paths:
        partial = path.with_name(path.name + ".part")
        try:
            torch.save(content, partial)
            os.replace(partial, path)
        except (OSError, RuntimeError) as e:
            partial.unlink(missing_ok=True)
            raise TrainingError(f"cannot write {path}: {e}; the checkpoint before it is whole") from e


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Raises TrainingError when there is none, or it is no checkpoint of ours."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as e:
        raise TrainingError(f"no checkpoint {path}: run once without --resume") from e
    except Exception as e:  # unpickling has no common error
        raise TrainingError(f"{path} is not a readable checkpoint: {e}") from e
    if not isinstance(content, dict) or "recipe" not in content:
        raise TrainingError(f"{path} is not a checkpoint of this package")
    return content


def load_checkpoint(
    path: Path, recipe: Recipe, student: nn.Module, average: Average, optimizer: Any, state: dict[str, Any]
) -> None:
    """Everything back to where `path` was written. Refuses another recipe, more steps apart."""
    content = read_checkpoint(path)
    theirs = Recipe.model_validate(content["recipe"])
    for section in ("network", "data", "loss", "optimizer", "schedule", "task"):
        if getattr(theirs, section) != getattr(recipe, section):
            raise TrainingError(f"{path} was trained with another [{section}]; use that recipe or start anew")
    student.load_state_dict(content["student"])
    average.model.load_state_dict(content["average"])
    average.updates = content["updates"]
    optimizer.load_state_dict(content["optimizer"])
    torch.set_rng_state(content["torch_rng"])
    for key in state:
        state[key] = content[key]


def commit() -> str:
    """The commit that trained, where git knows it."""
    run = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    return run.stdout.strip()
