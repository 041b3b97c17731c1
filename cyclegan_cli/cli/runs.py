"""Trainings that are running, stopped or finished: cyclegan runs, report and timelapse."""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from cyclegan_cli.cli.console import Console
from cyclegan_cli.cli.options import (
    DRY_RUN,
    OVERWRITE,
    RUN,
    YES,
    argument,
    command,
    complete_run,
    flag,
    option,
)
from cyclegan_cli.engine.run import (
    Run,
    RunState,
    being_trained,
    checkpoint_files,
    find_run,
    is_held,
    list_runs,
    run_state,
    unreadable_runs,
)
from cyclegan_cli.errors import PictureError, UsageError, command_line, counted, size_text, writing
from cyclegan_cli.files import folder_size

if TYPE_CHECKING:
    from PIL import Image

_LINGER = 2.0  # seconds that the last frame of a time-lapse stays

app = typer.Typer(invoke_without_command=True, rich_markup_mode=None)


@app.callback()
def _runs(ctx: typer.Context) -> None:
    """List, show, open and remove the trainings on this machine.

    Without a command, they are listed.

    \b
    Examples:
      cyclegan runs
      cyclegan runs show photos2vangogh
      cyclegan runs remove photos2vangogh --checkpoints
    """
    if ctx.invoked_subcommand is None:
        list_all(Console())


@app.command("list")
@command("json", "quiet")
def list_command(console: Console) -> None:
    """List all runs.

    Shows the state, progress, last loss, size on disk, and when the run was last written. When
    piped: one run per line, tab-separated.

    \b
    Examples:
      cyclegan runs list
      cyclegan runs list --json | jq -r 'select(.state == "stopped").run'
    """
    list_all(console)


@app.command()
@command("json")
def show(console: Console, run: str = RUN) -> None:
    """Show a run in full: progress, options, folders, checkpoints.

    \b
    Examples:
      cyclegan runs show photos2vangogh
    """
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
        ("options", " ".join(found.run.settings.options()) or "all as the defaults"),
        ("folder", str(found.run.folder)),
        ("size", f"{size_text(record['size'])}, {counted(len(checkpoints), 'checkpoint')}"),
        ("page", record["page"] or "none yet"),
        ("next", _next_command(found, record["state"])),
    ]
    console.table((), [row for row in facts if row[1]], [record])


@app.command("open")
@command("json")
def open_command(console: Console, run: str = RUN) -> None:
    """Open a run's page in the browser. When piped, only print its path.

    \b
    Examples:
      cyclegan runs open photos2vangogh
    """
    found = find_run(run)
    page = _page(found)
    if page is None:
        raise UsageError(f"{found.name} has no page yet.", hint=command_line("report", found.name))
    console.result(str(page), {"run": found.name, "page": str(page)})
    if sys.stdout.isatty():
        typer.launch(str(page))


@app.command()
@command("json", "quiet")
def remove(
    console: Console,
    runs: list[str] = argument(..., "RUN", "Names of runs.", complete_run),
    checkpoints: bool = flag("Remove only checkpoints; keep page and samples."),
    dry_run: bool = DRY_RUN,
    yes: bool = YES,
) -> None:
    """Remove runs, or only their checkpoints. Styles that were published stay.

    A run without checkpoints cannot be resumed. Where there is no terminal to ask at, nothing is
    removed without -y.

    \b
    Examples:
      cyclegan runs remove photos2vangogh --checkpoints
      cyclegan runs remove photos2vangogh -y
    """
    places: dict[Path, Run] = {}
    for name in dict.fromkeys(runs):
        run = find_run(name)
        if is_held(run):
            raise being_trained(run)
        places[run.checkpoints if checkpoints else run.folder] = run
    sizes = {place: folder_size(place) for place in places}
    lines = [f"{place}  ({size_text(size)})" for place, size in sizes.items()]
    lines += [
        f"{run.name} is not finished: it cannot be resumed without its checkpoints."
        for run in places.values()
        if not run_state(run).finished
    ]
    only = ["--checkpoints"] * checkpoints
    again = command_line("runs", "remove", *[run.name for run in places.values()], *only, "-y")
    if not (dry_run or yes or console.confirm_removal(lines, again)):
        return
    for place, run in places.items():
        if not dry_run and place.exists():
            with writing(place, "removed"):
                shutil.rmtree(place)
        record = {"run": run.name, "path": str(place), "bytes": sizes[place]}
        console.result(str(place), {**record, "removed": not dry_run})
    verb = "would be freed" if dry_run else "freed"
    console.note(f"{size_text(sum(sizes.values()))} {verb}.")


def list_all(console: Console) -> None:
    """The table of all runs, the one written last first."""
    states, unreadable = list_runs(), unreadable_runs()
    if not states and not unreadable:
        console.note("There are no runs yet. To start one: cyclegan train X_DIR Y_DIR")
        return
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
    now = "stopped" if place else "no checkpoint"
    if state.finished:
        now = "finished"
    return {
        "run": state.run.name,
        "state": "running" if is_held(state.run) else now,
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


# -- report and timelapse -----------------------------------------------------------------------


@command("json", "quiet")
def report(console: Console, run: str = RUN) -> None:
    """Rebuild a training's page, report.html, from the run's folder.

    A training keeps its page up to date: this is for older runs, and for files that were moved.
    The page is one file that needs no network. It shows the settings, the data, curves, the
    held-out pictures over time, warnings, evaluations, and the command that repeats the training.

    \b
    Examples:
      cyclegan report photos2vangogh
      xdg-open "$(cyclegan report photos2vangogh)"
    """
    from cyclegan_cli.report.page import Report

    found = find_run(run)
    page = Report(found)
    with writing(page.path):
        page.write()
    console.result(str(page.path), {"run": found.name, "report": str(page.path)})


@command("json", "quiet")
def timelapse(
    console: Console,
    run: str = RUN,
    output: Path | None = option(
        None, "FILE", "A .gif, .webp, .png, .mp4, .mov, .mkv, .webm or .avi file.", "--output", "-o"
    ),
    fps: float = option(6.0, "RATE", "Samples per second.", min=0.1, max=60),
    picture: int | None = option(
        None, "NUMBER", "Show only this held-out picture, counted from 1.", min=1
    ),
    overwrite: bool = OVERWRITE,
) -> None:
    """Make an animation or video of a training: its held-out pictures at every sample.

    Each frame shows x, G(x), y, F(y) and the step. At most 120 samples are taken. Without
    --output, timelapse.gif in the run's folder is overwritten.

    \b
    Examples:
      cyclegan timelapse photos2vangogh
      cyclegan timelapse photos2vangogh -o film.mp4 --fps 12
      cyclegan timelapse photos2vangogh -o one.webp --picture 2
    """
    from cyclegan_cli.report.samples import frame_of, list_sheets, read_sheet, spread

    found = find_run(run)
    target = found.folder / "timelapse.gif" if output is None else output
    kind = _kind(target)
    if output is not None and output.exists() and not overwrite:
        raise UsageError(f"{output} exists already.", hint="Use --overwrite, or another -o.")
    sheets = spread(list_sheets(found.folder / "samples"))
    if not sheets:
        raise UsageError(
            f"The run '{found.name}' has no samples.",
            hint="They come at every --sample-every of a training with --samples 1 or more.",
        )
    frames: list[Image.Image] = []
    with console.progress("reading samples", len(sheets)) as bar:
        for sheet in sheets:
            try:
                label = f"step {sheet.step:,}, epoch {sheet.step / found.steps_per_epoch:.1f}"
                share = sheet.step / max(sheets[-1].step, 1)
                frames.append(frame_of(read_sheet(sheet.path), label, share, picture))
            except PictureError as error:
                console.warn(f"left out: {error}")
            bar.advance()
    if not frames:
        raise PictureError("None of the samples could be read.")
    frames = [frame for frame in frames if frame.size == frames[-1].size]
    _write(frames, target, kind, fps)
    record = {"run": found.name, "timelapse": str(target), "frames": len(frames)}
    console.result(str(target), record)


def _kind(target: Path) -> str:
    """The format that the name asks for. Raises UsageError where it holds no moving pictures."""
    from cyclegan_cli.media.formats import ANIMATED, format_of, is_video

    kind = format_of(target)
    if kind is None or not (is_video(target) or kind in ANIMATED):
        raise UsageError(
            f"{target} names no format of moving pictures.",
            hint="Choose a name that ends in .gif, .webp, .png, .mp4, .mov, .mkv, .webm or .avi.",
        )
    return kind


def _write(frames: list[Image.Image], target: Path, kind: str, fps: float) -> None:
    from fractions import Fraction

    import numpy as np

    from cyclegan_cli.media.encoding import write_picture
    from cyclegan_cli.media.formats import is_video
    from cyclegan_cli.media.pictures import Frame, Metadata, Picture
    from cyclegan_cli.media.video import Motion, write_frames

    pixels = [np.asarray(frame) for frame in frames]
    if is_video(target):
        rate = Fraction(fps).limit_denominator(1000)
        pixels += pixels[-1:] * round(_LINGER * fps)
        motion = Motion(None, *frames[0].size, rate, len(pixels))
        with write_frames(target, kind, motion) as write:
            for frame in pixels:
                write(frame)
        return
    shown = [1000 / fps] * len(pixels)
    shown[-1] += 1000 * _LINGER
    made = tuple(Frame(p, None, time) for p, time in zip(pixels, shown, strict=True))
    picture = Picture(made, "RGB", kind, plays=0, poster=False, lossless=False, metadata=Metadata())
    write_picture(picture, target, kind)
