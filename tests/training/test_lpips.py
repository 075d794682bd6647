"""LPIPS against its definition in plain sums, and its files. The weights are random: the real are large."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sharpcam.errors import ModelError
from training import weights
from training.lpips import FILES, LPIPS, missing
from training.networks import count_parameters


def random_model(seed: int = 0) -> LPIPS:
    """With the heads' weights at 0 or above, as the published ones are."""
    torch.manual_seed(seed)
    model = LPIPS()
    with torch.no_grad():
        for head in model.heads.parameters():
            head.uniform_(0, 1)
    return model


def save(model: LPIPS, folder: Path) -> None:
    classifier = {"classifier.1.weight": torch.zeros(2), "classifier.1.bias": torch.zeros(2)}
    torch.save(model.trunk.state_dict() | classifier, folder / FILES[0])
    torch.save(model.heads.state_dict(), folder / FILES[1])


# --- the figure ---------------------------------------------------------------------------------------------


def convolution(x: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: int) -> Tensor:
    """By its definition: every window times the kernel, in double precision."""
    outputs, _, side, _ = weight.shape
    high, wide = ((n + 2 * padding - side) // stride + 1 for n in x.shape[-2:])
    windows = F.unfold(x, side, padding=padding, stride=stride)
    return (weight.reshape(outputs, -1) @ windows + bias[:, None]).reshape(len(x), outputs, high, wide)


def pooled(x: Tensor) -> Tensor:
    return x.unfold(2, 3, 2).unfold(3, 3, 2).amax(dim=(-2, -1))


def activations(state: dict[str, Tensor], images: Tensor) -> list[Tensor]:
    def layer(x: Tensor, number: int, stride: int, padding: int) -> Tensor:
        weight, bias = (state[f"features.{number}.{part}"].double() for part in ("weight", "bias"))
        return convolution(x, weight, bias, stride, padding).clamp(min=0)

    mean, deviation = (
        torch.tensor(v, dtype=torch.float64)[:, None, None]
        for v in ([-0.030, -0.088, -0.188], [0.458, 0.448, 0.450])
    )
    first = layer((images.double() * 2 - 1 - mean) / deviation, 0, 4, 2)
    second = layer(pooled(first), 3, 1, 2)
    third = layer(pooled(second), 6, 1, 1)
    fourth = layer(third, 8, 1, 1)
    return [first, second, third, fourth, layer(fourth, 10, 1, 1)]


def by_definition(model: LPIPS, a: Tensor, b: Tensor) -> Tensor:
    """The sum over layers of the mean over positions of w . (a - b)^2, a and b of unit length."""
    state = model.trunk.state_dict()
    total = torch.zeros(len(a), dtype=torch.float64)
    for number, (x, y) in enumerate(zip(activations(state, a), activations(state, b), strict=True)):
        weight = model.heads.state_dict()[f"lin{number}.model.1.weight"].double().flatten()
        x, y = (f / (f.pow(2).sum(1, keepdim=True).sqrt() + 1e-10) for f in (x, y))
        squares = (weight[:, None, None] * (x - y) ** 2).sum(dim=1)
        total += squares.mean(dim=(1, 2))
    return total


def test_is_the_weighted_distance_of_unit_features() -> None:
    model = random_model()
    a, b = torch.rand(2, 2, 3, 71, 48)
    expected = by_definition(model, a, b)
    assert float(expected.min()) > 1e-4
    torch.testing.assert_close(model(a, b).double(), expected, rtol=1e-4, atol=1e-7)


def test_is_zero_for_the_same_picture_symmetric_and_grows_with_the_damage() -> None:
    model = random_model()
    picture = torch.rand(1, 3, 40, 40)
    noise = torch.randn(1, 3, 40, 40)
    small, large = ((picture + level * noise).clamp(0, 1) for level in (0.02, 0.2))
    assert float(model(picture, picture)) == 0
    torch.testing.assert_close(model(picture, large), model(large, picture))
    assert 0 < float(model(small, picture)) < float(model(large, picture))


def test_measures_uint8_pictures_against_one_truth() -> None:
    model = random_model()
    truth, soft, other = np.random.default_rng(0).integers(0, 256, (3, 33, 45, 3), np.uint8)
    figures = model.measure([soft, truth, other], truth)
    tensors = [torch.from_numpy(p).permute(2, 0, 1)[None].double() / 255 for p in (soft, other, truth)]
    for figure, picture in zip(figures[::2], tensors[:2], strict=True):
        assert figure == pytest.approx(float(by_definition(model, picture, tensors[2])), rel=1e-4)
    assert figures[1] == pytest.approx(0, abs=1e-9)
    turned = np.ascontiguousarray(soft[:, :, ::-1])
    assert model.measure([turned], truth)[0] != pytest.approx(
        figures[0], rel=1e-3
    )  # the channels' order counts


def test_stays_in_evaluation_mode() -> None:
    """The heads carry a dropout, which would make the figure another one every time."""
    model = random_model().train()
    a, b = torch.rand(2, 1, 3, 32, 32)
    assert torch.equal(model(a, b), model(a, b))
    assert not any(p.requires_grad for p in model.parameters())


def test_refuses_a_picture_of_which_nothing_would_be_left() -> None:
    model = random_model()
    assert float(model(torch.rand(1, 3, 31, 31), torch.rand(1, 3, 31, 31))) > 0
    with pytest.raises(ValueError, match="at least 31 a side, not 40x30"):
        model(torch.rand(1, 3, 30, 40), torch.rand(1, 3, 30, 40))


# --- its files ------------------------------------------------------------------------------------------


def test_loads_the_published_names_and_leaves_the_classifier_aside(tmp_path: Path) -> None:
    model = random_model(3)
    save(model, tmp_path)
    assert missing(tmp_path) == []
    loaded = LPIPS.from_folder(tmp_path)
    a, b = torch.rand(2, 1, 3, 32, 32)
    assert torch.equal(loaded(a, b), model(a, b))
    assert not torch.equal(LPIPS()(a, b), model(a, b))
    assert sum(p.numel() for p in loaded.trunk.parameters()) == 2_469_696
    assert count_parameters(loaded) == 0  # frozen
    # torchvision's and the paper's own names and shapes
    assert {n: tuple(v.shape) for n, v in loaded.trunk.state_dict().items() if "weight" in n} == {
        "features.0.weight": (64, 3, 11, 11),
        "features.3.weight": (192, 64, 5, 5),
        "features.6.weight": (384, 192, 3, 3),
        "features.8.weight": (256, 384, 3, 3),
        "features.10.weight": (256, 256, 3, 3),
    }
    assert {n: tuple(v.shape) for n, v in loaded.heads.state_dict().items()} == {
        f"lin{i}.model.1.weight": (1, c, 1, 1) for i, c in enumerate((64, 192, 384, 256, 256))
    }


def test_says_which_file_is_missing_or_wrong(tmp_path: Path) -> None:
    assert missing(tmp_path) == ["alexnet-owt-7be5be79.pth", "alex.pth"]
    with pytest.raises(ModelError, match=r"no weights at .*alexnet-owt-7be5be79\.pth") as failure:
        LPIPS.from_folder(tmp_path)
    assert "training.weights" in failure.value.hint
    save(random_model(), tmp_path)
    torch.save({"lin0.model.1.weight": torch.zeros(1, 64, 1, 1)}, tmp_path / FILES[1])
    with pytest.raises(ModelError, match=r"alex\.pth does not fit Heads: no lin1\.model\.1\.weight"):
        LPIPS.from_folder(tmp_path)
    (tmp_path / FILES[0]).unlink()
    assert missing(tmp_path) == [FILES[0]]


def test_the_files_are_known_by_their_published_checksums() -> None:
    alexnet, heads = (weights.REGISTRY[name] for name in weights.GROUPS["lpips"])
    assert alexnet.file.removesuffix(".pth").split("-")[-1] == alexnet.sha256[:8]
    assert heads.sha256.startswith(
        "df73285e"
    )  # as other projects' copies are called: LPIPS_v0.1_alex-df73285e.pth
    assert "non-commercial" in alexnet.licence
    assert all(len(entry.sha256) == 64 for entry in (alexnet, heads))


def test_one_name_fetches_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []

    def fetch(name: str, out: Path, progress: object) -> Path:
        asked.append(name)
        if len(asked) == 3:
            raise ModelError("the address cannot be fetched", "fetch it by hand")
        return out / weights.REGISTRY[name].file

    monkeypatch.setattr(weights, "fetch", fetch)
    assert weights.main(["lpips", "--out", str(tmp_path)]) == 0
    assert asked == ["alexnet", "lpips-alex"]
    out = capsys.readouterr().out
    assert [line for line in out.splitlines() if line.startswith(str(tmp_path))] == [
        str(tmp_path / file) for file in FILES
    ]
    assert "BSD-2-Clause" in out
    assert weights.main(["lpips", "--out", str(tmp_path)]) == 1  # the first of the two fails
    assert len(asked) == 3
    assert "fetch it by hand" in capsys.readouterr().err
