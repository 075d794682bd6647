"""The account that an exported model gives of itself: data, teachers, figures, how to make it again.

All of it is read from the checkpoint, from notes about the data and from reports of `training.evaluate`;
nothing is claimed that was not recorded or measured. Of the data only names, licences and counts appear,
never paths.
"""

from __future__ import annotations

import json
import math
import re
import shlex
import tomllib
from collections.abc import Iterable, Sequence
from datetime import date
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from sharpcam.errors import validation_line
from training.errors import DataError, RecipeError
from training.recipe import Recipe, differences, load_recipe
from training.tasks import needs_teacher

UNSTATED = "as stated by its owner"
NOT_RECORDED = "not recorded"
UNTAUGHT = "none: learnt from the truth alone"


# -- data ----------------------------------------------------------------------------------------------


class Note(BaseModel):
    """One row of a file of data notes: `[[data]]` with these keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    licence: str
    count: int | None = Field(default=None, ge=1)
    unit: str = "files"
    use: Literal["training", "measuring"] = "training"
    url: str = ""

    @property
    def amount(self) -> str:
        return f"{self.count} {self.unit}" if self.count else "any number"


def read_notes(path: Path | None) -> list[Note]:
    """The rows of a TOML file of data notes. Raises DataError."""
    if path is None:
        return []
    try:
        rows = tomllib.loads(path.read_text(encoding="utf-8")).get("data", [])
        notes = TypeAdapter(list[Note]).validate_python(rows)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as e:
        raise DataError(f"data notes {path}: {e.strerror if isinstance(e, OSError) else e}") from e
    except ValidationError as e:
        raise DataError(f"data notes {path}: {validation_line(e.errors())}") from e
    if not notes:
        raise DataError(f"data notes {path}: no [[data]] with name, licence and count")
    return notes


def read_reports(paths: Iterable[Path]) -> dict[str, dict[str, Any]]:
    """Reports of `python -m training.evaluate --json FILE`, by the names of their files. Raises DataError."""
    reports: dict[str, dict[str, Any]] = {}
    for path in paths:
        try:
            report = json.loads(path.read_text(encoding="utf-8"))
            for kind in ("input", "output"):
                if not all(math.isfinite(report[kind][figure]) for figure in ("psnr", "ssim")):
                    raise ValueError(f"{kind} has no PSNR and SSIM")
        except OSError as e:
            raise DataError(f"report {path}: {e.strerror}") from e
        except (ValueError, KeyError, TypeError) as e:
            raise DataError(f"report {path} is not one of training.evaluate with a model: {e!r}") from e
        reports[path.stem] = report
    return reports


def data_rows(content: dict[str, Any]) -> list[Note]:
    """What it was trained on: the notes, or else the folders that the checkpoint names."""
    if notes := content.get("notes"):
        return list(notes)
    folders: dict[str, int] = {}
    rows: list[Note] = []
    for entry in content.get("provenance") or []:
        folders |= (entry.get("data") or {}).get("folders") or {}
        start = entry.get("started_from") or {}
        if "model" in start:
            name = f"what model {start['model']} {start['version']} learnt from, in whose weights this began"
            rows.append(Note(name=name, licence="see its card"))
    return rows + [Note(name=name, licence=UNSTATED, count=count) for name, count in folders.items()]


# -- who taught ----------------------------------------------------------------------------------------


def teacher_line(content: dict[str, Any]) -> str:
    """All teachers of the steps that led to a checkpoint, or to several, those before `--start-from` among them."""
    lines = _teachers(content.get("provenance"))
    others = [
        line
        for other in content.get("mean_with", ())
        for line in (_line_of(other["teacher"]) if "model" in other else _teachers(other.get("provenance")))
    ]
    lines = list(dict.fromkeys([*lines, *(t for t in others if t != "none")]))
    if lines == ["none"]:
        return UNTAUGHT
    return "; ".join(lines)


def _teachers(provenance: Sequence[dict[str, Any]] | None) -> list[str]:
    if not provenance or provenance[0]["from_step"]:
        return [NOT_RECORDED, *(_teacher(entry) for entry in provenance or [])]
    lines: list[str] = []
    for entry in provenance:
        if start := entry.get("started_from"):
            exported = "model" in start  # a model folder says who taught in a line, a checkpoint in full
            lines += _line_of(start["teacher"]) if exported else _teachers(start.get("provenance"))
        lines.append(_teacher(entry))
    named = [line for line in lines if line != "none"]
    return named or ["none"]


def _line_of(manifest_line: str) -> list[str]:
    """What a manifest's line of teachers says, in the words of `_teachers`."""
    return ["none"] if manifest_line == UNTAUGHT else [manifest_line or NOT_RECORDED]


def _teacher(entry: dict[str, Any]) -> str:
    teacher = entry.get("teacher")
    if not teacher:
        return "none"
    size = f"{teacher['kind']} of {teacher['parameters']:,} parameters"
    if name := teacher.get("published"):
        return f"{name} ({size}; licence {teacher['licence']})"
    recipe = teacher.get("recipe")
    made = f"recipe {recipe['name']}, step {teacher['step']:,}" if recipe else f"file {teacher['file']}"
    return f"{made} ({size}; sha256 {teacher['sha256'][:16]})"


# -- how good it is ------------------------------------------------------------------------------------


def metrics(content: dict[str, Any]) -> list[dict[str, Any]]:
    """The manifest's rows: one for each report, or else the last validation of the training itself."""
    rows: list[dict[str, Any]] = []
    for name, report in content.get("reports", {}).items():
        # the folder's own name: where it lay is nobody's business
        row: dict[str, Any] = {"set": Path(report.get("set", name)).name, "pictures": report.get("pairs")}
        for kind, suffix in (("input", "before"), ("output", "after"), ("unsharp", "unsharp")):
            figures = report.get(kind) or {}
            row |= {f"{f}_{suffix}": round(figures[f], 4) for f in ("psnr", "ssim", "mae") if f in figures}
        flicker = report.get("flicker") or {}
        row |= {f"flicker_{k}": round(flicker[k], 3) for k in ("input", "output", "truth") if k in flicker}
        rows.append({key: value for key, value in row.items() if value is not None})
    figures = content.get("figures") or {}
    if not rows and "psnr" in figures:
        names = {
            "psnr_before": "psnr_input",
            "psnr_after": "psnr",
            "ssim_before": "ssim_input",
            "ssim_after": "ssim",
        }
        row = {"set": "the training's own validation clips, before the conversion to uint8"}
        rows.append(row | {key: round(figures[name], 4) for key, name in names.items() if name in figures})
    return rows


# -- how to make it again ------------------------------------------------------------------------------


def rebuild(recipe: Recipe, content: dict[str, Any], name: str = "NAME") -> str:
    """The commands that make the model `name` again, first things first; DIR stands for a folder of the data.

    A comment says where a run was stopped before its last step, or went on otherwise than it began.
    """
    places: dict[str, str] = {}
    lines, out = _stages(recipe, content, {}, places)
    files = [f"{out}/{content.get('file', 'last.pt')}"]
    places[content.get("sha256", "")] = files[0]
    files += [
        f"models/{other['model']}"
        if "model" in other
        else places.get(other["sha256"], f"ANOTHER/{other['file']}")
        for other in content.get("mean_with", ())
    ]
    export = f"python -m training.export {' '.join(files)} --out models/{name} --data DIR"
    told: list[str] = []
    for line in "\n".join(lines).splitlines():  # stages share teachers and packs
        if line.startswith("#") or line not in told:
            told.append(line)
    return "\n".join([*told, export])


def _stages(
    recipe: Recipe, content: dict[str, Any], teachers: dict[str, str], places: dict[str, str]
) -> tuple[list[str], str]:
    """The commands that lead to a checkpoint, and the folder of the last; `teachers` have their places, and so,
    by checksum, have the checkpoints on the way."""
    provenance = content.get("provenance") or [{}]
    lines: list[str] = []
    out, taught, start = f"runs/{recipe.name}", "", ""
    begun = provenance[0].get("started_from") or {}
    if "model" in begun:
        held = f" as of commit {commit}" if (commit := content.get("commit")) else ""
        lines.append(
            f"# models/{begun['model']} is version {begun['version']} here{held}, and its card says how that was made:"
        )
        start = f" --start-from models/{begun['model']}"
    elif begun:
        earlier, place = _stages(Recipe.model_validate(begun["recipe"]), begun, teachers, places)
        lines += earlier
        # a copy by any other name: the command above ends at its step
        kept = re.fullmatch(r"(best|last|step-\d+)\.pt", begun["file"])
        places[begun["sha256"]] = f"{place}/{begun['file'] if kept else 'last.pt'}"
        start = f" --start-from {places[begun['sha256']]}"
        number = int(place.rpartition("-")[2]) if place.rpartition("-")[2].isdigit() else 1
        out = f"runs/{recipe.name}-{number + 1}"
    for entry in provenance:
        teacher = entry.get("teacher")
        if teacher and teacher.get("recipe"):
            place = f"runs/teacher-{len(teachers) + 1}" if teachers else "runs/teacher"
            place = teachers.setdefault(teacher["sha256"], place)
            lines.append(_command("teacher", Recipe.model_validate(teacher["recipe"]), teacher, place))
            taught = taught or f" --teacher-weights {place}/{teacher['file']}"
        elif teacher:
            taught = taught or f" --teacher-weights {teacher['file']}"
    wanted = any(weight and needs_teacher(loss) for loss, weight in recipe.loss.items())
    if content.get("provenance") and wanted and not provenance[0].get("teacher"):
        taught = " --no-teacher"
    lines.append(_command("distill", recipe, content, out) + taught + start)
    for entry in provenance[1:]:
        who = _teacher(entry)
        lines.append(f"# went on from step {entry['from_step']:,} with --resume; teacher: {who}")
    return lines, out


def _command(program: str, recipe: Recipe, content: dict[str, Any], out: str) -> str:
    """The training command, with what the recipe changes from the shipped one of its name."""
    if recipe.train.minutes and (step := content.get("step", 0)):
        # the clock ended it: as many steps, on any machine
        train = recipe.train.model_copy(update={"steps": min(step, recipe.train.steps), "minutes": 0.0})
        recipe = recipe.model_copy(update={"train": train})
    try:
        base, name = load_recipe(recipe.name), recipe.name
        lost = [key for key in differences(base, recipe) if key not in differences(recipe, base)]
    except RecipeError:
        lost = [recipe.name]
    if any(not key.startswith("loss.") for key in lost):  # no --set can take a key away
        base, name, lost = recipe, "RECIPE.toml", []
    recipe = recipe.model_copy(
        update={"loss": recipe.loss | {key.removeprefix("loss."): 0.0 for key in lost}}
    )
    changed = " ".join(
        f"--set {shlex.quote(f'{k}={_toml(v)}')}" for k, v in differences(recipe, base).items()
    )
    data = ((content.get("provenance") or [{}])[0].get("data")) or {}
    singles = data.get("singles") or {}
    if singles.get("packed") == data.get("packed"):
        singles = {}
    source, lines = "--data DIR", ""
    for option, origin in (("--packed-singles", singles), ("--packed", data)):
        if packed := origin.get("packed"):
            clips, source = origin["clips"], f"{option} runs/{packed['file']} {source}"
            lines += (
                f"python -m training.data pack --data DIR --out runs/{packed['file']} --clips {packed['count']}"
                f" --frames {clips['frames']} --crop {clips['crop']} --seed {clips['seed']}\n"
            )
    if content.get("step", 0) < recipe.train.steps and not recipe.train.stop_after:
        lines += f"# stopped at step {content['step']:,}:\n"
    command = f"{lines}python -m training.{program} --recipe {name} {source} --out {out}"
    return f"{command} {changed}".rstrip()


# -- TOML ----------------------------------------------------------------------------------------------


def to_toml(values: dict[str, Any], table: str = "") -> str:
    """TOML of nested dictionaries, lists of dictionaries, strings, numbers, booleans and dates."""
    plain, nested = [], []
    for key, value in values.items():
        name = f"{table}.{key}" if table else key
        if isinstance(value, dict):
            nested.append(f"\n[{name}]\n{to_toml(value, name)}" if value else f"\n[{name}]\n")
        elif isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            nested += [f"\n[[{name}]]\n{to_toml(item, name)}" for item in value]
        elif value is not None:
            plain.append(f"{key} = {_toml(value)}\n")
    return "".join(plain + nested)


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return f"{{{', '.join(f'{k}={_toml(v)}' for k, v in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(_toml(item) for item in value)}]"
    return value.isoformat() if isinstance(value, date) else json.dumps(value, ensure_ascii=False)
