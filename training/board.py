"""What a run shows: a bar for people, scalars and picture strips for TensorBoard."""

from __future__ import annotations

from pathlib import Path

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn
from torch.utils.tensorboard.writer import SummaryWriter

from training.tasks import Batch, Task


def make_bar(first: bool) -> Progress:
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}"), refresh_per_second=1,
    )  # fmt: skip
    bar.disable = not (first and bar.console.is_terminal)
    return bar


def short(figures: dict[str, float]) -> str:
    """For the bar."""
    if "psnr" not in figures:
        return ""
    return f"PSNR {figures['psnr']:.2f} ({figures['gain']:+.2f})  SSIM {figures['ssim']:.4f}"


class Board:
    """TensorBoard scalars and before/teacher/student/truth strips."""

    def __init__(self, folder: Path, step: int) -> None:
        # what an interrupted run wrote after its checkpoint is forgotten
        self.writer = SummaryWriter(str(folder), purge_step=step + 1 if step else None)

    def __enter__(self) -> Board:
        return self

    def __exit__(self, *exc: object) -> None:
        self.writer.close()

    def scalars(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    @torch.no_grad()
    def strip(self, step: int, task: Task, student: nn.Module, batch: Batch) -> None:
        """`student` stands in for the task's own."""
        soft, sharp = (b[:4].to(next(student.parameters()).device) for b in batch)
        columns = [task.show(soft)[:, -1]]
        if task.teacher is not None:
            columns.append(task.teacher(columns[0]).float())
        own, task.student = task.student, student
        try:
            columns.append(task.restore(soft)[:, -1])
        finally:
            task.student = own
        columns.append(task.show(sharp)[:, -1])
        rows = [torch.cat([c[i] for c in columns], dim=2) for i in range(len(soft))]
        picture = torch.cat(rows, dim=1).clamp(0, 1).cpu()
        self.writer.add_image("before, teacher, student, truth", picture, step)
