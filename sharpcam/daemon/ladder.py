"""The governor's steps on this machine: what each would cost, which one to begin with, and an engine for each."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from sharpcam import cuda
from sharpcam.benchmark import machine
from sharpcam.calibration import Calibration, Cost, measure
from sharpcam.config import Config
from sharpcam.daemon.lighter import Passing, ScaledEngine, scaled_size
from sharpcam.daemon.live_engine import Changeable
from sharpcam.errors import SharpCamError
from sharpcam.governor import Step
from sharpcam.models import Model, find_model, find_models
from sharpcam.runtime import Provider, default_threads, usable_cores
from sharpcam.wiring import load_engine

log = logging.getLogger(__name__)

AUTO = "auto"
HALF = 0.5
OFF = "off"
# what "auto" begins with may take at most: of the time between two frames, and of all cores' time
SHARE_OF_TIME, SHARE_OF_CPU = 0.65, 0.4


class Ladder:
    """From the settings' model (or the best of its family that this machine affords) down to no model at all.

    For "auto" and a live source, what the steps cost is measured, or taken from the cache of an earlier start.
    `fps` is the source's, `size` the frames'.
    """

    def __init__(
        self,
        config: Config,
        size: tuple[int, int],
        fps: float,
        live: bool = True,
        calibration: Calibration | None = None,
    ) -> None:
        self._config, self._size, self._fps, self._live = config, size, fps, live
        self._calibration = calibration

    def steps(self, name: str) -> tuple[Step, ...]:
        """Those for a model's name or "auto"; the first is the one to begin with, each cheaper than the last.

        Raises ModelError when there is no such model; of those that nobody named, what cannot run is left out.
        """
        choosing = name == AUTO and self._live
        family = _family(find_model(name), smaller_only=not choosing)
        costs: list[Cost] = []
        if choosing:
            family, costs = self._able(family)
        smallest = family[-1]
        ways = [*((model.name, model, 1.0) for model in family)]
        ways.append((f"{smallest.name} at half size", smallest, HALF))
        if choosing:
            costs.append(self._measured(smallest, smallest.name, HALF))
            first = next((i for i, c in enumerate(costs[: len(family)]) if self._affords(c)), len(family) - 1)
        else:  # by their arithmetic
            work = [(m.manifest.macs_per_pixel or 1.0) * _work(scale) for _, m, scale in ways]
            costs, first = [Cost(w, w) for w in work], 0
        found = [
            # the first may have been named by its path
            Step(label, model.name if name == AUTO or model is not family[0] else name, scale, cost.seconds)
            for (label, model, scale), cost in zip(ways, costs, strict=True)
        ]
        return *_falling(found[first:]), Step(OFF, "", 1.0, 0.0)

    def load(self, step: Step) -> Changeable:
        """An engine that works as `step` says; raises what `Engine.load` raises."""
        if not step.model:
            first = find_model(self._config.model.name)
            threads = self._config.model.threads or default_threads()
            return Passing(first.manifest, Provider.CPU, threads)
        return self._engine(step.model, step.scale)

    def _engine(self, model: str, scale: float) -> Changeable:
        wanted = self._config.model.model_copy(update={"name": model})
        config = self._config.model_copy(update={"model": wanted})
        if scale == 1.0:
            return load_engine(config, self._size)
        return ScaledEngine(load_engine(config, scaled_size(self._size, scale)), self._size)

    def _able(self, family: Sequence[Model]) -> tuple[list[Model], list[Cost]]:
        """Those that can be measured, and what they cost; raises why the last cannot where none can."""
        able: list[Model] = []
        costs: list[Cost] = []
        for model in family:
            try:
                cost = self._measured(model, model.name, 1.0)
            except SharpCamError as error:
                if model is family[-1] and not able:
                    raise
                log.warning("left out: model=%s: %s", model.name, error)
            else:
                able.append(model)
                costs.append(cost)
        return able, costs

    def _affords(self, cost: Cost) -> bool:
        in_time = cost.seconds * self._fps <= SHARE_OF_TIME
        return in_time and cost.cpu_seconds * self._fps <= SHARE_OF_CPU * usable_cores()

    def _measured(self, model: Model, spec: str, scale: float) -> Cost:
        self._calibration = self._calibration or Calibration()
        here, wanted = machine(), self._config.model
        threads = wanted.threads or default_threads()
        about = {
            "model": model.name,
            "sha256": model.manifest.sha256,
            "size": scaled_size(self._size, scale),
            "scale": scale,
            "threads": threads,
            "provider": wanted.provider,
            "cpu": here["cpu"],
            "cores": here["cores"],
            "gpu": cuda.facts().gpu,
            "onnxruntime": here["onnxruntime"],
        }

        def run() -> Cost:
            log.warning("measuring, once, how fast this machine is with model=%s scale=%g", model.name, scale)
            engine = self._engine(spec, scale)
            try:
                return measure(engine, self._size)
            finally:
                engine.close()

        return self._calibration.cost(about, run)


def _family(first: Model, smaller_only: bool) -> list[Model]:
    """`first` and the models that the same training made, the largest first."""
    cost = first.manifest.macs_per_pixel
    if not cost or first.bare:
        return [first]
    found = {first.name: first}
    for model in find_models()[0]:
        told = model.manifest
        alike = (told.recipe, told.layout) == (first.manifest.recipe, first.manifest.layout)
        if alike and told.macs_per_pixel and (told.macs_per_pixel < cost or not smaller_only):
            found.setdefault(model.name, model)
    return sorted(found.values(), key=lambda m: -(m.manifest.macs_per_pixel or 0.0))


def _work(scale: float) -> float:
    """Of what a model has to do at full size; scaling and adding cost as much as a tenth of `m`."""
    return 1.0 if scale == 1.0 else scale**2 + 0.1


def _falling(steps: Sequence[Step]) -> list[Step]:
    """Without those that cost no less than one before them: half a size costs its scaling, too."""
    kept: list[Step] = []
    for step in steps:
        if not kept or step.cost < kept[-1].cost:
            kept.append(step)
    return kept
