"""The command line: every command with its flags, and how it ends.

What a command does is in its own module, imported when it is called, so that `--help` is there at once.
Exit codes: 0 done, 1 a failure that is explained in one line with its hint, 2 wrong usage, 130 on Ctrl-C
before the first frame.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, NoReturn

import typer

from sharpcam import __version__
from sharpcam.errors import SharpCamError

log = logging.getLogger(__name__)

app = typer.Typer(
    name="sharpcam",
    help="Sharpens a webcam in real time with a small neural network and feeds a virtual camera.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # rich would take longer to load than most commands to run
    pretty_exceptions_enable=False,
)
config_app = typer.Typer(help="Show, find or check the settings.", no_args_is_help=True)
app.add_typer(config_app, name="config")
service_app = typer.Typer(help="SharpCam as a service of the user's systemd.", no_args_is_help=True)
app.add_typer(service_app, name="service")


class ProviderChoice(StrEnum):
    AUTO = "auto"
    CUDA = "cuda"
    TENSORRT = "tensorrt"
    CPU = "cpu"


def _size(text: str | None) -> str | None:
    from sharpcam.config import parse_size

    try:
        if text is not None:
            parse_size(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    return text


Device = Annotated[str | None, typer.Option(help="Camera: index, /dev/videoN, by-id path or name.")]
Size = Annotated[
    str | None, typer.Option(callback=_size, metavar="WxH", help="Picture size.  [default: 1280x720]")
]
Fps = Annotated[float | None, typer.Option(min=0.1, max=240, help="Frames per second.  [default: 30]")]
ModelName = Annotated[
    str | None, typer.Option("--model", help="auto, a model's name, or a path.  [default: auto]")
]
Strength = Annotated[float | None, typer.Option(min=0, max=1, help="0 (off) to 1 (full).  [default: 1]")]
ProviderName = Annotated[ProviderChoice | None, typer.Option(help="Where the model runs.  [default: auto]")]
Threads = Annotated[
    int | None, typer.Option(min=1, max=256, help="CPU threads of the model.  [default: all cores but one]")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
ConfigFile = Annotated[Path | None, typer.Option("--config", metavar="FILE.toml", help="Settings file.")]


def _version(asked: bool) -> None:
    if asked:
        print(f"sharpcam {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Tell what happens, on stderr.")] = False,
) -> None:
    handler, level = _StderrHandler(), logging.WARNING
    if to_journal():  # systemd keeps what we say: what happened belongs there, too
        handler.setFormatter(_JournalFormatter("%(message)s module=%(name)s"))
        level = logging.INFO
    else:
        plain = "%(levelname).1s %(name)s: %(message)s" if verbose else "sharpcam: %(message)s"
        handler.setFormatter(logging.Formatter(plain))
    root = logging.getLogger("sharpcam")
    root.handlers = [handler]
    root.setLevel(logging.DEBUG if verbose else level)


def to_journal() -> bool:
    """Whether stderr is systemd's journal: in a terminal that systemd started, the variable alone tells of another
    stream (systemd.exec(5))."""
    try:
        told = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError, AttributeError):  # closed, no file, or none (pythonw)
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{told.st_dev}:{told.st_ino}"


class _JournalFormatter(logging.Formatter):
    """One line an event, with the level as sd-daemon(3) has it."""

    _LEVELS = MappingProxyType({logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3})

    def format(self, record: logging.LogRecord) -> str:
        level = self._LEVELS.get(record.levelno, 3)
        return f"<{level}>" + " | ".join(super().format(record).splitlines())


class _StderrHandler(logging.Handler):
    """Writes to what `sys.stderr` is now: a status line may stand between the two."""

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError):  # when nobody listens any more
            print(self.format(record), file=sys.stderr)


@app.command()
def run(
    device: Device = None,
    source: Annotated[
        str | None, typer.Option(metavar="FILE|testcard", help="A video file or the test card, not a camera.")
    ] = None,
    sink: Annotated[
        str | None,
        typer.Option(help="auto, /dev/videoN, a video file to write, or null.  [default: auto]"),
    ] = None,
    size: Size = None,
    fps: Fps = None,
    model: ModelName = None,
    strength: Strength = None,
    provider: ProviderName = None,
    threads: Threads = None,
    frames: Annotated[int | None, typer.Option(min=1, help="End after so many frames.")] = None,
    duration: Annotated[float | None, typer.Option(min=0.001, help="End after so many seconds.")] = None,
    no_temporal: Annotated[
        bool, typer.Option("--no-temporal", help="Mix no frame with the ones before.")
    ] = False,
    split: Annotated[bool, typer.Option("--split", help="Left half before, right half after.")] = False,
    mirror: Annotated[bool, typer.Option("--mirror", help="Left and right change places.")] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Start without the camera when it is not there yet.")
    ] = False,
    always_on: Annotated[
        bool, typer.Option("--always-on", help="Keep the camera open while nobody watches.")
    ] = False,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE.json", help="Write the numbers of the run.")
    ] = None,
    config: ConfigFile = None,
) -> None:
    """Sharpen a camera (or a file) into a virtual camera (or a file). Ctrl-C ends it cleanly."""

    def work() -> int:
        from sharpcam.cli.run import run_run
        from sharpcam.config import load_config, settings_file

        flags = {
            "camera.device": device,
            "camera.size": size,
            "camera.fps": fps,
            "output.sink": sink,
            "output.on_demand": False if always_on else None,
            "output.split": True if split else None,
            "camera.mirror": True if mirror else None,
            "model.name": model,
            "model.strength": strength,
            "model.provider": provider,
            "model.threads": threads,
            "model.temporal": False if no_temporal else None,
        }
        return run_run(
            load_config(config, flags),
            settings_file(config),
            source=source,
            wait=wait,
            frames=frames,
            duration=duration,
            report=report,
        )

    if source is not None and device is not None:
        raise typer.BadParameter("--source takes the place of --device: give one of them")
    _end(work)


@app.command()
def process(
    input: Annotated[Path, typer.Argument(metavar="IN", help="Video, picture, or folder of pictures.")],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="Video, picture, or folder.")],
    model: Annotated[str, typer.Option(help="auto, a model's name, or a path.")] = "auto",
    strength: Annotated[float, typer.Option(min=0, max=1, help="0 (off) to 1 (full).")] = 1.0,
    compare: Annotated[bool, typer.Option("--compare", help="Before and after, side by side.")] = False,
    clip: Annotated[
        bool, typer.Option("--clip", help="A folder is the frames of one clip, in name order.")
    ] = False,
    provider: Annotated[ProviderChoice, typer.Option(help="Where the model runs.")] = ProviderChoice.AUTO,
    threads: Threads = None,
) -> None:
    """Sharpen a video file, a picture, or a folder of pictures."""

    def work() -> int:
        from sharpcam.cli.process import run_process

        return run_process(
            input,
            output,
            model=model,
            strength=strength,
            compare=compare,
            clip=clip,
            provider=str(provider),
            threads=threads,
        )

    _end(work)


@app.command()
def bench(
    model: Annotated[
        list[str] | None, typer.Option(help="auto, all, a name or a path; may be repeated.  [default: auto]")
    ] = None,
    size: Size = None,
    provider: Annotated[ProviderChoice, typer.Option(help="Where the model runs.")] = ProviderChoice.AUTO,
    threads: Threads = None,
    frames: Annotated[int, typer.Option(min=10, help="Frames to measure in each of the two runs.")] = 300,
    json: Annotated[
        str | None, typer.Option(metavar="FILE|-", help="Write JSON; - for standard output.")
    ] = None,
) -> None:
    """Measure speed, latency and CPU of the whole pipeline on this machine."""

    def work() -> int:
        from sharpcam.cli.bench import run_bench
        from sharpcam.config import parse_size

        return run_bench(
            model or ["auto"],
            size=parse_size(size or (1280, 720)),
            provider=str(provider),
            threads=threads,
            frames=frames,
            json=json,
        )

    _end(work)


@app.command()
def devices(as_json: AsJson = False) -> None:
    """List cameras and virtual cameras."""

    def work() -> int:
        from sharpcam.cli.devices import run_devices

        return run_devices(as_json)

    _end(work)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Tell what is missing, and the command that mends it; 1 when something needed is."""

    def work() -> int:
        from sharpcam.cli.doctor import run_doctor

        return run_doctor(as_json)

    _end(work)


@app.command()
def models(
    name: Annotated[str | None, typer.Argument(help="Show the card of this model.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the models, or show the card of one."""

    def work() -> int:
        from sharpcam.cli.models import run_models

        return run_models(name, as_json)

    _end(work)


@app.command()
def status(
    as_json: AsJson = False,
    metrics: Annotated[bool, typer.Option("--metrics", help="Print Prometheus' text format.")] = False,
) -> None:
    """Tell how the running SharpCam does."""

    def work() -> int:
        from sharpcam.cli.control import run_status

        return run_status(as_json, metrics)

    if as_json and metrics:
        raise typer.BadParameter("give --json or --metrics")
    _end(work)


@app.command("set")
def set_(
    key: Annotated[str, typer.Argument(metavar="KEY", help="strength, model, split, mirror or governor.")],
    value: Annotated[str, typer.Argument(metavar="VALUE", help="0 to 1; auto or a model's name; on or off.")],
    save: Annotated[bool, typer.Option("--save", help="Keep it: write it into the settings file.")] = False,
) -> None:
    """Change a setting of the running SharpCam."""

    def work() -> int:
        from sharpcam.cli.control import run_set

        return run_set(key, value, save)

    _end(work)


@app.command()
def pause() -> None:
    """Close the camera and show a placeholder."""
    _order("pause")


@app.command()
def resume() -> None:
    """Open the camera again after a pause."""
    _order("resume")


@app.command()
def stop() -> None:
    """End the running SharpCam."""
    _order("stop")


@app.command()
def ui(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Where the page listens; 0: a free one.")] = 0,
    no_browser: Annotated[
        bool, typer.Option("--no-browser", help="Print the link, but open no browser.")
    ] = False,
    standalone: Annotated[
        bool, typer.Option("--standalone", help="Without a running SharpCam: compare pictures, run a study.")
    ] = False,
) -> None:
    """Open the page of the running SharpCam: before and after live, comparison, opinion study."""

    def work() -> int:
        from sharpcam.cli.ui import run_ui

        return run_ui(port, not no_browser, standalone)

    _end(work)


def _order(command: str) -> NoReturn:
    def work() -> int:
        from sharpcam.cli.control import run_order

        return run_order(command)

    _end(work)


@service_app.command("install")
def service_install(config: ConfigFile = None) -> None:
    """Start SharpCam now and at every login."""

    def work() -> int:
        from sharpcam.cli.service import run_install

        return run_install(config)

    _end(work)


@service_app.command("uninstall")
def service_uninstall() -> None:
    """Stop the service and remove it."""

    def work() -> int:
        from sharpcam.cli.service import run_uninstall

        return run_uninstall()

    _end(work)


@service_app.command("status")
def service_status() -> None:
    """Tell whether the service is installed and runs."""

    def work() -> int:
        from sharpcam.cli.service import run_service_status

        return run_service_status()

    _end(work)


@config_app.command("show")
def config_show(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Print all settings that hold now, as a TOML file."""

    def work() -> int:
        from sharpcam.cli.config import run_show

        return run_show(config, as_json)

    _end(work)


@config_app.command("path")
def config_path() -> None:
    """Print where the settings are read from."""

    def work() -> int:
        from sharpcam.cli.config import run_path

        return run_path()

    _end(work)


@config_app.command("check")
def config_check(
    file: Annotated[Path | None, typer.Argument(metavar="FILE.toml", help="Settings file.")] = None,
) -> None:
    """Tell whether a settings file can be used; an error names line and key."""

    def work() -> int:
        from sharpcam.cli.config import run_check

        return run_check(file)

    _end(work)


def _end(work: Callable[[], int]) -> NoReturn:
    """Does the work and leaves with its exit code; every failure is one line and a hint."""
    for name in ("stdout", "stderr"):  # a starter may have closed them, or Windows have none
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    try:
        code = work()
        sys.stdout.flush()
    except SharpCamError as error:
        code = _fail(str(error), error.hint)
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:  # `sharpcam models | head`: who asked has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        code = 0
    except Exception as error:
        log.debug("unexpected", exc_info=True)
        code = _fail(*_unexpected(error))
    raise typer.Exit(code)


# a file or folder that may not even be looked at, wherever its name came from
_BARRED = (errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR)


def _unexpected(error: Exception) -> tuple[str, str]:
    """What is said of a failure that nothing else has explained: message and hint."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        from sharpcam.files import write_error

        # files are explained where they are written: this is what was printed
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        told = write_error(Path(error.filename or "the output"), error)
        return str(told), told.hint
    if isinstance(error, OSError) and error.filename and error.errno in _BARRED:
        return f"cannot use {error.filename}: {error.strerror}", "check its name and permissions"
    what = " ".join(f"{type(error).__name__}: {error}".split())
    return f"unexpected failure: {what}", "this is a bug in SharpCam; --verbose shows where"


def _fail(message: str, hint: str) -> int:
    print(f"sharpcam: {message}", file=sys.stderr)
    if hint:
        print(f"  hint: {hint}", file=sys.stderr)
    return 1


def main() -> None:
    """The `sharpcam` program."""
    app(prog_name="sharpcam")
