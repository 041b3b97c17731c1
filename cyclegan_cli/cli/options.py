"""How commands declare options, those that several have, and what the shell offers after TAB.

Every start imports this: what only some commands need is imported where it is used.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial, wraps
from pathlib import Path
from typing import Any, get_args, get_type_hints

import typer
from typer.models import OptionInfo

from cyclegan_cli.cli.console import Console
from cyclegan_cli.errors import CycleganError
from cyclegan_cli.machine import normal_gpu

Complete = Callable[[str], list[str]]
# Options under the headings of --help: (name of a setting, what is typed after it, help), where
# "no" stands for a switch with --no-NAME; a name alone stands for an option of the command itself.
Table = Mapping[str, Sequence[str | tuple[str, str, str]]]


# -- what the shell offers -------------------------------------------------------------------


def one_of(names: Iterable[str] | Callable[[], Iterable[str]]) -> Complete:
    """A completion that offers those of ``names`` that begin with what was typed.

    A shell's prompt is no place for an error.
    """

    def complete(incomplete: str) -> list[str]:
        try:
            found = names() if callable(names) else names
            return [name for name in found if name.startswith(incomplete)]
        except (CycleganError, OSError):
            return []

    return complete


@one_of
def complete_gpu() -> list[str]:
    """What ``--gpu`` takes; of NVIDIA's cards those that Linux has."""
    cards = sorted(path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia[0-9]*"))
    return ["auto", "cpu", "cuda", "mps", *cards]


@one_of
def complete_dataset() -> Iterable[str]:
    """The names of public data sets."""
    from cyclegan_cli.styles.datasets import datasets

    return datasets()


@one_of
def complete_run() -> list[str]:
    """The names of runs, the one written last first."""
    from cyclegan_cli.engine.run import list_runs

    return [state.run.name for state in list_runs()]


def _styles(incomplete: str, *, available: bool) -> list[str]:
    from cyclegan_cli.styles.store import list_styles

    before, comma, name = incomplete.rpartition(",")
    found = one_of(lambda: [style.name for style in list_styles(available=available)])(name)
    return [f"{before}{comma}{style}" for style in found]


def complete_style(incomplete: str) -> list[str]:
    """The names of styles, sorted, here or to be downloaded; in a list with commas, of the last."""
    return _styles(incomplete, available=True)


def complete_local_style(incomplete: str) -> list[str]:
    """The names of installed styles."""
    return _styles(incomplete, available=False)


# -- options and arguments -------------------------------------------------------------------


def option(
    default: Any,
    metavar: str,
    help: str,
    *names: str,
    panel: str | None = None,
    complete: Complete | None = None,
    **more: Any,
) -> Any:
    """The default of a parameter that is an option, ``--the-name METAVAR``, or of those names."""
    more |= {"metavar": metavar or None, "rich_help_panel": panel, "autocompletion": complete}
    return typer.Option(default, *names, help=help, **more)


def flag(help: str, *names: str, panel: str | None = None, **more: Any) -> Any:
    """The default of a parameter that is False unless the option is given."""
    return option(False, "", help, *names, panel=panel, **more)


def argument(default: Any, metavar: str, help: str, complete: Complete | None = None) -> Any:
    """The default of a parameter that is an argument; ``...``: it is required."""
    return typer.Argument(default, metavar=metavar, help=help, autocompletion=complete)


def command(
    *channels: str,
    settings: type | None = None,
    table: Table | None = None,
    details: Mapping[str, Mapping[str, Any]] | None = None,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A command of Typer's of a function whose first argument is the ``Console``.

    ``channels``: what the user can tell the console: ``json``, ``quiet``, ``verbose``. Those
    options stand last, with --debug. The fields of ``settings`` that ``table`` names become options
    under its headings, with their types, defaults and choices; the function gets them as keywords.
    ``details``: more of what ``option`` takes, for some of them.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        @wraps(function)
        def called(**given: Any) -> None:
            del given["debug"]
            as_json, quiet, verbose = (given.pop(name, False) for name in _CHANNELS)
            function(Console(as_json=as_json, quiet=quiet, verbose=verbose), **given)

        _console, *parameters = inspect.signature(function, eval_str=True).parameters.values()
        own = {
            one.name: _parameter(one.name, one.annotation, one.default)
            for one in parameters
            if one.kind is not one.VAR_KEYWORD
        }
        for name, one in ({name: _CHANNELS[name] for name in channels} | {"debug": DEBUG}).items():
            own[name] = _parameter(name, bool, one)
        if settings is not None and table is not None:
            own |= _settings_options(settings, table, own, details or {})
        called.__signature__ = inspect.Signature([*own.values()])  # type: ignore[attr-defined]
        called.__annotations__ = {}  # Typer would evaluate them once more
        return called

    return decorate


def _parameter(name: str, kind: Any, default: Any) -> inspect.Parameter:
    """A parameter as Typer reads it."""
    if isinstance(default, OptionInfo) and kind is bool:
        # Typer would add --no-NAME.
        default.param_decls = default.param_decls or (f"--{name.replace('_', '-')}",)
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)


def _settings_options(
    settings: type,
    table: Table,
    own: dict[str, inspect.Parameter],
    details: Mapping[str, Mapping[str, Any]],
) -> dict[str, inspect.Parameter]:
    """The options of ``table``, in its order; what is of the command itself leaves ``own``."""
    from cyclegan_cli.settings import FRACTIONS, fraction

    kinds, defaults = get_type_hints(settings), vars(settings())
    options: dict[str, inspect.Parameter] = {}
    for panel, rows in table.items():
        for row in rows:
            if isinstance(row, str):
                options[row] = own.pop(row)
                continue
            name, metavar, text = row
            names, word = [], f"--{name.replace('_', '-')}"
            if metavar == "no":  # it can be switched off, too
                names, metavar = [f"{word}/--no-{word[2:]}"], ""
            choices = [one for one in get_args(kinds[name]) if isinstance(one, str)]
            more = {"default": defaults[name], "complete": one_of(choices), **details.get(name, {})}
            if name in FRACTIONS:
                more["parser"] = partial(fraction, word, below=not FRACTIONS[name])
            declared = option(more.pop("default"), metavar, text, *names, panel=panel, **more)
            # A choice is checked by the settings, whose message names them all.
            kind = str if choices or isinstance(declared.default, str) else kinds[name]
            options[name] = _parameter(name, kind, declared)
    return options


def _check_tensorboard(wanted: bool) -> bool:
    """Raise UsageError where TensorBoard is wanted and not installed."""
    if wanted:
        from cyclegan_cli.report.record import require_tensorboard

        require_tensorboard()
    return wanted


RUN = argument(..., "RUN", "A run's name or folder.", complete_run)
STYLE = argument(..., "STYLE", "A style's name, or its path.", complete_style)
GPU = option(
    "auto",
    "WHICH",
    "auto, cpu, cuda, mps, or CUDA devices by number: 0 or 0,1.",
    panel="Device",
    complete=complete_gpu,
    callback=normal_gpu,
)
PROCESSES = option(1, "COUNT", "Processes on the CPU; each GPU has one.", panel="Device")
TENSORBOARD = flag(
    "Also write logs for TensorBoard.", panel="Saving and watching", callback=_check_tensorboard
)
DRY_RUN = flag("Only say what would be removed.")
OVERWRITE = flag("Overwrite an existing file.")
REVERSE = flag("Use the other direction, Y → X.")
YES = flag("Do not ask.", "--yes", "-y")
DEBUG = flag("Show tracebacks.", "--debug")  # app looks for it in the command line
_CHANNELS = {  # what the console of a command is told
    "json": flag("Print one JSON object per line.", "--json"),
    "quiet": flag("Print results, warnings and errors only.", "--quiet", "-q"),
    "verbose": flag("Print more details.", "--verbose", "-v"),
}
