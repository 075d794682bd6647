"""Int8 weights whose errors cancel."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from made_data import drawn

from training.degrade import to_i420
from training.networks.student import WEIGHT_LEVELS, Conv, Student, StudentConfig
from training.rounding import Inputs, round_weights, rounded

CONFIG = StudentConfig(channels=32, depth=1, gate=16, scene=True, pointwise=1, chroma=16)


def step_of(weight: torch.Tensor) -> torch.Tensor:
    return weight.abs().amax(1, keepdim=True) / WEIGHT_LEVELS


def output_error(weight: torch.Tensor, codes: torch.Tensor, covariance: torch.Tensor) -> float:
    error = codes * step_of(weight) - weight
    return float(((error @ covariance) * error).sum(1).mean())


def alike(inputs: int, share: float) -> torch.Tensor:
    """The covariance of inputs that have this share in common, as neighbouring pixels have."""
    return (share + (1 - share) * torch.eye(inputs)).double()


@pytest.mark.parametrize(("share", "least"), [(0.99, 10), (0.9, 3)])
def test_errors_cancel_where_inputs_go_together(share: float, least: float) -> None:
    weight = torch.from_numpy(np.random.default_rng(1).normal(size=(40, 24)))
    covariance = alike(24, share)
    ours = rounded(weight, step_of(weight), covariance, WEIGHT_LEVELS)
    nearest = (weight / step_of(weight)).round()
    assert output_error(weight, ours, covariance) * least < output_error(weight, nearest, covariance)


def test_inputs_that_have_nothing_in_common_get_the_nearest() -> None:
    weight = torch.from_numpy(np.random.default_rng(2).normal(size=(20, 12)))
    for covariance in (torch.eye(12).double(), torch.zeros(12, 12).double()):
        ours = rounded(weight, step_of(weight), covariance, WEIGHT_LEVELS)
        assert torch.equal(ours, (weight / step_of(weight)).round())


def test_weights_are_whole_steps_and_the_largest_stays() -> None:
    weight = torch.from_numpy(np.random.default_rng(3).normal(size=(30, 16)))
    weight[:, 5] *= 6
    ours = rounded(weight, step_of(weight), alike(16, 0.999), WEIGHT_LEVELS)
    assert torch.equal(ours, ours.round())
    assert ours.abs().max() == WEIGHT_LEVELS
    place = weight.abs().argmax(1)
    assert torch.equal(
        ours.gather(1, place[:, None]), weight.gather(1, place[:, None]).sign() * WEIGHT_LEVELS
    )


@pytest.mark.parametrize(("side", "stride"), [(1, 1), (3, 1), (1, 2), (3, 2)])
def test_what_weights_are_multiplied_with_is_seen(side: int, stride: int) -> None:
    torch.manual_seed(5)
    conv = Conv(3, 4, side, stride)
    inputs, outs = Inputs(), []
    for height in (9, 12):
        x = torch.randn(2, 3, height, 10) + torch.tensor([1.0, 0.0, -2.0])[:, None, None]
        inputs.see(conv, x)
        outs.append(conv(x).transpose(0, 1).flatten(1))
    out = torch.cat(outs, 1).double()
    weight = conv.weight.detach().flatten(1).double()
    assert inputs.count == out.shape[1]
    mean = weight @ inputs.mean + conv.bias.double()  # type: ignore[union-attr]
    assert torch.allclose(mean, out.mean(1), atol=1e-5)
    spread = torch.cov(out, correction=0)
    assert torch.allclose(weight @ inputs.covariance @ weight.T, spread, atol=1e-4)


def test_a_rounded_student_is_nearer_to_itself() -> None:
    torch.manual_seed(6)
    student = Student(CONFIG).eval()
    with torch.no_grad():
        for p in student.parameters():
            p.add_(0.1 * torch.randn_like(p))
    pictures = [drawn(96, 128, seed)[:, :, :3] for seed in range(4)]
    frames = [to_i420(p.astype(np.float32) / 255) for p in pictures]
    clips = [np.stack([f, np.roll(f, 1, axis=1)]) for f in frames]
    y = torch.from_numpy(np.stack([c[:, :96] for c in clips])).float()[:, :, None]
    uv = torch.from_numpy(np.stack([c[:, 96:].reshape(2, 2, 48, 64) for c in clips])).float()
    with torch.no_grad():
        own = student.clip(y, uv)[0]
        student.quantize_weights()
        nearest = (student.clip(y, uv)[0] - own).square().mean()
        round_weights(student, clips)
        ours = student.clip(y, uv)[0]
        assert (own - y).abs().mean() > 1
        assert (ours - own).square().mean() < nearest / 2
        before = {n: m.folded()[0] for n, m in student.named_modules() if isinstance(m, Conv)}
        for name, module in student.named_modules():
            if isinstance(module, Conv):  # int8 keeps them as they are
                assert torch.allclose(module.weights()[0], before[name], atol=1e-5), name
        round_weights(student, clips)
        assert torch.allclose(student.clip(y, uv)[0], ours, atol=0.02), "twice is once"
