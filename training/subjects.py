"""What `training.evaluate` measures: things that make an RGB picture sharper, behind one door."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sharpcam.engine import Engine
from sharpcam.errors import ModelError, SharpCamError
from sharpcam.stills import sharpen_picture
from training.metrics import BestUnsharp, unsharp

Picture = NDArray[np.uint8]

TILE = 512  # of a teacher, whose memory grows with the picture


class Subject(Protocol):
    """Gives another picture, RGB uint8 (H, W, 3), for one of its size. `facts` go into the report."""

    facts: dict[str, Any]

    def restart(self) -> None:
        """The next picture has nothing to do with those before."""

    def __call__(self, picture: Picture) -> Picture: ...


class Unsharp:
    """The unsharp mask that is best on the set."""

    def __init__(self, best: BestUnsharp, tuned_on: int) -> None:
        self.facts = {"sigma": best.sigma, "amount": best.amount, "tuned_on": tuned_on}
        self._best = best

    def restart(self) -> None:
        pass

    def __call__(self, picture: Picture) -> Picture:
        return unsharp(picture, self._best.sigma, self._best.amount)


class Shipped:
    """A model in the product's engine, by the code of `sharpcam process`."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self._number = engine, 0
        model = engine.model
        self.facts = {
            "model": {
                "name": model.name,
                "version": model.version,
                "precision": model.precision,
                "sha256": model.sha256,
                "provider": engine.provider,
                "threads": engine.threads,
                "strength": engine.strength,
                "temporal": engine.temporal,
            }
        }

    @classmethod
    def load(cls, model: str, strength: float, provider: str, threads: int, temporal: bool) -> Shipped:
        """Raises what `Engine.load` raises."""
        engine = Engine.load(model, (256, 256), provider, threads, temporal)
        engine.strength = strength
        return cls(engine)

    def restart(self) -> None:
        self._engine.reset()

    def __call__(self, picture: Picture) -> Picture:
        self._number += 1
        return np.ascontiguousarray(sharpen_picture(self._engine, picture, self._number))


class Teacher:
    """An RGB network on the pictures as they are, in tiles where they are large."""

    def __init__(self, checkpoint: Path, threads: int = 1) -> None:
        import torch

        torch.set_num_threads(threads)
        self._network = load_rgb_network(checkpoint)
        self.facts = {"checkpoint": str(checkpoint), "tile": TILE}

    def restart(self) -> None:
        pass

    def __call__(self, picture: Picture) -> Picture:
        import torch

        from training.networks.restormer import tiled

        with torch.no_grad():
            x = torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1))).float()[None] / 255
            out = tiled(self._network, x, TILE)[0].clamp(0, 1).mul(255).round().byte()
        return np.ascontiguousarray(out.permute(1, 2, 0).numpy())


def load_rgb_network(checkpoint: Path) -> Any:
    """The network of a checkpoint of `training.teacher`, or Restormer with published weights.

    Raises ModelError when there is no such checkpoint, or it is none of an RGB network.
    """
    from training.distill import load_teacher
    from training.networks.student import Student
    from training.recipe import Network, load_recipe

    if not checkpoint.is_file():
        raise ModelError(f"there is no checkpoint {checkpoint}", "train one with: python -m training.teacher")
    recipe = load_recipe("teacher").model_copy(update={"teacher": Network(kind="restormer")})
    try:
        network = load_teacher(recipe, checkpoint)
    except SharpCamError:
        raise
    except Exception as error:  # unpickling has no common error
        cause = str(error).partition("\n")[0] or type(error).__name__
        raise ModelError(
            f"{checkpoint} is not a checkpoint that can be read: {cause}",
            "name one of python -m training.teacher, or published Restormer weights",
        ) from error
    if isinstance(network, Student):
        raise ModelError(
            f"{checkpoint} holds a student, not an RGB network",
            "export it with python -m training.export and name the folder with --model",
        )
    return network.eval()
