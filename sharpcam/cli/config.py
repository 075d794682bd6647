"""`sharpcam config`: which settings hold, where they come from, whether a file of them is sound."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from sharpcam.config import Config, load_config, settings_file
from sharpcam.errors import ConfigError


def run_show(path: Path | None, as_json: bool) -> int:
    """Prints all settings that hold now, as a TOML file with what each means, or as JSON."""
    config = load_config(path)
    print(json.dumps(config.model_dump(mode="json"), indent=2) if as_json else as_toml(config))
    return 0


def run_path() -> int:
    """Prints where the settings are read from, whether there is such a file or not."""
    print(settings_file())
    return 0


def run_check(path: Path | None) -> int:
    """Says whether the file (and the environment) can be used; the error names line and key."""
    file = settings_file(path)
    if path is None and not file.is_file() and not os.environ.get("SHARPCAM_CONFIG"):
        load_config()
        print(f"{file}: there is no such file; the defaults hold")
        return 0
    load_config(file)
    print(f"{file}: fine")
    return 0


def as_toml(config: Config) -> str:
    """A file that gives just these settings."""
    lines = []
    for table, values in config.model_dump(mode="json").items():
        fields = type(getattr(config, table)).model_fields
        lines.append(f"[{table}]")
        for name, value in values.items():
            lines += [f"# {fields[name].description}", f"{name} = {_toml(name, value)}"]
        lines.append("")
    return "\n".join(lines).rstrip()


def _toml(name: str, value: Any) -> str:
    if name == "size":
        return f'"{value[0]}x{value[1]}"'
    if value is None:
        return '""'
    if isinstance(value, bool | int | float | str):
        return json.dumps(value, ensure_ascii=False)  # TOML's basic strings and numbers are JSON's
    raise ConfigError(f"{name} cannot be written as TOML")
