"""Where models lie, which one is meant, and whether it is the one that was published.

The manifest itself (`model.toml`) is explained in `sharpcam.manifest`.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from sharpcam.errors import ModelError, validation_line
from sharpcam.graphs import infer_manifest
from sharpcam.manifest import NAME_PATTERN, Manifest

DEFAULT_NAME = "m"


@dataclass(frozen=True)
class Model:
    """A manifest and the folder that it stands for."""

    manifest: Manifest
    folder: Path
    bare: bool = False  # an .onnx file without a manifest: there is no checksum to hold it to

    @property
    def name(self) -> str:
        return self.manifest.name

    def for_provider(self, provider: str) -> Manifest:
        """The manifest with the fields of the provider's variant ("cuda", "cpu") in place."""
        variant = self.manifest.variants.get(provider)  # type: ignore[call-overload]
        if variant is None:
            return self.manifest
        told = {name: getattr(variant, name) for name in variant.model_fields_set}
        return self.manifest.model_copy(update=told)

    def read(self, manifest: Manifest) -> bytes:
        """The graph, after its checksum has been found right: what was hashed is what will run.

        Raises ModelError when the file is missing or is not the published one.
        """
        path = self.folder / manifest.file
        try:
            data = path.read_bytes()
        except OSError as error:
            raise ModelError(
                f'model "{self.name}": cannot read {path}: {error.strerror}', "install the model again"
            ) from error
        digest = hashlib.sha256(data).hexdigest()
        if digest != manifest.sha256:
            raise ModelError(
                f'model "{self.name}": checksum of {path} is {digest[:12]}..., '
                f"model.toml says {manifest.sha256[:12]}...",
                "the file was changed or damaged; install the model again",
            )
        return data

    def card(self) -> str:
        """The text of CARD.md, empty when there is none."""
        path = self.folder / "CARD.md"
        return path.read_text(encoding="utf-8") if path.is_file() else ""


# Where models are


def bundled_folder() -> Path:
    """`models/` of the checkout, or its copy inside the installed package."""
    package = Path(__file__).resolve().parent
    installed = package / "_models"
    return installed if installed.is_dir() else package.parent / "models"


def user_folder() -> Path:
    """Where a user puts models of their own, by the platform's custom."""
    home = Path.home()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or home / "AppData/Local")
    elif sys.platform == "darwin":
        base = home / "Library/Application Support"
    else:
        base = Path(os.environ.get("XDG_DATA_HOME") or home / ".local/share")
    return base / "sharpcam" / "models"


def find_models() -> tuple[list[Model], list[ModelError]]:
    """All models that are installed, smallest first, and what is wrong with the unusable ones.

    The bundled ones come first when a name is there twice.
    """
    models: dict[str, Model] = {}
    errors: list[ModelError] = []
    for folder in (bundled_folder(), user_folder()):
        for path in sorted(folder.glob("*/model.toml")):
            try:
                model = read_manifest(path)
            except ModelError as error:
                errors.append(error)
            else:
                models.setdefault(model.name, model)
    return sorted(models.values(), key=lambda m: (m.manifest.macs_per_pixel or 0, m.name)), errors


def find_model(spec: str | Path = "auto") -> Model:
    """The model that `spec` means: "auto", a name, a folder, a model.toml or a bare .onnx file.

    Raises ModelError when there is no such model or its manifest cannot be used.
    """
    text = str(spec)
    path = Path(spec).expanduser()
    if (text != "auto" and not re.match(NAME_PATTERN, text)) or path.suffix in (".onnx", ".toml"):
        return _model_at(path)
    models, errors = find_models()
    if text == "auto":
        if not models:
            raise (
                errors[0]
                if errors
                else ModelError(
                    f"no model is installed: {bundled_folder()} and {user_folder()} hold none",
                    "install the package again, or name a model file with --model PATH",
                )
            )
        ranked = sorted(models, key=lambda m: (m.name != DEFAULT_NAME, not m.manifest.default))
        return ranked[0]
    for model in models:
        if model.name == text:
            return model
    for error in errors:  # its folder is there but its manifest is broken: say this, not "unknown"
        if f"{os.sep}{text}{os.sep}" in str(error):
            raise error
    if path.exists():
        return _model_at(path)
    known = ", ".join(model.name for model in models) or "none is installed"
    raise ModelError(
        f'there is no model "{text}"', f"known models: {known}; or give the path of an .onnx file"
    )


def _model_at(path: Path) -> Model:
    if path.is_dir():
        if (path / "model.toml").is_file():
            return read_manifest(path / "model.toml")
        if (path / "model.onnx").is_file():
            return _bare(path / "model.onnx")
        raise ModelError(
            f"{path} holds neither model.toml nor model.onnx", "give a model's folder or .onnx file"
        )
    if not path.is_file():
        raise ModelError(f"there is no model file {path}", "`sharpcam models` lists the installed ones")
    return _bare(path) if path.suffix == ".onnx" else read_manifest(path)


def read_manifest(path: Path) -> Model:
    """Reads `model.toml`; raises ModelError in one line with the file, the key and what is wrong."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8-sig"))
        return Model(Manifest.model_validate(values), path.parent)
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"{path} is not TOML: {error}", "install the model again") from error
    except ValidationError as error:
        raise ModelError(
            f"{path}: {validation_line(error.errors())}", "the manifest does not fit this version of SharpCam"
        ) from error


def _bare(path: Path) -> Model:
    from sharpcam.runtime import graph_ports  # pays for importing ONNX Runtime only here

    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from error
    inputs, outputs = graph_ports(data, str(path))
    manifest = infer_manifest(path, inputs, outputs, hashlib.sha256(data).hexdigest())
    return Model(manifest, path.parent, bare=True)
