"""The training loop, for one process or many: read it from top to bottom.

Exact resume: a checkpoint holds everything that the next step depends on, and which clips a step sees follows
from its number alone. On a CPU, N steps and N/2 + resume give the same weights bit for bit (unless `train.minutes`
ends the run: then the clock has a say in every step).

Many processes: `torchrun --nproc-per-node 2 -m training.distill ...`; each takes its share of every batch.
"""

from __future__ import annotations

import copy
import math
import os
import re
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from training.board import Board, make_bar, short
from training.checkpoint import State, load_checkpoint, save_checkpoint
from training.data import Source
from training.device_clips import settle
from training.errors import Interrupted, TrainingError
from training.muon import Muon
from training.recipe import Recipe, RecipeError
from training.tasks import Batch, Task

LOG_EVERY = 100  # steps between lines where there is no terminal for a bar
LOOK_EVERY = 20  # steps between looks at the loss: a look makes Python wait for a GPU


def train(
    task: Task, recipe: Recipe, clips: Source, validation: Source | None, out: Path, *, resume: bool = False,
    validation_clips: int = 32, fabric: Fabric | None = None, workers: int = 1,
    provenance: dict[str, Any] | None = None,
) -> dict[str, float]:  # fmt: skip
    """Trains `task.student` as `recipe` says, into the folder `out`; returns the last validation's figures.

    Writes `last.pt` (resume), `best.pt` (best figure of the averaged weights), `step-N.pt`, TensorBoard
    scalars and picture strips. `workers` threads make the clips; `provenance` (teacher, data, started_from)
    goes into the checkpoints. Raises TrainingError (NaN loss, out of memory, disk full), DataError and
    Interrupted (Ctrl-C, SIGTERM).
    """
    settings = recipe.train
    fabric = fabric or make_fabric(settings.precision)
    fabric.launch()
    fabric.seed_everything(settings.seed, verbose=False)
    first = fabric.is_global_zero
    if settings.batch % fabric.world_size:
        raise TrainingError(f"batch {settings.batch} does not divide among {fabric.world_size} processes")
    refuse_overwriting(out, resume)
    task.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = Average(task.student, settings.ema)
    optimizer = make_optimizer(task.student, recipe)
    model, optimizer = fabric.setup(task, optimizer)
    average.model.to(fabric.device)
    precision, state = fabric.strategy.precision, State()
    if resume:
        precision.load_state_dict(
            load_checkpoint(out / "last.pt", recipe, task.student, average, optimizer, state)
        )
    state.note_provenance(provenance or {})
    if first:
        out.mkdir(parents=True, exist_ok=True)
        (out / "recipe.json").write_text(recipe.model_dump_json(indent=2))
    clips = settle(clips, fabric.device)
    torch.backends.cudnn.benchmark = True  # every step has the same few shapes
    board = Board(out / "tensorboard", state.step) if first else None
    held = _validation_batches(validation, validation_clips) if validation and first else []

    def save(*names: str) -> None:
        if first:
            paths = [out / n for n in names]
            save_checkpoint(
                paths, recipe, task.student, average, optimizer, state, dict(precision.state_dict())
            )

    def say(text: str) -> None:
        if first:
            bar.console.print(text, soft_wrap=True, highlight=False, markup=False)
            bar.console.file.flush()

    def judged(text: str) -> None:
        """Validates, and draws the conclusions."""
        with memory_explained():
            state.figures = fabric.broadcast(validate(task, average, held) if first else {})
        best, state.unjudged = judge(state, recipe), False
        figures = "  ".join(f"{k} {v:.3f}" for k, v in state.figures.items())
        say(f"step {state.step}  {text}  {figures}  {state.seconds:.0f} s")
        bar.update(line, figures=short(state.figures))
        if board:
            board.scalars(state.step, {f"validation/{k}": v for k, v in state.figures.items()})
            board.strip(state.step, task, average.model, held[0])
        if best:
            save("best.pt")

    def is_stale() -> bool:
        return bool(settings.stop_after) and state.stale >= settings.stop_after

    stop, bar = StopRequest(), make_bar(first)
    prefetch = Prefetch(clips, settings.batch, state.step, settings.steps, fabric, workers)
    with stop, bar, board or nullcontext(), prefetch as batches:
        line = bar.add_task(recipe.name, total=settings.steps, completed=state.step, figures="")
        started = time.monotonic() - state.seconds
        losses: list[Tensor] = []  # and gradients, since the last look
        alone_on_gpu = fabric.device.type == "cuda" and fabric.world_size == 1
        if validation and state.unjudged:
            judged("where it was stopped")
            save("last.pt")
        for step in range(state.step, state.step if is_stale() else settings.steps):
            passed = elapsed(recipe, step, state.seconds)
            rate = learning_rate(recipe, step, passed) * state.lr_scale
            for group in optimizer.param_groups:
                group["lr"] = rate
            with memory_explained():
                loss, parts = model(next(batches), step, passed)
                optimizer.zero_grad()
                fabric.backward(loss)
                length = gradient_norm(fabric, model, optimizer, recipe)
            losses.append(torch.stack([loss.detach().float(), length.float()]))
            optimizer.step()
            average.update(task.student)
            state.step, state.seconds = step + 1, time.monotonic() - started
            bar.update(line, completed=state.step)
            done = state.step == settings.steps or elapsed(recipe, state.step, state.seconds) >= 1
            due = any(
                state.step % n == 0 for n in (LOOK_EVERY, settings.checkpoint_every, settings.validate_every)
            )
            if alone_on_gpu and not (due or done or stop.requested):
                continue
            value, norm, stopping, done = together(fabric, losses, stop.requested, done)
            # a loss scaler (16-mixed) looks for its scale by overflowing, and skips such steps itself
            if not math.isfinite(value) or not (math.isfinite(norm) or settings.precision == "16-mixed"):
                raise TrainingError(
                    f"the loss is {value:g} and the gradient {norm:g} at step {step}: lower optimizer.lr; "
                    + ("last.pt is whole" if (out / "last.pt").exists() else "there is no checkpoint yet")
                )
            losses.clear()
            if board and (state.step % LOOK_EVERY == 0 or done):
                board.scalars(state.step, {"loss": value, "lr": rate, "gradient": norm})
                board.scalars(state.step, {f"loss/{k}": float(v) for k, v in parts.items()})
            if not bar.console.is_terminal and state.step % LOG_EVERY == 0:
                at = f"step {state.step}/{settings.steps}"
                say(f"{at}  loss {value:.5f}  lr {rate:.2e}  {state.seconds:.0f} s")
            if validation and (state.step % settings.validate_every == 0 or done):
                state.unjudged = True
                if not stopping:  # who asks to stop does not wait for it
                    judged(f"loss {value:.5f}")
                if is_stale():
                    say(f"stopped at step {state.step}: {state.stale} validations without a new best")
                    done = True
            if state.step % (10 * settings.checkpoint_every) == 0:
                save(f"step-{state.step}.pt")
            if state.step % settings.checkpoint_every == 0 or done or stopping:
                save("last.pt")
            if stopping:
                raise Interrupted(f"stopped at step {state.step}; go on with --resume")
            if done:
                break
    average.copy_to(task.student)
    return dict(state.figures)


# -- the parts -------------------------------------------------------------------------------------------


def refuse_overwriting(out: Path, resume: bool) -> None:
    """Raises TrainingError where a new run would take the place of another."""
    if not resume and (out / "last.pt").exists():
        raise TrainingError(f"{out} holds a run already: go on with --resume, or choose another --out")


def make_fabric(precision: Any) -> Fabric:
    """One process on the best device there is, or one of as many as torchrun has started."""
    here, all_of_them = (int(os.environ.get(name, 1)) for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"))
    if all_of_them == 1:
        return Fabric(accelerator="auto", devices=1, precision=precision)
    return Fabric(
        accelerator="auto", devices=here, num_nodes=all_of_them // here, strategy="ddp", precision=precision
    )


def elapsed(recipe: Recipe, step: int, seconds: float) -> float:
    """The share of a run that is over, 0..1: of its steps or of its minutes, whichever is more."""
    steps, minutes = recipe.train.steps, recipe.train.minutes
    return min(1.0, max(step / steps, seconds / 60 / minutes if minutes else 0.0))


def learning_rate(recipe: Recipe, step: int, passed: float | None = None) -> float:
    """Linear warm-up, then a cosine to `final`; constant for the others (see `judge` for plateaus).

    `passed` is the share of the run that is over (by default, of its steps)."""
    schedule, lr, steps = recipe.schedule, recipe.optimizer.lr, recipe.train.steps
    if step < schedule.warmup:
        return lr * (step + 1) / schedule.warmup
    if schedule.kind != "cosine":
        return lr
    passed = elapsed(recipe, step, 0) if passed is None else passed
    first = min(schedule.warmup / steps, 0.5)
    progressed = max(0.0, passed - first) / (1 - first)
    return lr * (schedule.final + (1 - schedule.final) * 0.5 * (1 + math.cos(math.pi * min(1.0, progressed))))


def judge(state: State, recipe: Recipe) -> bool:
    """Whether the last validation is the best so far; if not, a plateau may lower the learning rate.

    Clips that are all perfect have no PSNR to gain; then what is kept of them counts.
    """
    value = state.figures.get(recipe.train.watch, state.figures.get("kept", -math.inf))
    if value > state.best:
        state.best, state.stale = value, 0
        return True
    state.stale += 1
    schedule = recipe.schedule
    if schedule.kind == "plateau" and state.stale % schedule.patience == 0:
        state.lr_scale = max(schedule.final, state.lr_scale * schedule.factor)
    return False


def make_optimizer(student: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Of the weights that `recipe` lets learn; the others keep what they are. Raises RecipeError."""
    o = recipe.optimizer
    if o.only:
        try:
            chosen = re.compile(o.only)
        except re.error as e:
            raise RecipeError(f"optimizer.only {o.only!r} is no regular expression: {e}") from e
        for name, parameter in student.named_parameters():
            parameter.requires_grad_(bool(chosen.search(name)))
        if not any(p.requires_grad for p in student.parameters()):
            raise RecipeError(f"optimizer.only: the student has no weights named like {o.only!r}")
    if o.name == "muon":
        return Muon(student, o.lr, betas=o.betas, weight_decay=o.weight_decay)
    kind = torch.optim.AdamW if o.name == "adamw" else torch.optim.Adam
    return kind(student.parameters(), lr=o.lr, betas=o.betas, weight_decay=o.weight_decay)


def gradient_norm(fabric: Fabric, model: Any, optimizer: Any, recipe: Recipe) -> Tensor:
    """Clips the gradients and returns the norm that they had."""
    norm = fabric.clip_gradients(model, optimizer, max_norm=recipe.optimizer.clip, error_if_nonfinite=False)
    assert norm is not None
    return norm


def together(fabric: Fabric, losses: list[Tensor], stop: bool, done: bool) -> tuple[float, float, bool, bool]:
    """The last of `losses` (loss and gradient norm, each (2,)), the mean of all processes and not finite where one
    of them was not; whether any process was asked to stop, and whether any is done."""
    seen = torch.stack(losses)
    last = torch.where(seen.isfinite().all(0), seen[-1], seen.sum(0))
    all_of_them = fabric.all_reduce(torch.cat([last, last.new_tensor([stop, done])]))
    assert isinstance(all_of_them, Tensor)
    loss, norm, stopping, ending = all_of_them.tolist()
    return loss, norm, stopping > 0, ending > 0


@contextmanager
def memory_explained() -> Iterator[None]:
    try:
        yield
    except (MemoryError, RuntimeError) as e:
        cpu = any(text in str(e) for text in ("can't allocate memory", "not enough memory"))
        if not (cpu or isinstance(e, MemoryError | torch.OutOfMemoryError)):
            raise
        raise TrainingError("out of memory: lower train.batch or data.crop, and go on with --resume") from e


class Average:
    """Exponential moving average of a model's weights, quick at first (as in timm's ModelEmaV3)."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False).eval()
        self.decay, self.updates = decay, 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        mine: list[Tensor] = list(self.model.parameters())
        torch._foreach_lerp_(mine, [p.detach() for p in model.parameters()], 1 - decay)
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
    return {k: float(np.mean([r[k] for r in rows if k in r])) for k in {k: 0 for r in rows for k in r}}


def _validation_batches(validation: Source, count: int, batch: int = 4) -> list[Batch]:
    arrays = [validation.batch(range(i, min(i + batch, count))) for i in range(0, count, batch)]
    return [(torch.as_tensor(a), torch.as_tensor(b)) for a, b in arrays]


class Prefetch:
    """Batches of the steps to come, made by `workers` threads while the step before them is computed."""

    def __init__(
        self, clips: Source, batch: int, first: int, last: int, fabric: Fabric, workers: int = 1
    ) -> None:
        self.clips, self.batch, self.fabric, self.workers = clips, batch, fabric, workers
        self.steps = iter(range(first, last))

    def _load(self, step: int) -> Batch:
        share = self.batch // self.fabric.world_size
        start = step * self.batch + self.fabric.global_rank * share
        soft, sharp = self.clips.batch(range(start, start + share))
        return torch.as_tensor(soft), torch.as_tensor(sharp)

    def __enter__(self) -> Iterator[Batch]:
        self.pool = ThreadPoolExecutor(self.workers)
        return self._batches()

    def _batches(self) -> Iterator[Batch]:
        ahead: deque[Future[Batch]] = deque(
            self.pool.submit(self._load, step) for step in islice(self.steps, self.workers)
        )
        while ahead:
            soft, sharp = ahead.popleft().result()
            ahead.extend(self.pool.submit(self._load, step) for step in islice(self.steps, 1))
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
