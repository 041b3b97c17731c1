"""What a training's events become: the terminal, metrics.jsonl, sample sheets."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from cyclegan_cli.cli.console import Console, ProgressBar
from cyclegan_cli.engine.run import Place, Run
from cyclegan_cli.files import atomic_path

if TYPE_CHECKING:
    from cyclegan_cli.engine.training import Event, Measured, Sampled, Warned

__all__ = ["Renderer"]


class Renderer:
    """Events -> the terminal, metrics.jsonl and sample sheets."""

    def __init__(self, console: Console, run: Run, place: Place) -> None:
        from cyclegan_cli.report.metrics import MetricsLog

        self._console = console
        self._run = run
        self._metrics = MetricsLog(run.folder / "metrics.jsonl", place.step)
        self._text = ""

    def show(self, event: Event, bar: ProgressBar) -> None:
        from cyclegan_cli.engine import training

        if isinstance(event, training.StepDone):
            bar.advance(1, self._text)
        elif isinstance(event, training.Measured):
            self._measured(event)
        elif isinstance(event, training.Sampled):
            self._sampled(event)
        elif isinstance(event, training.EpochDone):
            self._console.note(
                f"epoch {event.place.epoch}/{self._run.settings.epochs} {self._text}"
            )
        elif isinstance(event, training.Warned):
            self._warned(event)
        elif isinstance(event, training.Saved):
            self._console.detail(f"saved {event.path}")

    def _measured(self, event: Measured) -> None:
        record = {
            "step": event.place.step,
            "epoch": event.place.epoch,
            "time": round(time.time(), 3),
            "lr": event.learning_rate,
            "pictures_per_s": round(event.pictures_per_second, 4),
            **event.losses,
        }
        self._metrics.append(record)
        if self._console.as_json:
            self._console.result("", record)
        losses = event.losses
        cycle = losses["cycle_X"] + losses["cycle_Y"]
        self._text = (
            f"G {losses['G']:.2f} F {losses['F']:.2f} D {losses['D_X']:.2f}/{losses['D_Y']:.2f} "
            f"cycle {cycle:.1f} {event.pictures_per_second:.1f}/s"
        )

    def _sampled(self, event: Sampled) -> None:
        from cyclegan_cli.report.sheet import sample_sheet

        folder = self._run.folder / "samples"
        folder.mkdir(exist_ok=True)
        path = folder / f"step-{event.place.step:09}.png"
        with atomic_path(path) as temporary:
            sample_sheet(event.pictures).save(temporary)
        self._console.detail(f"sampled {path}")

    def _warned(self, event: Warned) -> None:
        warning = {"kind": event.kind, "message": event.message, "hint": event.hint}
        place = event.place
        record = {"step": place.step, "epoch": place.epoch, "time": round(time.time(), 3)}
        self._metrics.append({**record, "warning": warning})
        if self._console.as_json:
            self._console.result("", {**record, "warning": warning})
        self._console.warn(f"step {place.step}: {event.message}")
        self._console.note(f"  → {event.hint}")
