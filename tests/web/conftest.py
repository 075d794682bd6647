from __future__ import annotations

import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tiny_models import write_yuv_model

if TYPE_CHECKING:
    from page_rig import Rig


@pytest.fixture
def rig() -> Iterator[Rig]:
    # not at the top: where the extra is not installed, each module is skipped for itself
    from page_rig import Rig

    made = Rig()
    yield made
    made.close()


@pytest.fixture(autouse=True)
def threads_end() -> Iterator[None]:
    yield
    left = [thread.name for thread in threading.enumerate() if thread.name.startswith("sharpcam-")]
    assert not left


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A runtime folder with a short path: that of a socket has 107 bytes."""
    folder = Path(tempfile.mkdtemp(prefix="sc-"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def tiny_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a tiny model in the user's folder, for processes that are started, too."""
    if sys.platform != "linux":
        pytest.skip("the user's folder is set by XDG_DATA_HOME")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    write_yuv_model(tmp_path / "data" / "sharpcam" / "models" / "tiny", macs_per_pixel=2.5)
    return "tiny"
