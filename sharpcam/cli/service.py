"""`sharpcam service`: SharpCam at every login, by the user's systemd."""

from __future__ import annotations

import os
from pathlib import Path

from sharpcam.config import load_config, settings_file
from sharpcam.daemon import unit


def run_install(config: Path | None) -> int:
    """Installs and starts the service; settings that cannot be used are refused before.

    A file that SHARPCAM_CONFIG names goes into the unit: systemd does not know the variable.
    """
    load_config(config)
    if config is None and os.environ.get("SHARPCAM_CONFIG"):
        config = settings_file()
    print(f"installed {unit.install(config)}")
    print("SharpCam runs, now and after every login; `sharpcam status` tells how it does")
    return 0


def run_uninstall() -> int:
    """Stops and removes the service; fine when there is none."""
    print(f"removed {unit.unit_path()}" if unit.uninstall() else "the service is not installed")
    return 0


def run_service_status() -> int:
    """Tells what systemd knows; 0 when the service runs."""
    there, enabled, active = unit.state()
    print(f"unit    {unit.unit_path() if there else 'not installed; run: sharpcam service install'}")
    print(f"login   {enabled}")
    print(f"now     {active}")
    return 0 if active == "active" else 1
