"""What a training's events become: lines on a terminal or in a log, and files of the run."""

from __future__ import annotations

import contextlib
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Console as RichConsole
from rich.console import ConsoleRenderable
from rich.control import Control
from rich.live import Live
from rich.segment import ControlType
from rich.text import Text

from cyclegan_cli.cli.console import Console, draws_live, encodable, wrapped
from cyclegan_cli.engine import training
from cyclegan_cli.engine.run import Place, Run
from cyclegan_cli.errors import duration, size_text
from cyclegan_cli.files import atomic_path
from cyclegan_cli.report.page import Report
from cyclegan_cli.report.record import Board, MetricsLog, best_of, read_record
from cyclegan_cli.report.samples import list_sheets, sample_sheet, sheet_name

_EARLY, _LATE = 10.0, 60.0  # seconds between two plain lines, in the first minutes and later
_EARLY_FOR = 300.0
_WINDOW = 200  # steps whose pace tells how long the rest will take
_SMOOTH = 0.8  # weight of what was, at each measure
_GAP = "   "
_PAIRS = {  # losses that are shown together: of G and F, of X and Y
    "G/F": ("G", "F"),
    "D_X/D_Y": ("D_X", "D_Y"),
    "cycle": ("cycle_X", "cycle_Y"),
    "identity": ("identity_X", "identity_Y"),
}
_PAGE_EVERY = 30.0  # seconds, at least, between two pages
_PAGE_SHARE = 0.02  # of the time, at most, that goes into pages


def flowed(items: Sequence[str], width: int) -> list[str]:
    """``items`` side by side on as few lines as hold them; one too long for a line is cut short."""
    lines: list[str] = []
    for item in items:
        short = item if len(item) <= width else item[: max(width - 1, 0)] + "…"
        if lines and len(lines[-1]) + len(_GAP) + len(short) <= width:
            lines[-1] += _GAP + short
        else:
            lines.append(short)
    return lines


def figures(losses: Mapping[str, float]) -> list[str]:
    """The losses, each pair (of X and Y, of G and F) together."""
    return [
        f"{title} {losses[a]:.2f}/{losses[b]:.2f}"
        for title, (a, b) in _PAIRS.items()
        if a in losses and b in losses
    ]


def rows_of(lengths: list[int], width: int) -> int:
    """The rows that lines of so many cells take where a terminal wraps them at ``width``."""
    return sum(max(1, -(-length // max(width, 1))) for length in lengths)


class LiveLines(Live):
    """Shows ``draw(width)`` twice a second, and is gone at its end.

    A terminal that becomes narrower wraps what was drawn (tmux and most others do): the lines take
    more rows than ``Live`` knows of, and their upper part would stay behind.
    """

    def __init__(self, console: RichConsole, draw: Callable[[int], Text]) -> None:
        self._draw = draw
        self._next: list[int] = []  # cells of the lines that will be drawn
        self._drawn: list[int] = []  # of those on the screen
        super().__init__(
            console=console,
            get_renderable=self._lines,
            refresh_per_second=2,
            transient=True,
            redirect_stdout=sys.stdout.isatty(),  # a pipe gets its results, not the terminal
        )

    def _lines(self) -> Text:
        text = self._draw(self.console.width)
        self._next = [cell_len(line) for line in text.plain.split("\n")]
        return text

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        """As ``Live`` does, after the rows that wrapping has added are erased."""
        more = rows_of(self._drawn, self.console.width) - len(self._drawn)
        self._drawn = self._next
        erase = ((ControlType.ERASE_IN_LINE, 2), (ControlType.CURSOR_UP, 1))
        return [Control(*erase * more), *super().process_renderables(renderables)]


class TrainingView:
    """Shows what it is told; nothing under --quiet.

    ``total``: steps that the training will have; ``epochs``: those that it will begin. ``memory``:
    the bytes taken, where that is known.
    """

    def __init__(
        self,
        console: Console,
        name: str,
        place: Place,
        total: int,
        epochs: int,
        memory: Callable[[], int | None] = lambda: None,
    ) -> None:
        self._console = console
        self._name, self._total, self._epochs = name, total, epochs
        self._place = place
        self._memory = memory
        self._used: int | None = None
        self._began = self._told = time.monotonic()
        self._pace: deque[tuple[float, int]] = deque([(self._began, place.step)], _WINDOW)
        self._losses: dict[str, float] = {}  # smoothed
        self._new = False  # whether they changed since they were said
        self._weight = 0.0
        self._rate = self._speed = 0.0
        self._saved: tuple[int, float] | None = None
        self._evaluations: list[Mapping[str, Any]] = []
        self._warning = ""

    @contextlib.contextmanager
    def shown(self) -> Iterator[TrainingView]:
        """Draw while the block runs; what was drawn is gone after it."""
        if self._console.quiet or not draws_live():
            yield self
        else:
            with (
                LiveLines(self._console.rich(), self._drawn) as lines,
                self._console.drawn_by(lines.console),
            ):
                yield self

    # -- what it is told ---------------------------------------------------------------------

    def step(self, place: Place) -> None:
        """One more step."""
        self._place = place
        now = time.monotonic()
        self._pace.append((now, place.step))
        interval = _EARLY if now - self._began < _EARLY_FOR else _LATE
        if now - self._told >= interval and not self._console.drawing:
            self._told = now
            # Losses that were said already are not said again.
            new, self._new = figures(self._losses) if self._new else [], False
            self._console.note(" ".join(["training", *self._progress(), *new]))

    def measured(self, losses: Mapping[str, float], rate: float, speed: float) -> None:
        """New means of the losses, the learning rate, pictures a second."""
        self._new = True
        self._weight = _SMOOTH * self._weight + 1 - _SMOOTH
        share = (1 - _SMOOTH) / self._weight  # no bias towards the first
        for name, loss in losses.items():
            before = self._losses.get(name, loss)
            self._losses[name] = before + share * (loss - before)
        self._rate, self._speed = rate, speed
        self._used = self._memory()

    def epoch_done(self, place: Place, losses: Mapping[str, float]) -> None:
        """An epoch is over, with these means of its losses: a line that stays."""
        if not self._losses:  # none was measured yet
            self._losses = dict(losses)
        epoch = f"epoch {place.epoch}/{self._epochs}"
        self._console.note(" ".join([epoch, *figures(losses)]))

    def saved(self, step: int) -> None:
        """A checkpoint is on the disk."""
        self._saved = (step, time.monotonic())

    def evaluated(self, line: Mapping[str, Any]) -> None:
        """An evaluation, as metrics.jsonl has it."""
        self._evaluations.append(line)

    def warned(self, step: int, message: str, hint: str = "") -> None:
        """A warning, which stays in view and is said at once."""
        self._warning = f"warning at step {step:,}: {message}"
        self._console.warn(f"step {step:,}: {message}")
        if hint:
            self._console.note(f"  → {hint}")

    # -- what it shows -----------------------------------------------------------------------

    def _progress(self) -> list[str]:
        place, total = self._place, max(self._total, 1)
        items = [
            f"epoch {min(place.epoch + 1, self._epochs)}/{self._epochs}",
            f"step {place.step:,}/{self._total:,}",
            f"{100 * place.step / total:.1f} %",
        ]
        (since, first), (until, last) = self._pace[0], self._pace[-1]
        if last > first:
            left = (until - since) / (last - first) * max(0, self._total - last)
            items.append(f"{duration(left)} left")
        return items

    def _lines(self, width: int) -> list[tuple[str, str]]:
        """(line, style), none longer than ``width``."""
        facts = figures(self._losses)
        if self._weight:  # it was told: an epoch may be over before
            facts += [f"lr {self._rate:.2g}", f"{self._speed:.1f} pictures/s"]
        if self._used:
            facts.append(f"memory {size_text(self._used)}")
        kept = []
        if self._saved is not None:
            step, at = self._saved
            kept.append(f"checkpoint at step {step:,}, {duration(time.monotonic() - at)} ago")
        if best := best_of(self._evaluations, "y", "x"):
            kept.append(f"best epoch {best.epoch} (SWD {best.swd:.1f})")
        lines = [(line, "bold") for line in flowed([self._name, *self._progress()], width)]
        lines.append((_bar(self._place.step / max(self._total, 1), width), "cyan"))
        lines += [(line, "") for line in flowed(facts, width)]
        lines += [(line, "") for line in flowed(kept, width)]
        if self._warning:
            lines += [(line, "yellow") for line in wrapped(self._warning, width)]
        return lines

    def _drawn(self, width: int) -> Text:
        # One column stays free: some terminals wrap a line that fills the last one.
        parts = [Text(encodable(line), style) for line, style in self._lines(max(width - 1, 1))]
        return Text("\n", no_wrap=True, overflow="crop").join(parts)


def _bar(share: float, width: int) -> str:
    full = round(min(max(share, 0.0), 1.0) * min(width, 60))
    return "━" * full + "╌" * (min(width, 60) - full)


class Renderer:
    """Events -> the terminal and the files of the run's folder that are for eyes.

    ``place``: where the training goes on from; what the files have of later steps, which will be
    run again, goes.
    """

    def __init__(
        self, console: Console, run: Run, place: Place, view: TrainingView, board: Board | None
    ) -> None:
        self._console = console
        self._run = run
        self._view = view
        self._board = board
        self._metrics = MetricsLog(run.folder / "metrics.jsonl", place.step)
        for sheet in list_sheets(run.folder / "samples"):
            if sheet.step > place.step:
                sheet.path.unlink(missing_ok=True)
        for line in read_record(run.folder).evaluations:
            view.evaluated(line)
        self._report = Report(run)
        self._next_page = 0.0  # time.monotonic()
        self._page_failed = False

    def __enter__(self) -> Renderer:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """The page has what came last, after a failure, too; a second Ctrl-C ends at once."""
        if kind is None or issubclass(kind, Exception):
            self._write_page()

    def show(self, event: training.Event) -> None:
        """Render one event."""
        if isinstance(event, training.StepDone):
            self._view.step(event.place)
        elif isinstance(event, training.Measured):
            self._measured(event)
        elif isinstance(event, training.Sampled):
            self._sampled(event)
        elif isinstance(event, training.Evaluated):
            self._evaluated(event)
        elif isinstance(event, training.EpochDone):
            self._view.epoch_done(event.place, event.losses)
        elif isinstance(event, training.Warned):
            self.warned(event.place, event.kind, event.message, event.hint)
        elif isinstance(event, training.Saved):
            self._view.saved(event.place.step)
            self._console.detail(f"saved {event.path}")

    def evaluated(self, place: Place, scores: Mapping[str, Any]) -> None:
        """An evaluation, in the form that metrics.jsonl has."""
        self._view.evaluated(self._record(place, {"evaluation": scores}))
        if self._board is not None:
            self._board.evaluated(place.step, scores)
        self._page_if_due()

    def warned(self, place: Place, kind: str, message: str, hint: str) -> None:
        """Something that looks wrong, and what usually helps."""
        self._record(place, {"warning": {"kind": kind, "message": message, "hint": hint}})
        self._view.warned(place.step, message, hint)
        self._page_if_due()

    def _record(self, place: Place, found: Mapping[str, Any]) -> dict[str, Any]:
        at = {"step": place.step, "epoch": place.epoch, "time": round(time.time(), 3)}
        record = {**at, **found}
        self._metrics.append(record)
        if self._console.as_json:
            self._console.result("", record)
        return record

    def _measured(self, event: training.Measured) -> None:
        rate, speed = event.learning_rate, event.pictures_per_second
        self._record(event.place, {"lr": rate, "pictures_per_s": round(speed, 4), **event.losses})
        self._view.measured(event.losses, rate, speed)
        if self._board is not None:
            self._board.measured(event.place.step, event.losses, rate, speed)
        self._page_if_due()

    def _evaluated(self, event: training.Evaluated) -> None:
        self.evaluated(event.place, event.scores.to_json())
        s = event.scores
        self._console.note(
            f"measured at step {event.place.step}: G {s.y.swd:.0f} (floor {s.y_floor.swd:.0f}), "
            f"F {s.x.swd:.0f} (floor {s.x_floor.swd:.0f}){', the best' if event.best else ''}"
        )

    def _sampled(self, event: training.Sampled) -> None:
        folder = self._run.folder / "samples"
        folder.mkdir(exist_ok=True)
        path = folder / sheet_name(event.place.step)
        sheet = sample_sheet(event.pictures)
        with atomic_path(path) as temporary:
            sheet.save(temporary)
        self._console.detail(f"sampled {path}")
        if self._board is not None:
            self._board.sampled(event.place.step, sheet)
        self._page_if_due()

    def _page_if_due(self) -> None:
        if time.monotonic() >= self._next_page:
            self._write_page()

    def _write_page(self) -> None:
        began = time.monotonic()
        try:
            self._report.write()
        except Exception as error:  # whatever it is, it must not end a training
            if not self._page_failed:
                self._console.warn(f"{self._report.path} could not be written: {error}")
            self._page_failed = True
        ended = time.monotonic()
        self._next_page = ended + max(_PAGE_EVERY, (ended - began) / _PAGE_SHARE)
