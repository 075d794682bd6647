"""From settings to a daemon over a pipeline that is ready to run."""

from __future__ import annotations

from collections.abc import Callable

from sharpcam.config import Config
from sharpcam.daemon.daemon import Daemon
from sharpcam.daemon.live_engine import LiveEngine
from sharpcam.engine import Engine
from sharpcam.governor import Governor, Tier
from sharpcam.manifest import Manifest
from sharpcam.models import find_models
from sharpcam.pipeline import Pipeline
from sharpcam.wiring import load_engine


def make_daemon(
    config: Config, pipeline: Pipeline, engine: LiveEngine, *, is_camera: bool, limited: bool
) -> Daemon:
    """`limited` is a run that ends after so many frames or seconds, whoever watches."""
    return Daemon(
        pipeline,
        engine,
        always=_why_always(config, is_camera, limited),
        load=_loader(config, pipeline.sink.size),
        governor=_governor(config, engine.model) if pipeline.source.live else None,
    )


def _why_always(config: Config, is_camera: bool, limited: bool) -> str:
    """Why the camera stays open while nobody watches; empty when it is closed then."""
    if not config.output.on_demand:
        return "so it was set"
    if limited:
        return "it is a run of limited length"
    return "" if is_camera else "the source is no camera"


def _loader(config: Config, size: tuple[int, int]) -> Callable[[str], Engine]:
    def load(name: str) -> Engine:
        model = config.model.model_copy(update={"name": name})
        return load_engine(config.model_copy(update={"model": model}), size)

    return load


def _governor(config: Config, present: Manifest) -> Governor | None:
    """Over the models of the family that cost no more than the present one; None without any choice."""
    if config.model.name != "auto" or not config.model.adapt or not present.macs_per_pixel:
        return None
    family = (present.recipe, present.layout)
    tiers = [Tier(present.name, present.macs_per_pixel)]
    for model in find_models()[0]:
        told, cost = model.manifest, model.manifest.macs_per_pixel
        if cost and cost < present.macs_per_pixel and (told.recipe, told.layout) == family:
            tiers.append(Tier(model.name, cost))
    return Governor(tiers) if len(tiers) > 1 else None
