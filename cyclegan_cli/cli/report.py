"""cyclegan report: a run's page, rebuilt from its folder."""

from __future__ import annotations

from cyclegan_cli.cli.common import Debug, Json, Quiet, RunName
from cyclegan_cli.cli.console import Console

__all__ = ["report"]


def report(
    run: RunName,
    json_: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Rebuild a training's page, report.html, from the run's folder.

    A training keeps its page up to date; this is for older runs, and for files that were moved.
    The page is one file that needs no network: settings, data, curves, the held-out pictures over
    time, warnings, evaluations, and how to reproduce it.

    \b
    Examples:
      cyclegan report photos2vangogh
      xdg-open "$(cyclegan report photos2vangogh)"
    """
    console = Console(as_json=json_, quiet=quiet)
    from cyclegan_cli.engine.run import find_run
    from cyclegan_cli.errors import StoreError
    from cyclegan_cli.report.page import Report

    found = find_run(run)
    page = Report(found)
    try:
        page.write()
    except OSError as error:
        raise StoreError(f"{page.path} cannot be written: {error.strerror}.") from error
    console.result(str(page.path), {"run": found.name, "report": str(page.path)})
