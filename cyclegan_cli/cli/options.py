"""The options that several commands have, and what the shell offers after TAB. No torch here."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from cyclegan_cli.errors import CycleganError
from cyclegan_cli.machine import normal_gpu
from cyclegan_cli.styles.store import list_styles

_state = {"debug": False}


# -- what the shell offers -------------------------------------------------------------------


def matching(names: Callable[[], Iterable[str]], incomplete: str) -> list[str]:
    """The names that begin with ``incomplete``; a shell's prompt is no place for an error."""
    try:
        return [name for name in names() if name.startswith(incomplete)]
    except (CycleganError, OSError):
        return []


def one_of(names: Iterable[str]) -> Callable[[str], list[str]]:
    """A completion that offers those of ``names`` that begin with what was typed."""

    def complete(incomplete: str) -> list[str]:
        return matching(lambda: names, incomplete)

    return complete


def complete_gpu(incomplete: str) -> list[str]:
    """What ``--gpu`` takes; of NVIDIA's cards those that Linux has."""
    cards = sorted(path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia[0-9]*"))
    return matching(lambda: ["auto", "cpu", "cuda", "mps", *cards], incomplete)


def complete_dataset(incomplete: str) -> list[str]:
    """The names of public data sets."""
    from cyclegan_cli.styles.datasets import datasets

    return matching(datasets, incomplete)


def complete_run(incomplete: str) -> list[str]:
    """The names of runs, the one written last first."""
    from cyclegan_cli.engine.run import list_runs

    return matching(lambda: [state.run.name for state in list_runs()], incomplete)


def _styles(incomplete: str, *, available: bool) -> list[str]:
    before, comma, name = incomplete.rpartition(",")
    found = matching(lambda: [style.name for style in list_styles(available=available)], name)
    return [f"{before}{comma}{style}" for style in found]


def complete_style(incomplete: str) -> list[str]:
    """The names of styles, sorted, here or to be downloaded; in a list with commas, of the last."""
    return _styles(incomplete, available=True)


def complete_local_style(incomplete: str) -> list[str]:
    """The names of installed styles."""
    return _styles(incomplete, available=False)


# -- options and arguments -------------------------------------------------------------------


def debugging() -> bool:
    """Whether tracebacks are wanted."""
    return _state["debug"] or "--debug" in sys.argv[1:]


def _set_debug(value: bool) -> bool:
    _state["debug"] = value
    return value


def _check_tensorboard(wanted: bool) -> bool:
    """Raise UsageError where TensorBoard is wanted and not installed."""
    if wanted:
        from cyclegan_cli.report.tensorboard import require_tensorboard

        require_tensorboard()
    return wanted


_device = partial(typer.Option, rich_help_panel="Device")

RunName = Annotated[
    str, typer.Argument(metavar="RUN", help="A run's name or folder.", autocompletion=complete_run)
]
StyleName = Annotated[
    str,
    typer.Argument(
        metavar="STYLE", help="A style's name, or its path.", autocompletion=complete_style
    ),
]
LocalStyles = Annotated[
    list[str],
    typer.Argument(metavar="STYLE", help="Names of styles.", autocompletion=complete_local_style),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Print results, warnings and errors only.")
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Print more details.")]
Debug = Annotated[
    bool, typer.Option("--debug", help="Show tracebacks.", callback=_set_debug, is_eager=True)
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Overwrite an existing file.")]
Reverse = Annotated[bool, typer.Option("--reverse", help="Use the other direction, Y → X.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Tensorboard = Annotated[
    bool,
    typer.Option(
        "--tensorboard",
        rich_help_panel="Saving and watching",
        help="Also write logs for TensorBoard.",
        callback=_check_tensorboard,
    ),
]
Processes = Annotated[
    int, _device("--processes", metavar="COUNT", help="Processes on the CPU; each GPU has one.")
]
Gpu = Annotated[
    str,
    _device(
        "--gpu",
        metavar="WHICH",
        help="auto, cpu, cuda, mps, or CUDA devices by number: 0 or 0,1.",
        callback=normal_gpu,
        autocompletion=complete_gpu,
    ),
]
