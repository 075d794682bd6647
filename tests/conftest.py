"""What many tests need: tiny models, and frames with something on them."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from fake_gpu import gpu as gpu
from tiny_models import rgb_graph, write_yuv_model

from sharpcam.frame import Frame


def pytest_configure() -> None:
    """What a script starts in the background ignores Ctrl-C, which some tests press."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """The command line sets up the package's logger; the next test starts from what was."""
    logger = logging.getLogger("sharpcam")
    handlers, level = list(logger.handlers), logger.level
    yield
    logger.handlers = handlers
    logger.setLevel(level)


@pytest.fixture
def yuv_model(tmp_path: Path) -> Path:
    return write_yuv_model(tmp_path / "models" / "tiny", macs_per_pixel=2.5, parameters=7)


@pytest.fixture
def rgb_model(tmp_path: Path) -> Path:
    path = tmp_path / "gain.onnx"
    path.write_bytes(rgb_graph())
    return path


@pytest.fixture
def no_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Nothing is installed: the bundled and the user's model folders are empty ones under tmp_path."""
    import sharpcam.models

    folders = tmp_path / "bundled", tmp_path / "user"
    for name, folder in zip(("bundled_folder", "user_folder"), folders, strict=True):
        folder.mkdir()
        monkeypatch.setattr(sharpcam.models, name, lambda folder=folder: folder)
    return folders


@pytest.fixture
def picture() -> Callable[..., Frame]:
    """Makes frames with noise on three planes of different mean: a swap or a shift shows."""

    def make(width: int = 64, height: int = 48, seed: int = 0, sequence: int = 0) -> Frame:
        rng = np.random.default_rng(seed)
        frame = Frame(width, height)
        for plane, middle in zip(frame.planes, (120, 90, 160), strict=True):
            plane[:] = rng.integers(middle - 20, middle + 20, plane.shape, np.uint8)
        frame.sequence, frame.captured_ns = sequence, 1_000_000_000 + sequence * 33_333_333
        return frame

    return make
