"""The settings: defaults < TOML file < SHARPCAM_* environment < command line.

The file has the tables `[camera]`, `[output]` and `[model]` with the keys below; the environment names them
SHARPCAM_CAMERA_SIZE and so on. It is read from the path given, from SHARPCAM_CONFIG, or, where there is one,
from `config.toml` in the user's configuration folder.
"""

from __future__ import annotations

import os
import re
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from sharpcam.errors import ConfigError, SharpCamError, validation_line
from sharpcam.frame import check_size

PREFIX = "SHARPCAM_"
Values = Mapping[str, Any]


def parse_size(value: Any) -> tuple[int, int]:
    """(width, height) from "1280x720" or from two numbers; raises ValueError with the way out."""
    if isinstance(value, str):
        if not (match := re.fullmatch(r"\s*(\d{1,5})\s*[x×X]\s*(\d{1,5})\s*", value)):
            raise ValueError(f'size "{value}" is not WIDTHxHEIGHT, such as 1280x720')
        value = match.groups()
    try:
        width, height = (int(side) for side in value)
    except (TypeError, ValueError):
        raise ValueError("size should be WIDTHxHEIGHT, such as 1280x720") from None
    try:
        check_size(width, height)
    except SharpCamError as error:
        raise ValueError(f"{error}; {error.hint}") from None
    return width, height


def _text(value: Any) -> Any:
    """A camera's index is a number in TOML and text everywhere else."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _unset(value: Any) -> Any:
    """An empty string is how a file or the environment says "the default"."""
    return None if value == "" else value


Size = Annotated[tuple[int, int], BeforeValidator(parse_size)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class CameraConfig(_Table):
    device: Annotated[str | None, BeforeValidator(_unset), BeforeValidator(_text)] = Field(
        default=None, description="index, /dev/videoN, by-id path or name; empty for the first camera"
    )
    size: Size = Field(default=(1280, 720), description="WIDTHxHEIGHT of the picture, even sides")
    fps: float = Field(default=30.0, gt=0, le=240, description="frames per second asked of the camera")
    fit: Literal["letterbox", "crop"] = Field(
        default="letterbox", description="how a picture of another shape fills the size"
    )
    mirror: bool = Field(default=False, description="left and right change places")


class OutputConfig(_Table):
    sink: str = Field(
        default="auto",
        min_length=1,
        description="auto, /dev/videoN (a virtual camera), a video file, or null",
    )
    on_demand: bool = Field(
        default=True, description="close the camera while no program watches the virtual one"
    )
    split: bool = Field(default=False, description="left half before, right half after")


class ModelConfig(_Table):
    name: str = Field(default="auto", min_length=1, description="auto, a model's name, or the path of one")
    strength: float = Field(default=1.0, ge=0, le=1, description="0 (off) to 1 (full)")
    temporal: bool = Field(default=True, description="use the frames before, too: calmer and sharper")
    adapt: bool = Field(
        default=True, description="with name auto: something cheaper when frames would be late, and back"
    )
    provider: Literal["auto", "cuda", "tensorrt", "cpu"] = Field(
        default="auto", description="where the model runs"
    )
    threads: Annotated[int | None, BeforeValidator(_unset)] = Field(
        default=None, ge=1, le=256, description="CPU threads of the model; empty for all cores but one"
    )


class Config(_Table):
    """All settings. `load_config` is how one is made."""

    camera: CameraConfig = CameraConfig()
    output: OutputConfig = OutputConfig()
    model: ModelConfig = ModelConfig()


def config_file() -> Path:
    """Where the user's settings are looked for when no file is named."""
    home = Path.home()
    if sys.platform == "win32":
        base = Path(os.environ.get("APPDATA") or home / "AppData/Roaming")
    elif sys.platform == "darwin":
        base = home / "Library/Application Support"
    else:
        base = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
    return base / "sharpcam" / "config.toml"


def settings_file(path: Path | None = None, env: Mapping[str, str] | None = None) -> Path:
    """The file that `load_config` reads: the one named, SHARPCAM_CONFIG, or the user's own."""
    env = os.environ if env is None else env
    named = env.get(f"{PREFIX}CONFIG")
    return (path or (Path(named) if named else config_file())).expanduser()


def load_config(
    path: Path | None = None,
    flags: Mapping[str, Any] | None = None,
    env: Mapping[str, str] | None = None,
) -> Config:
    """The settings from all four places; `flags` maps "camera.size" and the like, None where not given.

    Raises ConfigError that names the flag, the variable, or the file with line and key.
    """
    env = os.environ if env is None else env
    origins: dict[str, str] = {}
    tree: dict[str, dict[str, Any]] = {}
    file = settings_file(path, env)
    if path or env.get(f"{PREFIX}CONFIG") or file.is_file():
        for key, (value, line) in _read_file(file).items():
            _set(tree, key, value)
            origins[key] = f"{file}, line {line}"
    for name, key in _variables().items():
        if name in env:
            _set(tree, key, env[name])
            origins[key] = f"environment variable {name}"
    for key, value in (flags or {}).items():
        if value is not None:
            _set(tree, key, value)
            origins[key] = f"--{_flag(key)}"
    _refuse_unknown_variables(env)
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise _explain(error, origins) from None


def save_setting(file: Path, key: str, value: float | bool | str) -> Path:
    """Writes one setting ("model.strength") into the user's file, and leaves all else in it as it is.

    Gives the path. Raises ConfigError when the file is not TOML or would not hold together, MediaError when
    it cannot be written.
    """
    import tomlkit  # here: no other command needs it
    from tomlkit.exceptions import TOMLKitError

    from sharpcam.files import write_error, write_whole

    file = file.expanduser().resolve()  # a link to a file elsewhere stays one
    table, _, name = key.partition(".")
    try:
        document = (
            tomlkit.parse(file.read_text(encoding="utf-8-sig")) if file.exists() else tomlkit.document()
        )
        document.setdefault(table, tomlkit.table())[name] = value
        text = tomlkit.dumps(document)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {file}: {error}", "nothing was saved") from None
    except (TOMLKitError, TypeError) as error:
        raise ConfigError(f"{file} is not a settings file: {error}", "sharpcam config check") from None
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(file.parent, error) from error
    write_whole(file, text.encode())
    return file


def _set(tree: dict[str, dict[str, Any]], key: str, value: Any) -> None:
    table, _, name = key.partition(".")
    tree.setdefault(table, {})[name] = value


def _flag(key: str) -> str:
    return {"model.name": "model", "model.temporal": "no-temporal", "output.on_demand": "always-on"}.get(
        key, key.partition(".")[2]
    )


def _tables() -> dict[str, type[BaseModel]]:
    return {"camera": CameraConfig, "output": OutputConfig, "model": ModelConfig}


def _keys() -> list[str]:
    return [f"{table}.{name}" for table, model in _tables().items() for name in model.model_fields]


def _variables() -> dict[str, str]:
    return {PREFIX + key.replace(".", "_").upper(): key for key in _keys()}


def _refuse_unknown_variables(env: Mapping[str, str]) -> None:
    """A misspelt variable that is silently ignored costs its author an hour."""
    known = _variables()
    for name in sorted(env):
        table = name.removeprefix(PREFIX).partition("_")[0].lower()
        if name.startswith(PREFIX) and table in _tables() and name not in known:
            names = ", ".join(k for k in known if k.startswith(f"{PREFIX}{table.upper()}_"))
            raise ConfigError(f"environment variable {name} is not known", f"there are {names}")


def _read_file(path: Path) -> dict[str, tuple[Any, int]]:
    """{"camera.size": (value, line), ...} for what stands in the file."""
    try:
        text = path.read_text(encoding="utf-8-sig")  # Windows' Notepad may begin with a byte order mark
        values = tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}", "name another with --config") from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}, line {line}: is not UTF-8", "save the file as UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not TOML: {error}", 'text needs quotes: size = "1280x720"') from error
    lines = _lines(text)
    found = {}
    for table, content in values.items():
        where = f"{path}, line {lines.get(table, 1)}"
        if table not in _tables():
            raise ConfigError(f"{where}: [{table}] is not known", f"the tables are {', '.join(_tables())}")
        if not isinstance(content, dict):
            raise ConfigError(f"{where}: {table} should be a table", f"write [{table}] on a line of its own")
        for name, value in content.items():
            key = f"{table}.{name}"
            found[key] = (value, lines.get(key, lines.get(table, 1)))
    return found


def _lines(text: str) -> dict[str, int]:
    """Line numbers of tables and keys, which tomllib does not tell."""
    lines: dict[str, int] = {}
    table = ""
    for number, line in enumerate(text.splitlines(), 1):
        if match := re.match(r"\s*\[\s*([\w-]+)\s*\]", line):
            table = match[1]
            lines.setdefault(table, number)
        elif match := re.match(r"\s*([\w-]+)\s*(?:\.\s*([\w-]+)\s*)?=", line):
            first, second = match[1], match[2]
            key = f"{first}.{second}" if second else first
            lines.setdefault(f"{table}.{key}" if table else key, number)
            lines.setdefault(table or first, number)
    return lines


def _explain(error: ValidationError, origins: Mapping[str, str]) -> ConfigError:
    problems = error.errors()
    key = ".".join(str(part) for part in problems[0]["loc"][:2])
    origin = origins.get(key, "")
    line = validation_line(problems)
    given = problems[0].get("input")
    told = f" (it is {given!r})" if isinstance(given, str | int | float) and str(given) not in line else ""
    return ConfigError(f"{origin}: {line}{told}", _hint(key))


def _hint(key: str) -> str:
    table, _, name = key.partition(".")
    model = _tables().get(table)
    if model and name in model.model_fields:
        return f"{key}: {model.model_fields[name].description}"
    known = ", ".join(k for k in _keys() if k.startswith(f"{table}."))
    return f"there are {known}" if known else f"the tables are {', '.join(_tables())}"
