"""`sharpcam config show|path|check`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sharpcam.cli import app
from sharpcam.config import load_config


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user without settings."""
    for name in ("SHARPCAM_CONFIG", "APPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    return tmp_path


def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["config", *map(str, arguments)])
    return result.exit_code, result.stdout, result.stderr


def test_what_is_shown_can_be_read_again(home: Path) -> None:
    file = home / "mine.toml"
    file.write_text(
        '[camera]\nsize = "640x360"\ndevice = "Ärger \\"HD\\""\n[model]\nstrength = 0.25\nthreads = 2\n'
    )
    code, out, _ = run("show", "--config", file)
    assert code == 0
    again = home / "again.toml"
    again.write_text(out, encoding="utf-8")
    assert load_config(again, env={}) == load_config(file, env={})
    assert "# 0 (off) to 1 (full)\nstrength = 0.25\n" in out


def test_defaults_can_be_read_again(home: Path) -> None:
    file = home / "default.toml"
    file.write_text(run("show")[1])
    assert load_config(file, env={}) == load_config(env={})


def test_show_speaks_json_and_heeds_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHARPCAM_MODEL_STRENGTH", "0.5")
    told = json.loads(run("show", "--json")[1])
    assert told["model"]["strength"] == 0.5
    assert told["camera"]["size"] == [1280, 720]


def test_path_is_where_settings_are_read_from(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("path")[1].strip().endswith("config.toml")
    monkeypatch.setenv("SHARPCAM_CONFIG", str(home / "other.toml"))
    assert run("path") == (0, f"{home / 'other.toml'}\n", "")


def test_check_names_line_and_key(home: Path) -> None:
    file = home / "bad.toml"
    file.write_text("[model]\n\nstrength = 7\n")
    code, out, err = run("check", file)
    assert (code, out) == (1, "")
    assert f"{file}, line 3" in err
    assert "model.strength" in err
    file.write_text("[model]\nstrenth = 1\n")
    assert f"{file}, line 2" in run("check", file)[2]


def test_check_of_a_sound_file(home: Path) -> None:
    file = home / "good.toml"
    file.write_text("[model]\nstrength = 0.7\n")
    assert run("check", file) == (0, f"{file}: fine\n", "")


def test_check_without_a_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, _ = run("check")
    assert code == 0
    assert "there is no such file; the defaults hold" in out
    assert run("check", home / "none.toml")[0] == 1, "one that is named has to be there"
    monkeypatch.setenv("SHARPCAM_CONFIG", str(home / "none.toml"))
    assert run("check")[0] == 1
