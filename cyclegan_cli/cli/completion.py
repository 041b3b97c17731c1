"""What the shell offers after ``--style mo<TAB>``. No torch here."""

from __future__ import annotations

from cyclegan_cli.errors import CycleganError
from cyclegan_cli.styles.store import list_styles

__all__ = ["complete_dataset", "complete_local_style", "complete_run", "complete_style"]


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
    """The names of styles that begin with ``incomplete``, sorted, here or to be downloaded."""
    return _names(incomplete, available=True)


def complete_local_style(incomplete: str) -> list[str]:
    """The same, of styles that are on this machine."""
    return _names(incomplete, available=False)


def _names(incomplete: str, *, available: bool) -> list[str]:
    try:
        styles = list_styles()
    except (CycleganError, OSError):
        return []  # a shell's prompt is no place for an error
    return [
        style.name
        for style in styles
        if style.name.startswith(incomplete) and (available or style.directions)
    ]
