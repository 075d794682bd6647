"""`sharpcam models`: what is installed, and the card of each."""

from __future__ import annotations

import json
import sys
from typing import Any

from rich.console import Console
from rich.table import Table

from sharpcam.errors import ModelError
from sharpcam.models import Model, bundled_folder, find_model, find_models, user_folder


def run_models(name: str | None, as_json: bool) -> int:
    """Lists the models, or shows the card of the one named; gives the exit code."""
    if name is not None:
        model = find_model(name)
        if as_json:
            print(json.dumps(_facts(model, default=None), indent=2))
        else:
            print(model.card() or _summary(model))
        return 0
    models, errors = find_models()
    default = find_model("auto").name if models else None
    facts = [_facts(model, default) for model in models]
    if as_json:
        broken = [{"error": str(error)} for error in errors]
        print(json.dumps({"models": facts, "broken": broken}, indent=2))
        return 0
    if models:
        _print(facts)
    else:
        print(f"No model is installed; they are looked for in {bundled_folder()} and {user_folder()}.")
    for error in errors:
        print(f"sharpcam: {error}", file=sys.stderr)
    return 0


def _facts(model: Model, default: str | None) -> dict[str, Any]:
    facts: dict[str, Any] = model.manifest.model_dump(mode="json")
    problems = []
    for provider in ("cpu", *model.manifest.variants):
        try:
            model.read(model.for_provider(provider))
        except ModelError as error:
            problems.append(str(error))
    return facts | {
        "folder": str(model.folder),
        "default": model.name == default,
        "providers": ["cpu", *model.manifest.variants],
        "problem": "; ".join(problems) or None,
        "card": model.card(),
    }


def _print(facts: list[dict[str, Any]]) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=120)
    table = Table()
    for heading in (
        "model",
        "version",
        "layout",
        "precision",
        "parameters",
        "MACs/px",
        "recipe",
        "measured",
        "",
    ):
        table.add_column(heading, justify="right" if heading in ("parameters", "MACs/px") else "left")
    for f in facts:
        table.add_row(
            f["name"] + (" (default)" if f["default"] else ""),
            f["version"],
            f["layout"],
            ", ".join([f["precision"], *(f"{v['precision']} ({p})" for p, v in f["variants"].items())]),
            f"{f['parameters']:,}" if f["parameters"] else "?",
            f"{f['macs_per_pixel']:,.0f}" if f["macs_per_pixel"] else "?",
            f["recipe"],
            _measured(f["metrics"]),
            f"refused: {f['problem']}" if f["problem"] else "ok",
        )
    console.print(table)
    console.print("`sharpcam models NAME` shows a model's card", markup=False, highlight=False)


def _measured(metrics: list[dict[str, Any]]) -> str:
    if not metrics or metrics[0]["psnr_before"] is None or metrics[0]["psnr_after"] is None:
        return ""
    first = metrics[0]
    return f"{first['set']}: {first['psnr_before']:.2f} to {first['psnr_after']:.2f} dB"


def _summary(model: Model) -> str:
    m = model.manifest
    return f"{m.name} {m.version}: {m.layout}, {m.precision}; it has no card ({model.folder / 'CARD.md'})"
