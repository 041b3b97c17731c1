"""What a training's events become: the view, metrics.jsonl, sample sheets, the page."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cyclegan_cli.cli.console import Console
from cyclegan_cli.cli.liveview import TrainingView
from cyclegan_cli.engine.run import Place, Run
from cyclegan_cli.files import atomic_path

if TYPE_CHECKING:
    from cyclegan_cli.engine.training import Evaluated, Event, Measured, Sampled
    from cyclegan_cli.report.tensorboard import Board

__all__ = ["Renderer"]

_PAGE_EVERY = 30.0  # seconds, at least, between two pages
_PAGE_SHARE = 0.02  # of the time, at most, that goes into pages


class Renderer:
    """Events -> the terminal and the files of the run's folder that are for eyes.

    ``place``: where the training goes on from; what the files have of later steps, which will be
    run again, goes.
    """

    def __init__(
        self, console: Console, run: Run, place: Place, view: TrainingView, board: Board | None
    ) -> None:
        from cyclegan_cli.report.page import Report
        from cyclegan_cli.report.record import MetricsLog, read_record
        from cyclegan_cli.report.samples import list_sheets

        self._console = console
        self._run = run
        self._view = view
        self._board = board
        self._metrics = MetricsLog(run.folder / "metrics.jsonl", place.step)
        for sheet in list_sheets(run.folder / "samples"):
            if sheet.step > place.step:
                sheet.path.unlink(missing_ok=True)
        for line in read_record(run.folder).evaluations:
            view.evaluated(line["epoch"], line["evaluation"])
        self._report = Report(run)
        self._next_page = 0.0  # time.monotonic()
        self._page_failed = False

    def __enter__(self) -> Renderer:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """The page has what came last, after a failure, too; a second Ctrl-C ends at once."""
        if kind is None or issubclass(kind, Exception):
            self._write_page()

    def show(self, event: Event) -> None:
        """Render one event."""
        from cyclegan_cli.engine import training

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
        self._record(place, {"evaluation": scores})
        self._view.evaluated(place.epoch, scores)
        if self._board is not None:
            self._board.evaluated(place.step, scores)
        self._page_if_due()

    def warned(self, place: Place, kind: str, message: str, hint: str) -> None:
        """Something that looks wrong, and what usually helps."""
        self._record(place, {"warning": {"kind": kind, "message": message, "hint": hint}})
        self._view.warned(place.step, message, hint)
        self._page_if_due()

    def _record(self, place: Place, found: Mapping[str, Any]) -> None:
        at = {"step": place.step, "epoch": place.epoch, "time": round(time.time(), 3)}
        record = {**at, **found}
        self._metrics.append(record)
        if self._console.as_json:
            self._console.result("", record)

    def _measured(self, event: Measured) -> None:
        rate, speed = event.learning_rate, event.pictures_per_second
        self._record(event.place, {"lr": rate, "pictures_per_s": round(speed, 4), **event.losses})
        self._view.measured(event.losses, rate, speed)
        if self._board is not None:
            self._board.measured(event.place.step, event.losses, rate, speed)
        self._page_if_due()

    def _evaluated(self, event: Evaluated) -> None:
        self.evaluated(event.place, event.scores.to_json())
        s = event.scores
        self._console.note(
            f"measured at step {event.place.step}: G {s.y.swd:.0f} (floor {s.y_floor.swd:.0f}), "
            f"F {s.x.swd:.0f} (floor {s.x_floor.swd:.0f}){', the best' if event.best else ''}"
        )

    def _sampled(self, event: Sampled) -> None:
        from cyclegan_cli.report.samples import sample_sheet, sheet_name

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
