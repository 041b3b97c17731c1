"""Options that every command has, and how a command ends."""

from __future__ import annotations

import contextlib
import gc
import signal
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Annotated, NoReturn

import typer

from cyclegan_cli.cli.completion import complete_gpu, complete_run
from cyclegan_cli.settings import normal_gpu

__all__ = [
    "Debug",
    "Gpu",
    "Json",
    "Processes",
    "Quiet",
    "RunName",
    "Stopped",
    "Tensorboard",
    "Verbose",
    "arguments",
    "check_tensorboard",
    "debugging",
    "importing",
    "remember",
    "stop_on_signals",
]

_state = {"debug": False}
_arguments: list[str] = []


class Stopped(BaseException):
    """Ctrl-C or SIGTERM; not an Exception, so that nothing on the way mistakes it for a failure."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum
        self.exit_code = 128 + signum  # 130 for SIGINT, 143 for SIGTERM


def stop_on_signals() -> None:
    """Turn Ctrl-C and SIGTERM into ``Stopped`` (in the main thread)."""

    def stop(signum: int, _frame: FrameType | None) -> NoReturn:
        raise Stopped(signum)

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Imports of large libraries, faster: what they make stays, so no garbage is looked for.

    Nor is it looked for among what was imported afterwards, or at the end of the program.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()


def check_tensorboard(wanted: bool) -> None:
    """Raise UsageError where TensorBoard is wanted and not installed."""
    if wanted:
        from cyclegan_cli.report.tensorboard import require_tensorboard

        require_tensorboard()


def remember(given: list[str] | None) -> None:
    """What the program was started with, for those that it starts itself."""
    _arguments[:] = sys.argv[1:] if given is None else given


def arguments() -> list[str]:
    """What the program was started with, without its name."""
    return list(_arguments)


def debugging() -> bool:
    """Whether tracebacks are wanted."""
    return _state["debug"] or "--debug" in sys.argv[1:]


def _set_debug(value: bool) -> bool:
    _state["debug"] = value
    return value


RunName = Annotated[
    str,
    typer.Argument(metavar="RUN", help="A run's name or folder.", autocompletion=complete_run),
]
Json = Annotated[
    bool,
    typer.Option("--json", help="One JSON object per line on stdout."),
]
Quiet = Annotated[
    bool,
    typer.Option("--quiet", "-q", help="Only results, warnings and errors."),
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Say more on stderr.")]
Debug = Annotated[
    bool,
    typer.Option(
        "--debug",
        help="Show tracebacks of errors.",
        callback=_set_debug,
        is_eager=True,
    ),
]
Tensorboard = Annotated[
    bool,
    typer.Option(
        "--tensorboard",
        rich_help_panel="Saving and watching",
        help="Also write TensorBoard's files.",
    ),
]
Processes = Annotated[
    int,
    typer.Option(
        "--processes",
        metavar="COUNT",
        rich_help_panel="Device",
        help="Processes on the CPU; a GPU has one.",
    ),
]
Gpu = Annotated[
    str,
    typer.Option(
        "--gpu",
        metavar="WHICH",
        rich_help_panel="Device",
        help="auto, cpu, cuda, mps, or CUDA devices by number: 0 or 0,1.",
        callback=normal_gpu,
        autocompletion=complete_gpu,
    ),
]
