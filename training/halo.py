"""How far around a pixel a student looks, measured on the network itself."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor

from training.networks.student import State, Student


def halo(student: Student, step: int) -> int:
    """So many pixels around a tile, a multiple of `step`, decide all that `student` makes of the tile: the planes
    and the next state. Tiles have their borders on multiples of `step`, and so has the student its grids.

    One block of the frame and of the state is made not-a-number. Every operation that looks at one gives one, so
    what comes out as one has looked at the block, whatever the weights are and however layers are connected.
    """
    network = copy.deepcopy(
        student
    ).double()  # in double precision no convolution is by FFT or Winograd's blocks
    around = 8 * step
    while True:
        side = 2 * around + step
        y, uv = torch.zeros(1, 1, side, side).double(), torch.zeros(1, 2, side // 2, side // 2).double()
        y[..., around : around + step, around : around + step] = math.nan
        uv[..., around // 2 : (around + step) // 2, around // 2 : (around + step) // 2] = math.nan
        with torch.no_grad():
            # what it knows of the whole frame comes from the frame before, so it has no reach
            y_out, uv_out, state = network(y, uv, State((y, uv), (y, uv)))
        reach = max(_reach(plane, side, around) for plane in (y_out, uv_out, *state.last, *state.added))
        if reach < around:
            return math.ceil(reach / step) * step
        around *= 2


def _reach(plane: Tensor, side: int, around: int) -> int:
    """Pixels from the block in the middle to the last not-a-number on any side of it."""
    scale = side // plane.shape[-1]
    touched = torch.isnan(plane[0]).any(0).nonzero()
    if not len(touched):  # of a network without memory: what it would have added to the picture
        return 0
    first, last = touched.min().item() * scale, (touched.max().item() + 1) * scale
    return int(max(around - first, last - (side - around)))
