"""From settings to a daemon over a pipeline that is ready to run."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from sharpcam.config import Config, save_setting
from sharpcam.daemon.daemon import Daemon
from sharpcam.daemon.ladder import Ladder
from sharpcam.daemon.live_engine import LiveEngine
from sharpcam.daemon.notify import Notifier
from sharpcam.governor import Step
from sharpcam.pipeline import Pipeline


def make_daemon(
    config: Config,
    pipeline: Pipeline,
    engine: LiveEngine,
    ladder: Ladder,
    steps: Sequence[Step],
    *,
    file: Path,
    is_camera: bool,
    limited: bool,
    systemd: Notifier,
) -> Daemon:
    """`steps` are the ladder's, the first of which `engine` is at.

    `file` is where settings are saved. `limited` is a run that ends after so many frames or seconds, whoever
    watches. `systemd` may keep the sink's device already.
    """
    return Daemon(
        pipeline,
        engine,
        always=_why_always(config, is_camera, limited),
        ladder=ladder,
        steps=steps,
        governing=pipeline.source.live and config.model.name == "auto" and config.model.adapt,
        save=partial(save_setting, file),
        systemd=systemd,
    )


def _why_always(config: Config, is_camera: bool, limited: bool) -> str:
    """Why the camera stays open while nobody watches; empty when it is closed then."""
    if not config.output.on_demand:
        return "so it was set"
    if limited:
        return "it is a run of limited length"
    return "" if is_camera else "the source is no camera"
