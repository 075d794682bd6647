"""The SharpCam student: a recurrent network over I420 planes that becomes a uint8 ONNX graph, op for op.

      x = y, uv (this frame) ---------------+-------------------------------+
                                            |                               |
      last frame, what was added to it ---- d = last + added - x            |
                                            |                               |
                             unshuffle by 8, convolutions                   |
                                            |                               |
                                    gate g in 0..0.94                       |
                                            |                               |
               next frame's added <---- c = g * d ---------------- f = x + strength * c
                                                                            |
                            unshuffle by 4, 1 x 1, some 3 x 3, 1 x 1, shuffle
                                                                            |
                                                   residual r ---- f + strength * r ----> y_out, uv_out

The first half is a motion-gated recursive filter: where a pixel has not changed but for noise, g is high and
the new frame moves only a little from the old (the fusion stage of EMVD, Maggioni et al., CVPR 2021, with a
learned gate per pixel in place of its learned transform). Its memory is in quarters of a grey level: in whole
ones a pixel that should move a little would not move at all, and noise would freeze instead of vanishing. The
second half sharpens what the first has calmed.
Strength multiplies everything that is added, so strength 0 is the input bit for bit.

Planes are unshuffled (Shi et al., 2016) so that convolutions have the 32 channels at which int8 kernels are
fast: by 4 for the sharpener (16 of luma + 8 of chroma), by 8 for the gate, which needs no detail (64 + 32).
What else was tried, and how it went, is in training/EXPERIMENTS.md.

Numbers are grey levels: planes go in as 0..255 and come out so. The sharpener's first and last convolution are
learned on whitened frequencies of a cell (see `frequencies`), the inner ones beside an identity; each ships
as one convolution. ReLU is the only nonlinearity and nothing is normalised, so that it is one QLinearConv.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GATE_GRID = 8
GATE_MAX = 0.94
# of 127: without VNNI, pairs of uint8 x int8 products are added in 16 bits, which 127 overflows
WEIGHT_LEVELS = 63
# the uint8 tensors around the gate, in grey levels a step and to either side of zero (the exporter uses the same):
# half steps for last - x, quarters for d and c. A larger d is motion, whatever it is
MOVE_STEP, MOVE_RANGE = 0.5, (-64.0, 63.5)
MEMORY_STEP, MEMORY_RANGE = 0.25, (-32.0, 31.75)
CHANGE = 16.0  # grey levels: a difference that the gate sees as 1
NOISE = 0.03  # smaller coefficients are noise, which whitening must not blow up


def grid_channels(grid: int) -> int:
    """Channels of I420 planes on a grid of this many pixels: grid^2 of luma and half as many of chroma."""
    return grid * grid * 3 // 2


@dataclass(frozen=True)
class StudentConfig:
    """`channels` (multiples of 16) and number of inner 3 x 3 convolutions of the sharpener, its `grid` in
    pixels, channels of the gate; `temporal` False leaves the recursive half out."""

    channels: int = 32
    depth: int = 4
    grid: int = 4
    gate: int = 32
    temporal: bool = True


def calmed(x: Tensor, correction: Tensor) -> Tensor:
    """x + correction in whole grey levels: a uint8 picture."""
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

    def weights(self) -> tuple[Tensor, Tensor]:
        """Weight (outputs, inputs, k, k) and bias (outputs,) of the plain convolution that this one is."""
        assert self.bias is not None
        return self.weight, self.bias

    def folded(self) -> tuple[Tensor, Tensor]:
        """The same as int8 keeps them."""
        weight, bias = self.weights()
        return int8_weights(weight, self.levels), bias

    @torch.no_grad()
    def adopt(self, weight: Tensor, bias: Tensor) -> None:
        """Becomes what `weights` would give as `weight` and `bias`: its inverse."""
        assert self.bias is not None
        self.weight.copy_(weight)
        self.bias.copy_(bias)

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.folded()
        return F.conv2d(x, weight, bias, padding=self.kernel_size[0] // 2)


class BodyConv(Conv):
    """3 x 3 beside an identity, which carries the signal while the 3 x 3 starts as a small correction
    (RepVGG; Ding et al., CVPR 2021)."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3)
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu")
        nn.init.zeros_(self.bias)  # type: ignore[arg-type]
        self.weight.data.mul_(0.3)

    def weights(self) -> tuple[Tensor, Tensor]:
        weight, bias = super().weights()
        return weight + self._identity(), bias

    def adopt(self, weight: Tensor, bias: Tensor) -> None:
        super().adopt(weight - self._identity(), bias)

    def _identity(self) -> Tensor:
        eye = torch.eye(len(self.weight), device=self.weight.device, dtype=self.weight.dtype)
        return F.pad(eye[..., None, None], (1, 1, 1, 1))


class FromFrequencies(Conv):
    """A 1 x 1 convolution of packed planes that is learned on their whitened frequencies (see `frequencies`)."""

    def __init__(self, outputs: int, grid: int) -> None:
        super().__init__(grid_channels(grid), outputs, 1)
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu")
        nn.init.zeros_(self.bias)  # type: ignore[arg-type]
        basis, (natural, _) = frequencies(grid)
        self.register_buffer("transform", basis / natural[:, None], persistent=False)

    def weights(self) -> tuple[Tensor, Tensor]:
        weight, bias = super().weights()
        return torch.einsum("okyx,ki->oiyx", weight, self.transform), bias

    def adopt(self, weight: Tensor, bias: Tensor) -> None:
        super().adopt(torch.einsum("oiyx,ik->okyx", weight, torch.linalg.inv(self.transform)), bias)


class ToFrequencies(Conv):
    """A 1 x 1 convolution that gives packed planes, learned on their frequencies; starts as zero."""

    def __init__(self, inputs: int, grid: int) -> None:
        super().__init__(inputs, grid_channels(grid), 1)
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)  # type: ignore[arg-type]
        basis, (_, lost) = frequencies(grid)
        self.register_buffer("transform", basis.T * lost[None], persistent=False)

    def weights(self) -> tuple[Tensor, Tensor]:
        weight, bias = super().weights()
        return torch.einsum("ik,kcyx->icyx", self.transform, weight), self.transform @ bias  # type: ignore[operator]

    def adopt(self, weight: Tensor, bias: Tensor) -> None:
        back = torch.linalg.inv(self.transform)
        super().adopt(torch.einsum("ki,icyx->kcyx", back, weight), back @ bias)


def frequencies(grid: int) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """The orthonormal DCT of a cell of packed planes (n, n), rows are coefficients, n = grid_channels(grid),
    and two (n,): how large coefficients are in pictures, and in what a webcam loses of them.

    Neighbouring pixels are nearly equal, so gradients of weights on pixels all but see brightness alone, and
    sharpening lives in the rest. Trained on coefficients of equal size, and multiplied into one convolution
    when it ships, the same network learns in 700 steps what took 10,000 (training/EXPERIMENTS.md). The sizes
    are rounded from measured ones: pictures fall as frequency^-1.5, losses as 0.7^(u + v), of a range of 2.
    """

    def cell(side: int, planes: int, natural: tuple[float, float], lost: tuple[float, float]) -> list[Tensor]:
        k = torch.arange(side, dtype=torch.float64)
        dct = torch.cos(math.pi / side * (k[None] + 0.5) * k[:, None]) * math.sqrt(2 / side)
        dct[0] /= math.sqrt(2)
        # measured on cells of 4 pixels: coefficient 2 of 8 is the wave that coefficient 1 of 4 is
        wider = grid / 4
        u, v = torch.meshgrid(k / wider, k / wider, indexing="ij")
        size = (natural[1] * u.hypot(v).clamp_min(1e-9) ** -1.5).clamp_min(NOISE)
        size[0, 0] = natural[0] * wider
        loss = lost[0] * lost[1] ** (u + v)
        each = torch.eye(planes, dtype=torch.float64)  # U and V alternate within a position of the cell
        ones = torch.ones(planes, dtype=torch.float64)
        basis = torch.kron(torch.kron(dct, dct).contiguous(), each)
        return [basis, torch.kron(size.flatten(), ones), torch.kron(loss.flatten(), ones)]

    luma = cell(grid, 1, (1.8, 0.2), (0.17, 0.7))
    chroma = cell(grid // 2, 2, (0.25, 0.02), (0.027, 0.6))
    natural, lost = (torch.cat([luma[i], chroma[i]]).float() for i in (1, 2))
    basis: Tensor = torch.block_diag(luma[0], chroma[0])  # type: ignore[no-untyped-call]
    return basis.float(), (natural, lost)


def int8_weights(weight: Tensor, levels: int) -> Tensor:
    """`weight` (O, I, k, k) as int8 keeps it: per output channel, `levels` steps to either side of zero.

    The gradient passes unchanged (quantisation-aware training; Jacob et al., CVPR 2018). `levels` 0 leaves it
    alone."""
    if not levels:
        return weight
    step = weight.detach().abs().amax(dim=(1, 2, 3), keepdim=True).clamp_min(1e-8) / levels
    return weight + (torch.round(weight / step) * step - weight).detach()


Planes = tuple[Tensor, Tensor]
State = tuple[Planes, Planes]  # the last frame as it came, and what was added to it at full strength


class Student(nn.Module):
    """See the module's docstring for the picture.

    forward(y, uv, state, strength): y (N, 1, H, W), uv (N, 2, H/2, W/2) float grey levels 0..255 with H and W
    multiples of 8; state, the planes of the frame before and what was added to them, or None at the start, where
    the frame itself and nothing stand in (so that nothing is mixed in). Returns the planes out and the new state.
    """

    def __init__(self, config: StudentConfig | None = None) -> None:
        super().__init__()
        self.config = config or StudentConfig()
        c, g = self.config.channels, self.config.gate
        if self.config.temporal:
            self.gate_in = Conv(grid_channels(GATE_GRID), g, 1)
            self.gate_mid = BodyConv(g)
            self.gate_out = Conv(g, grid_channels(GATE_GRID), 1)
            nn.init.zeros_(self.gate_out.weight)
            nn.init.constant_(self.gate_out.bias, 0.3)  # type: ignore[arg-type]
        self.head = FromFrequencies(c, self.config.grid)
        self.body = nn.ModuleList(BodyConv(c) for _ in range(self.config.depth))
        self.tail = ToFrequencies(c, self.config.grid)

    def fuse(self, x: Planes, state: State) -> Planes:
        """The recursive filter: planes and state -> correction c = g * d, planes of the same shapes."""
        d_y, d_uv = (
            torch.clamp(torch.clamp(last - new, *MOVE_RANGE) + added, *MEMORY_RANGE)
            for new, last, added in zip(x, *state, strict=True)
        )
        e = F.relu(self.gate_in(pack(d_y, d_uv, GATE_GRID) / CHANGE))
        e = F.relu(self.gate_mid(e))
        g_y, g_uv = unpack(torch.clamp(self.gate_out(e), 0, GATE_MAX), GATE_GRID)
        c_y, c_uv = (quantize(c, MEMORY_STEP, *MEMORY_RANGE) for c in (g_y * d_y, g_uv * d_uv))
        return c_y, c_uv

    def sharpen(self, f: Planes) -> Planes:
        """Calmed planes in grey levels -> residual planes."""
        h = F.relu(self.head((pack(*f, self.config.grid) - 128) / 128))
        for conv in self.body:
            h = F.relu(conv(h))
        return unpack(self.tail(h) * 128, self.config.grid)

    def forward(
        self, y: Tensor, uv: Tensor, state: State | None = None, strength: float | Tensor = 1.0
    ) -> tuple[Tensor, Tensor, State]:
        x, nothing = (y, uv), (torch.zeros_like(y), torch.zeros_like(uv))
        c = self.fuse(x, state or (x, nothing)) if self.config.temporal else nothing
        f_y, f_uv = (calmed(p, strength * a) for p, a in zip(x, c, strict=True))
        r_y, r_uv = self.sharpen((f_y, f_uv))
        return f_y + strength * r_y, f_uv + strength * r_uv, (x, c)

    def clip(self, y: Tensor, uv: Tensor, keep: slice = slice(None)) -> Planes:
        """A whole clip: y (N, T, 1, H, W), uv (N, T, 2, H/2, W/2) -> the frames `keep` of it, in that layout.

        The recursion runs frame by frame, the sharpening of the kept frames at once, which is what makes
        training on clips affordable."""
        n, t = y.shape[:2]
        f: Planes = (y[:, keep], uv[:, keep])
        if self.config.temporal:
            x = [(y[:, i], uv[:, i]) for i in range(keep.indices(t)[1])]  # what comes after changes nothing
            added: list[Planes] = [(torch.zeros_like(x[0][0]), torch.zeros_like(x[0][1]))]
            for last, new in pairwise(x):
                added.append(self.fuse(new, (last, added[-1])))
            f_y, f_uv = (torch.stack(planes, 1) for planes in zip(*added[keep], strict=True))
            f = calmed(f[0], f_y), calmed(f[1], f_uv)
        flat = f[0].flatten(0, 1), f[1].flatten(0, 1)
        out = tuple(p + r for p, r in zip(flat, self.sharpen(flat), strict=True))
        return out[0].view(n, -1, *y.shape[2:]), out[1].view(n, -1, *uv.shape[2:])

    def quantize_weights(self, levels: int = WEIGHT_LEVELS) -> None:
        """From now on computes with the weights that the uint8 graph will have (0: with its own again)."""
        for module in self.modules():
            if isinstance(module, Conv):
                module.levels = levels

    def macs_per_pixel(self) -> float:
        """Multiply-accumulates per luma pixel."""
        c, g, grid = self.config.channels, self.config.gate, self.config.grid
        n = grid_channels(grid)
        sharpener = (n * c + self.config.depth * c * c * 9 + c * n) / grid**2
        m = grid_channels(GATE_GRID)
        gate = (m * g + g * g * 9 + g * m) / GATE_GRID**2 if self.config.temporal else 0
        return sharpener + gate

    def parameter_count(self) -> int:
        """Parameters of the network, which are as many when it ships."""
        return sum(p.numel() for p in self.parameters())

    def describe(self) -> dict[str, object]:
        return asdict(self.config)
