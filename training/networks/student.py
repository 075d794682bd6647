"""The SharpCam student: a recurrent network over I420 planes that becomes a uint8 ONNX graph, op for op.

      y, uv (this frame) ------------+------------------------+------------------------------+
                                     |                        |                              |
      state (last frame, calmed) --- d = state - x            |                              |
                                     |                        |                              |
                    unshuffle by 8, convolutions              |                              |
                                     |                        |                              |
                           gate g in 0..0.94                  |                              |
                                     +---- c = g * d ---------+-- f = x + c --> next state   |
                                                                  |                          |
                                         unshuffle by 4, 3 x 3 convolutions, shuffle         |
                                                                  |                          |
                                                             residual r                      |
                                                                  |                          |
      y_out, uv_out <------------------------------- x + strength * (c + r) <----------------+

The first half is a motion-gated recursive filter: where a pixel has not changed but for noise, g is high and
the new frame moves only a little from the old (the fusion stage of EMVD, Maggioni et al., CVPR 2021, with a
learned gate per pixel in place of its learned transform). The second half sharpens what the first has calmed.
Strength multiplies everything that is added to x, so strength 0 is the input bit for bit.

Planes are unshuffled (Shi et al., 2016) so that convolutions have the 32 channels at which int8 kernels are
fast: by 4 for the sharpener (16 of luma + 8 of chroma), by 8 for the gate, which needs no detail (64 + 32).
What else was tried, and how it went, is in training/EXPERIMENTS.md.

Numbers are grey levels: planes go in as 0..255 and come out so. 3 x 3 convolutions are trained with a
parallel 1 x 1 and an identity branch and folded into one (RepVGG, Ding et al., CVPR 2021). ReLU is the only
nonlinearity and nothing is normalised, so that each convolution is one QLinearConv.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GATE_GRID = 8
GATE_MAX = 0.94
# the ranges of the uint8 tensors around the gate, in grey levels (the exporter uses the same)
DIFFERENCE_STEP = 1.0
# of 127: without VNNI, pairs of uint8 x int8 products are added in 16 bits, which 127 overflows
WEIGHT_LEVELS = 63
CORRECTION_STEP = 0.5


def grid_channels(grid: int) -> int:
    """Channels of I420 planes on a grid of this many pixels: grid^2 of luma and half as many of chroma."""
    return grid * grid * 3 // 2


@dataclass(frozen=True)
class StudentConfig:
    """`channels` (multiples of 32) and number of inner 3 x 3 convolutions of the sharpener, its `grid` in
    pixels, channels of the gate; `temporal` False leaves the recursive half out."""

    channels: int = 32
    depth: int = 4
    grid: int = 4
    gate: int = 32
    temporal: bool = True


def calmed(x: Tensor, correction: Tensor) -> Tensor:
    """x + correction in whole grey levels: the state is a uint8 picture."""
    return quantize(x + correction, 1, 0, 255)


class RoundThrough(torch.autograd.Function):
    """Rounds forward, passes the gradient unchanged (straight-through; Bengio et al., 2013)."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return torch.round(x)

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> Tensor:
        return grad


def quantize(x: Tensor, step: float, low: float, high: float) -> Tensor:
    """What a uint8 tensor of this step and range keeps of `x`."""
    rounded: Tensor = RoundThrough.apply(x / step)  # type: ignore[no-untyped-call]
    return torch.clamp(rounded * step, low, high)


def pack(y: Tensor, uv: Tensor, grid: int) -> Tensor:
    """y (N, 1, H, W), uv (N, 2, H/2, W/2) -> (N, grid^2 * 3/2, H/grid, W/grid), luma first."""
    return torch.cat([space_to_depth(y, grid), space_to_depth(uv, grid // 2)], dim=1)


def unpack(x: Tensor, grid: int) -> tuple[Tensor, Tensor]:
    """The inverse of `pack`."""
    luma = grid * grid
    return depth_to_space(x[:, :luma], grid), depth_to_space(x[:, luma:], grid // 2)


def space_to_depth(x: Tensor, block: int) -> Tensor:
    """ONNX SpaceToDepth: (N, C, H, W) -> (N, block * block * C, H/block, W/block), block position first."""
    n, c, h, w = x.shape
    x = x.reshape(n, c, h // block, block, w // block, block)
    return x.permute(0, 3, 5, 1, 2, 4).reshape(n, block * block * c, h // block, w // block)


def depth_to_space(x: Tensor, block: int) -> Tensor:
    """ONNX DepthToSpace, mode DCR: the inverse of `space_to_depth`."""
    n, c, h, w = x.shape
    x = x.reshape(n, block, block, c // (block * block), h, w)
    return x.permute(0, 3, 4, 1, 5, 2).reshape(n, c // (block * block), h * block, w * block)


class Conv(nn.Conv2d):
    """A convolution whose weights are, once `levels` is set, those that int8 keeps (see `int8_weights`)."""

    levels = 0

    def folded(self) -> tuple[Tensor, Tensor]:
        assert self.bias is not None
        return int8_weights(self.weight, self.levels), self.bias

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.folded()
        return F.conv2d(x, weight, bias, padding=self.weight.shape[2] // 2)


class RepConv(nn.Module):
    """A convolution that is trained as 3 x 3 + 1 x 1 (+ identity where widths agree), used as one 3 x 3."""

    levels = 0

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.point = nn.Parameter(torch.zeros(outputs, inputs, 1, 1))
        self.identity = inputs == outputs
        nn.init.kaiming_normal_(self.conv.weight, nonlinearity="relu")
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]
        if self.identity:  # the identity carries the signal, the 3 x 3 starts as a small correction
            with torch.no_grad():
                self.conv.weight.mul_(0.3)

    def folded(self) -> tuple[Tensor, Tensor]:
        """Weight (outputs, inputs, 3, 3) and bias (outputs,) of the one convolution."""
        weight = self.conv.weight + F.pad(self.point, (1, 1, 1, 1))
        if self.identity:
            n = weight.shape[0]
            eye = torch.eye(n, device=weight.device, dtype=weight.dtype).view(n, n, 1, 1)
            weight = weight + F.pad(eye, (1, 1, 1, 1))
        assert self.conv.bias is not None
        return int8_weights(weight, self.levels), self.conv.bias

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.folded()
        return F.conv2d(x, weight, bias, padding=1)


def int8_weights(weight: Tensor, levels: int) -> Tensor:
    """`weight` (O, I, k, k) as int8 keeps it: per output channel, `levels` steps to either side of zero.

    The gradient passes unchanged (quantisation-aware training; Jacob et al., CVPR 2018). `levels` 0 leaves it
    alone."""
    if not levels:
        return weight
    step = weight.detach().abs().amax(dim=(1, 2, 3), keepdim=True).clamp_min(1e-8) / levels
    return weight + (torch.round(weight / step) * step - weight).detach()


Planes = tuple[Tensor, Tensor]


class Student(nn.Module):
    """See the module's docstring for the picture.

    forward(y, uv, state, strength): y (N, 1, H, W), uv (N, 2, H/2, W/2) float grey levels 0..255 with H and W
    multiples of 8; state, the calmed planes (y, uv) of the frame before, or None at the start, where the
    frame itself stands in (so that nothing is mixed in). Returns the planes out and the new state.
    """

    def __init__(self, config: StudentConfig | None = None) -> None:
        super().__init__()
        self.config = config or StudentConfig()
        c, g = self.config.channels, self.config.gate
        if self.config.temporal:
            self.gate_in = Conv(grid_channels(GATE_GRID), g, 1)
            self.gate_mid = RepConv(g, g)
            self.gate_out = Conv(g, grid_channels(GATE_GRID), 1)
            nn.init.zeros_(self.gate_out.weight)
            nn.init.constant_(self.gate_out.bias, 0.3)  # type: ignore[arg-type]
        n = grid_channels(self.config.grid)
        self.head = RepConv(n, c)
        self.body = nn.ModuleList(RepConv(c, c) for _ in range(self.config.depth))
        self.tail = Conv(c, n, 3, padding=1)
        nn.init.zeros_(self.tail.weight)
        nn.init.zeros_(self.tail.bias)  # type: ignore[arg-type]

    def fuse(self, x: Planes, state: Planes) -> Planes:
        """The recursive filter: planes and state -> correction g * d, planes of the same shapes."""
        low, high = -128 * DIFFERENCE_STEP, 127 * DIFFERENCE_STEP
        d = torch.clamp(state[0] - x[0], low, high), torch.clamp(state[1] - x[1], low, high)
        e = F.relu(self.gate_in(pack(*d, GATE_GRID) / 128))
        e = F.relu(self.gate_mid(e))
        gates = unpack(torch.clamp(self.gate_out(e), 0, GATE_MAX), GATE_GRID)
        y, uv = (quantize(g * p, CORRECTION_STEP, -64, 63.5) for g, p in zip(gates, d, strict=True))
        return y, uv

    def sharpen(self, f: Planes) -> Planes:
        """Calmed planes in grey levels -> residual planes."""
        h = F.relu(self.head((pack(*f, self.config.grid) - 128) / 128))
        for conv in self.body:
            h = F.relu(conv(h))
        return unpack(self.tail(h) * 128, self.config.grid)

    def forward(
        self, y: Tensor, uv: Tensor, state: Planes | None = None, strength: float | Tensor = 1.0
    ) -> tuple[Tensor, Tensor, Planes]:
        if not self.config.temporal:
            r = self.sharpen((y, uv))
            return y + strength * r[0], uv + strength * r[1], (y, uv)
        c = self.fuse((y, uv), state or (y, uv))
        f = calmed(y, c[0]), calmed(uv, c[1])
        r = self.sharpen(f)
        return y + strength * (c[0] + r[0]), uv + strength * (c[1] + r[1]), f

    def clip(self, y: Tensor, uv: Tensor, keep: slice = slice(None)) -> Planes:
        """A whole clip: y (N, T, 1, H, W), uv (N, T, 2, H/2, W/2) -> the frames `keep` of it, in that layout.

        The recursion runs frame by frame, the sharpening of the kept frames at once, which is what makes
        training on clips affordable."""
        n, t = y.shape[:2]
        y0, uv0 = y[:, keep].flatten(0, 1), uv[:, keep].flatten(0, 1)
        if self.config.temporal:
            state: Planes = (y[:, 0], uv[:, 0])
            corrections: list[Planes] = []
            for i in range(keep.indices(t)[1]):  # what comes after the kept frames changes nothing
                c = self.fuse((y[:, i], uv[:, i]), state)
                state = calmed(y[:, i], c[0]), calmed(uv[:, i], c[1])
                corrections.append(c)
            c_y, c_uv = zip(*corrections[keep], strict=True)
            c = torch.stack(c_y, 1).flatten(0, 1), torch.stack(c_uv, 1).flatten(0, 1)
            r = self.sharpen((calmed(y0, c[0]), calmed(uv0, c[1])))
            y_out, uv_out = y0 + c[0] + r[0], uv0 + c[1] + r[1]
        else:
            r = self.sharpen((y0, uv0))
            y_out, uv_out = y0 + r[0], uv0 + r[1]
        return y_out.view(n, -1, *y.shape[2:]), uv_out.view(n, -1, *uv.shape[2:])

    def quantize_weights(self, levels: int = WEIGHT_LEVELS) -> None:
        """From now on computes with the weights that the uint8 graph will have (0: with its own again)."""
        for module in self.modules():
            if isinstance(module, Conv | RepConv):
                module.levels = levels

    def macs_per_pixel(self) -> float:
        """Multiply-accumulates per luma pixel."""
        c, g, grid = self.config.channels, self.config.gate, self.config.grid
        n = grid_channels(grid)
        sharpener = (n * c * 9 + self.config.depth * c * c * 9 + c * n * 9) / grid**2
        m = grid_channels(GATE_GRID)
        gate = (m * g + g * g * 9 + g * m) / GATE_GRID**2 if self.config.temporal else 0
        return sharpener + gate

    def parameters_folded(self) -> int:
        """Parameters of the network as it ships, every RepConv folded."""
        branch = sum(m.point.numel() for m in self.modules() if isinstance(m, RepConv))
        return sum(p.numel() for p in self.parameters()) - branch

    def describe(self) -> dict[str, object]:
        return asdict(self.config)
