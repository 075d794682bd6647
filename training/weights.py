"""Published weights that some recipes want: fetched by `python -m training.weights NAME [--out DIR]`, loaded
by `load_weights`.

Each file is known by its SHA-256; it appears under its name only when whole and right. SharpCam ships none of
them, and what SharpCam ships is never derived from them: read the licence of each before you train on it.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import pickle
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.progress import DownloadColumn, Progress
from torch import Tensor, nn

from sharpcam.errors import MediaError, ModelError, SharpCamError

CHUNK = 1 << 20
TIMEOUT = 30.0  # seconds without a byte


@dataclass(frozen=True)
class Published:
    """One file of weights: where it lies, how to know it, and on what terms."""

    url: str
    size: int  # bytes
    sha256: str
    licence: str

    @property
    def file(self) -> str:
        return self.url.rsplit("/", 1)[1]


IMAGENET = (
    "BSD-3-Clause as part of torchvision; trained on ImageNet, whose terms are for non-commercial research. "
    "Whether these reach the weights is open"
)

REGISTRY: dict[str, Published] = {
    "restormer-motion-deblurring": Published(
        "https://github.com/swz30/Restormer/releases/download/v1.0/motion_deblurring.pth",
        104_700_429,
        "194e38fb5b607c9dc5a5b3e08e65b2e79ee2bf0ef5048e0612f6b2ff2f79da31",
        "contested: published in 2021 under an academic, non-commercial licence; the repository is said to "
        "be MIT since October 2025. Take them as non-commercial until you have checked. "
        "What SharpCam ships is never derived from them",
    ),
    "vgg16": Published(
        "https://download.pytorch.org/models/vgg16-397923af.pth",
        553_433_881,
        "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
        IMAGENET,
    ),
    "resnet18": Published(
        "https://download.pytorch.org/models/resnet18-f37072fd.pth",
        46_830_571,
        "f37072fd47e89c5e827621c5baffa7500819f7896bbacec160b1a16c560e07ec",
        IMAGENET,
    ),
    "alexnet": Published(
        "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
        244_408_911,
        "7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
        IMAGENET,
    ),
    "lpips-alex": Published(
        "https://raw.githubusercontent.com/richzhang/PerceptualSimilarity/master/lpips/weights/v0.1/alex.pth",
        6_009,
        "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0",
        "BSD-2-Clause; for measuring alone, nothing is trained on them",
    ),
}

GROUPS: dict[str, tuple[str, ...]] = {"lpips": ("alexnet", "lpips-alex")}  # files that belong together


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch(name: str, out: Path, progress: Callable[[int, int], None] | None = None) -> Path:
    """Downloads `name` into the folder `out` unless it lies there already, and returns its path.

    A file of that name with another checksum is replaced, once the right one is here. `progress` is told
    (bytes so far, bytes in all). Raises ModelError for an unknown name, an address that cannot be reached and
    a file that is not the expected one; MediaError when `out` cannot be written. Leaves no half file behind.
    """
    if name not in REGISTRY:
        raise ModelError(f"no weights named {name!r}", f"known: {', '.join(REGISTRY)}")
    entry = REGISTRY[name]
    target = out / entry.file
    by_hand = f"fetch it by hand, check that sha256sum gives {entry.sha256}, and put it at {target}"
    part: Path | None = None
    try:
        if target.is_file() and target.stat().st_size == entry.size and sha256(target) == entry.sha256:
            return target
        out.mkdir(parents=True, exist_ok=True)
        digest, done = hashlib.sha256(), 0
        with tempfile.NamedTemporaryFile(dir=out, prefix=f".{entry.file}.", delete=False) as file:
            part = Path(file.name)
            for chunk in _chunks(entry.url, by_hand):
                digest.update(chunk)
                done += len(chunk)
                if done > entry.size:
                    break
                file.write(chunk)
                if progress is not None:
                    progress(done, entry.size)
        if (done, digest.hexdigest()) != (entry.size, entry.sha256):
            what = "cut short" if done < entry.size else "not the published one"
            raise ModelError(f"what {entry.url} sent is {what} ({done} of {entry.size} bytes)", by_hand)
        part.chmod(0o644)
        part.replace(target)
    except OSError as error:
        raise MediaError(
            f"{target} cannot be written: {error.strerror or error}", "choose another folder with --out"
        ) from error
    finally:
        if part is not None:
            part.unlink(missing_ok=True)
    return target


def _chunks(url: str, by_hand: str) -> Iterator[bytes]:
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as answer:
            while chunk := answer.read(CHUNK):
                yield chunk
    except (OSError, http.client.HTTPException) as error:  # OSError: no network, no host, 404, timeout, TLS
        reason = getattr(error, "reason", None) or error
        raise ModelError(f"{url} cannot be fetched: {reason}", by_hand) from error


def _fetch_with_a_bar(name: str, out: Path) -> Path:
    with Progress(*Progress.get_default_columns(), DownloadColumn(), transient=True) as bar:
        task = bar.add_task("fetching", total=None)
        return fetch(name, out, lambda n, total: bar.update(task, completed=n, total=total))


def load_weights(model: nn.Module, path: str | Path, ignore: str | tuple[str, ...] = ()) -> None:
    """Loads a checkpoint into `model`, strictly: {"params": state dict} as Restormer's, or a state dict.

    `ignore` names beginnings of entries that the file may hold and the model does not want. Nothing in the
    file is executed. Raises ModelError when it is missing, is no checkpoint, or does not fit; the model is
    then as it was.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelError(
            f"no weights at {path}",
            f"published ones are fetched with: python -m training.weights {{{','.join(REGISTRY)}}}",
        )
    try:
        checkpoint: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError) as error:
        raise ModelError(
            f"{path} is not a checkpoint that can be read safely ({type(error).__name__})",
            "fetch it again, or save it as torch.save(model.state_dict(), path)",
        ) from error
    if isinstance(checkpoint, Mapping) and isinstance(checkpoint.get("params"), Mapping):
        checkpoint = checkpoint["params"]
    if not isinstance(checkpoint, Mapping) or not all(isinstance(v, Tensor) for v in checkpoint.values()):
        raise ModelError(
            f'{path} holds no state dict (nor {{"params": state dict}})',
            "save it as torch.save(model.state_dict(), path)",
        )
    checkpoint = {name: value for name, value in checkpoint.items() if not name.startswith(ignore)}
    own = model.state_dict()
    # a counter of batch norms that old files lack and nothing here reads
    problems = [f"no {name}" for name in own if name not in checkpoint and "num_batches" not in name]
    problems += [f"unknown {name}" for name in checkpoint if name not in own]
    problems += [
        f"{name} is {tuple(value.shape)}, not {tuple(own[name].shape)}"
        for name, value in checkpoint.items()
        if name in own and value.shape != own[name].shape
    ]
    if problems:
        shown = "; ".join(problems[:3]) + (f"; and {len(problems) - 3} more" if len(problems) > 3 else "")
        raise ModelError(
            f"{path} does not fit {type(model).__name__}: {shown}",
            "build the network with the arguments it was trained with (dim, num_blocks, layer_norm, ...)",
        )
    model.load_state_dict(checkpoint)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m training.weights",
        description="Fetches published weights and checks them.",
        epilog="\n".join(
            f"{name}: {entry.file}, {entry.size / 1e6:.0f} MB. Licence {entry.licence}."
            for name, entry in REGISTRY.items()
        )
        + "".join(f"\n{name}: {' and '.join(parts)}." for name, parts in GROUPS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", choices=[*REGISTRY, *GROUPS], help="which weights")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/weights"), help="folder (default: %(default)s)"
    )
    chosen = parser.parse_args(arguments)
    for name in GROUPS.get(chosen.name, (chosen.name,)):
        print(f"{name}: licence {REGISTRY[name].licence}.")
        try:
            path = _fetch_with_a_bar(name, chosen.out)
        except SharpCamError as error:
            print(f"error: {error}\n  {error.hint}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            return 130
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
