"""Which int8 weight stands for each float one: not the nearest, but those whose errors cancel on real pictures.

Neighbouring pixels are nearly equal, and what a student looks for are their small differences: the errors of weights
that were rounded one by one add up on the brightness, which is large, and drown them. So weights are rounded one after
the other, and each error is made good by those still to come, as far as inputs go together (GPTQ; Frantar et al., ICLR
2023; after Hassibi and Stork, NIPS 1992).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from training.networks.student import WEIGHT_LEVELS, Conv, Student
from training.tasks import planes

DAMPING = 0.01  # of the mean variance of the inputs: what few pictures say of rare inputs is not all believed


class Inputs:
    """The mean (n,) and covariance (n, n) of what the weights of one output of a convolution are multiplied with."""

    def __init__(self) -> None:
        self.count, self.total, self.products = 0, torch.zeros(()), torch.zeros(())

    def see(self, conv: Conv, x: Tensor) -> None:
        side, stride, around = conv.kernel_size[0], conv.stride[0], int(conv.padding[0])
        seen = (
            F.unfold(conv.bordered(x), side, padding=around, stride=stride)
            .transpose(0, 1)
            .flatten(1)
            .double()
        )
        self.count += seen.shape[1]
        self.total = self.total + seen.sum(1)
        self.products = self.products + seen @ seen.T

    @property
    def mean(self) -> Tensor:
        return self.total / self.count

    @property
    def covariance(self) -> Tensor:
        return self.products / self.count - self.mean[:, None] * self.mean


def rounded(weight: Tensor, step: Tensor, covariance: Tensor, levels: int) -> Tensor:
    """`weight` (outputs, n) in whole steps (outputs, 1), -levels..levels, such that the outputs change little where
    inputs vary as `covariance` (n, n) says. The largest weight of an output, which sets its step, stays what it is."""
    variance = covariance.diagonal()
    order = variance.argsort(descending=True)
    damped = covariance + torch.diag_embed(DAMPING * variance.mean().clamp_min(1e-12).expand_as(variance))
    upper = torch.linalg.cholesky(torch.linalg.inv(damped[order][:, order]), upper=True)
    left = (weight / step).double()[:, order]
    ends = left.sign() * levels
    largest = left.abs() >= levels - 0.01
    codes = torch.empty_like(left)
    for i in range(len(order)):
        codes[:, i] = torch.where(largest[:, i], ends[:, i], left[:, i].round().clamp(-levels, levels))
        error = (left[:, i] - codes[:, i]) / upper[i, i]
        left[:, i + 1 :] -= error[:, None] * upper[i, i + 1 :]
    return codes[:, order.argsort()]


@torch.no_grad()
def round_weights(student: Student, clips: Iterable[NDArray[Any]]) -> None:
    """Gives `student` weights that int8 keeps as they are, after what its layers see in uint8 I420 `clips`
    (T, H * 3 // 2, W) each. From then on it computes with them."""
    student.quantize_weights(0)
    convolutions = [m for m in student.modules() if isinstance(m, Conv)]
    seen = {conv: Inputs() for conv in convolutions}

    def look(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(module, Conv)
        seen[module].see(module, inputs[0])

    hooks = [conv.register_forward_pre_hook(look) for conv in convolutions]
    try:
        for clip in clips:
            student.clip(*planes(torch.from_numpy(clip)[None]))
    finally:
        for hook in hooks:
            hook.remove()
    for conv in convolutions:
        weight, bias = conv.weights()
        flat = weight.flatten(1)
        step = flat.abs().amax(1, keepdim=True).clamp_min(1e-8) / WEIGHT_LEVELS
        ours = (rounded(flat, step, seen[conv].covariance, WEIGHT_LEVELS) * step).to(flat)
        offset = (flat - ours).double() @ seen[conv].mean
        conv.adopt(ours.view_as(weight), bias + offset.to(bias))
    student.quantize_weights()
