"""What ends training on purpose, and how a command says so: in one line, with an exit code."""

from __future__ import annotations

import sys
from collections.abc import Callable

from sharpcam.errors import SharpCamError


class RecipeError(ValueError):
    """A recipe is unknown or says something that cannot be."""


class DataError(ValueError):
    """A data folder is empty or holds nothing that can be read."""


class TrainingError(RuntimeError):
    """Training cannot go on; the last checkpoint is whole."""


class Interrupted(KeyboardInterrupt):
    """Stopped by the user, after a checkpoint."""


def run(main: Callable[[], None]) -> None:
    """Calls `main` and turns the failures that we know into one line and an exit code."""
    try:
        main()
    except SharpCamError as e:
        hint = f"; {e.hint}" if e.hint else ""
        print(f"training: {e}{hint}", file=sys.stderr)
        raise SystemExit(1) from e
    except (RecipeError, DataError, TrainingError, OSError) as e:
        print(f"training: {e}", file=sys.stderr)
        raise SystemExit(1) from e
    except KeyboardInterrupt as e:
        print(f"training: {e if isinstance(e, Interrupted) else 'stopped'}", file=sys.stderr)
        raise SystemExit(130) from e
