from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import sharpcam.config
from sharpcam.config import CameraConfig, Config, ModelConfig, OutputConfig, load_config, save_setting
from sharpcam.errors import ConfigError, MediaError


@pytest.fixture(autouse=True)
def no_user_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "user" / "config.toml"
    monkeypatch.setattr(sharpcam.config, "config_file", lambda: path)
    return path


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "c.toml"
    path.write_text(text, encoding="utf-8")
    return path


def failure(path: Path | None = None, **given: Any) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load_config(path, given.get("flags"), given.get("env", {}))
    assert "\n" not in str(caught.value)
    assert caught.value.hint
    return caught.value


def test_defaults() -> None:
    config = load_config(env={})
    assert config == Config()
    assert config.camera.size == (1280, 720)
    assert (config.camera.device, config.camera.fps, config.camera.fit) == (None, 30.0, "letterbox")
    assert (config.output.sink, config.model.name, config.model.provider) == ("auto", "auto", "auto")
    assert (config.model.strength, config.model.temporal, config.model.threads) == (1.0, True, None)


def test_each_place_beats_the_one_before(tmp_path: Path) -> None:
    path = write(tmp_path, '[camera]\nfps = 15\nsize = "640x360"\n[model]\nname = "s"\nstrength = 0.1\n')
    env = {"SHARPCAM_CAMERA_SIZE": "800x600", "SHARPCAM_MODEL_STRENGTH": "0.2"}
    flags = {"model.strength": 0.3, "model.name": None, "camera.fps": None}
    config = load_config(path, flags, env)
    assert config.camera.fps == 15
    assert config.camera.size == (800, 600)
    assert config.model.strength == 0.3
    assert config.model.name == "s"


def test_every_field_can_be_set_from_every_place(tmp_path: Path) -> None:
    values = {
        "camera.device": "Logi",
        "camera.size": "640x480",
        "camera.fps": "25",
        "camera.fit": "crop",
        "camera.mirror": "true",
        "output.sink": "null",
        "output.on_demand": "false",
        "output.split": "true",
        "model.name": "xs",
        "model.strength": "0.5",
        "model.temporal": "false",
        "model.adapt": "false",
        "model.provider": "cpu",
        "model.threads": "2",
    }
    wanted = Config(
        camera=CameraConfig(device="Logi", size=(640, 480), fps=25, fit="crop", mirror=True),
        output=OutputConfig(sink="null", on_demand=False, split=True),
        model=ModelConfig(name="xs", strength=0.5, temporal=False, adapt=False, provider="cpu", threads=2),
    )
    assert set(sharpcam.config._keys()) == values.keys()
    assert (
        load_config(env={f"SHARPCAM_{k.replace('.', '_').upper()}": v for k, v in values.items()}) == wanted
    )
    assert load_config(flags=values, env={}) == wanted
    text = "".join(f'{k} = "{v}"\n' for k, v in values.items())
    assert load_config(write(tmp_path, text), env={}) == wanted


def test_file_of_the_user_and_of_the_environment(no_user_file: Path, tmp_path: Path) -> None:
    no_user_file.parent.mkdir()
    no_user_file.write_text("[camera]\nfps = 20\n")
    assert load_config(env={}).camera.fps == 20
    other = write(tmp_path, "[camera]\nfps = 24\n")
    assert load_config(env={"SHARPCAM_CONFIG": str(other)}).camera.fps == 24
    assert load_config(no_user_file, env={"SHARPCAM_CONFIG": str(other)}).camera.fps == 20


def test_user_file_follows_the_platform(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(sharpcam.config.sys, "platform", "linux")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert sharpcam.config.config_file() == tmp_path / "sharpcam" / "config.toml"
    monkeypatch.setattr(sharpcam.config.sys, "platform", "win32")
    monkeypatch.setenv("APPDATA", str(tmp_path / "roaming"))
    assert sharpcam.config.config_file() == tmp_path / "roaming" / "sharpcam" / "config.toml"


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ('[camera]\n\nsize = "big"\n', 3, "camera.size"),
        ('# a comment\n[camera]\nfps = 30\nsize = "1281x720"\n', 4, "odd"),
        ('[camera]\nsize = "99999x720"\n', 2, "out of range"),
        ("[camera]\nsize = [1280]\n", 2, "camera.size"),
        ("[camera]\nfps = 0\n", 2, "camera.fps"),
        ("[camera]\nfps = inf\n", 2, "camera.fps"),
        ('[camera]\nfit = "stretch"\n', 2, "camera.fit"),
        ("[camera]\nfsp = 30\n", 2, "camera.fsp: this key is not known"),
        ("[model]\nstrength = 1.5\n", 2, "model.strength"),
        ("[camera]\nfps = 30\n[model]\nstrength = 1.5\n", 4, "1.5"),
        ('model.strength = "much"\n', 1, "much"),
        ("[model]\nthreads = 0\n", 2, "model.threads"),
        ("[model]\nthreads = 1.5\n", 2, "model.threads"),
        ('[model]\nprovider = "tpu"\n', 2, "tpu"),
        ('[model]\ntemporal = "perhaps"\n', 2, "model.temporal"),
        ("[output]\nsink = 3\n", 2, "output.sink"),
        ("[outptu]\nsink = 3\n", 1, "[outptu] is not known"),
        ("[camera]\n[x]\n", 2, "[x] is not known"),
        ("camera = 3\n", 1, "should be a table"),
    ],
)
def test_mistakes_in_the_file_name_line_and_key(tmp_path: Path, text: str, line: int, said: str) -> None:
    path = write(tmp_path, text)
    error = failure(path)
    assert str(error).startswith(f"{path}, line {line}: ")
    assert said in str(error)


def test_the_hint_explains_the_key(tmp_path: Path) -> None:
    assert "0 (off) to 1 (full)" in failure(write(tmp_path, "[model]\nstrength = 7\n")).hint
    assert "camera.fps" in failure(write(tmp_path, "[camera]\nfsp = 7\n")).hint


@pytest.mark.parametrize("text", ["[camera\n", "size = 1280x720\n", "a = 1\na = 2\n"])
def test_text_that_is_not_toml(tmp_path: Path, text: str) -> None:
    assert "line" in str(failure(write(tmp_path, text)))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert "No such file" in str(failure(tmp_path / "gone.toml"))
    assert "Is a directory" in str(failure(tmp_path))
    (tmp_path / "latin.toml").write_bytes(b'[model]\n\nname = "\xe9"\n')
    assert "latin.toml, line 3: is not UTF-8" in str(failure(tmp_path / "latin.toml"))
    assert "gone" in str(failure(env={"SHARPCAM_CONFIG": str(tmp_path / "gone")}))


def test_mistakes_in_the_environment_name_the_variable() -> None:
    text = str(failure(env={"SHARPCAM_CAMERA_FPS": "fast"}))
    assert text.startswith("environment variable SHARPCAM_CAMERA_FPS: camera.fps")
    assert "fast" in text
    error = failure(env={"SHARPCAM_CAMERA_FSP": "30"})
    assert "SHARPCAM_CAMERA_FSP is not known" in str(error)
    assert "SHARPCAM_CAMERA_FPS" in error.hint
    load_config(env={"SHARPCAM_SOMETHING_ELSE": "1", "OTHER_CAMERA_FSP": "1"})


def test_mistakes_in_flags_name_the_flag() -> None:
    assert str(failure(flags={"model.strength": 2.0})).startswith("--strength: ")
    assert str(failure(flags={"camera.size": "1281x720"})).startswith("--size: ")
    assert str(failure(flags={"model.provider": "tpu"})).startswith("--provider: ")


def test_an_earlier_mistake_that_is_overridden_is_none() -> None:
    assert load_config(flags={"camera.fps": 30}, env={"SHARPCAM_CAMERA_FPS": "fast"}).camera.fps == 30


def test_empty_means_the_default(tmp_path: Path) -> None:
    path = write(tmp_path, '[camera]\ndevice = ""\n[model]\nthreads = ""\n')
    assert load_config(path, env={}) == Config()


def test_a_camera_may_be_a_number(tmp_path: Path) -> None:
    assert load_config(write(tmp_path, "[camera]\ndevice = 2\n"), env={}).camera.device == "2"


def test_every_field_is_documented() -> None:
    for model in (CameraConfig, OutputConfig, ModelConfig):
        assert all(field.description for field in model.model_fields.values())


# Saving


COMMENTED = """\
# mine
[camera]
size = "640x360"  # small

[model]
# how much
strength = 0.5
"""


def test_a_saved_setting_leaves_all_else_as_it_is(tmp_path: Path) -> None:
    path = write(tmp_path, COMMENTED)
    assert save_setting(path, "model.strength", 0.75) == path
    assert path.read_text() == COMMENTED.replace("0.5", "0.75")
    save_setting(path, "camera.mirror", True)
    save_setting(path, "output.split", True)
    save_setting(path, "model.name", "auto")
    config = load_config(path, env={})
    assert (config.model.strength, config.camera.mirror, config.output.split) == (0.75, True, True)
    assert config.camera.size == (640, 360)
    assert path.read_text().startswith('# mine\n[camera]\nsize = "640x360"  # small\n')
    assert "# how much" in path.read_text()


def test_a_byte_order_mark_is_read_over(tmp_path: Path) -> None:
    """Windows' Notepad saves one as "UTF-8 with BOM", and ends lines in its own way."""
    path = tmp_path / "c.toml"
    path.write_bytes(b"\xef\xbb\xbf" + COMMENTED.replace("\n", "\r\n").encode())
    config = load_config(path, env={})
    assert (config.camera.size, config.model.strength) == ((640, 360), 0.5)
    save_setting(path, "model.strength", 0.75)
    assert load_config(path, env={}).model.strength == 0.75
    path.write_bytes(b"\xef\xbb\xbf[model]\nstrength = 3\n")
    assert str(failure(path)).startswith(f"{path}, line 2: ")


def test_a_first_setting_makes_the_file(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "config.toml"
    save_setting(path, "model.adapt", False)
    assert load_config(path, env={}).model.adapt is False


def test_a_linked_file_stays_a_link(tmp_path: Path) -> None:
    real, link = write(tmp_path, COMMENTED), tmp_path / "link.toml"
    link.symlink_to(real)
    save_setting(link, "model.strength", 1.0)
    assert link.is_symlink()
    assert "strength = 1.0" in real.read_text()


def test_a_folder_that_cannot_be_made_is_explained(tmp_path: Path) -> None:
    (tmp_path / "a file").touch()
    with pytest.raises(MediaError, match="its folder is a file"):
        save_setting(tmp_path / "a file" / "sharpcam" / "c.toml", "model.strength", 1.0)


@pytest.mark.parametrize("text", ["[model", "model = 3\n", "\xff"])
def test_what_is_no_settings_file_is_not_written_over(tmp_path: Path, text: str) -> None:
    path = tmp_path / "c.toml"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(ConfigError):
        save_setting(path, "model.strength", 1.0)
    assert path.read_text(encoding="latin-1") == text
