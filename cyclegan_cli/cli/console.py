"""The one printer: results on stdout, everything else on stderr.

Nothing outside ``cli`` prints, and nothing inside it prints except through a ``Console``. Whatever
a person is to read is one line each time and goes through ``printable``: names of files and styles,
fields of catalogues and entries of archives come from strangers. What programs read stays exact.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import sys
import time
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclegan_cli.cli.processes import Stopped
from cyclegan_cli.errors import CycleganError, UsageError, reason_of

if TYPE_CHECKING:
    from rich.console import Console as RichConsole
    from rich.progress import Progress

_PLAIN = {"→": "->", "↔": "<->", "…": "...", "×": "x", "²": "^2", "λ": "lambda", "━": "#", "╌": "-"}
_JOINERS = "\u200c\u200d"  # in words of some languages, and in emoji
SIGPIPE = 13  # not every system's signal module has it
PLAIN_INTERVAL = 10.0  # seconds between two lines of progress where there is no terminal


def safe_streams() -> None:
    """Make stdout and stderr take any text: odd file names, and consoles that are not UTF-8.

    A file name that is not valid UTF-8 leaves as the bytes it came as; a character that a cp1252
    console cannot show becomes an escape. A stream that was closed before the program began
    (``>&-``) leads nowhere: the first file that is opened would get its number.
    """
    if sys.stdin is None:
        sys.stdin = open(os.devnull)  # noqa: SIM115, PTH123 - for as long as the program runs
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115, PTH123
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            utf8 = (stream.encoding or "").lower().replace("-", "") == "utf8"
            reconfigure(errors="surrogateescape" if utf8 else "backslashreplace")


def printable(text: str) -> str:
    """``text`` in one line, with what would steer or deceive a terminal as backslash escapes.

    So come control characters (ESC, BEL, a line's end, those of 8 bits), marks that change the
    direction of what follows, other invisible ones, and bytes that are not UTF-8.
    """
    return text if text.isprintable() else "".join(map(_escaped, text))


def _escaped(character: str) -> str:
    category = unicodedata.category(character)
    if category not in ("Cc", "Cf", "Cs", "Zl", "Zp") or character in _JOINERS:
        return character
    if "\udc80" <= character <= "\udcff":  # a byte of a file name, as Python carries it
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()


def stdout_lost(error: OSError) -> CycleganError:
    """The error that says that stdout takes nothing more, say because its disk is full."""
    with contextlib.suppress(OSError):  # what is still buffered would be complained of at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return CycleganError(f"stdout cannot be written: {reason_of(error)}.")


def draws_live() -> bool:
    """Whether stderr is a terminal on which lines can be redrawn.

    A dumb one cannot; nor can a notebook's cell, though what a cell starts with ``!`` is given a
    terminal: Jupyter names itself to it by JPY_PARENT_PID.
    """
    dumb = os.environ.get("TERM", "") in ("dumb", "unknown")
    return sys.stderr.isatty() and not dumb and "JPY_PARENT_PID" not in os.environ


def _picture_protocol() -> str:
    """How the terminal that stdout is shows pictures: kitty's way, iTerm2's, or not at all ("").

    Inside tmux and screen, which would swallow them, it does not.
    """
    env = os.environ
    names = " ".join(env.get(name, "").lower() for name in ("TERM", "TERM_PROGRAM"))
    if not sys.stdout.isatty() or "TMUX" in env or names.startswith(("screen", "tmux", "dumb")):
        return ""
    if "KITTY_WINDOW_ID" in env or "kitty" in names or "ghostty" in names:
        return "kitty"
    return "iterm2" if any(one in names for one in ("iterm.app", "wezterm", "mintty")) else ""


class Console:
    """How a command speaks. ``as_json``: stdout carries one JSON object per line.

    ``end``: what ends a result on stdout.
    """

    def __init__(
        self, *, as_json: bool = False, quiet: bool = False, verbose: bool = False
    ) -> None:
        self.as_json, self.quiet, self.verbose = as_json, quiet, verbose
        self.silent = False
        self.end = "\n"
        self.drawing: RichConsole | None = None  # the one that redraws lines on stderr now

    def silence(self, silent: bool) -> None:
        """Of several processes another one speaks: only errors are said, where ``silent``."""
        self.silent, self.quiet = silent, self.quiet or silent

    # -- results -----------------------------------------------------------------------------

    def result(self, text: str, record: Mapping[str, Any] | None = None) -> None:
        """One result: ``record`` under --json (nothing where it is None), ``text`` otherwise."""
        if not self.as_json:
            cells = text.split("\t")
            self._out("\t".join(map(printable, cells)) if sys.stdout.isatty() else text)
        elif record is not None:
            self._out(json.dumps(record, ensure_ascii=True, default=str))

    def document(self, text: str, record: Mapping[str, Any] | None = None) -> None:
        """A result of several lines, which all are this program's own."""
        if self.as_json:
            self.result("", record)
        else:
            self._out(text.rstrip("\n"))

    def table(
        self,
        headers: Sequence[str],
        rows: Sequence[Sequence[str]],
        records: Sequence[Mapping[str, Any]],
    ) -> None:
        """A table that was asked for, on stdout: drawn for eyes, tab-separated for pipes."""
        if self.as_json:
            for record in records:
                self.result("", record)
        elif sys.stdout.isatty():
            self._draw(headers, rows, stderr=False)
        else:
            for row in rows:
                self._out("\t".join(row))

    def picture(self, path: Path) -> None:
        """Draw a picture on stdout, where that is a terminal that shows pictures."""
        how = "" if self.as_json else _picture_protocol()
        if not how:
            return
        from PIL import Image

        png = io.BytesIO()
        with contextlib.suppress(OSError), Image.open(path) as image:
            image.thumbnail((960, 960))
            image.save(png, "PNG")
        data = base64.b64encode(png.getvalue()).decode()
        if not data:
            return  # its file is named, and damaged
        if how == "iterm2":
            self._out(f"\x1b]1337;File=inline=1:{data}\a")
            return
        size = 4096  # characters in each of kitty's commands, at most
        for start in range(0, len(data), size):
            keys = "a=T,f=100,q=2," if start == 0 else ""
            more = int(start + size < len(data))
            self._out(f"\x1b_G{keys}m={more};{data[start : start + size]}\x1b\\", end="")
        self._out("")

    def _out(self, text: str, end: str | None = None) -> None:
        if self.silent:
            return
        try:
            sys.stdout.write(text + (self.end if end is None else end))
            sys.stdout.flush()
        except BrokenPipeError:
            raise Stopped(SIGPIPE) from None  # the reader has what it wanted (| head)
        except OSError as error:
            raise stdout_lost(error) from error

    # -- everything else ---------------------------------------------------------------------

    def note(self, text: str) -> None:
        """What a user wants to know; silent under --quiet."""
        if not self.quiet:
            self._err(text)

    def suggest(self, what: str, command: str) -> None:
        """A command to type next, on a line of its own."""
        self.note(f"{what}:")
        self.note(f"  {command}")

    def detail(self, text: str) -> None:
        """What a user wants to know who said --verbose."""
        if self.verbose and not self.quiet:
            self._err(text)

    def warn(self, text: str) -> None:
        """What a user must know, though the work goes on; shown under --quiet too."""
        if not self.silent:
            self._err(f"warning: {text}", style="yellow")

    def error(self, error: CycleganError) -> None:
        """What happened, to which file, and what to type next."""
        self._err(f"error: {error}", style="bold red")
        if error.hint:
            self._err(f"  → {error.hint}")

    def summary(self, title: str, rows: Sequence[tuple[str, str]]) -> None:
        """A short table of facts on stderr."""
        if self.quiet:
            return
        if sys.stderr.isatty():
            self._draw((), rows, title, stderr=True)
        else:
            for name, value in rows:
                self._err(f"{name}: {value}")

    def _draw(
        self,
        headers: Sequence[str],
        rows: Sequence[Sequence[str]],
        title: str = "",
        *,
        stderr: bool,
    ) -> None:
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table(
            *map(printable, headers),
            title=printable(title) or None,
            title_justify="left",
            box=box.SIMPLE_HEAD if headers else None,
            show_header=bool(headers),
        )
        if not headers:
            table.add_column(style="dim", no_wrap=True)
            table.add_column(overflow="fold")
        for row in rows:
            table.add_row(*(Text(printable(cell)) for cell in row))
        self.rich(stderr=stderr).print(table)

    def rich(self, *, stderr: bool = True) -> RichConsole:
        """A rich console on stderr (or stdout); it honours NO_COLOR, TERM=dumb and COLUMNS."""
        from rich.console import Console as RichConsole

        if stderr and self.drawing is not None:
            return self.drawing  # which puts it above what it draws
        return RichConsole(stderr=stderr, highlight=False, markup=False, emoji=False)

    @contextlib.contextmanager
    def drawn_by(self, rich: RichConsole) -> Iterator[None]:
        """While ``rich`` redraws lines on stderr, all else is printed through it."""
        self.drawing = rich
        try:
            yield
        finally:
            self.drawing = None

    def _err(self, text: str, style: str | None = None) -> None:
        with contextlib.suppress(BrokenPipeError):
            if style and sys.stderr.isatty():
                from rich.text import Text

                rich = self.rich()
                told = "\n".join(wrapped(printable(text), rich.width))
                rich.print(Text(told, style=style), soft_wrap=True)
            else:
                sys.stderr.write(encodable(text) + "\n")
                sys.stderr.flush()

    def confirm_removal(self, lines: Sequence[str], again: str) -> bool:
        """Ask whether what ``lines`` name may be removed. ``again``: the command that does not ask.

        Raises UsageError where there is no terminal to ask at.
        """
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise UsageError("Nothing was removed: there is no terminal to ask at.", hint=again)
        import typer

        listed = "".join(f"  {printable(line)}\n" for line in lines)
        return typer.confirm(f"This removes\n{listed}Continue?", err=True)

    # -- progress ----------------------------------------------------------------------------

    @contextlib.contextmanager
    def progress(self, what: str, total: int | None) -> Iterator[ProgressBar]:
        """A bar on a terminal, one plain line per interval elsewhere, nothing under --quiet."""
        if self.quiet or not draws_live():
            yield ProgressBar(self, what, total)
            return
        from rich import progress
        from rich.table import Column

        note = "{task.fields[note]}"
        # The bar takes what the others leave; where that is too little, the note gives way.
        live = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(bar_width=None, table_column=Column(ratio=1, min_width=8)),
            progress.MofNCompleteColumn(table_column=Column(no_wrap=True)),
            progress.TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True)),
            progress.TextColumn(note, markup=False, table_column=Column(overflow="fold")),
            console=self.rich(),
            transient=True,
            expand=True,
            redirect_stdout=sys.stdout.isatty(),  # a pipe gets its results, not the terminal
        )
        with live, self.drawn_by(live.console):
            yield ProgressBar(self, what, total, live)


def wrapped(text: str, width: int) -> list[str]:
    """``text`` in lines that end between words; what is longer than a line, as a path, stays whole.

    Terminals break lines in the middle of words. ``width``: cells; wide characters take two.
    """
    from rich.cells import cell_len

    lines = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}" if lines[-1] else word
        if lines[-1] and cell_len(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def encodable(text: str) -> str:
    """``printable(text)``, with arrows and the like replaced where stderr's encoding has none."""
    text = printable(text)
    # While rich draws, sys.stderr is its own, which has no encoding.
    stream = getattr(sys.stderr, "rich_proxied_file", sys.stderr)
    encoding = stream.encoding or "ascii"
    for fancy, plain in _PLAIN.items():
        if fancy in text:
            try:
                fancy.encode(encoding)
            except UnicodeEncodeError:
                text = text.replace(fancy, plain)
    return text


class ProgressBar:
    """What ``Console.progress`` gives: how much of ``total`` is done."""

    def __init__(
        self, console: Console, what: str, total: int | None, live: Progress | None = None
    ) -> None:
        self._console, self._what, self._total = console, what, total
        self._done = 0
        self._last_line = time.monotonic()
        self._live = live
        self._task = live.add_task(what, total=total, note="") if live else None

    def advance(self, count: int = 1, text: str = "") -> None:
        """``count`` more are done; ``text`` is shown after the count."""
        self._done += count
        if self._live is not None and self._task is not None:
            self._live.update(self._task, advance=count, note=printable(text))
        elif time.monotonic() - self._last_line >= PLAIN_INTERVAL:
            self._last_line = time.monotonic()
            of = f"/{self._total}" if self._total is not None else ""
            self._console.note(f"{self._what} {self._done}{of} {text}".rstrip())
