"""The download against a real HTTP server on this machine, and the networks that the files are for."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from sharpcam.errors import MediaError, ModelError
from training import weights
from training.networks import count_macs, count_parameters
from training.networks.resnet import ResNet18
from training.networks.vgg import VGG16Features

CONTENT = bytes(range(256)) * 12_000  # 3 MB: several chunks


class Server(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.body = CONTENT
        self.announced = len(CONTENT)
        self.status = 200
        self.requests = 0

    def handle_error(self, *_: Any) -> None:
        pass  # a client that has read enough hangs up


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.requests += 1
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(self.server.announced))
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}/net-1234.pth"
    entry = weights.Published(url, len(CONTENT), hashlib.sha256(CONTENT).hexdigest(), "MIT")
    monkeypatch.setitem(weights.REGISTRY, "net", entry)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    yield server
    server.shutdown()
    server.server_close()
    thread.join(5)


def test_fetches_checks_and_reports_progress(server: Server, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    path = weights.fetch("net", tmp_path / "new" / "folder", lambda done, total: seen.append((done, total)))
    assert path == tmp_path / "new" / "folder" / "net-1234.pth"
    assert path.read_bytes() == CONTENT
    assert path.stat().st_mode & 0o777 == 0o644
    assert list(path.parent.iterdir()) == [path]
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert len(seen) > 1
    assert seen[-1] == (len(CONTENT), len(CONTENT))


def test_asks_only_once(server: Server, tmp_path: Path) -> None:
    weights.fetch("net", tmp_path)
    weights.fetch("net", tmp_path)
    assert server.requests == 1


def test_mends_a_damaged_file(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "net-1234.pth"
    path.write_bytes(CONTENT[:-1] + b"?")
    assert weights.fetch("net", tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("body", "announced", "cause"),
    [
        (CONTENT[:-1] + b"?", len(CONTENT), "not the published one"),
        (CONTENT[:1000], 1000, r"cut short \(1000 of 3072000 bytes\)"),
        (CONTENT[:1000], len(CONTENT), "cut short|cannot be fetched"),
        (CONTENT + b"more", len(CONTENT) + 4, "not the published one"),
    ],
)
def test_refuses_what_is_not_the_published_file(
    server: Server, tmp_path: Path, body: bytes, announced: int, cause: str
) -> None:
    server.body, server.announced = body, announced
    old = tmp_path / "net-1234.pth"
    old.write_bytes(b"old")
    with pytest.raises(ModelError, match=cause) as failure:
        weights.fetch("net", tmp_path)
    assert weights.REGISTRY["net"].sha256 in failure.value.hint
    assert str(old) in failure.value.hint
    assert old.read_bytes() == b"old"  # neither lost nor half replaced
    assert list(tmp_path.iterdir()) == [old]


def test_stops_reading_what_is_too_long(server: Server, tmp_path: Path) -> None:
    server.body = CONTENT * 5
    server.announced = len(server.body)
    seen: list[int] = []
    with pytest.raises(ModelError, match="not the published one") as failure:
        weights.fetch("net", tmp_path, lambda done, total: seen.append(done))
    assert max(seen) <= len(CONTENT)
    assert f"({len(server.body)} of" not in str(failure.value)
    assert not list(tmp_path.iterdir())


def test_explains_an_address_that_gives_nothing(server: Server, tmp_path: Path) -> None:
    server.status = 404
    with pytest.raises(ModelError, match=r"net-1234\.pth cannot be fetched: Not Found"):
        weights.fetch("net", tmp_path)
    server.shutdown()
    server.server_close()
    with pytest.raises(ModelError, match=r"cannot be fetched: .*refused") as failure:
        weights.fetch("net", tmp_path)
    assert "by hand" in failure.value.hint
    assert not list(tmp_path.iterdir())


def test_explains_a_folder_that_cannot_be_written(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(MediaError, match="cannot be written") as failure:
        weights.fetch("net", tmp_path / "file")
    assert "--out" in failure.value.hint


def test_leaves_nothing_behind_when_interrupted(server: Server, tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        weights.fetch("net", tmp_path, interrupt)
    assert not list(tmp_path.iterdir())


def test_command_line(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert weights.main(["net", "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "licence MIT" in out
    assert out.splitlines()[-1] == str(tmp_path / "net-1234.pth")
    server.status = 500
    (tmp_path / "net-1234.pth").unlink()
    assert weights.main(["net", "--out", str(tmp_path)]) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("error: http")
    with pytest.raises(SystemExit) as usage:
        weights.main(["nothing"])
    assert usage.value.code == 2
    with pytest.raises(ModelError, match="no weights named 'nothing'"):
        weights.fetch("nothing", tmp_path)


@pytest.mark.parametrize("name", ["vgg16", "resnet18"])
def test_pytorch_files_carry_the_start_of_their_checksum(name: str) -> None:
    entry = weights.REGISTRY[name]
    assert entry.file.removesuffix(".pth").split("-")[1] == entry.sha256[:8]


def test_restormer_is_never_said_to_be_free() -> None:
    licence = weights.REGISTRY["restormer-motion-deblurring"].licence
    assert "non-commercial" in licence
    assert "never derived" in licence


# --- the networks ------------------------------------------------------------------------------------------


def test_vgg_loads_torchvisions_file_and_leaves_its_classifier_aside(tmp_path: Path) -> None:
    indices = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
    widths = (3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
    file = {}
    for i, inputs, outputs in zip(indices, widths, widths[1:], strict=False):
        file[f"features.{i}.weight"] = torch.full((1,), float(i)).expand(outputs, inputs, 3, 3)
        file[f"features.{i}.bias"] = torch.full((1,), float(-i)).expand(outputs)
    torch.save(file | {"classifier.0.weight": torch.zeros(2)}, tmp_path / "vgg.pth")
    model = VGG16Features.from_file(tmp_path / "vgg.pth")
    assert count_parameters(model) == 14_714_688
    assert all(bool((value == file[name]).all()) for name, value in model.state_dict().items())

    torch.save(file | {"other": torch.zeros(2)}, tmp_path / "vgg.pth")
    with pytest.raises(ModelError, match="unknown other"):
        VGG16Features.from_file(tmp_path / "vgg.pth")


@torch.no_grad()
def test_vgg_normalises_and_taps_after_the_named_activation() -> None:
    torch.manual_seed(0)
    model = VGG16Features(["relu3_1", "relu1_2"])
    images = torch.rand(2, 3, 16, 24)
    first, third = model(images)
    assert first.shape == (2, 64, 16, 24)
    assert third.shape == (2, 256, 4, 6)
    f = model.features
    x = (images - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor([0.229, 0.224, 0.225])[
        :, None, None
    ]
    x = f[2](f[0](x).relu()).relu()
    torch.testing.assert_close(first, x)
    x = torch.nn.functional.max_pool2d(x, 2)
    x = torch.nn.functional.max_pool2d(f[7](f[5](x).relu()).relu(), 2)
    torch.testing.assert_close(third, f[10](x).relu())


@pytest.mark.parametrize("taps", [["relu2_3"], []])
def test_vgg_refuses_taps_that_it_has_not(taps: list[str]) -> None:
    with pytest.raises(ValueError, match=r"choose some of relu1_1, .*relu5_3"):
        VGG16Features(taps)


def test_resnet_loads_torchvisions_file(tmp_path: Path) -> None:
    def norm(name: str, channels: int) -> dict[str, tuple[int, ...]]:
        return {f"{name}.{part}": (channels,) for part in ("weight", "bias", "running_mean", "running_var")}

    shapes: dict[str, tuple[int, ...]] = {"conv1.weight": (64, 3, 7, 7), **norm("bn1", 64)}
    inputs = 64
    for stage, outputs in enumerate((64, 128, 256, 512), 1):
        for block in range(2):
            here = f"layer{stage}.{block}"
            shapes |= {f"{here}.conv1.weight": (outputs, inputs, 3, 3), **norm(f"{here}.bn1", outputs)}
            shapes |= {f"{here}.conv2.weight": (outputs, outputs, 3, 3), **norm(f"{here}.bn2", outputs)}
            if inputs != outputs:
                shapes |= {f"{here}.downsample.0.weight": (outputs, inputs, 1, 1)}
                shapes |= norm(f"{here}.downsample.1", outputs)
            inputs = outputs
    shapes |= {"fc.weight": (1000, 512), "fc.bias": (1000,)}
    torch.save({name: torch.full((1,), 0.25).expand(shape) for name, shape in shapes.items()}, tmp_path / "r")
    model = ResNet18.from_file(tmp_path / "r")  # without num_batches_tracked, as the published file may be
    assert count_parameters(model) == 11_689_512
    assert all(bool((p == 0.25).all()) for p in model.parameters())
    assert bool((model.layer4[0].downsample[1].running_var == 0.25).all())


def test_resnet_costs_and_yields_what_it_should() -> None:
    model = ResNet18().eval()
    assert round(count_macs(model, torch.empty(1, 3, 224, 224)).total / 1e9, 3) == 1.814  # published: 1.81 G
    with torch.no_grad():
        (features,) = model(torch.rand(2, 3, 64, 48))
        assert features.shape == (2, 512)
        assert model.classify(torch.rand(1, 3, 32, 32)).shape == (1, 1000)


@torch.no_grad()
def test_resnet_block_adds_the_projected_input() -> None:
    torch.manual_seed(0)
    block = ResNet18().eval().layer2[0]
    x = torch.randn(1, 64, 8, 8)
    scale = (1 + 1e-5) ** -0.5  # batch norms at their start, in evaluation
    conv = torch.nn.functional.conv2d
    y = conv(x, block.conv1.weight, stride=2, padding=1).mul(scale).relu()
    y = conv(y, block.conv2.weight, padding=1).mul(scale)
    y = (y + conv(x, block.downsample[0].weight, stride=2).mul(scale)).relu()
    torch.testing.assert_close(block(x), y)


@torch.no_grad()
def test_resnet_normalises_and_begins_with_a_stem_of_quarter_size() -> None:
    torch.manual_seed(0)
    model = ResNet18().eval()
    seen: list[torch.Tensor] = []
    model.layer1.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    images = torch.rand(1, 3, 32, 40)
    model(images)
    mean, std = (torch.tensor(v)[:, None, None] for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    x = torch.nn.functional.conv2d((images - mean) / std, model.conv1.weight, stride=2, padding=3)
    x = (x * (1 + 1e-5) ** -0.5).relu()
    x = torch.nn.functional.pad(x, (1, 1, 1, 1)).unfold(2, 3, 2).unfold(3, 3, 2).amax(dim=(-2, -1))
    torch.testing.assert_close(seen[0], x)
