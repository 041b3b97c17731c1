"""cyclegan pretrained import: a style from files made elsewhere, or from a run's checkpoint."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cyclegan_cli.cli.common import Debug, Json, Quiet
from cyclegan_cli.cli.completion import complete_run, one_of
from cyclegan_cli.cli.console import Console
from cyclegan_cli.cli.styleview import record_of
from cyclegan_cli.errors import CheckpointError, UsageError, command_line

if TYPE_CHECKING:
    from cyclegan_cli.styles.catalogue import Style, Way

__all__ = ["import_command"]


def import_command(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="FILE", help="A .pth or .safetensors file of one generator."),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option("--name", metavar="NAME", help="The new style's name."),
    ] = None,
    reverse_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The generator of the other direction, Y → X."),
    ] = None,
    run: Annotated[
        str | None,
        typer.Option(
            metavar="RUN", help="Instead of FILE: a run of yours.", autocompletion=complete_run
        ),
    ] = None,
    checkpoint: Annotated[
        str | None,
        typer.Option(
            metavar="best|last|FILE",
            help="Checkpoint of the run. Default: last.",
            autocompletion=one_of(("best", "last")),
        ),
    ] = None,
    x: Annotated[
        str | None, typer.Option("--x", metavar="WORD", help="What goes in: photo.")
    ] = None,
    y: Annotated[
        str | None, typer.Option("--y", metavar="WORD", help="What comes out: monet.")
    ] = None,
    licence: Annotated[
        str | None, typer.Option(metavar="TEXT", help="The weights' licence, for the card.")
    ] = None,
    source: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Where they come from, for the card.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Overwrite your style of that name.")
    ] = False,
    json_: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Make a style of weights or of a run.

    Takes files of this program and of the public PyTorch CycleGAN: G_A is X → Y, G_B is Y → X.
    The network is read from the tensors; not a byte of the file is run. With --run, both
    directions come from a checkpoint of that run, under its name or --name.

    \b
    Examples:
      cyclegan pretrained import latest_net_G.pth --name monet --x photo --y monet
      cyclegan pretrained import latest_net_G_A.pth --name horse2zebra \\
        --reverse-file latest_net_G_B.pth
      cyclegan pretrained import --run photos2monet --checkpoint best --overwrite
    """
    console = Console(as_json=json_, quiet=quiet)
    card = {"licence": licence or "unknown", "source": source or ""}
    if run is not None:
        for option, given in (
            ("FILE", file),
            ("--reverse-file", reverse_file),
            ("--x", x),
            ("--y", y),
        ):
            if given is not None:
                raise UsageError(f"--run brings both directions and domains: leave out {option}.")
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
    run: str, which: str, name: str | None, card: dict[str, Any], *, overwrite: bool
) -> Style:
    from cyclegan_cli.engine.run import best_of, find_run

    found = find_run(run)
    from cyclegan_cli.cli.publishing import publish_checkpoint
    from cyclegan_cli.engine import checkpoint

    if which == "last":
        start, damaged = checkpoint.newest(found.checkpoints)
        if start is None:
            raise damaged[0] if damaged else CheckpointError(f"{found.name} has no checkpoint yet.")
    else:
        start = checkpoint.load(best_of(found) if which == "best" else Path(which))
    facts = {key: value for key, value in card.items() if value not in ("", "unknown")}
    return publish_checkpoint(found, start, name=name or found.name, facts=facts, replace=overwrite)
