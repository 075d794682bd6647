"""The networks, and what they cost: parameters and multiply-accumulates."""

from __future__ import annotations

import copy
from dataclasses import dataclass

from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

__all__ = ["Macs", "count_macs", "count_parameters"]


@dataclass(frozen=True)
class Macs:
    """Multiply-accumulates of one forward pass, without biases, norms and activations."""

    convolutions: int
    matmuls: int  # attention maps and fully connected layers

    @property
    def total(self) -> int:
        return self.convolutions + self.matmuls


def count_macs(model: nn.Module, *inputs: Tensor) -> Macs:
    """Counts what `model(*inputs)` multiplies, without computing it: shapes alone matter.

    Divide by the pixels of the picture for the usual figure per pixel.
    """
    # a copy, for moving a module to the meta device throws its weights away
    shapes_only = copy.deepcopy(model).to("meta")
    counter = FlopCounterMode(display=False)
    with counter:
        shapes_only(*(x.to("meta") for x in inputs))
    flops = counter.get_flop_counts().get("Global", {})
    convolutions = sum(n for op, n in flops.items() if "convolution" in str(op)) // 2
    return Macs(convolutions, sum(flops.values()) // 2 - convolutions)


def count_parameters(model: nn.Module, keras: bool = False) -> int:
    """Trainable numbers; with `keras` also the batch norms' running statistics, which Keras' totals hold."""
    total = sum(p.numel() for p in model.parameters() if p.requires_grad)
    if keras:
        norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
        total += sum(b.numel() for m in norms for b in (m.running_mean, m.running_var) if b is not None)
    return total
