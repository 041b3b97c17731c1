"""The Typer app, and the boundary where every error becomes a sentence and an exit code.

Importing this module must stay cheap: no torch, no numpy, no Pillow (a test holds it to that).
"""

from __future__ import annotations

import contextlib
import os
import pkgutil
import re
import shlex
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand

from cyclegan_cli import __version__
from cyclegan_cli.cli.console import SIGPIPE, Console, safe_streams, stdout_lost
from cyclegan_cli.cli.options import DEBUG, flag
from cyclegan_cli.cli.processes import Stopped, may_speak, member, remember, stop_on_signals
from cyclegan_cli.errors import CycleganError, UsageError, did_you_mean
from cyclegan_cli.machine import address_space_limit

# Every command: (name, module of cli and object in it, short help). Only the one that is called is
# imported, which halves the time of a start.
_COMMANDS = (
    ("translate", "translate:translate", "Paint pictures and videos with a style."),
    ("preview", "preview:preview", "Compare styles and settings on one sheet."),
    ("train", "train:train", "Learn a style from two folders of pictures."),
    ("resume", "resume:resume", "Continue a training exactly where it stopped."),
    ("runs", "runs:app", "List, show, open and remove trainings."),
    ("pretrained", "pretrained:app", "List, download, import, export and check styles."),
    ("datasets", "downloading:app", "List, show and download public data sets."),
    ("evaluate", "evaluate:evaluate", "Measure how good a style is."),
    ("report", "runs:report", "Rebuild a training's page."),
    ("timelapse", "runs:timelapse", "Make a GIF or video of a training's samples."),
    ("demo", "demo:demo", "Try the whole workflow on rendered pictures."),
    ("doctor", "doctor:doctor", "Check this installation."),
    ("docs", "doctor:docs", "Read the documentation."),
)
_PARSER_ERROR = typer.BadParameter.__mro__[2]  # base of the errors of a command line
_COLUMN = 30  # characters of a help page's first column, at most
_WHOLE = {ord(" "): "\xa0", ord("-"): "\u2011"}  # what a line is not broken at


class _Command(TyperCommand):
    """A command whose help shows options under headings: ``rich_help_panel`` names each one's.

    A short help needs none: of fewer than three, all is under "Options".
    """

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """``[OPTIONS] X_DIR [Y_DIR]``, ``[INPUT]...``: Typer puts what is required in braces."""
        pieces = ["[OPTIONS]"]
        for one in self.get_params(ctx):
            if one.param_type_name == "argument":
                name = vars(one)["metavar"] or str(one.name).upper()
                pieces.append((name if one.required else f"[{name}]") + "..." * (one.nargs == -1))
        return pieces

    def format_options(self, ctx: Any, formatter: Any) -> None:
        found = []
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                usual = "Arguments" if parameter.param_type_name == "argument" else "Options"
                found.append((vars(parameter).get("rich_help_panel"), usual, *record))
        few = len({panel for panel, *_ in found if panel}) < 3
        # All second columns begin at one place; defaults and names of options are not broken.
        width = max((len(names) for _, _, names, _ in found if len(names) <= _COLUMN), default=0)
        groups: dict[str, list[tuple[str, str]]] = {}
        for panel, usual, names, text in found:
            plain = re.sub(r"x>=(\S+)\]", r"\1 or more]", text)
            plain = re.sub(r"(\S+)<=x<=(\S+)\]", r"\1 to \2]", plain)
            kept = re.sub(
                r"--[\w-]+|(?<=\S)(?:  \[| Default: ).*",
                lambda m: " " * m[0].startswith(" ") + m[0].strip().translate(_WHOLE),
                plain,
            )
            heading = usual if few else panel or usual
            groups.setdefault(heading, []).append((names.ljust(width), kept))
        for heading, records in groups.items():
            with formatter.section(heading):
                formatter.write_dl(records)
        back = {there: chr(here) for here, there in _WHOLE.items()}
        formatter.buffer[:] = [text.translate(str.maketrans(back)) for text in formatter.buffer]


def build_app(arguments: list[str]) -> typer.Typer:
    """The Typer app for a command line: the named command whole, the others by their short help."""
    app = typer.Typer(
        name="cyclegan",
        no_args_is_help=True,
        rich_markup_mode=None,  # plain help: it reads well at 80 columns, in half the time
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    called = next((word for word in arguments if not word.startswith("-")), None)
    for name, place, short_help in _COMMANDS:
        if name != called:
            app.command(name, short_help=short_help)(_placeholder)
            continue
        found = pkgutil.resolve_name(f"cyclegan_cli.cli.{place}")
        if isinstance(found, typer.Typer):
            for command in found.registered_commands:
                command.cls = _Command
            app.add_typer(found, name=name, short_help=short_help)
        else:
            # Unknown options reach resume, which can say why they are refused.
            more = dict.fromkeys(("allow_extra_args", "ignore_unknown_options"), name == "resume")
            app.command(name, cls=_Command, short_help=short_help, context_settings=more)(found)
    return app


def _placeholder() -> None:
    """Stands for a command that this command line does not call."""


def _print_version(value: bool) -> None:
    if value:
        Console().result(f"cyclegan {__version__}")
        raise typer.Exit


def _root(
    version: bool = flag("Show the version.", "--version", callback=_print_version, is_eager=True),
    debug: bool = DEBUG,
) -> None:
    """Turn photographs into paintings, and back: style transfer by CycleGAN.

    \b
    Examples:
      cyclegan train ./photos ./vangogh --epochs 200 --gpu 0
      cyclegan translate img.jpg --style monet
      cyclegan pretrained list
    """


def main(arguments: list[str] | None = None) -> int:
    """Run the program; returns the exit code. ``arguments``: without the program's name."""
    safe_streams()
    stop_on_signals()
    given = sys.argv[1:] if arguments is None else arguments
    remember(given)
    with _failures_of_threads("--debug" in given) as failures:
        code = _run(given)
    if code == 0 and failures:
        Console().error(unexpected(failures[0]))
        return 1
    return code


def _run(given: list[str]) -> int:
    try:
        app = build_app(_words(given))
        code = app(args=given, prog_name="cyclegan", standalone_mode=False, obj=build_app)
        return code if isinstance(code, int) else 0
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except Stopped as stop:
        if stop.signum != SIGPIPE:
            if member() is None:  # whoever started the processes says it for all
                Console().note("Interrupted.")
        else:  # what is still buffered has no reader; nothing shall complain of it at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return stop.exit_code
    except Exception as error:
        if "--debug" in given:
            raise
        told = _told(error, given)
        if may_speak():
            if str(told).startswith("Usage:"):  # nothing was typed: the help
                for line in str(told).splitlines():
                    Console().note(line)
            else:
                Console().error(told)
        return told.exit_code


def _told(error: Exception, given: list[str]) -> CycleganError:
    """The sentence and the exit code for any error. ``given``: the command line."""
    if isinstance(error, _PARSER_ERROR):
        wrong: Any = error
        called = [word for word in given[:1] if word in {name for name, *_ in _COMMANDS}]
        ctx = getattr(wrong, "ctx", None)
        path = ctx.command_path if ctx else " ".join(["cyclegan", *called])
        message = wrong.format_message()
        if getattr(wrong, "possibilities", None):
            near = did_you_mean(wrong.option_name, wrong.possibilities)
            message = f"No such option: {wrong.option_name}.{near}"
        error = UsageError(message, hint=f"{path} --help")
    if isinstance(error, UsageError):
        error.hint = _meant(given) or error.hint
        return error
    if isinstance(error, CycleganError):
        return error
    if isinstance(error, typer.Abort):
        return CycleganError("Aborted.")
    return unexpected(error)


def unexpected(error: BaseException) -> CycleganError:
    """The error that a user is shown for one that nobody foresaw."""
    package = _package_not_loaded(error)
    if package:
        return _not_loaded(package, error)
    if isinstance(error, OSError) and error.strerror:
        return _of_system(error)
    if isinstance(error, MemoryError):
        return CycleganError("The memory is full.")
    message = str(error).splitlines()[0] if str(error) else ""
    if isinstance(error, RuntimeError) and "start new thread" in message:
        return CycleganError(
            "The system allows this user no more threads.", hint="ulimit -u shows the limit."
        )
    return CycleganError(
        f"{type(error).__name__}: {message}",
        hint="This is a defect of the program: run it again with --debug and report what it shows.",
    )


@contextlib.contextmanager
def _failures_of_threads(debug: bool) -> Iterator[list[BaseException]]:
    """Yield the list of what threads die of meanwhile: the command fails with it, once it is done.

    Python would print a traceback, as ``debug`` does, and let the command succeed.
    """
    failures: list[BaseException] = []
    before = threading.excepthook

    def failed(args: threading.ExceptHookArgs) -> None:
        if debug:
            before(args)
        if args.exc_value is not None:
            failures.append(args.exc_value)

    threading.excepthook = failed
    try:
        yield failures
    finally:
        threading.excepthook = before


def _of_system(error: OSError) -> CycleganError:
    """What the system refused, and of which file: the parser, which prints help, writes stdout."""
    if error.filename:
        return CycleganError(f"{error.filename}: {error.strerror}.")
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    module = trace.tb_frame.f_globals.get("__name__", "") if trace else ""
    if str(module).partition(".")[0] in ("typer", "click", "rich"):
        return stdout_lost(error)
    return CycleganError(f"{error.strerror}.")


def _meant(given: list[str]) -> str | None:
    """What was probably meant: paths without a command, or a file whose name begins with -."""
    from cyclegan_cli.media.folders import exists

    words = [f"./{word}" if word[:1] == "-" != word and exists(word) else word for word in given]
    path_first = given[:1] and (exists(words[0]) or given[0][:1] == "-")  # no misspelt command
    no_command = path_first and not {name for name, *_ in _COMMANDS}.intersection(given)
    if no_command and any(map(exists, words)):
        two_folders = len(given) > 1 and all(Path(word).is_dir() for word in given[:2])
        styled = {"--style", "-s"}.intersection(given)
        words.insert(0, "train" if two_folders and not styled else "translate")
    return shlex.join(["cyclegan", *words]) if words != given else None


def _words(given: list[str]) -> list[str]:
    """The words that say which command is called; under completion they are in the environment."""
    if "_CYCLEGAN_COMPLETE" in os.environ:
        typed = os.environ.get("_TYPER_COMPLETE_ARGS") or os.environ.get("COMP_WORDS", "")
        return typed.split()[1:]
    return given


# What is imported, where pip calls it otherwise.
_DISTRIBUTIONS = {"PIL": "pillow"}


def _package_not_loaded(error: BaseException) -> str:
    """The package whose import raised ``error``, or "" where it was no import of another's."""
    trace = error.__traceback__
    while trace is not None:
        frame = trace.tb_frame
        package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        foreign = package not in ("cyclegan_cli", "typer", "__main__", "importlib")
        if foreign and frame.f_code.co_name == "<module>":
            return package
        trace = trace.tb_next
    name = (error.name or "") if isinstance(error, ModuleNotFoundError) else ""
    return "" if name.startswith("cyclegan_cli") else name.partition(".")[0]


def _not_loaded(package: str, error: BaseException) -> CycleganError:
    distribution = _DISTRIBUTIONS.get(package, package)
    name = "PyTorch" if package == "torch" else distribution
    pip = f"{shlex.quote(sys.executable)} -m pip install"
    if isinstance(error, ModuleNotFoundError) and error.name == package:
        return CycleganError(
            f"{name} is not installed, which this needs.", hint=f"{pip} {distribution}"
        )
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
    hint, limit = f"{pip} --force-reinstall {distribution}", address_space_limit()
    if limit:
        hint = f"ulimit -v unlimited; now it allows {limit / 1e9:.1f} GB of address space."
    return CycleganError(f"{name} is installed, but cannot be loaded: {reason}.", hint=hint)
