"""The networks of others: sizes as published, shapes, and what an export computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the peers are built with torch (extra: training)")

from benchmarks import peers  # noqa: E402
from benchmarks.peers import ESPCN, FSRCNN, PEERS, NAFNet, SRVGGCompact  # noqa: E402
from sharpcam.engine import Engine  # noqa: E402
from sharpcam.frame import Frame  # noqa: E402
from sharpcam.geometry import from_rgb, to_rgb  # noqa: E402
from training.networks import count_macs, count_parameters  # noqa: E402


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def weights(network: torch.nn.Module) -> int:
    """Of convolutions, without biases."""
    return sum(m.weight.numel() for m in network.modules() if isinstance(m, torch.nn.Conv2d))


def test_sizes_as_published() -> None:
    assert weights(FSRCNN(channels=1)) == 12_464  # table 1 of its paper
    assert weights(ESPCN()) == 3 * 64 * 25 + 64 * 32 * 9 + 32 * 3 * 9
    assert count_parameters(SRVGGCompact(factor=4)) == 621_424  # realesr-animevideov3
    assert count_parameters(NAFNet(32)) == 17_111_907  # 17.11 M
    macs = count_macs(NAFNet(32), torch.zeros(1, 3, 256, 256)).total
    assert macs / 1e9 == pytest.approx(16, rel=0.02)  # 16 G at 256 x 256


@pytest.mark.parametrize("name", ["espcn", "fsrcnn", "srvgg"])
def test_pictures_keep_their_size(name: str) -> None:
    out = PEERS[name].build()(torch.rand(1, 3, 20, 24))
    assert out.shape == (1, 3, 20, 24)


def test_nafnet_adds_to_the_picture_whatever_its_size() -> None:
    network = NAFNet(8, encoder=(1, 1), middle=1).eval()
    picture = torch.rand(1, 3, 21, 30)
    with torch.no_grad():
        assert network(picture).shape == picture.shape
        network.ending.weight.zero_()
        assert network.ending.bias is not None
        network.ending.bias.fill_(0.25)
        assert torch.allclose(network(picture), picture + 0.25)
        # the other half of the way, past the bottom, sees the picture too
        network = NAFNet(8, encoder=(1, 1), middle=1).eval()
        for up in network.ups:
            up[0].weight.zero_()  # type: ignore[index, union-attr]
        before = network(picture) - picture
        network.intro.weight.mul_(2)
        assert not torch.allclose(network(picture) - picture, before, atol=1e-4)
        network = NAFNet(8, encoder=(1, 1), middle=1).eval()
        # a block starts as the identity
        block, x = network.middle[0], torch.rand(1, 32, 4, 4)
        assert torch.equal(block(x), x)


def test_every_published_student_is_there_and_deblurs() -> None:
    students = [name for name, peer in PEERS.items() if peer.student]
    assert students == ["unet32", "lightunet20k", "cnn58k", "resunet405k", "cnn76k"]
    assert {n for n, p in PEERS.items() if p.deblurs} == {*students, "nafnet16", "nafnet32", "restormer"}


def test_an_export_computes_what_the_network_does(tmp_path: Path) -> None:
    model = peers.export("lightunet20k", tmp_path)
    assert model.manifest.parameters == 19_742
    assert model.manifest.macs_per_pixel == pytest.approx(12.9e3, rel=0.01)
    torch.manual_seed(0)
    network = PEERS["lightunet20k"].build().eval()
    rgb = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    frame, out = Frame(64, 48), Frame(64, 48)
    from_rgb(rgb, frame)
    seen = np.empty((48, 64, 3), np.uint8)
    to_rgb(frame, seen)
    engine = Engine.load(model, (64, 48), "cpu", 1)
    engine.process(frame, out)
    engine.close()
    with torch.no_grad():
        x = torch.from_numpy(seen.transpose(2, 0, 1).copy()).float()[None] / 255
        expected = (network(x)[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    wanted = Frame(64, 48)
    from_rgb(expected, wanted)
    assert np.abs(out.buffer.astype(int) - wanted.buffer).mean() < 1.5
    assert np.abs(out.buffer.astype(int) - frame.buffer).mean() > 10
