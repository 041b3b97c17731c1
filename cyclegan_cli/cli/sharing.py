"""translate in several processes: each its own pictures, or all together at each picture."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclegan_cli.cli.common import importing
from cyclegan_cli.cli.console import Console
from cyclegan_cli.cli.processes import member, one_device, team
from cyclegan_cli.errors import UsageError, counted
from cyclegan_cli.media.plan import Job, Plan
from cyclegan_cli.settings import TranslateSettings

if TYPE_CHECKING:
    from cyclegan_cli.painting.bands import BandPainter
    from cyclegan_cli.painting.batch import PaintFrame
    from cyclegan_cli.painting.painter import Painter
    from cyclegan_cli.painting.statistics import OverrideStats

__all__ = ["check_shareable", "own_share", "paint_together", "painter"]


def own_share(jobs: list[Job]) -> list[Job]:
    """The jobs of this process; all where it is alone."""
    me = member()
    if me is None:
        return jobs
    from cyclegan_cli.media.plan import share_of_jobs

    return share_of_jobs(jobs, me.rank, me.size)


def check_shareable(plan: Plan, from_file: str | None) -> None:
    """Raise UsageError where stdin or stdout would be wanted by several processes."""
    if from_file == "-" or any(job.source is None or job.target is None for job in plan.jobs):
        raise UsageError(
            "Several processes cannot share stdin or stdout.",
            hint="Name files, and -o FOLDER; a list goes into a file: --from-file LIST",
        )


def painter(console: Console, weights: Path, settings: TranslateSettings, gpu: str) -> PaintFrame:
    """How this process paints a frame by itself."""
    return _frames(console, settings, _open(console, weights, settings, gpu))


def paint_together(
    console: Console,
    weights: Path,
    settings: TranslateSettings,
    gpu: str,
    run: Callable[[PaintFrame], None],
) -> None:
    """``run`` in the first process, with every picture painted by all. Alone: just ``run``."""
    with importing():
        from cyclegan_cli.painting.bands import BandPainter, help_paint

    with team(gpu) as group:
        opened = _open(console, weights, settings, gpu)
        if not group.joined:
            run(_frames(console, settings, opened))
        elif not group.leads:
            help_paint(opened, group)
        else:
            together = BandPainter(opened, group)
            try:
                run(_frames(console, settings, together))
            finally:
                together.finish()


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


def _frames(
    console: Console, settings: TranslateSettings, opened: Painter | BandPainter
) -> PaintFrame:
    with importing():
        from cyclegan_cli.painting.effects import paint_picture

    def paint(
        pixels: Any,
        override_stats: OverrideStats | None = None,
        origin: tuple[int, int] = (0, 0),
    ) -> Any:
        painted = paint_picture(
            opened, pixels, settings, override_stats=override_stats, origin=origin
        )
        for note in opened.notes:
            console.note(note)
        return painted

    return paint
