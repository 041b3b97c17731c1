"""What the shell offers after ``--style mo<TAB>``. No torch here."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from cyclegan_cli.errors import CycleganError
from cyclegan_cli.styles.store import list_styles

__all__ = [
    "complete_dataset",
    "complete_gpu",
    "complete_local_style",
    "complete_run",
    "complete_style",
    "one_of",
]


def one_of(names: Iterable[str]) -> Callable[[str], list[str]]:
    """A completion that offers those of ``names`` that begin as what was typed."""

    def complete(incomplete: str) -> list[str]:
        return [name for name in names if name.startswith(incomplete)]

    return complete


def complete_gpu(incomplete: str) -> list[str]:
    """What ``--gpu`` takes; of NVIDIA's cards those that Linux has."""
    cards = sorted(path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia[0-9]*"))
    return one_of(["auto", "cpu", "cuda", "mps", *cards])(incomplete)


def complete_dataset(incomplete: str) -> list[str]:
    """The names of public data sets that begin with ``incomplete``."""
    from cyclegan_cli.styles.datasets import datasets

    try:
        return [name for name in datasets() if name.startswith(incomplete)]
    except (CycleganError, OSError):
        return []


def complete_run(incomplete: str) -> list[str]:
    """The names of runs that begin with ``incomplete``, the one written last first."""
    from cyclegan_cli.engine.run import list_runs

    try:
        return [s.run.name for s in list_runs() if s.run.name.startswith(incomplete)]
    except (CycleganError, OSError):
        return []


def complete_style(incomplete: str) -> list[str]:
    """The names of styles that begin with ``incomplete``, sorted, here or to be downloaded.

    Of a list with commas the last name is completed.
    """
    return _names(incomplete, available=True)


def complete_local_style(incomplete: str) -> list[str]:
    """The same, of styles that are on this machine."""
    return _names(incomplete, available=False)


def _names(incomplete: str, *, available: bool) -> list[str]:
    try:
        styles = list_styles()
    except (CycleganError, OSError):
        return []  # a shell's prompt is no place for an error
    before, comma, name = incomplete.rpartition(",")
    return [
        f"{before}{comma}{style.name}"
        for style in styles
        if style.name.startswith(name) and (available or style.directions)
    ]
