"""From generators to a style: at the end of a training, from a checkpoint, or from files."""

from __future__ import annotations

import functools
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclegan_cli.cli.console import Console
from cyclegan_cli.cli.options import argument, command, complete_run, flag, one_of, option
from cyclegan_cli.engine.run import BEST, Run, best_of, find_run, run_state
from cyclegan_cli.errors import CheckpointError, StoreError, UsageError, command_line
from cyclegan_cli.files import styles_dir
from cyclegan_cli.styles.catalogue import Style, Way, read_style

if TYPE_CHECKING:
    from cyclegan_cli.engine.checkpoint import Checkpoint
    from cyclegan_cli.styles.store import Write


def _published_by(run: Run, style: Style) -> bool:
    """Whether ``run`` made ``style``, and so may replace it."""
    made_by = (style.card.get("run"), style.card.get("run_created"))
    return style.origin == "trained" and made_by == (run.name, run.created)


def is_published(run: Run) -> bool:
    """Whether the style of the run's name is whole, and made when ``run`` was where it is now."""
    try:
        style = read_style(styles_dir() / run.name, None, name=run.name)
    except (FileNotFoundError, NotADirectoryError, StoreError):
        return False
    place = run_state(run).place
    current = place is not None and style.card.get("run_steps") == place.step
    whole = all(direction.file.is_file() for direction in style.directions.values())
    return current and whole and _published_by(run, style)


def taken(run: Run) -> UsageError | None:
    """What stands in the way of publishing: a style of the run's name that it did not make."""
    try:
        style = read_style(styles_dir() / run.name, None, name=run.name)
        if _published_by(run, style):
            return None
        what = f"{style.origin}, not made by this run"
    except (FileNotFoundError, NotADirectoryError):
        return None
    except StoreError:
        what = "damaged"
    again = command_line("pretrained", "import", "--run", run.name, "--name", "NEW")
    return UsageError(
        f"There is another style named '{run.name}' ({what}): it stays as it is.",
        hint=f"The run's own style, under a NEW name: {again}",
    )


def _newest(run: Run) -> Checkpoint:
    from cyclegan_cli.engine import checkpoint

    found, damaged = checkpoint.newest(run.checkpoints)
    if found is None:
        raise damaged[0] if damaged else CheckpointError(f"{run.name} has no checkpoint yet.")
    return found


def publish(
    console: Console, run: Run, facts: Mapping[str, Any], last: Checkpoint | None = None
) -> None:
    """Make the style of a finished ``run`` from its checkpoints, and say what to do with it.

    ``last``: its newest checkpoint, where that has been read already. A style of its name is
    replaced only where the run made it. Raises UsageError where another one is there,
    CheckpointError, StoreError.
    """
    from cyclegan_cli.engine import checkpoint
    from cyclegan_cli.report.page import REPORT

    reason = taken(run)
    if reason is not None:
        raise reason
    best = run.checkpoints / BEST
    if run.settings.publish == "best" and best.exists():
        start = checkpoint.load(best)
        console.note(f"The style is that of step {start.place.step}, the best one measured.")
    else:
        start = last or _newest(run)
    own = functools.partial(_published_by, run)
    _publish_checkpoint(run, start, name=run.name, facts=facts, replace=own)
    console.note(f"The run as a page: {run.folder / REPORT}")
    console.suggest("Try it", command_line("translate", "PHOTO.jpg", "--style", run.name))
    if run.settings.publish == "last" and best.exists():
        again = ("pretrained", "import", "--run", run.name, "--checkpoint", "best", "--overwrite")
        console.suggest("To have the best one measured instead of the last", command_line(*again))
    steps = start.place.step
    console.result(run.name, {"style": run.name, "run": str(run.folder), "steps": steps})


def _publish_checkpoint(
    run: Run,
    start: Checkpoint,
    *,
    name: str,
    facts: Mapping[str, Any],
    replace: bool | Callable[[Style], bool],
) -> Style:
    """Put the generators of the checkpoint ``start`` into the store; its measures join the card.

    ``facts``: plain JSON values that join the card. Raises CheckpointError, StoreError, UsageError.
    """
    from cyclegan_cli.engine.checkpoint import generators
    from cyclegan_cli.engine.weights import save_generator
    from cyclegan_cli.styles.store import add_style

    newest = run_state(run).place
    card: dict[str, object] = {
        "run": run.name,
        "run_created": run.created,
        "run_steps": newest.step if newest else start.place.step,
        "steps": start.place.step,
        "epochs": start.place.epoch,
        "pictures": {"x": len(run.x_files), "y": len(run.y_files)},
        **facts,
        **({} if start.evaluation is None else {"evaluation": start.evaluation}),
        "settings": run.settings.to_json(),
    }
    x, y = run.x_dir.name, run.y_dir.name
    ways: tuple[Way, Way] = ("xy", "yx")
    weights: dict[Way, Path | Write] = {}
    for way, network in zip(ways, generators(start), strict=True):
        about: dict[str, object] = {"style": name, "x": x, "y": y, "direction": way}
        about["steps"] = start.place.step
        weights[way] = functools.partial(save_generator, network=network, about=about)
    return add_style(name, x=x, y=y, origin="trained", weights=weights, card=card, replace=replace)


# -- import


def record_of(style: Style) -> dict[str, Any]:
    """A style for --json."""
    directions = {
        way: {
            "path": str(direction.file),
            "sha256": direction.sha256,
            "size": direction.size,
            "generator": direction.generator.to_json(),
        }
        for way, direction in style.directions.items()
    }
    return {
        **style.card,
        **{"name": style.name, "x": style.x, "y": style.y, "origin": style.origin},
        **{"path": str(style.folder) if style.folder else None, "size": style.size},
        **{"directions": directions, "hides": list(style.hides)},
    }


@command("json", "quiet")
def import_command(
    console: Console,
    file: Path | None = argument(
        None, "FILE", "Weights of one generator: a .pth or .safetensors file."
    ),
    name: str | None = option(None, "NAME", "Name of the new style."),
    reverse_file: Path | None = option(None, "FILE", "Weights of the other direction, Y → X."),
    run: str | None = option(None, "RUN", "Use a run instead of FILE.", complete=complete_run),
    checkpoint: str | None = option(
        None,
        "best|last|FILE",
        "Which checkpoint of the run. Default: last.",
        complete=one_of(("best", "last")),
    ),
    x: str | None = option(None, "WORD", "Name of domain X, such as photo.", "--x"),
    y: str | None = option(None, "WORD", "Name of domain Y, such as monet.", "--y"),
    licence: str | None = option(None, "TEXT", "Licence of the weights."),
    source: str | None = option(None, "TEXT", "Where the weights come from."),
    overwrite: bool = flag("Replace your style of that name."),
) -> None:
    """Make a style from weights, or from a run.

    Takes files of this program and of the public PyTorch CycleGAN: G_A is X → Y, G_B is Y → X.
    The kind of network is found from the tensors, and no code in the file is run. With --run, both
    directions come from a checkpoint of that run.

    \b
    Examples:
      cyclegan pretrained import latest_net_G.pth --name monet --x photo --y monet
      cyclegan pretrained import latest_net_G_A.pth --name horse2zebra \\
        --reverse-file latest_net_G_B.pth
      cyclegan pretrained import --run photos2monet --checkpoint best --overwrite
    """
    card = {"licence": licence or "unknown", "source": source or ""}
    if run is not None:
        given = {"FILE": file, "--reverse-file": reverse_file, "--x": x, "--y": y}
        if superfluous := [option for option, value in given.items() if value is not None]:
            raise UsageError(
                f"--run brings both directions and domains: leave out {superfluous[0]}."
            )
        style = _from_run(run, checkpoint or "last", name, card, overwrite=overwrite)
    else:
        if checkpoint is not None:
            raise UsageError("--checkpoint belongs to --run.", hint="The runs: cyclegan runs")
        if file is None or name is None:
            what = "FILE (or --run)" if file is None else "--name"
            raise UsageError(f"{what} is missing.", hint="cyclegan pretrained import --help")
        style = _from_files(console, file, reverse_file, name, x, y, card, overwrite=overwrite)
    console.result(str(style.folder), record_of(style))
    console.note(f"To try it: {command_line('translate', 'img.jpg', '--style', style.name)}")


def _from_files(
    console: Console,
    file: Path,
    reverse_file: Path | None,
    name: str,
    x: str | None,
    y: str | None,
    card: dict[str, Any],
    *,
    overwrite: bool,
) -> Style:
    for given in (file, reverse_file):
        if given is not None and not given.is_file():
            raise UsageError(f"{given} is not a file.")
    before, two, after = name.partition("2")
    named = (before, after) if two and before and after else ("x", name)
    from cyclegan_cli.styles.convert import import_style, other_direction

    files: dict[Way, Path] = {"xy": file}
    if reverse_file is not None:
        files["yx"] = reverse_file
    elif (other := other_direction(file)) is not None:
        option = shlex.join(["--reverse-file", str(other)])
        console.note(f"note: {other} is in the same folder. To import both, add: {option}")
    return import_style(name, files, x=x or named[0], y=y or named[1], card=card, replace=overwrite)


def _from_run(
    name_of_run: str, which: str, name: str | None, card: dict[str, Any], *, overwrite: bool
) -> Style:
    from cyclegan_cli.engine import checkpoint

    run = find_run(name_of_run)
    if which == "last":
        start = _newest(run)
    else:
        start = checkpoint.load(best_of(run) if which == "best" else Path(which))
    facts = {key: value for key, value in card.items() if value not in ("", "unknown")}
    return _publish_checkpoint(run, start, name=name or run.name, facts=facts, replace=overwrite)
