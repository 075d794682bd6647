"""`sharpcam status`, `set`, `pause`, `resume`, `stop`: orders for the SharpCam that runs."""

from __future__ import annotations

import json
from typing import Any

from sharpcam.daemon.control import ask

_MODEL_S = 120.0  # loading and warming up a model on a busy machine


def run_status(as_json: bool, metrics: bool) -> int:
    """Prints how it goes; a table for people, JSON or Prometheus' text for programs."""
    if metrics:
        print(ask("metrics"), end="")
        return 0
    told = ask("status")
    print(json.dumps(told, indent=2) if as_json else _table(told))
    return 0


def run_set(key: str, value: str, save: bool) -> int:
    """Changes one thing at once; with `save` also in the settings file."""
    timeout = _MODEL_S if key in ("model", "governor") else 5.0
    done = ask("set", timeout=timeout, key=key, value=value, save=save)
    if save:
        print(f"saved in {done['saved']}")
    return 0


def run_order(command: str) -> int:
    """pause, resume or stop."""
    ask(command)
    return 0


def _table(told: dict[str, Any]) -> str:
    clients = "not known" if told["clients"] is None else told["clients"]
    views = "".join(f", {view}" for view in ("split", "mirror") if told[view])
    step = "" if told["step"] == told["model"] else f", now {told['step']}"
    load = "" if told["load"] is None else f", load {100 * told['load']:.0f} %"
    troubles = {"bypassed": "passed as they came, because the model failed", "fallbacks": "losses of the GPU"}
    trouble = "".join(f", {told[name]} {text}" for name, text in troubles.items() if told[name])
    hours, seconds = divmod(int(told["uptime_s"]), 3600)
    rows = {
        "state": f"{told['state']} ({told['reason']})",
        "model": f"{told['model']} on {told['provider']}, strength {told['strength']:g}{views}",
        "governor": f"{told['governor']}{step}{load}",
        "source": told["source"],
        "sink": told["sink"],
        "watching": f"{clients}, by {told['clients_told_by']}" if told["clients_told_by"] else clients,
        "rate": f"{told['fps']:.1f} fps, latency {told['latency_ms']:.1f} ms",
        "dropped": f"{told['dropped']} frames, {told['reconnects']} reconnects{trouble}",
        "running": f"{hours}:{seconds // 60:02}:{seconds % 60:02}, pid {told['pid']}",
    }
    return "\n".join(f"{name:10}{value}" for name, value in rows.items())
