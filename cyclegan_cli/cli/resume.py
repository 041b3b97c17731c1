"""cyclegan resume: settings and state from a run's checkpoint, then the same loop as train."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from cyclegan_cli.cli.console import Console
from cyclegan_cli.cli.options import (
    GPU,
    PROCESSES,
    TENSORBOARD,
    argument,
    command,
    complete_run,
    one_of,
    option,
)
from cyclegan_cli.cli.preflight import folders, require_folder
from cyclegan_cli.cli.processes import (
    check_processes,
    launch,
    leading,
    local_count,
    member,
    one_device,
    team,
)
from cyclegan_cli.errors import CheckpointError, DataError, UsageError, command_line, counted
from cyclegan_cli.settings import TrainSettings

if TYPE_CHECKING:
    from cyclegan_cli.engine.checkpoint import Checkpoint
    from cyclegan_cli.engine.run import Place, Run


@command("json", "quiet", "verbose")
def resume(
    console: Console,
    ctx: typer.Context,
    run: str | None = argument(
        None, "RUN", "A run's name or folder. Without it, the runs are listed.", complete_run
    ),
    epochs: int | None = option(None, "COUNT", "Train longer: number of epochs in total."),
    max_steps: int | None = option(None, "COUNT", "Stop after this many steps in total."),
    checkpoint: Path | None = option(
        None,
        "FILE|best",
        "Continue from this checkpoint, not from the last one.",
        complete=one_of(("best",)),
    ),
    x_dir: Path | None = option(None, "FOLDER", "Where the pictures of domain X are now."),
    y_dir: Path | None = option(None, "FOLDER", "Where the pictures of domain Y are now."),
    gpu: str = GPU,
    processes: int = PROCESSES,
    workers: int | None = option(None, "COUNT", "Threads that prepare pictures."),
    tensorboard: bool = TENSORBOARD,
) -> None:
    """Continue a training exactly where it stopped, or list the runs.

    All settings come from the run. On the same machine, the weights become those of a training
    that was never stopped, bit for bit.

    \b
    Examples:
      cyclegan resume
      cyclegan resume photos2vangogh
      cyclegan resume photos2vangogh --epochs 300
    """
    console.silence(not leading())
    _refuse_changes(ctx.args)
    if run is None:
        from cyclegan_cli.cli.runs import list_all

        list_all(console)
        return
    from cyclegan_cli.cli.publishing import taken
    from cyclegan_cli.engine.run import find_run, run_state

    found = find_run(run)
    changed = _changed(found, epochs, max_steps, x_dir, y_dir)
    count = changed.settings.workers if workers is None else workers
    dataclasses.replace(changed.settings, workers=count)  # which checks it
    me = member()
    size = me.size if me else local_count(gpu, processes)
    one_device(gpu.split(",", maxsplit=1)[0] if me is None else gpu)
    if checkpoint is None:
        state = run_state(changed)
        _refuse_past(changed, state.place, max_steps)
        if state.finished and _ended(console, found, changed):
            return
    check_processes(changed.settings, size)
    if me is None and size > 1:
        launch(size)

    def look() -> Checkpoint | None:
        start = _start(console, changed, checkpoint)
        _refuse_past(changed, start.place if start else None, max_steps)
        _check_pictures(changed)
        return start

    def commit(start: Checkpoint | None) -> None:
        if (reason := taken(changed)) is not None:  # known now, so not only said at the end
            console.warn(f"{reason} {reason.hint}")
        at = "the beginning"
        if start is not None:
            for moved in go_back_to(changed.checkpoints, start):
                console.note(f"set aside: {moved}")
            at = f"step {start.place.step}, epoch {start.place.epoch + 1}"
        if changed != found:
            changed.write()
            _say_schedule(console, found, changed)
        console.note(f"Continuing {found.name} from {at} of {changed.settings.epochs}.")
        if start is not None:
            _say_processes(console, changed, start.processes, size)

    with team(gpu) as group:
        from cyclegan_cli.cli.runner import Machine, train_held
        from cyclegan_cli.engine.checkpoint import go_back_to

        train_held(console, changed, Machine(gpu, count, group, tensorboard), look, commit)


def _refuse_changes(arguments: list[str]) -> None:
    """What belongs to the run cannot be changed: say so, instead of 'no such option'."""
    known = {field.name.replace("_", "-") for field in dataclasses.fields(TrainSettings)}
    for word in arguments:
        name = word.split("=", maxsplit=1)[0].removeprefix("--").removeprefix("no-")
        if word.startswith("--") and name in known:
            raise UsageError(
                f"--{name} belongs to the run and cannot be changed.",
                hint="For other settings start a new run: cyclegan train … --name NEW",
            )
        what = "No such option" if word.startswith("-") else "Unexpected argument"
        raise UsageError(f"{what}: {word}.", hint="cyclegan resume --help")


def _changed(
    run: Run, epochs: int | None, max_steps: int | None, x_dir: Path | None, y_dir: Path | None
) -> Run:
    """``run`` with what may be changed, changed."""
    changes: dict[str, Any] = {}
    if epochs is not None:
        if epochs < run.settings.epochs:
            raise UsageError(
                f"The run has {counted(run.settings.epochs, 'epoch')}; --epochs extends it.",
                hint="To end earlier, stop it with Ctrl-C, or use --max-steps.",
            )
        changes |= {"epochs": epochs, "max_steps": None}
    if max_steps is not None:
        changes["max_steps"] = max_steps
    run = dataclasses.replace(run, settings=dataclasses.replace(run.settings, **changes))
    for folder in (x_dir, y_dir):
        if folder is not None:
            require_folder(folder)
    if x_dir is not None and y_dir is not None:
        folders(x_dir, y_dir)
    return dataclasses.replace(
        run,
        x_dir=x_dir.resolve() if x_dir else run.x_dir,
        y_dir=y_dir.resolve() if y_dir else run.y_dir,
    )


def _refuse_past(run: Run, place: Place | None, max_steps: int | None) -> None:
    """A step to stop at must not lie behind: that is no finished training."""
    if max_steps is not None and place is not None and place.step > max_steps:
        raise UsageError(
            f"{run.name} is at step {place.step} already: --max-steps {max_steps} is past.",
            hint=f"To finish it where it is: "
            f"{command_line('resume', run.name, '--max-steps', str(place.step))}",
        )


def _start(console: Console, run: Run, chosen: Path | None) -> Checkpoint | None:
    """The checkpoint to go on from; damaged ones are named and passed over."""
    from cyclegan_cli.engine import checkpoint
    from cyclegan_cli.engine.run import best_of

    if chosen is not None:
        path = best_of(run) if str(chosen) == "best" else chosen
        start = checkpoint.load(path)
        if start.settings.generator != run.settings.generator:
            raise CheckpointError(f"{path} is of another model than {run.name}.")
        return start
    found, damaged = checkpoint.newest(run.checkpoints)
    for error in damaged:
        console.warn(str(error))
    if damaged and found is None:
        raise CheckpointError(
            f"No checkpoint of {run.name} is whole.", hint="Train again under another --name."
        )
    if damaged and found is not None:
        console.note(f"Using the one before it: {found.path}")
    return found


def _check_pictures(run: Run) -> None:
    """Every picture that the run trains on must still be there."""
    for domain in ("x", "y"):
        files = run.paths(domain) + run.paths(domain, held=True)
        missing = [path for path in files if not path.is_file()]
        if missing:
            raise DataError(
                f"Pictures of the run are missing ({len(missing)} of {len(files)}), such as "
                f"{missing[0]}.",
                hint="If they were moved: "
                + command_line("resume", run.name, f"--{domain}-dir", "FOLDER"),
            )


def _say_schedule(console: Console, before: Run, after: Run) -> None:
    s = after.settings
    if s != before.settings:
        stop = f", stopping after step {s.max_steps}" if s.max_steps else ""
        console.note(
            f"New schedule: {counted(s.epochs, 'epoch')}, learning rate {s.lr:g} for {s.knee}, "
            f"then linearly to 0{stop}."
        )


def _say_processes(console: Console, run: Run, before: int, now: int) -> None:
    """What another number of processes changes, and what it does not."""
    if before == now:
        return
    batch = run.settings.batch_size
    least, most = batch // now, -(-batch // now)
    each = str(least) if least == most else f"{least} or {most}"
    console.note(
        f"{counted(before, 'process', 'processes')} before, {now} now: each takes {each} of a "
        f"step's {counted(batch, 'picture')}. The training is the same but for the rounding of "
        "sums."
    )


def _ended(console: Console, before: Run, run: Run) -> bool:
    """Publish a finished ``run`` that has no style of its own yet, or say that nothing is left.

    False where it is not finished after all: its last checkpoint is damaged.
    """
    if not leading():
        return True
    from cyclegan_cli.cli.publishing import is_published, publish, taken
    from cyclegan_cli.engine.run import hold, sweep

    if is_published(run):
        s = run.settings
        longer = s.epochs + max(1, s.epochs // 2)
        done = f"{run.name} is finished: there is nothing left to train. To train longer"
        console.suggest(done, command_line("resume", run.name, "--epochs", str(longer)))
        if run != before:
            with hold(run):
                run.write()
        console.result(run.name, {"run": run.name, "finished": True})
        return True
    with hold(run):
        last = _start(console, run, None)
        if last is None or not run.ends_at(last.place):
            return False
        if (reason := taken(run)) is not None:
            raise reason
        if run != before:
            run.write()
        sweep(run)
        console.note(f"{run.name} is finished, and has no style yet: it gets one now.")
        publish(console, run, {}, last)
    return True
