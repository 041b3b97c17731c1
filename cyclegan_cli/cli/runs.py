"""cyclegan runs: trainings that are running, stopped or finished, and what they take up."""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from cyclegan_cli.cli.common import Debug, Json, Quiet, RunName
from cyclegan_cli.cli.completion import complete_run
from cyclegan_cli.cli.console import Console, printable
from cyclegan_cli.cli.styleview import options_text, size_text
from cyclegan_cli.cli.support import folder_size
from cyclegan_cli.engine.run import Run, RunState, find_run, list_runs, run_state, unreadable_runs
from cyclegan_cli.errors import StoreError, UsageError, command_line, counted

__all__ = ["app", "list_all"]

app = typer.Typer(
    invoke_without_command=True,
    rich_markup_mode=None,
    short_help="List, show, open and remove trainings.",
)


@app.callback()
def _runs(ctx: typer.Context) -> None:
    """Trainings on this machine: list, show, open their page, remove them.

    Without a command, the list.

    \b
    Examples:
      cyclegan runs
      cyclegan runs show photos2vangogh
      cyclegan runs remove photos2vangogh --checkpoints
    """
    if ctx.invoked_subcommand is None:
        list_all(Console())


@app.command("list")
def list_command(json_: Json = False, quiet: Quiet = False, debug: Debug = False) -> None:
    """Every run: state, progress, last loss, size on disk, when it was last written.

    On a pipe: one run per line, tab-separated.

    \b
    Examples:
      cyclegan runs list
      cyclegan runs list --json | jq -r 'select(.state == "stopped").run'
    """
    list_all(Console(as_json=json_, quiet=quiet))


@app.command()
def show(run: RunName, json_: Json = False, debug: Debug = False) -> None:
    """One run in full: progress, options, folders, checkpoints, page.

    \b
    Examples:
      cyclegan runs show photos2vangogh
    """
    from cyclegan_cli.engine.run import checkpoint_files

    found = run_state(find_run(run))
    record = _record(found)
    checkpoints = [path.name for path in checkpoint_files(found.run.checkpoints)]
    record |= {"checkpoints": checkpoints, "settings": found.run.settings.to_json()}
    facts = [
        ("run", found.run.name),
        ("state", record["state"]),
        ("progress", f"epoch {_epoch(found, ' of ')}, step {record['step']}"),
        ("losses", ", ".join(f"{name} {value:.3f}" for name, value in found.losses.items())),
        ("X", f"{found.run.x_dir}, {counted(len(found.run.x_files), 'picture')}"),
        ("Y", f"{found.run.y_dir}, {counted(len(found.run.y_files), 'picture')}"),
        ("options", options_text(record["settings"])),
        ("folder", str(found.run.folder)),
        ("size", f"{size_text(record['size'])}, {counted(len(checkpoints), 'checkpoint')}"),
        ("page", record["page"] or "none yet"),
        ("next", _next_command(found, record["state"])),
    ]
    Console(as_json=json_).table((), [row for row in facts if row[1]], [record])


@app.command("open")
def open_command(run: RunName, json_: Json = False, debug: Debug = False) -> None:
    """Open a run's page in the browser; without a display, print where it lies.

    \b
    Examples:
      cyclegan runs open photos2vangogh
    """
    found = find_run(run)
    page = _page(found)
    if page is None:
        raise UsageError(f"{found.name} has no page yet.", hint=command_line("report", found.name))
    Console(as_json=json_).result(str(page), {"run": found.name, "page": str(page)})
    if sys.stdout.isatty():
        typer.launch(str(page))


@app.command()
def remove(
    runs: Annotated[
        list[str],
        typer.Argument(metavar="RUN", help="Names of runs.", autocompletion=complete_run),
    ],
    checkpoints: Annotated[
        bool,
        typer.Option("--checkpoints", help="Only the checkpoints: keep the page and samples."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be removed.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json_: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Remove runs, or only their checkpoints. Styles that were published stay.

    A run without checkpoints cannot be resumed. Without a terminal nothing is asked and nothing
    removed, unless -y is given.

    \b
    Examples:
      cyclegan runs remove photos2vangogh --checkpoints
      cyclegan runs remove photos2vangogh -y
    """
    console = Console(as_json=json_, quiet=quiet)
    places: dict[Path, Run] = {}
    for name in dict.fromkeys(runs):
        run = find_run(name)
        if _running(run):
            raise UsageError(f"The run '{run.name}' is being trained by another process.")
        places[run.checkpoints if checkpoints else run.folder] = run
    sizes = {place: folder_size(place) for place in places}
    if not dry_run and not yes and not _agreed(sizes, places, checkpoints=checkpoints):
        return
    for place, run in places.items():
        if not dry_run:
            _delete(place)
        record = {"run": run.name, "path": str(place), "bytes": sizes[place]}
        console.result(str(place), {**record, "removed": not dry_run})
    verb = "would be freed" if dry_run else "freed"
    console.note(f"{size_text(sum(sizes.values()))} {verb}.")


def _agreed(sizes: dict[Path, int], places: dict[Path, Run], *, checkpoints: bool) -> bool:
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        names = [run.name for run in places.values()]
        only = ["--checkpoints"] if checkpoints else []
        raise UsageError(
            "Nothing was removed: there is no terminal to ask at.",
            hint=command_line("runs", "remove", *names, *only, "-y"),
        )
    lines = [f"  {place}  ({size_text(size)})" for place, size in sizes.items()]
    lines += [
        f"  {run.name} is not finished: it cannot be resumed without its checkpoints."
        for run in places.values()
        if not run_state(run).finished
    ]
    listed = "\n".join(map(printable, lines))
    return typer.confirm(f"This removes\n{listed}\nContinue?", err=True)


def _delete(place: Path) -> None:
    try:
        if place.exists():
            shutil.rmtree(place)
    except OSError as error:
        raise StoreError(f"{place} cannot be removed: {error.strerror}.") from error


def list_all(console: Console) -> None:
    """The table of all runs, the one written last first."""
    states, unreadable = list_runs(), unreadable_runs()
    if not states and not unreadable:
        console.note("There are no runs yet. To start one: cyclegan train X_DIR Y_DIR")
    records = [_record(state) for state in states]
    rows = [_row(state, record) for state, record in zip(states, records, strict=True)]
    for folder, error in unreadable:
        rows.append((folder.name, "unreadable", "-", "-", "-", "-", "-"))
        told = {"run": folder.name, "state": "unreadable", "folder": str(folder)}
        records.append({**told, "error": str(error)})
    console.table(("run", "state", "epoch", "step", "loss", "size", "when"), rows, records)
    for _, error in unreadable:
        console.warn(str(error))


def _row(state: RunState, record: dict[str, Any]) -> tuple[str, ...]:
    loss = f"{sum(state.losses.values()):.3f}" if state.losses else "-"
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(state.written))
    size, epoch = size_text(record["size"]), _epoch(state, "/")
    return state.run.name, record["state"], epoch, str(record["step"]), loss, size, when


def _epoch(state: RunState, of: str) -> str:
    """Epochs done, of how many; where --max-steps ended the run, the others never come."""
    done, every = state.place.epoch if state.place else 0, state.run.settings.epochs
    return str(done) if state.finished and done < every else f"{done}{of}{every}"


def _record(state: RunState) -> dict[str, Any]:
    place, page = state.place, _page(state.run)
    return {
        "run": state.run.name,
        "state": _state(state),
        "epoch": place.epoch if place else 0,
        "epochs": state.run.settings.epochs,
        "step": place.step if place else 0,
        "finished": state.finished,
        "losses": state.losses,
        "written": state.written,
        "size": folder_size(state.run.folder),
        "folder": str(state.run.folder),
        "page": str(page) if page else None,
    }


def _state(state: RunState) -> str:
    if _running(state.run):
        return "running"
    if state.finished:
        return "finished"
    return "stopped" if state.place is not None else "no checkpoint"


def _running(run: Run) -> bool:
    """Whether another process holds the run's lock."""
    from filelock import FileLock, Timeout

    path = run.folder / "run.lock"
    if not path.exists():
        return False
    try:
        with FileLock(path, timeout=0):
            return False
    except (Timeout, OSError):
        return True


def _page(run: Run) -> Path | None:
    page = run.folder / "report.html"
    return page if page.is_file() else None


def _next_command(state: RunState, now: str) -> str:
    name = state.run.name
    if now == "running":
        return command_line("runs", "open", name)
    if state.finished:
        return command_line("translate", "IMAGE", "--style", name)
    return command_line("resume", name)
