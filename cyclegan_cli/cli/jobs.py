"""The work of translate: painters, one process or several, and what is told of each picture."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from cyclegan_cli.cli.console import SIGPIPE, Console
from cyclegan_cli.cli.processes import Stopped, importing, member, one_device, team, wait_for_others
from cyclegan_cli.errors import UsageError, counted, duration
from cyclegan_cli.media.plan import Job, Plan, share_of_jobs
from cyclegan_cli.settings import TranslateSettings

if TYPE_CHECKING:
    from cyclegan_cli.painting.batch import Done, Failed, FramePainted, Paint
    from cyclegan_cli.painting.painter import Painter
    from cyclegan_cli.painting.statistics import OverrideStats


# -- painters --------------------------------------------------------------------------------


def own_share(jobs: list[Job]) -> list[Job]:
    """The jobs of this process; all where it is alone."""
    me = member()
    return share_of_jobs(jobs, me.rank, me.size) if me else jobs


def check_shareable(plan: Plan, from_file: str | None) -> None:
    """Raise UsageError where stdin or stdout would be wanted by several processes."""
    if from_file == "-" or any(job.source is None or job.target is None for job in plan.jobs):
        raise UsageError(
            "Several processes cannot share stdin or stdout.",
            hint="Name files, and -o FOLDER; a list goes into a file: --from-file LIST",
        )


def paint_by(
    console: Console,
    weights: Path,
    settings: TranslateSettings,
    gpu: str,
    run: Callable[[Paint], None],
    *,
    together: bool,
) -> None:
    """Call ``run`` with what paints a frame: this process, or (``together``) all of them.

    Together, the first process runs and the others help with every picture.
    """
    if not together:
        run(_frames(console, settings, _open(console, weights, settings, gpu)))
        return
    with importing():
        from cyclegan_cli.painting import bands

    with team(gpu) as group:
        opened = _open(console, weights, settings, gpu)
        if not group.joined:
            run(_frames(console, settings, opened))
        elif not group.leads:
            bands.help_paint(opened, group)
        else:
            with bands.together(opened, group):
                run(_frames(console, settings, opened))


def _open(console: Console, weights: Path, settings: TranslateSettings, gpu: str) -> Painter:
    # NumPy's BLAS starts threads when it is loaded; nothing here is large enough to need them.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    with importing():
        from cyclegan_cli.painting.painter import open_painter

        me = member()
        if me is not None:
            gpu = one_device(gpu).gpu
        opened = open_painter(
            *(weights, gpu, settings.precision),
            max_memory=settings.max_memory,
            exact_reference=settings.exact_reference,
        )
    shared = f", in {counted(me.size, 'process', 'processes')}" if me else ""
    console.note(f"Painting on {opened.label}{shared}.")
    return opened


def _frames(console: Console, settings: TranslateSettings, opened: Painter) -> Paint:
    with importing():
        from cyclegan_cli.painting.effects import paint_picture

    def paint(
        pixels: Any, override_stats: OverrideStats | None = None, origin: tuple[int, int] = (0, 0)
    ) -> Any:
        painted = paint_picture(
            opened, pixels, settings, override_stats=override_stats, origin=origin
        )
        for note in opened.notes:
            console.note(note)
        return painted

    return paint


# -- jobs ------------------------------------------------------------------------------------


def _video_pace(event: FramePainted, began: float) -> str:
    """How far a video is, how fast it goes since its first frame was done, and how much is left."""
    text, spent = f"frame {event.number}/{event.frames}", time.monotonic() - began
    if event.number == 1 or spent <= 0:
        return text
    rate = (event.number - 1) / spent
    left = duration((event.frames - event.number) / rate)
    return f"{text}, {rate:.1f} frames/s, {left} left"


@dataclass
class Work:
    """All jobs of a command, style by style: what is done, and what failed."""

    console: Console
    total: int
    unreadable: list[UsageError]
    done: int = 0
    failures: list[Failed] = field(default_factory=list)

    def run(self, jobs: list[Job], paint: Paint, settings: TranslateSettings) -> None:
        """Do the jobs of one style and render their events."""
        with importing():
            from cyclegan_cli.painting.batch import Done, FramePainted, Sounds, translate_media

        console, stdin = self.console, b""
        if any(job.source is None for job in jobs):
            stdin = sys.stdin.buffer.read()
        events = translate_media(jobs, paint, settings, stdin=stdin, stdout=sys.stdout.buffer)
        began = 0.0
        try:
            with contextlib.closing(events), console.progress("Translating", len(jobs)) as bar:
                for event in events:
                    if isinstance(event, FramePainted):
                        began = time.monotonic() if event.number == 1 else began
                        bar.advance(0, _video_pace(event, began))
                        continue
                    if isinstance(event, Sounds):
                        console.note(f"{source_of(event.job)}: its sound becomes {event.codec}.")
                        continue
                    if isinstance(event, Done):
                        self.done += 1
                        _tell_done(console, event)
                    else:
                        self.failures.append(event)
                        console.detail(f"failed: {event.error}")
                        if console.as_json:
                            more = {"error": str(event.error), "hint": event.error.hint}
                            console.result("", job_record(event.job, "failed") | more)
                    bar.advance(text=f"{len(self.failures)} failed" if self.failures else "")
        except BrokenPipeError:
            raise Stopped(SIGPIPE) from None  # the reader of -o - has what it wanted
        except Stopped as stop:
            if stop.signum != SIGPIPE:
                count = f"{self.done} of {self.total}"
                console.note(f"Done: {count}. --skip-existing continues from there.")
            raise

    def end(self) -> None:
        """List what failed. Raises typer.Exit(1) where something did."""
        if not (self.failures or self.unreadable):
            return
        if self.failures and self.total > 1:
            count = len(self.failures)
            self.console.warn(f"{count} of {self.total} failed; the others are done:")
        for error in [*(failure.error for failure in self.failures), *self.unreadable]:
            self.console.error(error)
        wait_for_others()
        raise typer.Exit(1)


def _tell_done(console: Console, event: Done) -> None:
    width, height = event.size
    frames = f", {counted(event.frames, 'frame')}" if event.frames > 1 else ""
    console.detail(f"{source_of(event.job)}: {width}×{height}{frames}, {event.seconds:.1f} s")
    if event.job.target is not None:
        facts = {"width": width, "height": height, "frames": event.frames}
        record = job_record(event.job, "done") | facts | {"seconds": round(event.seconds, 3)}
        console.result(target_of(event.job), record)


def job_record(job: Job, status: str) -> dict[str, Any]:
    return {"input": source_of(job), "output": target_of(job), "status": status}


def source_of(job: Job) -> str:
    return "-" if job.source is None else str(job.source)


def target_of(job: Job) -> str:
    return "-" if job.target is None else str(job.target)
