"""From a run's generators to a style: at the end of a training, or from any checkpoint."""

from __future__ import annotations

import calendar
import functools
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclegan_cli.cli.console import Console
from cyclegan_cli.engine.run import BEST, Run, run_state
from cyclegan_cli.errors import CheckpointError, StoreError, UsageError, command_line
from cyclegan_cli.places import styles_dir
from cyclegan_cli.styles.catalogue import Style, Way, read_style

if TYPE_CHECKING:
    from cyclegan_cli.engine.checkpoint import Checkpoint
    from cyclegan_cli.styles.store import Write

__all__ = ["is_published", "publish", "publish_checkpoint", "published_by", "taken"]


def published_by(run: Run, style: Style) -> bool:
    """Whether ``run`` made ``style``, and so may replace it."""
    card = style.card
    if style.origin != "trained" or card.get("run") != run.name:
        return False
    if "run_created" in card:
        return bool(card["run_created"] == run.created)
    try:  # of a version that did not write it: then at least not from before the run
        made = calendar.timegm(time.strptime(str(card.get("created")), "%Y-%m-%dT%H:%M:%SZ"))
    except ValueError:
        return False
    return made >= int(run.created)


def _of_that_name(run: Run) -> Style | None:
    try:
        return read_style(styles_dir() / run.name, None, name=run.name)
    except (FileNotFoundError, NotADirectoryError):
        return None


def is_published(run: Run) -> bool:
    """Whether the style of the run's name is whole, and made when ``run`` was where it is now."""
    try:
        style = _of_that_name(run)
    except StoreError:
        return False
    place = run_state(run).place
    if style is None or place is None or not published_by(run, style):
        return False
    # The card of an earlier version has the style's own step; that of the best one is another.
    of_best = "run_steps" not in style.card and "evaluation" in style.card
    current = style.card.get("run_steps", style.card.get("steps")) == place.step
    whole = all(direction.file.is_file() for direction in style.directions.values())
    return whole and (current or of_best)


def taken(run: Run) -> UsageError | None:
    """What stands in the way of publishing: a style of the run's name that it did not make."""
    try:
        style = _of_that_name(run)
        if style is None or published_by(run, style):
            return None
        what = f"{style.origin}, not made by this run"
    except StoreError:
        what = "damaged"
    again = command_line("pretrained", "import", "--run", run.name, "--name", "NEW")
    return UsageError(
        f"There is another style named '{run.name}' ({what}): it stays as it is.",
        hint=f"The run's own style, under a NEW name: {again}",
    )


def publish(console: Console, run: Run, facts: Mapping[str, Any]) -> Style:
    """Make the style of a finished ``run`` from its checkpoints, and say what to do with it.

    A style of its name is replaced only where the run made it. Raises UsageError where another one
    is there, CheckpointError, StoreError.
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
        found, damaged = checkpoint.newest(run.checkpoints)
        if found is None:
            raise damaged[0] if damaged else CheckpointError(f"{run.name} has no checkpoint yet.")
        start = found
    own = functools.partial(published_by, run)
    style = publish_checkpoint(run, start, name=run.name, facts=facts, replace=own)
    console.note(f"The run as a page: {run.folder / REPORT}")
    console.note("Try it:")
    console.note(f"  {command_line('translate', 'PHOTO.jpg', '--style', run.name)}")
    if run.settings.publish == "last" and best.exists():
        again = ("pretrained", "import", "--run", run.name, "--checkpoint", "best", "--overwrite")
        console.note("To have the best one measured instead of the last:")
        console.note(f"  {command_line(*again)}")
    steps = start.place.step
    console.result(run.name, {"style": run.name, "run": str(run.folder), "steps": steps})
    return style


def publish_checkpoint(
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
