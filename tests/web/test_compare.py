"""Comparisons: the process that makes them, and what the page's server lets into it."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from page_rig import Rig, noise, until

import sharpcam.web.compare
import sharpcam.web.worker
from sharpcam import picture_tiles
from sharpcam.engine import Engine
from sharpcam.picture_tiles import in_tiles
from sharpcam.quality import psnr, ssim
from sharpcam.stills import sharpen_picture
from sharpcam.web.job import Job, record
from sharpcam.web.worker import Comparison, soften

ROUND = 3  # decimals of a PSNR


def png(rgb: Any) -> bytes:
    return bytes(cv2.imencode(".png", rgb[..., ::-1])[1].tobytes())


def rgb(data: bytes) -> Any:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def records(data: bytes) -> Iterator[tuple[dict[str, Any], bytes]]:
    while data:
        size = int.from_bytes(data[:4], "big")
        told = json.loads(data[4 : 4 + size])
        end = 4 + size + told["bytes"]
        yield told, data[4 + size : end]
        data = data[end:]


def compared(job: dict[str, Any], *pictures: bytes) -> list[tuple[dict[str, Any], bytes]]:
    """The records of a comparison that is made in this process."""
    out = io.BytesIO()
    Comparison(Job(sizes=[len(p) for p in pictures], **job), 1, out).run(list(pictures))
    return list(records(out.getvalue()))


def shown(told: list[tuple[dict[str, Any], bytes]]) -> dict[str, tuple[dict[str, Any], Any]]:
    return {facts["name"]: (facts, rgb(data)) for facts, data in told if facts["kind"] == "picture"}


def ask(rig: Rig, job: dict[str, Any], *pictures: bytes) -> Any:
    """Through the server."""
    line = json.dumps({"sizes": [len(p) for p in pictures]} | job).encode()
    body = b"\n".join([line, b"".join(pictures)])
    return rig.send("POST", "compare", body, Content_Type="application/octet-stream")


# -- what is compared


def test_soft_and_sharp(tiny_installed: str) -> None:
    soft, sharp = noise(75, 50, 1), noise(75, 50, 2)  # sides that no model takes as they are
    told = compared({"source": "upload", "models": [tiny_installed], "strength": 0.5}, png(soft), png(sharp))
    assert [facts["kind"] for facts, _ in told] == [
        *("begin", "picture", "picture", "progress", "picture", "end")
    ]
    assert told[0][0]["names"] == ["input", "truth", "tiny"]
    assert (told[0][0]["width"], told[0][0]["height"]) == (75, 50)
    pictures = shown(told)
    assert np.array_equal(pictures["input"][1], soft)
    assert np.array_equal(pictures["truth"][1], sharp)
    engine = Engine.load(tiny_installed, (76, 50), "cpu", 1)
    engine.strength = 0.5
    assert np.array_equal(pictures["tiny"][1], sharpen_picture(engine, soft))
    assert not np.array_equal(pictures["tiny"][1], soft)
    for name in ("input", "tiny"):
        facts, picture = pictures[name]
        assert facts["psnr"] == round(psnr(picture, sharp), ROUND)
        assert facts["ssim"] == round(ssim(picture, sharp), 5)
    assert "psnr" not in pictures["truth"][0]


def test_without_a_sharp_picture(tiny_installed: str) -> None:
    pictures = shown(compared({"source": "upload", "models": [tiny_installed]}, png(noise(64, 48))))
    assert list(pictures) == ["input", "tiny"]
    assert not any("psnr" in facts for facts, _ in pictures.values())


def test_identical_and_tiny_pictures(tiny_installed: str) -> None:
    """JSON has no infinity, and SSIM's window does not fit."""
    small = png(noise(8, 8))
    facts = shown(compared({"source": "upload", "models": []}, small, small))["input"][0]
    assert facts["psnr"] is None
    assert "ssim" not in facts


def test_a_jpeg_lies_as_its_camera_lay(tiny_installed: str) -> None:
    data = bytes(cv2.imencode(".jpg", noise(64, 48))[1].tobytes())
    turned = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    data = data[:2] + b"\xff\xe1" + (len(turned) + 2).to_bytes(2, "big") + turned + data[2:]
    told = compared({"source": "upload", "models": []}, data)
    assert (told[0][0]["width"], told[0][0]["height"]) == (48, 64)


def test_the_simulated_webcam(tiny_installed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharpcam.web.worker, "WEBCAM", (128, 72))
    job = {"source": "upload", "soften": True, "models": [tiny_installed]}
    pictures = shown(compared(job, png(noise(256, 256))))
    assert pictures["truth"][1].shape == (72, 72, 3)
    assert np.array_equal(pictures["input"][1], soften(pictures["truth"][1]))
    assert 10 < pictures["input"][0]["psnr"] < 45
    small = noise(64, 48)
    assert np.array_equal(shown(compared(job, png(small)))["truth"][1], small)  # never enlarged
    sharp = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    assert cv2.Laplacian(soften(sharp), cv2.CV_64F).var() < cv2.Laplacian(sharp, cv2.CV_64F).var() / 10


def test_the_test_card_is_a_clip(tiny_installed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that remembers has seen the frames before."""
    monkeypatch.setattr(sharpcam.web.worker, "WEBCAM", (320, 180))
    seen: list[int] = []
    real = sharpen_picture

    def watched(engine: Any, picture: Any, sequence: int = 0) -> Any:
        seen.append(sequence)
        return real(engine, picture, sequence)

    monkeypatch.setattr(sharpcam.web.worker, "sharpen_picture", watched)
    pictures = shown(compared({"source": "scene", "scene": 20, "models": [tiny_installed]}))
    assert list(pictures) == ["input", "truth", "tiny"]
    assert seen == list(range(13))


def test_sizes_that_differ() -> None:
    with pytest.raises(ValueError, match="the soft picture is 64x48, the sharp one 48x64"):
        compared({"source": "upload", "models": []}, png(noise(64, 48)), png(noise(48, 64)))


def test_a_model_that_cannot_be_had(tiny_installed: str) -> None:
    """It is told; the others are shown."""
    from tiny_models import write_yuv_model

    folder = Path(os.environ["XDG_DATA_HOME"], "sharpcam", "models", "broken")
    write_yuv_model(folder, macs_per_pixel=1.0)
    (folder / "model.onnx").write_bytes(b"changed")
    told = compared({"source": "upload", "models": ["broken", "tiny"]}, png(noise(64, 48)))
    unable = [facts for facts, _ in told if facts["kind"] == "unable"]
    assert [facts["name"] for facts in unable] == ["broken"]
    assert "checksum" in unable[0]["error"]
    assert "tiny" in shown(told)


def test_only_installed_models(tmp_path: Path, yuv_model: Path) -> None:
    with pytest.raises(ValueError, match='there is no model "gone"'):
        compared({"source": "upload", "models": ["gone"]}, png(noise(64, 48)))
    for name in (str(yuv_model), "../tiny", "", "auto/"):
        with pytest.raises(ValueError, match="models"):
            Job(source="scene", models=[name])


@pytest.mark.parametrize("size", [(64, 48), (96, 48), (97, 61), (200, 130)])
def test_tiles(tiny_installed: str, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that works on every pixel for itself gives in tiles what it gives in one piece."""
    monkeypatch.setattr(picture_tiles, "TILE", 64)
    monkeypatch.setattr(picture_tiles, "MARGIN", 8)
    whole = noise(*size)
    engine = Engine.load(tiny_installed, (64, 48), "cpu", 1)
    steps: list[float] = []
    tiled = in_tiles(engine, whole, steps.append)
    # on the luma grid of the tile's own; chroma is shared by pairs, so tiles start at even places in even pictures
    expected = sharpen_picture(Engine.load(tiny_installed, size and _even(size), "cpu", 1), whole)
    assert np.abs(tiled.astype(int) - expected).max() <= (2 if size[0] % 2 == 0 else 40)
    assert steps == sorted(steps)
    assert steps[-1] == 1.0
    assert (len(steps) > 1) == (size != (64, 48))


def _even(size: tuple[int, int]) -> tuple[int, int]:
    return size[0] + size[0] % 2, size[1] + size[1] % 2


def test_costly_models_go_in_tiles(tiny_installed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture_tiles, "COSTLY", 1.0)
    monkeypatch.setattr(picture_tiles, "TILE", 64)
    monkeypatch.setattr(picture_tiles, "MARGIN", 8)
    told = compared({"source": "upload", "models": [tiny_installed]}, png(noise(128, 64)))
    shares = [facts["share"] for facts, _ in told if facts["kind"] == "progress"]
    assert len(shares) > 2
    assert shares[0] == 0.0
    assert shares[-1] == 1.0


# -- through the server


def test_from_the_page_to_the_process_and_back(rig: Rig, tiny_installed: str) -> None:
    soft = noise(64, 48)
    answer = ask(rig, {"source": "upload", "models": [tiny_installed]}, png(soft), png(noise(64, 48, 2)))
    assert answer.status == 200
    told = list(records(answer.body))
    assert told[-1][0]["kind"] == "end"
    assert np.array_equal(shown(told)["input"][1], soft)
    answer = ask(rig, {"source": "upload", "models": []}, png(soft), png(noise(48, 64)))
    assert [facts["kind"] for facts, _ in records(answer.body)] == ["failed"]


@pytest.mark.parametrize(
    ("job", "count", "status"),
    [
        ({"source": "upload", "models": []}, 0, 422),
        ({"source": "upload", "models": []}, 3, 422),
        ({"source": "upload", "soften": True, "models": []}, 2, 422),
        ({"source": "scene", "models": []}, 1, 422),
        ({"source": "scene", "scene": -1, "models": []}, 0, 422),
        ({"source": "file", "models": []}, 0, 422),
        ({"source": "scene", "models": ["/etc/passwd"]}, 0, 422),
        ({"source": "scene", "models": [], "path": "/etc/passwd"}, 0, 422),
        ({"source": "scene", "models": [], "strength": 2}, 0, 422),
        ({"source": "upload", "models": [], "sizes": [1, 1]}, 2, 422),
        ({"source": "upload", "models": [], "sizes": [-1, 500]}, 1, 422),
        ({"models": []}, 0, 422),
    ],
)
def test_no_job_that_means_nothing(
    rig: Rig, job: dict[str, Any], count: int, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "Popen", None)
    assert ask(rig, job, *[png(noise(16, 16))] * count).status == status


def test_a_picture_that_is_none(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "Popen", None)
    answer = ask(rig, {"source": "upload", "models": []}, b"MZ" + bytes(100))
    assert (answer.status, answer.error) == (409, "this is no PNG and no JPEG")
    answer = ask(rig, {"source": "upload", "models": []}, png(noise(16, 16)), b"GIF89a" + bytes(100))
    assert answer.status == 409


@pytest.fixture
def sleeper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In place of the process one that says "begin", and its pid in a file, and then nothing."""
    script = tmp_path / "sleeper.py"
    script.write_text(
        "import os, pathlib, sys, time\n"
        f"pathlib.Path({str(tmp_path / 'new')!r}).write_text(str(os.getpid()))\n"
        f"os.rename({str(tmp_path / 'new')!r}, {str(tmp_path / 'pid')!r})\n"
        f"sys.stdout.buffer.write({record('begin')!r}); sys.stdout.flush()\n"
        "time.sleep(600)\n"
    )
    real = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda _, **more: real([sys.executable, str(script)], **more))
    return tmp_path / "pid"


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def start(rig: Rig) -> Any:
    """A connection on which a comparison begins."""
    body = b'{"source": "scene", "models": []}\n'
    lines = rig.headers(
        X_SharpCam="1", Content_Type="application/octet-stream", Content_Length=str(len(body))
    )
    head = [f"POST {rig.prefix}compare HTTP/1.1", *(f"{n}: {v}" for n, v in lines.items()), "", ""]
    connection = rig.connect()
    connection.sendall("\r\n".join(head).encode() + body)
    return connection


def test_cancelling_ends_the_process(rig: Rig, sleeper: Path) -> None:
    connection = start(rig)
    until(sleeper.exists)
    pid = int(sleeper.read_text())
    answer = ask(rig, {"source": "scene", "models": []})
    assert (answer.status, answer.error[:26]) == (409, "another comparison runs; c")
    assert not gone(pid)
    connection.close()
    until(lambda: gone(pid))
    sleeper.unlink()
    with start(rig):  # there is room for the next
        until(sleeper.exists)
        pid = int(sleeper.read_text())
        rig.page.close()
        assert gone(pid)  # nothing is left behind


def test_a_process_that_dies(rig: Rig, sleeper: Path) -> None:
    with start(rig) as connection:
        until(sleeper.exists)
        os.kill(int(sleeper.read_text()), signal.SIGKILL)
        data = b""
        while b'"kind": "failed"' not in data:
            data += connection.recv(4096)
        assert b"broke off" in data
        assert b"not enough memory" in data
        while not data.endswith(b"\r\n0\r\n\r\n"):
            data += connection.recv(4096)


def test_a_page_that_does_not_read(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sleeper: Path
) -> None:
    monkeypatch.setattr(sharpcam.web.compare, "SLOW_S", 0.5)
    (tmp_path / "sleeper.py").write_text(
        (tmp_path / "sleeper.py")
        .read_text()
        .replace("time.sleep(600)", "sys.stdout.buffer.write(bytes(1 << 26))")
    )
    with start(rig):
        until(sleeper.exists)
        pid = int(sleeper.read_text())
        until(lambda: gone(pid))
