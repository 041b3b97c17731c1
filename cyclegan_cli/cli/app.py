"""The Typer app, and the boundary where every error becomes a sentence and an exit code.

Importing this module must stay cheap: no torch, no numpy, no Pillow (a test holds it to that).
"""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from cyclegan_cli.cli import (
    datasets,
    demo,
    evaluate,
    pretrained,
    report,
    resume,
    timelapse,
    train,
    translate,
)
from cyclegan_cli.cli.common import Debug, Stopped, debugging, remember, stop_on_signals
from cyclegan_cli.cli.console import SIGPIPE, Console, safe_streams
from cyclegan_cli.cli.processes import may_speak, member
from cyclegan_cli.errors import CycleganError
from cyclegan_cli.version import __version__

__all__ = ["app", "main"]

app = typer.Typer(
    name="cyclegan",
    no_args_is_help=True,
    rich_markup_mode=None,  # plain help: it reads well at 80 columns, in half the time
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("train", short_help="Learn a style from two folders of pictures.")(train.train)
app.command(
    "resume",
    short_help="Go on with a training, exactly, or list the runs.",
    # Unknown options reach the command, which can say why they are refused.
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)(resume.resume)
app.command("report", short_help="Write a training's page anew.")(report.report)
app.command("timelapse", short_help="A training's samples as a GIF or video.")(timelapse.timelapse)
app.command("demo", short_help="Try it all on rendered pictures.")(demo.demo)
app.command("translate", short_help="Translate pictures with a style.")(translate.translate)
app.command("evaluate", short_help="Measure a style on other pictures.")(evaluate.evaluate)
app.add_typer(pretrained.app, name="pretrained")
app.add_typer(datasets.app, name="datasets")


def _print_version(value: bool) -> None:
    if value:
        Console().result(f"cyclegan {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
    debug: Debug = False,
) -> None:
    """Turn photographs into paintings, and back: style transfer by CycleGAN.

    \b
    Examples:
      cyclegan train ./photos ./vangogh --epochs 200 --gpu 0
      cyclegan translate img.jpg --style photos2vangogh
      cyclegan pretrained list
    """


def main(arguments: list[str] | None = None) -> int:
    """Run the program; returns the exit code. ``arguments``: without the program's name."""
    safe_streams()
    stop_on_signals()
    remember(arguments)
    try:
        app(args=arguments, prog_name="cyclegan")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except Stopped as stop:
        if stop.signum != SIGPIPE:
            if member() is None:  # whoever started the processes says it for all
                Console().note("Interrupted.")
        else:  # what is still buffered has no reader; nothing shall complain of it at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return stop.exit_code
    except CycleganError as error:
        if debugging():
            raise
        if may_speak():
            Console().error(error)
        return error.exit_code
    except (Exception, RecursionError) as error:
        if debugging():
            raise
        if may_speak():
            Console().error(_unexpected(error))
        return 1
    return 0


def _unexpected(error: BaseException) -> CycleganError:
    """What a user is told of an error that nobody foresaw."""
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return CycleganError(f"{where}{error.strerror}.")
    if isinstance(error, MemoryError):
        return CycleganError("The memory is full.")
    message = str(error).splitlines()[0] if str(error) else ""
    return CycleganError(
        f"{type(error).__name__}: {message}",
        hint="This is a defect of the program: run it again with --debug and report what it shows.",
    )
