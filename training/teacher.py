"""`python -m training.teacher`: trains our own Restormer on the webcam simulator, in the size of the recipe.

    python -m training.teacher --data DIR --out runs/teacher --set network.options.dim=48

The size (`network.options`) goes from a few hundred thousand parameters, which a laptop trains in an hour, to
the published 26 million, which want a GPU.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from training.distill import add_arguments, prepare
from training.errors import run
from training.tasks import make_task


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m training.teacher", description=__doc__.split("\n")[0])
    add_arguments(parser, "teacher")
    job = prepare(parser.parse_args(argv))
    job.train(make_task(job.recipe, features=job.features), validation_clips=12)
    best = job.out / ("best.pt" if job.validation else "last.pt")
    print(f"wrote {best}: give it to `python -m training.distill --teacher-weights`")


if __name__ == "__main__":
    run(main)
