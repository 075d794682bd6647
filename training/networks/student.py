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
                     luma: unshuffle by 4, 1 x 1, some 3 x 3, some 1 x 1, shuffle
                       chroma: unshuffle by 8, 3 x 3, 1 x 1, shuffle
                                                                            |
                                                   residual r ---- f + strength * r ----> y_out, uv_out

      of the last frame as a whole ---- gains for the channels of both halves
      means of the gate's first channels, and of some that look at a quarter of f ----> of this frame as a whole

The first half is a motion-gated recursive filter: where a pixel has not changed but for noise, g is high and
the new frame moves only a little from the old (the fusion stage of EMVD, Maggioni et al., CVPR 2021, with a
learned gate per pixel in place of its learned transform). Its memory is in quarters of a grey level: in whole
ones a pixel that should move a little would not move at all, and noise would freeze instead of vanishing. The
second half sharpens what the first has calmed.
Strength multiplies everything that is added, so strength 0 is the input bit for bit.

A few pixels do not tell a soft lens from a soft thing, nor noise from what moves; a whole frame does. So the means
of some activations become gains for the channels of the next frame (`Scene`).

Colours have a small filter of their own, because next to luma, which errs ten times as much, nothing learns them. It is
linear, with the scene's gains between its halves: as Wiener's filter, it keeps of each pattern what noise leaves of it.

Planes are unshuffled (Shi et al., 2016) so that convolutions have the 32 channels at which int8 kernels are
fast: by 4 for the sharpener (16 of luma + 8 of chroma), by 8 for the gate, which needs no detail (64 + 32).
What else was tried, and how it went, is in training/EXPERIMENTS.md.

Numbers are grey levels: planes go in as 0..255 and come out so. The sharpener's first and last convolution are
learned on whitened frequencies of a cell (see `frequencies`), the inner ones beside an identity; each ships
as one convolution. ReLU is the only nonlinearity and nothing is normalised, so that it is one QLinearConv.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GATE_GRID = CHROMA_GRID = 8
GATE_MAX = 0.94
# of 127: without VNNI, pairs of uint8 x int8 products are added in 16 bits, which 127 overflows
WEIGHT_LEVELS = 63
# the uint8 tensors around the gate, in grey levels a step and to either side of zero (the exporter uses the same):
# half steps for last - x, quarters for d and c. A larger d is motion, whatever it is
MOVE_STEP, MOVE_RANGE = 0.5, (-64.0, 63.5)
MEMORY_STEP, MEMORY_RANGE = 0.25, (-32.0, 31.75)
CHANGE = 16.0  # grey levels: a difference that the gate sees as 1
SCENE = 32  # channels of what looks at the scene, and of what follows from it
MOST = 2.0  # a mean activation above counts as this
JITTER = 0.08  # share by which means are off while it learns: they jump with every frame's noise
GAINS = (1 / 16, 4.0)  # least and most that a scene may multiply a channel by
BOTH, LUMA, CHROMA = "yuv", "y", "uv"  # planes
NOISE = 0.03  # smaller coefficients are noise, which whitening must not blow up


def grid_channels(grid: int) -> int:
    """Channels of I420 planes on a grid of this many pixels: grid^2 of luma and half as many of chroma."""
    return grid * grid * 3 // 2


@dataclass(frozen=True)
class StudentConfig:
    """`channels` (multiples of 16), inner 3 x 3 and, after them, inner 1 x 1 convolutions of the sharpener (`depth`,
    `pointwise`), its `grid` in pixels, channels of the gate and of what cleans chroma (0: the sharpener gives chroma,
    too); `temporal` False leaves the recursive half out, `scene` False what looks at the whole frame, which needs the
    memory. Raises ValueError."""

    channels: int = 32
    depth: int = 4
    grid: int = 4
    gate: int = 32
    temporal: bool = True
    scene: bool = False
    pointwise: int = 0
    chroma: int = 0

    def __post_init__(self) -> None:
        if self.scene and not self.temporal:
            raise ValueError("what the last frame told of the scene needs the memory: scene without temporal")


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


class Hold(torch.autograd.Function):
    """Clamps forward; a gradient passes unless it leads farther out, so that what is out can come back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, low: float, high: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.ends = low, high
        return x.clamp(low, high)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (x,), (low, high) = ctx.saved_tensors, ctx.ends
        outwards = ((x < low) & (grad > 0)) | ((x > high) & (grad < 0))
        return grad.masked_fill(outwards, 0), None, None


def hold(x: Tensor, low: float, high: float) -> Tensor:
    """`x` within low..high (see `Hold`)."""
    held: Tensor = Hold.apply(x, low, high)  # type: ignore[no-untyped-call]
    return held


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


def viewed(planes: Planes, top: int, left: int, side: int) -> Planes:
    """The square of this place and side, in luma pixels and even, of y (..., H, W) and uv (..., H/2, W/2)."""
    y, uv = planes
    return (
        y[..., top : top + side, left : left + side],
        uv[..., top // 2 : (top + side) // 2, left // 2 : (left + side) // 2],
    )


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

    def __init__(self, inputs: int, outputs: int, side: int, stride: int = 1) -> None:
        super().__init__(inputs, outputs, side, stride, side // 2 if stride == 1 else 0)

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

    def bordered(self, x: Tensor) -> Tensor:
        """`x` with what a convolution with a stride sees beyond it, before `padding`: nothing beyond the last cell, of
        sides odd and even alike."""
        first = self.kernel_size[0] // 2
        return F.pad(x, (first, 0, first, 0)) if self.stride[0] > 1 else x

    def forward(self, x: Tensor, gains: Tensor | None = None) -> Tensor:
        """`gains` (N, outputs, 1, 1) multiply what comes out."""
        weight, bias = self.folded()
        out = F.conv2d(self.bordered(x), weight, bias, self.stride, self.padding)
        return out if gains is None else out * gains


class BodyConv(Conv):
    """A convolution beside an identity, which carries the signal while the convolution starts as a small
    correction (RepVGG; Ding et al., CVPR 2021)."""

    def __init__(self, channels: int, side: int = 3) -> None:
        super().__init__(channels, channels, side)
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
        return F.pad(eye[..., None, None], (self.kernel_size[0] // 2,) * 4)


class FromFrequencies(Conv):
    """A convolution of packed planes that is learned on their whitened frequencies (see `frequencies`)."""

    def __init__(self, outputs: int, grid: int, side: int = 1, stride: int = 1, of: str = BOTH) -> None:
        basis, (natural, _) = frequencies(grid, of)
        super().__init__(len(basis), outputs, side, stride)
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu")
        nn.init.zeros_(self.bias)  # type: ignore[arg-type]
        self.register_buffer("transform", basis / natural[:, None], persistent=False)

    def weights(self) -> tuple[Tensor, Tensor]:
        weight, bias = super().weights()
        return torch.einsum("okyx,ki->oiyx", weight, self.transform), bias

    def adopt(self, weight: Tensor, bias: Tensor) -> None:
        super().adopt(torch.einsum("oiyx,ik->okyx", weight, torch.linalg.inv(self.transform)), bias)


class ToFrequencies(Conv):
    """A 1 x 1 convolution that gives packed planes, learned on their frequencies; starts as zero."""

    def __init__(self, inputs: int, grid: int, of: str = BOTH) -> None:
        basis, (_, lost) = frequencies(grid, of)
        super().__init__(inputs, len(basis), 1)
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)  # type: ignore[arg-type]
        self.register_buffer("transform", basis.T * lost[None], persistent=False)

    def weights(self) -> tuple[Tensor, Tensor]:
        weight, bias = super().weights()
        return torch.einsum("ik,kcyx->icyx", self.transform, weight), self.transform @ bias  # type: ignore[operator]

    def adopt(self, weight: Tensor, bias: Tensor) -> None:
        back = torch.linalg.inv(self.transform)
        super().adopt(torch.einsum("ki,icyx->kcyx", back, weight), back @ bias)


class Scene(nn.Module):
    """What the mean activations of a frame say to the layers of the next: a gain for each of their channels.

    One at the start. Squeeze and excitation (Hu et al., CVPR 2018), a frame late, which costs a quantised
    convolution nothing: gains are factors of its weights' scales. A camera has one softness and one noise, and
    they show best in a whole frame.
    """

    def __init__(self, means: int, gains: int) -> None:
        super().__init__()
        self.hidden, self.gain = nn.Conv2d(means, SCENE, 1), nn.Conv2d(SCENE, gains, 1)
        nn.init.kaiming_normal_(self.hidden.weight, nonlinearity="relu")
        nn.init.zeros_(self.hidden.bias)  # type: ignore[arg-type]
        nn.init.zeros_(self.gain.weight)
        nn.init.ones_(self.gain.bias)  # type: ignore[arg-type]

    def forward(self, means: Tensor) -> Tensor:
        """(N, means, 1, 1) -> (N, gains, 1, 1)."""
        if self.training:
            means = means * (1 + JITTER * torch.randn_like(means))
        return hold(self.gain(F.relu(self.hidden(hold(means, 0, MOST)))), *GAINS)


def mean(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, C, 1, 1)."""
    return x.mean((2, 3), keepdim=True)


def frequencies(grid: int, of: str = BOTH) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """The orthonormal DCT of a cell of packed planes (n, n), rows are coefficients, n = grid_channels(grid),
    and two (n,): how large coefficients are in pictures, and in what a webcam loses of them. `of` LUMA or CHROMA
    alone, two thirds or a third of it.

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

    parts = []
    if of != CHROMA:
        parts.append(cell(grid, 1, (1.8, 0.2), (0.17, 0.7)))
    if of != LUMA:
        parts.append(cell(grid // 2, 2, (0.25, 0.02), (0.027, 0.6)))
    bases, natural, lost = zip(*parts, strict=True)
    basis: Tensor = torch.block_diag(*bases)  # type: ignore[no-untyped-call]
    return basis.float(), (torch.cat(natural).float(), torch.cat(lost).float())


def int8_weights(weight: Tensor, levels: int) -> Tensor:
    """`weight` (O, I, k, k) as int8 keeps it: per output channel, `levels` steps to either side of zero.

    The gradient passes unchanged (quantisation-aware training; Jacob et al., CVPR 2018). `levels` 0 leaves it
    alone."""
    if not levels:
        return weight
    step = weight.detach().abs().amax(dim=(1, 2, 3), keepdim=True).clamp_min(1e-8) / levels
    return weight + (torch.round(weight / step) * step - weight).detach()


Planes = tuple[Tensor, Tensor]


class State(NamedTuple):
    """What a student remembers: the last frame as it came, what was added to it at full strength, and the mean
    activations (N, means, 1, 1) that the gate and the sharpener saw in it, where it has a scene."""

    last: Planes
    added: Planes
    gate_means: Tensor | None = None
    means: Tensor | None = None


class Student(nn.Module):
    """See the module's docstring for the picture.

    forward(y, uv, state, strength): y (N, 1, H, W), uv (N, 2, H/2, W/2) float grey levels 0..255 with H and W
    multiples of 8; state as the frame before left it, or None at the start, where the frame itself stands in and
    nothing was added (so that nothing is mixed in). Returns the planes out and the new state.
    """

    def __init__(self, config: StudentConfig | None = None) -> None:
        super().__init__()
        self.config = config or StudentConfig()
        c, g, grid = self.config.channels, self.config.gate, self.config.grid
        if self.config.temporal:
            self.gate_in = Conv(grid_channels(GATE_GRID), g, 1)
            self.gate_mid = BodyConv(g)
            self.gate_out = Conv(g, grid_channels(GATE_GRID), 1)
            nn.init.zeros_(self.gate_out.weight)
            nn.init.constant_(self.gate_out.bias, 0.3)  # type: ignore[arg-type]
        self.head = FromFrequencies(c, grid)
        sides = [3] * self.config.depth + [1] * self.config.pointwise
        self.body = nn.ModuleList(BodyConv(c, side) for side in sides)
        self.tail = ToFrequencies(c, grid, LUMA if self.config.chroma else BOTH)
        if self.config.chroma:
            self.chroma_in = FromFrequencies(self.config.chroma, CHROMA_GRID, 3, of=CHROMA)
            self.chroma_out = ToFrequencies(self.config.chroma, CHROMA_GRID, CHROMA)
        if self.config.scene:
            outputs = {name: sum(layers.values()) for name, layers in self.scenes().items()}
            self.gate_scene = Scene(g, outputs["gate_scene"])
            self.look_in = FromFrequencies(SCENE, grid, stride=2)  # a quarter of the cells is enough
            self.look_mid = Conv(SCENE, SCENE, 3, stride=2)
            nn.init.kaiming_normal_(self.look_mid.weight, nonlinearity="relu")
            nn.init.zeros_(self.look_mid.bias)  # type: ignore[arg-type]
            self.scene = Scene(SCENE, outputs["scene"])
            if self.config.chroma:
                self.chroma_scene = Scene(SCENE, outputs["chroma_scene"])

    def scenes(self) -> dict[str, dict[str, int]]:
        """The layers whose channels each of the scenes multiplies, and how many they are."""
        if not self.config.scene:
            return {}
        layers = ["head", *(f"body.{i}" for i in range(len(self.body)))]
        scenes = {
            "gate_scene": {"gate_mid": self.config.gate, "gate_out": grid_channels(GATE_GRID)},
            "scene": dict.fromkeys(layers, self.config.channels),
        }
        return scenes | ({"chroma_scene": {"chroma_in": self.config.chroma}} if self.config.chroma else {})

    def start(self, x: Planes) -> State:
        """The state before the first frame, which is `x`."""
        state = State(x, (torch.zeros_like(x[0]), torch.zeros_like(x[1])))
        if not self.config.scene:
            return state
        nothing = self.gate_in.folded()[1].relu()  # what the gate makes of no difference
        return State(x, state.added, mean(nothing.expand(len(x[0]), -1)[..., None, None]), self.look(x))

    def fuse(self, x: Planes, state: State) -> tuple[Planes, Tensor | None]:
        """The recursive filter: planes and state -> correction c = g * d, planes of the same shapes; and the
        gate's means of this frame."""
        d_y, d_uv = (
            torch.clamp(torch.clamp(last - new, *MOVE_RANGE) + added, *MEMORY_RANGE)
            for new, last, added in zip(x, state.last, state.added, strict=True)
        )
        gains: Sequence[Tensor | None] = (None, None)
        if state.gate_means is not None:
            gains = self.gate_scene(state.gate_means).split(list(self.scenes()["gate_scene"].values()), 1)
        first = F.relu(self.gate_in(pack(d_y, d_uv, GATE_GRID) / CHANGE))
        e = F.relu(self.gate_mid(first, gains[0]))
        g_y, g_uv = unpack(torch.clamp(self.gate_out(e, gains[1]), 0, GATE_MAX), GATE_GRID)
        c_y, c_uv = (quantize(c, MEMORY_STEP, *MEMORY_RANGE) for c in (g_y * d_y, g_uv * d_uv))
        return (c_y, c_uv), mean(first) if self.config.scene else None

    def look(self, f: Planes) -> Tensor:
        """Calmed planes -> the means by which the sharpener knows their scene, (N, SCENE, 1, 1)."""
        return mean(F.relu(self.look_mid(F.relu(self.look_in(self._cells(f))))))

    def sharpen(self, f: Planes, means: Tensor | None = None) -> Planes:
        """Calmed planes in grey levels, and the means of the scene -> residual planes."""
        residual = self.tail(self._features(f, means)[-1]) * 128
        if not self.config.chroma:
            return unpack(residual, self.config.grid)
        colours = (space_to_depth(f[1], CHROMA_GRID // 2) - 128) / 128
        gain = None if means is None else self.chroma_scene(means)
        colours = self.chroma_out(self.chroma_in(colours, gain)) * 128
        return depth_to_space(residual, self.config.grid), depth_to_space(colours, CHROMA_GRID // 2)

    def _features(self, f: Planes, means: Tensor | None) -> list[Tensor]:
        """What each of the sharpener's layers but the last gives, of those that lead to luma."""
        layers = [self.head, *self.body]
        gains: Sequence[Tensor | None] = [None] * len(layers)
        if means is not None:
            gains = self.scene(means).chunk(len(layers), 1)
        h, features = self._cells(f), []
        for conv, gain in zip(layers, gains, strict=True):
            features.append(h := F.relu(conv(h, gain)))
        return features

    def _cells(self, f: Planes) -> Tensor:
        return (pack(*f, self.config.grid) - 128) / 128

    def forward(
        self, y: Tensor, uv: Tensor, state: State | None = None, strength: float | Tensor = 1.0
    ) -> tuple[Tensor, Tensor, State]:
        x = y, uv
        state = state or self.start(x)
        c, gate_means = self.fuse(x, state) if self.config.temporal else (state.added, None)
        f_y, f_uv = (calmed(p, strength * a) for p, a in zip(x, c, strict=True))
        r_y, r_uv = self.sharpen((f_y, f_uv), state.means)
        means = self.look((f_y, f_uv)) if self.config.scene else None
        return f_y + strength * r_y, f_uv + strength * r_uv, State(x, c, gate_means, means)

    def clip(
        self, y: Tensor, uv: Tensor, keep: slice = slice(None), view: tuple[int, int, int] | None = None
    ) -> Planes:
        """A whole clip: y (N, T, 1, H, W), uv (N, T, 2, H/2, W/2) -> the frames `keep` of it, in that layout.

        The recursion runs frame by frame, the sharpening of the kept frames at once, which is what makes
        training on clips affordable. With a `view`, (top, left, side) in multiples of 8, only that square is
        sharpened and returned, by what whole frames tell of the scene."""
        n, (first, last, _) = len(y), keep.indices(y.shape[1])
        f: list[Planes] = [(y[:, i], uv[:, i]) for i in range(last)]  # what comes after changes nothing
        if self.config.temporal:
            state = self.start(f[0])
            for i, x in enumerate(f[1:], 1):
                added, gate_means = self.fuse(x, state)
                state = State(x, added, gate_means)
                f[i] = calmed(x[0], added[0]), calmed(x[1], added[1])

        def together(frames: Iterable[int]) -> Planes:
            planes = zip(*(f[i] for i in frames), strict=True)
            y, uv = (torch.stack(each, 1).flatten(0, 1) for each in planes)
            return y, uv

        kept = range(first, last)
        means = self.look(together(max(0, i - 1) for i in kept)) if self.config.scene else None
        flat = together(kept)
        if view is not None:
            flat = viewed(flat, *view)
        out = tuple(p + r for p, r in zip(flat, self.sharpen(flat, means), strict=True))
        return out[0].view(n, -1, *out[0].shape[1:]), out[1].view(n, -1, *out[1].shape[1:])

    def begin_as(self, weights: Mapping[str, Tensor]) -> None:
        """Takes over the weights (a state dict) of a student of the same channels that may have fewer inner
        convolutions of the last kind, no scene, and nothing that cleans chroma: does exactly what it did, but for
        what its sharpener gave of chroma, with more to learn in.

        Raises RuntimeError where it is another network.
        """
        own = self.state_dict()
        lacking = [k for k in own if k not in weights]
        new = {k: own[k] for k in lacking if k.startswith(("gate_scene.", "look_", "scene.", "chroma_"))}
        if "chroma_in.weight" in new:  # the coefficients of luma come first
            new |= {k: weights[k][: len(own[k])] for k in ("tail.weight", "tail.bias") if k in weights}
        # an inner convolution of nothing beside its identity changes nothing: what it gets is not below 0
        new |= {k: torch.zeros_like(own[k]) for k in lacking if k.startswith("body.")}
        for key, start in (("scene.gain.weight", 0.0), ("scene.gain.bias", 1.0)):
            if key in weights and key in own and len(weights[key]) < len(own[key]):
                rest = torch.full_like(own[key][len(weights[key]) :], start)
                new[key] = torch.cat([weights[key].to(rest), rest])
        self.load_state_dict({**weights, **new})

    @torch.no_grad()
    def revive(self, frames: Planes) -> int:
        """Lets channels that are 0 all over these frames, and so learn nothing any more, carry what the layer before
        them has in them, which no layer reads yet: the student does what it did, with more to learn in.

        Of the sharpener, behind its first convolution; frames as of `forward`. Returns in how many places.
        """
        means = self.look(frames) if self.config.scene else None
        alive = [h.amax((0, 2, 3)) > 0 for h in self._features(frames, means)]
        revived, carried = 0, alive[0]
        layers: list[Any] = [*self.body, self.tail]
        for i, lives in enumerate(alive[1:]):
            conv, reader = layers[i : i + 2]
            new = carried & ~lives
            carried = carried | lives
            revived += int(new.sum())
            conv.weight[new], conv.bias[new] = 0, 0  # the identity beside it is all that is left
            reader.weight[:, new] = 0
            if reader is not self.tail:  # a channel that lives there has no use for an identity
                at = (new & alive[i + 2]).nonzero().flatten()
                middle = reader.kernel_size[0] // 2
                reader.weight[at, at, middle, middle] = -1
        return revived

    def quantize_weights(self, levels: int = WEIGHT_LEVELS) -> None:
        """From now on computes with the weights that the uint8 graph will have (0: with its own again)."""
        for module in self.modules():
            if isinstance(module, Conv):
                module.levels = levels

    def macs_per_pixel(self) -> float:
        """Multiply-accumulates per luma pixel."""
        c, g, grid = self.config.channels, self.config.gate, self.config.grid
        n = grid_channels(grid)
        inner = c * c * (self.config.depth * 9 + self.config.pointwise)
        sharpener = (n * c + inner + c * len(self.tail.weight)) / grid**2
        cells = grid_channels(CHROMA_GRID) // 3
        sharpener += cells * self.config.chroma * (9 + 1) / CHROMA_GRID**2
        if self.config.scene:
            sharpener += (n * SCENE / 2**2 + SCENE * SCENE * 9 / 4**2) / grid**2
        m = grid_channels(GATE_GRID)
        gate = (m * g + g * g * 9 + g * m) / GATE_GRID**2 if self.config.temporal else 0
        return sharpener + gate

    def parameter_count(self) -> int:
        """Parameters of the network, which are as many when it ships."""
        return sum(p.numel() for p in self.parameters())

    def describe(self) -> dict[str, object]:
        return asdict(self.config)
