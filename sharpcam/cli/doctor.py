"""`sharpcam doctor`: what is missing, and the command that mends it."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

from sharpcam.doctor import Check, Status, examine, healthy
from sharpcam.system import look

_MARKS = {Status.OK: "ok", Status.NOTE: "note", Status.WARNING: "WARN", Status.MISSING: "MISSING"}


def run_doctor(as_json: bool) -> int:
    """Prints what was found; 0 when all that SharpCam needs works, 1 when something is missing."""
    checks = examine(look())
    good = healthy(checks)
    if as_json:
        print(json.dumps({"ok": good, "checks": [asdict(check) for check in checks]}, indent=2))
    else:
        for check in checks:
            print(_lines(check))
        print("All that SharpCam needs is there." if good else "Something is missing.")
    sys.stdout.flush()
    return 0 if good else 1


def _lines(check: Check) -> str:
    line = f"{_MARKS[check.status]:8} {check.name}: {check.detail}"
    return f"{line}\n{'':8} -> {check.fix}" if check.fix else line
